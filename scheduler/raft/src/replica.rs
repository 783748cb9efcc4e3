//! One member: it proposes and reads for the rest of the process; its log and raft live on a thread of their own
//! (see `thread`).

use std::sync::Arc;
use std::time::Duration;

use coracle_state::command::BATCH_BYTES_MAX;
use coracle_state::{Batch, BoxFuture, Command, Propose, ProposeError, Results, View, Views};
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::config::{Clock, Config};
use crate::error::StartError;
use crate::gate::Gate;
use crate::publish::Published;
use crate::thread::{Started, run};
use crate::types::{Data, Member, Raft, node_id_text};

/// Encoded bytes of proposals under way. More wait: at 1 KiB each this is 128 thousand writes, seconds of work.
const INFLIGHT_KIB_MAX: u32 = 128 << 10;
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
    /// Index of the newest snapshot, 0 if none.
    pub snapshot: u64,
    /// Members by id.
    pub members: Vec<(u64, Member)>,
}

/// A running member. Cheap to share behind an `Arc`.
pub struct Replica {
    id: u64,
    raft: Raft,
    clock: Clock,
    published: Arc<Published>,
    gate: Arc<Gate>,
    inflight: Semaphore,
    leadership: watch::Receiver<Leadership>,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("id", &node_id_text(self.id))
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// Opens the directory and answers when everything that was committed is applied again. At the first start a
    /// cluster of one voter begins here.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (id, clock) = (config.node_id, config.clock.clone());
        let (ready_tx, ready) = oneshot::channel();
        let (stop, stop_rx) = watch::channel(false);
        let (ended_tx, ended) = watch::channel(false);
        std::thread::Builder::new()
            .name("raft".into())
            .spawn(move || {
                match tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .thread_name("raft-io")
                    .build()
                {
                    Ok(runtime) => {
                        runtime.block_on(run(config, ready_tx, stop_rx));
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
        let started = ready.await.unwrap_or_else(|_| {
            Err(StartError::Raft(
                "the raft thread ended while starting".into(),
            ))
        });
        match started {
            Ok(Started {
                raft,
                published,
                gate,
                leadership,
            }) => {
                let inflight = Semaphore::new(INFLIGHT_KIB_MAX as usize);
                Ok(Self {
                    id,
                    raft,
                    clock,
                    published,
                    gate,
                    inflight,
                    leadership,
                    stop,
                    ended,
                })
            }
            Err(e) => {
                let mut ended = ended;
                // The directory is free again when the error is reported.
                let _ = ended.wait_for(|e| *e).await;
                Err(e)
            }
        }
    }

    /// This member's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether this member leads now.
    pub fn is_leader(&self) -> bool {
        self.leadership.borrow().is_leader
    }

    /// Follows who leads.
    pub fn leader_changes(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// A report.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        Status {
            id: self.id,
            leadership: *self.leadership.borrow(),
            applied: self.published.applied(),
            hash: self.published.hash(),
            last_log: metrics.last_log_index.unwrap_or(0),
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
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(e) => Err(ProposeError::NoLeader(e.to_string())),
        }
    }

    /// Writes a snapshot now and answers when it is on disk.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        let stopped = |_| ProposeError::Unavailable("the replica is stopping".into());
        let applied = self.published.applied();
        self.raft.trigger().snapshot().await.map_err(stopped)?;
        let mut metrics = self.raft.metrics();
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

    /// Stops raft, syncs, and answers when the directory is released. Proposals under way fail as not known.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let mut ended = self.ended.clone();
        // An error means the thread is gone already.
        let _ = ended.wait_for(|e| *e).await;
    }

    /// The handle below, for tests that must write what no proposal can.
    #[cfg(test)]
    pub(crate) fn raft_for_tests(&self) -> &Raft {
        &self.raft
    }

    async fn write(&self, commands: Vec<Command>) -> Result<Results, ProposeError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        if *self.stop.borrow() {
            return Err(ProposeError::Unavailable(
                "the control plane is stopping; try again".into(),
            ));
        }
        let batch = Batch {
            at: (self.clock)(),
            request_id: rand::random::<u64>().max(1),
            commands,
        };
        let bytes = batch.encode();
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                bytes: bytes.len(),
                limit: BATCH_BYTES_MAX,
            });
        }
        let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(INFLIGHT_KIB_MAX);
        let _room = self
            .inflight
            .acquire_many(kib)
            .await
            .map_err(|_| ProposeError::Unavailable("the replica is stopping".into()))?;
        self.gate.admit(bytes.len() as u64)?;
        match self.raft.client_write(Data(bytes.into())).await {
            Ok(answer) => Ok(answer.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(ProposeError::NoLeader(
                    to.leader_id
                        .map_or("an election is under way".into(), |id| {
                            format!("{} leads", node_id_text(id))
                        }),
                ))
            }
            Err(RaftError::APIError(e)) => Err(ProposeError::NoLeader(e.to_string())),
            Err(RaftError::Fatal(e)) => Err(ProposeError::NoLeader(format!(
                "this member has stopped ({e})"
            ))),
        }
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
        self.published.view()
    }

    fn newer_than(&self, revision: u64) -> BoxFuture<'_, Arc<View>> {
        Box::pin(self.published.newer_than(revision))
    }
}
