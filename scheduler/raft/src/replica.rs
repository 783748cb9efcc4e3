//! One member as the rest of its process sees it: it proposes, reads and asks; its log and raft live on a thread of their
//! own (see `thread`), what other members ask it on the same thread (see [`crate::service`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_state::{BoxFuture, Command, Propose, ProposeError, Results, View, Views};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::config::Config;
use crate::error::StartError;
use crate::journal::Journal;
use crate::members::MemberError;
use crate::net::Change;
use crate::service::Service;
use crate::snapshot::SnapshotFile;
use crate::thread::{Started, run};
use crate::types::{Member, Raft, node_id_text, watch};

/// Encoded bytes of proposals under way. More wait: at 1 KiB each this is 128 thousand writes, seconds of work.
const INFLIGHT_KIB_MAX: u32 = 128 << 10;
/// A hand-over waits so long for somebody to lead at all.
const TRANSFER_LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Reads waiting for the next read index; more wait in line.
pub(crate) const READS_QUEUED: usize = 16_384;

/// Who leads, as this member knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader's node id.
    pub leader: Option<u64>,
    /// Whether it is this member.
    pub is_leader: bool,
    /// The term.
    pub term: u64,
}

/// What an operator may ask about a member.
#[derive(Clone, Debug)]
pub struct Status {
    /// This member's id.
    pub id: u64,
    /// Who leads.
    pub leadership: Leadership,
    /// Log index applied.
    pub applied: u64,
    /// Hash of the state at that index.
    pub hash: u64,
    /// Index of the last log entry.
    pub last_log: u64,
    /// Highest index known to be committed by a quorum.
    pub committed: u64,
    /// Index of the newest snapshot, 0 if none.
    pub snapshot: u64,
    /// Members by id.
    pub members: Vec<(u64, Member)>,
}

/// A member as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Node id.
    pub id: u64,
    /// Name and addresses.
    pub member: Member,
    /// Whether it votes; learners only follow.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Log index it had applied when it last answered; `None` if it never did.
    pub applied: Option<u64>,
    /// How long ago that was, in ms; 0 for the member that is asked.
    pub silent_ms: u64,
}

/// A running member. Cheap to share behind an `Arc`.
pub struct Replica {
    pub(crate) service: Arc<Service>,
    pub(crate) inflight: Semaphore,
    pub(crate) reads: mpsc::Sender<oneshot::Sender<Result<(), ProposeError>>>,
    pub(crate) stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("id", &node_id_text(self.service.id))
            .finish_non_exhaustive()
    }
}

/// Opens the log of a configuration.
pub(crate) type OpenJournal =
    Box<dyn FnOnce(&Config) -> Result<Arc<dyn Journal>, StartError> + Send>;

