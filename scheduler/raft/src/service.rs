//! What one member does when another asks: votes, appends, snapshots, forwarded proposals, read indexes, pulses.
//! Transports hand incoming messages to it; [`crate::Replica`] is the other side, for the process itself.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coracle_state::{BoxFuture, ProposeError};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::storage::Snapshot;
use tokio::sync::mpsc;

use crate::config::Clock;
use crate::fatal::Fatal;
use crate::gate::Gate;
use crate::net::peer::AddressBook;
use crate::net::{Answer, Append, AppendReply, Appended, Ask, Request, Response, Transport};
use crate::publish::Published;
use crate::pulse::{Pulse, Pulses};
use crate::replica::Leadership;
use crate::snapshot::{SnapshotFile, Snapshots};
use crate::types::{Data, Raft, SnapshotMeta, Vote, node_id_text, watch};

/// A leader that cannot commit answers a forwarded proposal after this long; the asker then looks for another leader.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
/// As long as a read index may take: a few heartbeats.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// Answers messages that the layer above sends between members; see [`crate::Replica::ask_leader`].
pub trait Desk: Send + Sync + 'static {
    /// Answers a message; an error is a coded sentence.
    fn answer(&self, topic: &str, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>>;
}

/// One open member, as its transport and its replica share it.
pub struct Service {
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) clock: Clock,
    pub(crate) published: Arc<Published>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) desk: Option<Arc<dyn Desk>>,
    pub(crate) fatal: Fatal,
    pub(crate) pulses: Pulses,
    /// Members that a committed membership has let go: they are told.
    pub(crate) removed: Mutex<BTreeSet<u64>>,
    /// Whether there never was another member since the start: reads need nobody's leave then.
    pub(crate) alone: AtomicBool,
    /// Held while the membership is changed.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Where connections are, and tasks that use them.
    pub(crate) runtime: tokio::runtime::Handle,
}

impl Service {
    /// This member's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends the process with a line: going on would break a promise.
    pub fn end(&self, line: &str) {
        self.fatal.fire(line);
    }

    /// Whether messages of a node are taken at all.
    pub fn admit(&self, from: u64) -> Result<(), String> {
        let removed = self
            .removed
            .lock()
            .expect("no panic while holding this lock");
        if removed.contains(&from) {
            return Err(format!(
                "E_MEMBER_REMOVED: member {} was removed from the cluster; to join again, move its data directory away and start it with --join",
                node_id_text(from)
            ));
        }
        Ok(())
    }

    /// Where an arriving snapshot is collected. A file that stays there is removed at the next start.
    pub fn incoming_path(&self) -> PathBuf {
        self.snapshots
            .dir()
            .join(format!("incoming-{:016x}.partial", crate::types::random()))
    }

    /// Whether a snapshot of this size fits beside what is kept free.
    pub fn room_for(&self, bytes: u64) -> Result<(), String> {
        if self.gate.has_room(bytes) {
            Ok(())
        } else {
            Err(format!(
                "E_DISK_FULL: no room for a snapshot of {} MiB",
                bytes >> 20
            ))
        }
    }

    /// Installs a snapshot that arrived whole; answers this member's vote.
    pub async fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<Vote, String> {
        let snapshot = Snapshot {
            meta,
            snapshot: file,
        };
        self.raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map(|r| r.vote)
            .map_err(|e| e.to_string())
    }

