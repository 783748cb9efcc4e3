//! openraft's state machine around [`State`]: decode, apply, publish, answer, in that order.
//!
//! The state is in memory; what is durable is the log and the snapshot. openraft runs this in a task of its own, reading
//! committed entries as a stream.

use std::io;
use std::sync::Arc;

use coracle_state::{Batch, State};
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};

use crate::capture::Captured;
use crate::fatal::Fatal;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::publish::Published;
use crate::snapshot::{self, Header, SnapshotFile, Snapshots};
use crate::types::{LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig, blocking};

/// Entries applied before their views and answers go out together. A view costs microseconds, so the bound is on the
/// delay of the first answer.
const PUBLISH_EVERY: usize = 64;

type Full = Snapshot<
    openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>,
    u64,
    crate::types::Member,
    SnapshotFile,
>;

/// The state machine of one member.
pub struct Machine {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    published: Arc<Published>,
    journal: Arc<dyn Journal>,
    gate: Arc<Gate>,
    fatal: Fatal,
}

impl Machine {
    /// A machine at the given state (from the newest snapshot, or empty).
    pub fn new(
        loaded: Option<(snapshot::Stored, State)>,
        snapshots: Arc<Snapshots>,
        published: Arc<Published>,
        journal: Arc<dyn Journal>,
        gate: Arc<Gate>,
        fatal: Fatal,
    ) -> Self {
        let (state, applied, membership) = match loaded {
            None => (State::default(), None, StoredMembership::default()),
            Some((stored, state)) => (
                state,
                stored.header.meta.last_log_id,
                stored.header.meta.last_membership,
            ),
        };
        let machine = Self {
            state,
            applied,
            membership,
            snapshots,
            published,
            journal,
            gate,
            fatal,
        };
        machine.publish();
        machine
    }

    fn publish(&self) {
        self.published
            .set(&self.state, self.applied.as_ref().map_or(0, |id| id.index));
    }

    /// What is applied, with its position: for backups.
    pub(crate) fn captured(&self) -> Captured {
        Captured {
            state: self.state.clone(),
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
        }
    }

    fn stop(&self, line: String) -> io::Error {
        self.fatal.fire(&line);
        io::Error::other(line)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::with_capacity(PUBLISH_EVERY);
        let mut next = entries.next().await;
        while let Some(item) = next {
            let (entry, responder) = item?;
            let reply = match entry.payload {
                EntryPayload::Blank => Reply::default(),
                EntryPayload::Normal(data) => match Batch::decode(&data.0) {
                    Ok(batch) => Reply(self.state.apply(&batch)),
                    Err(e) => return Err(self.stop(format!("{e} (log entry {})", entry.log_id))),
                },
                EntryPayload::Membership(m) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), m);
                    Reply::default()
                }
            };
            self.applied = Some(entry.log_id);
            self.published.sample(entry.log_id.index, self.state.hash());
            answers.extend(responder.map(|r| (r, reply)));
            // Whatever is ready now shares one view; nothing waits for entries that are not there yet.
            let ready = if answers.len() < PUBLISH_EVERY {
                entries.next().now_or_never()
            } else {
                None
            };
            next = match ready {
                Some(item) => item,
                None => {
                    self.publish();
                    answers.drain(..).for_each(|(r, reply)| r.send(reply));
                    entries.next().await
                }
            };
        }
        self.publish();
        answers.drain(..).for_each(|(r, reply)| r.send(reply));
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        // Running out of space inside a build would stop the member; not building only keeps the log longer.
        let expected = self
            .snapshots
            .current()
            .map_or(0, |s| s.file.len)
            .saturating_mul(2);
        if !force && !self.gate.has_room(expected) {
            tracing::warn!(
                expected_bytes = expected,
                "no snapshot is made: the disk has too little space"
            );
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        let header = Header {
            meta,
            log_end: self.journal.end_offset(),
        };
        Builder {
            state: self.state.clone(),
            header,
            snapshots: self.snapshots.clone(),
            fatal: self.fatal.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let path = snapshot.path.clone();
        let (stored, state) = blocking(move || Ok(snapshot::load(&path)))
            .await?
            .map_err(|e| self.stop(e.to_string()))?;
        if stored.header.meta.last_log_id != meta.last_log_id {
            return Err(io::Error::other(format!(
                "snapshot {} is not the one announced",
                snapshot.path.display()
            )));
        }
        let header = Header {
            meta: meta.clone(),
            log_end: self.journal.end_offset(),
        };
        let snapshots = self.snapshots.clone();
        blocking(move || snapshots.install(&snapshot, header))
            .await
            .inspect_err(|e| self.fatal.fire(&snapshot_io("installed", e)))?;
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.published.forget_samples();
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Full>, io::Error> {
        Ok(self.snapshots.current().map(|s| Full {
            meta: s.header.meta,
            snapshot: s.file,
        }))
    }
}

/// The line the process ends with: openraft stops on such an error, and says only that it has stopped.
fn snapshot_io(what: &str, error: &io::Error) -> String {
    format!(
        "E_SNAPSHOT_IO: a snapshot could not be {what}: {error}; the process ends, nothing that was acknowledged is lost, check the disk and start again"
    )
}

/// Writes a snapshot of a cloned state in a blocking thread, while the machine goes on.
pub struct Builder {
    state: State,
    header: Header,
    snapshots: Arc<Snapshots>,
    fatal: Fatal,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Full, io::Error> {
        let (state, header, snapshots) = (
            self.state.clone(),
            self.header.clone(),
            self.snapshots.clone(),
        );
        let started = std::time::Instant::now();
        let stored = blocking(move || snapshots.write(&state, header))
            .await
            .inspect_err(|e| self.fatal.fire(&snapshot_io("written", e)))?;
        tracing::info!(
            bytes = stored.file.len,
            ms = started.elapsed().as_millis() as u64,
            "snapshot written"
        );
        Ok(Full {
            meta: stored.header.meta,
            snapshot: stored.file,
        })
    }
}