impl Replica {
    /// Opens the directory and answers when everything that was committed is applied again, for which a member of several
    /// needs a majority of them. At the first start a cluster of one voter begins here, or (see [`crate::Begin`]) the
    /// member waits to be added to one.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (ready_tx, ready) = oneshot::channel();
        let (stop, stop_rx) = watch::channel(false);
        let (ended_tx, ended) = watch::channel(false);
        std::thread::Builder::new()
            .name("raft".into())
            .spawn(move || {
                crate::priority::raise();
                match tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .thread_name("raft-io")
                    .build()
                {
                    Ok(runtime) => {
                        runtime.block_on(run(config, crate::thread::on_disk(), ready_tx, stop_rx));
                        // Drops every task, and with them the log: its lock is free when `ended` is true.
                        runtime.shutdown_timeout(Duration::from_secs(10));
                    }
                    Err(e) => {
                        drop(ready_tx.send(Err(StartError::Raft(format!("no runtime: {e}")))))
                    }
                }
                ended_tx.send_replace(true);
            })
            .map_err(|e| StartError::Raft(format!("no thread: {e}")))?;
        Self::started(ready, stop, ended).await
    }

    /// As [`Self::start`], on the runtime of the caller and with a log of its own: for simulations.
    #[cfg(test)]
    pub(crate) async fn start_here(
        config: Config,
        journal: OpenJournal,
    ) -> Result<Self, StartError> {
        let (ready_tx, ready) = oneshot::channel();
        let (stop, stop_rx) = watch::channel(false);
        let (ended_tx, ended) = watch::channel(false);
        <crate::types::Runtime as openraft::AsyncRuntime>::spawn(async move {
            run(config, journal, ready_tx, stop_rx).await;
            ended_tx.send_replace(true);
        });
        Self::started(ready, stop, ended).await
    }

    async fn started(
        ready: oneshot::Receiver<Result<Started, StartError>>,
        stop: watch::Sender<bool>,
        mut ended: watch::Receiver<bool>,
    ) -> Result<Self, StartError> {
        let started = ready.await.unwrap_or_else(|_| {
            Err(StartError::Raft(
                "the raft thread ended while starting".into(),
            ))
        });
        match started {
            Ok(Started { service, reads }) => Ok(Self {
                service,
                inflight: Semaphore::new(INFLIGHT_KIB_MAX as usize),
                reads,
                stop,
                ended,
            }),
            Err(e) => {
                // The directory is free again when the error is reported.
                let _ = ended.wait_for(|e| *e).await;
                Err(e)
            }
        }
    }

    /// This member's id.
    pub fn id(&self) -> u64 {
        self.service.id
    }

    /// Whether this member leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.service.leadership.borrow().is_leader
    }

    /// Follows who leads.
    pub fn leader_changes(&self) -> watch::Receiver<Leadership> {
        self.service.leadership.clone()
    }

    /// A report.
    pub fn status(&self) -> Status {
        let (raft, published) = (&self.service.raft, &self.service.published);
        let metrics = raft.metrics().borrow_watched().clone();
        Status {
            id: self.service.id,
            leadership: *self.service.leadership.borrow(),
            applied: published.applied(),
            hash: published.hash(),
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: metrics.cluster_committed.map_or(0, |id| id.index),
            snapshot: metrics.snapshot.map_or(0, |id| id.index),
            members: metrics
                .membership_config
                .nodes()
                .map(|(id, m)| (*id, m.clone()))
                .collect(),
        }
    }

    /// Answers when this member leads and has applied everything proposed before, whoever proposed it: what was not
    /// applied by then will not be.
    pub async fn barrier(&self) -> Result<(), ProposeError> {
        // On the raft thread, where the connections are: the caller's may have no I/O, or be busy planning.
        let service = self.service.clone();
        let asked = self
            .service
            .runtime
            .spawn(async move { service.read_index().await });
        match asked.await.ok().flatten() {
            Some(index) => {
                self.service.published.wait_applied(index).await;
                Ok(())
            }
            None => Err(ProposeError::NoLeader(
                "this member does not lead, or no majority confirms it".into(),
            )),
        }
    }

    /// Writes a snapshot now and answers when it is on disk.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        let stopped = |_| ProposeError::Unavailable("the replica is stopping".into());
        let raft = &self.service.raft;
        let applied = self.service.published.applied();
        raft.trigger().snapshot().await.map_err(stopped)?;
        let mut metrics = raft.metrics();
        while metrics
            .borrow_watched()
            .snapshot
            .is_none_or(|id| id.index < applied)
        {
            metrics
                .changed()
                .await
                .map_err(|_| ProposeError::Unavailable("the replica is stopping".into()))?;
        }
        Ok(())
    }

    /// The newest snapshot on this member's disk.
    pub fn snapshot_file(&self) -> Option<SnapshotFile> {
        self.service.snapshots.current().map(|s| s.file)
    }

    /// Members as this one sees them. (Silence is measured from here: a member that is cut off finds the others silent.)
    pub fn members(&self) -> Vec<MemberInfo> {
        let leader = self.service.leadership.borrow().leader;
        let mut all: Vec<MemberInfo> = self
            .service
            .membership()
            .into_iter()
            .map(|(id, member, voter)| {
                let (applied, silent) = if id == self.id() {
                    (Some(self.service.published.applied()), Duration::ZERO)
                } else {
                    self.service.pulses.of(id)
                };
                MemberInfo {
                    id,
                    member,
                    voter,
                    leader: leader == Some(id),
                    applied,
                    silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                }
            })
            .collect();
        all.sort_by(|a, b| (&a.member.name, a.id).cmp(&(&b.member.name, b.id)));
        all
    }

    /// Lets a node in as a learner; it becomes a voter by itself, see [`crate::members`].
    pub async fn add_member(&self, id: u64, member: Member) -> Result<(), MemberError> {
        self.change(Change::Add { id, member }).await
    }

    /// Lets a member go. `force`: even if an even number of voters is left.
    pub async fn remove_member(&self, id: u64, force: bool) -> Result<(), MemberError> {
        self.change(Change::Remove { id, force }).await
    }

    /// Makes a learner a voter. `force`: even if the voters are an even number then.
    pub async fn promote(&self, id: u64, force: bool) -> Result<(), MemberError> {
        self.change(Change::Promote { id, force }).await
    }

    /// Announces new addresses or a new name of a member.
    pub async fn update_member(&self, id: u64, member: Member) -> Result<(), MemberError> {
        self.change(Change::Update { id, member }).await
    }

    /// Hands leadership over, to the voter that is furthest if none is named.
    pub async fn transfer(&self, to: Option<u64>) -> Result<(), MemberError> {
        let mut leadership = self.leader_changes();
        let led = leadership.wait_for(|l| l.leader.is_some());
        let from = match tokio::time::timeout(TRANSFER_LEADER_PATIENCE, led).await {
            Ok(Ok(led)) => led.leader,
            _ => {
                return Err(MemberError::NoLeader(
                    "there is no leader at present".into(),
                ));
            }
        };
        // Whoever is asked for by name may be asked twice.
        let from = from.filter(|_| to.is_none());
        self.change(Change::Transfer { to, from }).await
    }

    /// Hands leadership over if this member has it and others can take it, stops raft, syncs, and answers when the
    /// directory is released. Proposals under way fail as not known.
    pub async fn shutdown(&self) {
        if self.is_leader() && self.service.membership().iter().filter(|m| m.2).count() > 1 {
            match self.service.hand_over(None).await {
                Ok(()) => tracing::info!("leadership was handed over"),
                Err(error) => {
                    tracing::warn!(%error, "leadership is not handed over: the others will find out by themselves")
                }
            }
        }
        self.stop.send_replace(true);
        let mut ended = self.ended.clone();
        // An error means the thread is gone already.
        let _ = ended.wait_for(|e| *e).await;
    }

    /// The handle below: for backups, and for tests that must write what no proposal can.
    pub(crate) fn raft(&self) -> &Raft {
        &self.service.raft
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Propose for Replica {
    fn propose(&self, commands: Vec<Command>) -> BoxFuture<'_, Result<Results, ProposeError>> {
        Box::pin(self.write(commands))
    }
}

impl Views for Replica {
    fn view(&self) -> Arc<View> {
        self.service.published.view()
    }

    fn newer_than(&self, revision: u64) -> BoxFuture<'_, Arc<View>> {
        Box::pin(self.service.published.newer_than(revision))
    }

    fn fresh(&self) -> BoxFuture<'_, Result<Arc<View>, ProposeError>> {
        Box::pin(self.read())
    }
}

impl Replica {
    /// Sends a message of the layer above to whoever leads, and to its own desk if that is this member.
    pub async fn ask_leader(&self, topic: &str, body: Bytes) -> Result<Bytes, ProposeError> {
        self.ask_topic(None, topic, body).await
    }

    /// Sends a message of the layer above to one member.
    pub async fn ask(&self, id: u64, topic: &str, body: Bytes) -> Result<Bytes, ProposeError> {
        self.ask_topic(Some(id), topic, body).await
    }
}