    /// Puts a pipeline of appends through, in order. An error means that this member has stopped.
    pub fn appends(
        &self,
        queue: mpsc::Receiver<Append>,
    ) -> impl Stream<Item = Result<Appended, String>> + Send + '_ {
        let input = futures_util::stream::unfold(queue, |mut queue| async move {
            queue.recv().await.map(|append| (append, queue))
        });
        self.raft
            .stream_append(input)
            .map(|r| r.map_err(|e| e.to_string()))
    }

    /// Answers a request; `None`: this member has stopped, the asker is left to its patience.
    pub async fn answer(&self, from: u64, request: Request) -> Option<Response> {
        match request {
            Request::Vote(v) => self.raft.vote(v).await.ok().map(Response::Vote),
            Request::PreVote(v) => self.raft.pre_vote(v).await.ok().map(Response::Vote),
            Request::Heartbeat(a) => {
                let reply = self.raft.append_entries(a).await.ok();
                reply.map(Response::Heartbeat)
            }
            Request::Transfer(t) => {
                let reply = self.raft.handle_transfer_leader(t).await.ok();
                reply.map(Response::Transfer)
            }
            Request::Ask(ask) => Some(Response::Ask(self.ask(from, ask).await)),
        }
    }

    async fn ask(&self, _from: u64, ask: Ask) -> Answer {
        match ask {
            Ask::Propose(batch) => tokio::time::timeout(COMMIT_PATIENCE, self.put(batch, true))
                .await
                .unwrap_or_else(|_| self.not_leader()),
            Ask::ReadIndex => match self.read_index().await {
                Some(index) => Answer::ReadIndex(index),
                None => self.not_leader(),
            },
            Ask::Pulse => Answer::Pulse(self.pulse()),
            Ask::Change(change) => {
                if !self.leadership.borrow().is_leader {
                    return self.not_leader();
                }
                match self.change(change).await {
                    Ok(()) => Answer::Done,
                    Err(why) => Answer::Refused(why.to_string()),
                }
            }
            Ask::Topic {
                topic,
                body,
                leader_only,
            } => {
                if leader_only && !self.leadership.borrow().is_leader {
                    return self.not_leader();
                }
                self.topic(&topic, body).await
            }
        }
    }

    pub(crate) async fn topic(&self, topic: &str, body: Bytes) -> Answer {
        match &self.desk {
            Some(desk) => match desk.answer(topic, body).await {
                Ok(bytes) => Answer::Bytes(bytes),
                Err(why) => Answer::Refused(why),
            },
            None => Answer::Refused(format!("E_TOPIC: nobody here answers {topic:?}")),
        }
    }

    pub(crate) fn not_leader(&self) -> Answer {
        Answer::NotLeader(self.leadership.borrow().leader.filter(|l| *l != self.id))
    }

    /// Puts an encoded batch through the log of this member, which must lead. `stamp`: it comes from another member,
    /// whose clock does not count.
    pub(crate) async fn put(&self, batch: Bytes, stamp: bool) -> Answer {
        if !self.leadership.borrow().is_leader {
            return self.not_leader();
        }
        if let Err(ProposeError::Unavailable(why)) = self.gate.admit(batch.len() as u64) {
            return Answer::Unavailable(why);
        }
        let batch = if stamp {
            match coracle_state::command::stamped(batch, (self.clock)()) {
                Ok(batch) => batch,
                Err(e) => return Answer::Refused(e.to_string()),
            }
        } else {
            batch
        };
        match self.raft.client_write(Data(batch)).await {
            Ok(done) => Answer::Proposed {
                index: done.log_id.index,
                results: done.data,
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Answer::NotLeader(to.leader_id.filter(|l| *l != self.id))
            }
            Err(e) => {
                tracing::debug!(error = %e, "a proposal was not taken");
                Answer::NotLeader(None)
            }
        }
    }

    /// What a linearizable read must have applied, confirmed by a quorum now. `None`: this member does not lead.
    ///
    /// openraft's own confirmation is not enough: its pipeline takes an answer for the newest request that ends at the same
    /// log position, so that a leader that was paused, and sends an empty request when it goes on, counts the answers of
    /// before the pause for it and reads from its past. Hence a round of our own.
    pub(crate) async fn read_index(&self) -> Option<u64> {
        let index = async {
            let (vote, joint) = self.own_vote().await?;
            let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
            let (linearizer, followed) = tokio::join!(linearizer, self.followed(vote, &joint));
            match linearizer {
                Ok(linearizer) if followed => Some(linearizer.read_log_id().log_id().index),
                Ok(_) => None,
                Err(error) => {
                    tracing::debug!(%error, "no read index");
                    None
                }
            }
        };
        tokio::time::timeout(READ_PATIENCE, index).await.ok()?
    }

    /// This member's vote for itself, if it leads, and who votes.
    async fn own_vote(&self) -> Option<(Vote, Vec<BTreeSet<u64>>)> {
        let state = self.raft.with_raft_state(|s| {
            let membership = s.membership_state.effective().membership();
            (*s.vote_ref(), membership.get_joint_config().to_vec())
        });
        let (vote, joint) = state.await.ok()?;
        (vote.committed && vote.leader_id.node_id == self.id).then_some((vote, joint))
    }

    /// Whether a quorum of the voters, asked now, knows of no vote above this one: then nobody else has led since before
    /// they were asked.
    async fn followed(&self, vote: Vote, joint: &[BTreeSet<u64>]) -> bool {
        let quorum = |with: &BTreeSet<u64>| {
            joint
                .iter()
                .all(|voters| voters.intersection(with).count() * 2 > voters.len())
        };
        let mut with = BTreeSet::from([self.id]);
        let mut asked: FuturesUnordered<_> = joint
            .iter()
            .flatten()
            .copied()
            .filter(|id| *id != self.id)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|id| {
                let request = Request::Heartbeat(Append {
                    vote,
                    prev_log_id: None,
                    leader_commit: None,
                    entries: Vec::new(),
                });
                let target = self.book.target(id);
                let call = self.transport.clone().call(target, request, READ_PATIENCE);
                async move { (id, call.await) }
            })
            .collect();
        while !quorum(&with) {
            match asked.next().await {
                Some((id, Ok(Response::Heartbeat(AppendReply::Success)))) => {
                    with.insert(id);
                }
                Some((id, answer)) => {
                    tracing::debug!(
                        member = node_id_text(id),
                        ?answer,
                        "a read is not confirmed"
                    );
                }
                None => return false,
            }
        }
        true
    }

    /// How this member is.
    pub(crate) fn pulse(&self) -> Pulse {
        Pulse {
            applied: self.published.applied(),
            now_ms: (self.clock)().as_millisecond(),
            samples: self.published.samples(),
        }
    }

    /// Members as the newest known membership has them: id, member, voter.
    pub(crate) fn membership(&self) -> Vec<(u64, crate::types::Member, bool)> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let config = &metrics.membership_config;
        let voters: BTreeSet<u64> = config.voter_ids().collect();
        config
            .nodes()
            .map(|(id, m)| (*id, m.clone(), voters.contains(id)))
            .collect()
    }
}
