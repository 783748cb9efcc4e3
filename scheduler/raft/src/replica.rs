//! One member: opens its directory, runs raft on a thread of its own, and offers proposing and reading.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_state::command::BATCH_BYTES_MAX;
use coracle_state::{Batch, BoxFuture, Command, Propose, ProposeError, Results, View, Views};
use jiff::Timestamp;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Config as RaftConfig, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::compact;
use crate::error::StartError;
use crate::fatal::Fatal;
use crate::gate::Gate;
use crate::journal::store::LogStore;
use crate::journal::wal::WalJournal;
use crate::journal::Journal;
use crate::machine::Machine;
use crate::network::Network;
use crate::publish::Published;
use crate::snapshot::Snapshots;
use crate::types::{Data, Member, Raft, node_id_text};
use crate::version;

/// Where the leader's time stamps come from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Encoded bytes of proposals under way. More wait: at 1 KiB each this is 128 thousand writes, seconds of work.
const INFLIGHT_KIB_MAX: u32 = 128 << 10;
/// How often the need for a snapshot is looked at. One look costs microseconds; a second of log is megabytes.
const COMPACT_EVERY: Duration = Duration::from_secs(1);

/// Sizes that decide about snapshots, purging and refusing.
#[derive(Clone, Debug)]
pub struct Limits {
    /// No snapshot before the log since the last one has this many bytes. (Above: when it is twice the state.)
    pub snapshot_log_bytes_min: u64,
    /// A snapshot after this many entries in any case: bounds the replay at start.
    pub snapshot_entries_max: u64,
    /// Entries kept behind a snapshot, for members that were away (see consensus.md 2.4 on why so many).
    pub keep_entries: u64,
    /// Bytes of log on disk above which fewer entries are kept.
    pub keep_log_bytes: u64,
    /// Bytes of one log file.
    pub chunk_bytes: usize,
    /// Bytes to keep free on the file system; `None`: a twentieth of it, 8 to 64 MiB.
    pub keep_free_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            snapshot_log_bytes_min: 64 << 20,
            snapshot_entries_max: 1_000_000,
            keep_entries: 200_000,
            keep_log_bytes: 512 << 20,
            chunk_bytes: 32 << 20,
            keep_free_bytes: None,
        }
    }
}

/// How to start a replica.
#[derive(Clone)]
pub struct Config {
    /// The data directory; the replica uses `VERSION` and `raft/` in it. The caller holds its lock.
    pub data_dir: PathBuf,
    /// This member's id: random, never reused.
    pub node_id: u64,
    /// How others know it (stored in the membership at the first start).
    pub member: Member,
    /// The clock for log time stamps.
    pub clock: Clock,
    /// Sizes.
    pub limits: Limits,
    /// What ends the process.
    pub fatal: Fatal,
}

impl Config {
    /// The usual configuration: system clock, default limits, abort on fatal errors.
    pub fn new(data_dir: impl Into<PathBuf>, node_id: u64) -> Self {
        Self {
            data_dir: data_dir.into(),
            node_id,
            member: Member::default(),
            clock: Arc::new(Timestamp::now),
            limits: Limits::default(),
            fatal: Fatal::abort(),
        }
    }
}

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
        f.debug_struct("Replica").field("id", &node_id_text(self.id)).finish_non_exhaustive()
    }
}

/// What the raft thread hands out once it serves.
struct Started {
    raft: Raft,
    published: Arc<Published>,
    gate: Arc<Gate>,
    leadership: watch::Receiver<Leadership>,
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
                match tokio::runtime::Builder::new_current_thread().enable_all().thread_name("raft-io").build() {
                    Ok(runtime) => {
                        runtime.block_on(run(config, ready_tx, stop_rx));
                        // Drops every task, and with them the log: its lock is free when `ended` is true.
                        runtime.shutdown_timeout(Duration::from_secs(10));
                    }
                    Err(e) => drop(ready_tx.send(Err(StartError::Raft(format!("no runtime: {e}"))))),
                }
                ended_tx.send_replace(true);
            })
            .map_err(|e| StartError::Raft(format!("no thread: {e}")))?;
        let started = ready.await.unwrap_or_else(|_| Err(StartError::Raft("the raft thread ended while starting".into())));
        match started {
            Ok(Started { raft, published, gate, leadership }) => {
                let inflight = Semaphore::new(INFLIGHT_KIB_MAX as usize);
                Ok(Self { id, raft, clock, published, gate, inflight, leadership, stop, ended })
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
            members: metrics.membership_config.nodes().map(|(id, m)| (*id, m.clone())).collect(),
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
        while metrics.borrow_watched().snapshot.is_none_or(|id| id.index < applied) {
            metrics.changed().await.map_err(|_| ProposeError::Unavailable("the replica is stopping".into()))?;
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
            return Err(ProposeError::Unavailable("the control plane is stopping; try again".into()));
        }
        let batch = Batch { at: (self.clock)(), request_id: rand::random::<u64>().max(1), commands };
        let bytes = batch.encode();
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: bytes.len(), limit: BATCH_BYTES_MAX });
        }
        let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(INFLIGHT_KIB_MAX);
        let _room = self.inflight.acquire_many(kib).await.map_err(|_| ProposeError::Unavailable("the replica is stopping".into()))?;
        self.gate.admit(bytes.len() as u64)?;
        match self.raft.client_write(Data(bytes.into())).await {
            Ok(answer) => Ok(answer.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(ProposeError::NoLeader(to.leader_id.map_or("an election is under way".into(), |id| format!("{} leads", node_id_text(id)))))
            }
            Err(RaftError::APIError(e)) => Err(ProposeError::NoLeader(e.to_string())),
            Err(RaftError::Fatal(e)) => Err(ProposeError::NoLeader(format!("this member has stopped ({e})"))),
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

/// The options of consensus.md section 2.3: openraft's defaults are wrong for this product.
fn raft_config(limits: &Limits) -> Result<RaftConfig, StartError> {
    let config = RaftConfig {
        cluster_name: "coracle".into(),
        election_timeout_min: 300,
        election_timeout_max: 400,
        heartbeat_interval: 75,
        heartbeat_min_interval: Some(50),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(1_000),
        enable_leader_restore: Some(false),
        max_payload_entries: 4096,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: limits.keep_entries,
        purge_batch_size: 1,
        install_snapshot_timeout: 60_000,
        backoff: "50ms,100ms,200ms,400ms,1s".into(),
        ..Default::default()
    };
    config.validate().map_err(|e| StartError::Raft(e.to_string()))
}

/// Everything on the raft thread: open, start, serve until told to stop or until raft stops by itself.
async fn run(config: Config, ready: oneshot::Sender<Result<Started, StartError>>, mut stop: watch::Receiver<bool>) {
    let fatal = config.fatal.clone();
    let opened = tokio::select! {
        opened = open(&config) => opened,
        // `start` was dropped: nobody waits for this replica any more.
        _ = stop.wait_for(|s| *s) => return,
    };
    let (raft, journal, snapshots, published, gate) = match opened {
        Ok(parts) => parts,
        Err(e) => {
            // A receiver that is gone does not want to know.
            drop(ready.send(Err(e)));
            return;
        }
    };
    let mut metrics = raft.metrics();
    let (leadership_tx, leadership) = watch::channel(lead(&metrics.borrow_watched().clone(), config.node_id));
    let started = Started { raft: raft.clone(), published: published.clone(), gate, leadership };
    if ready.send(Ok(started)).is_err() {
        stop_raft(&raft).await;
        return;
    }
    let mut tick = tokio::time::interval(COMPACT_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|s| *s) => break,
            changed = metrics.changed() => {
                let now = metrics.borrow_watched().clone();
                let running = now.running_state.as_ref().map(|()| ()).map_err(ToString::to_string);
                if let Err(why) = running.and(changed.map_err(|_| "its task is gone".to_string())) {
                    fatal.fire(&format!("E_RAFT_STOPPED: consensus on this member has stopped ({why}); the process ends so that a restart recovers from the log"));
                    break;
                }
                let who = lead(&now, config.node_id);
                leadership_tx.send_if_modified(|l| std::mem::replace(l, who) != who);
            }
            _ = tick.tick() => compact::step(&raft, journal.as_ref(), &snapshots, published.applied(), &config.limits).await,
        }
    }
    leadership_tx.send_replace(Leadership::default());
    stop_raft(&raft).await;
}

async fn stop_raft(raft: &Raft) {
    if let Err(error) = raft.shutdown().await {
        tracing::warn!(%error, "raft did not stop cleanly");
    }
}

type Opened = (Raft, Arc<dyn Journal>, Arc<Snapshots>, Arc<Published>, Arc<Gate>);

async fn open(config: &Config) -> Result<Opened, StartError> {
    version::check(&config.data_dir)?;
    let dir = config.data_dir.join("raft");
    let journal: Arc<dyn Journal> = Arc::new(WalJournal::open_with(&dir, config.limits.chunk_bytes)?);
    let (snapshots, loaded) = Snapshots::open(&dir.join("snapshots"))?;
    check_joint(&dir, journal.as_ref(), loaded.as_ref().and_then(|(s, _)| s.header.meta.last_log_id.as_ref().map(|id| id.index)))?;
    let (snapshots, published) = (Arc::new(snapshots), Arc::new(Published::default()));
    let gate = Arc::new(Gate::new(&config.data_dir, config.limits.keep_free_bytes));
    let machine = Machine::new(loaded, snapshots.clone(), published.clone(), journal.clone(), gate.clone(), config.fatal.clone());
    let raft_error = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
    let raft_config = Arc::new(raft_config(&config.limits)?);
    let raft = Raft::new(config.node_id, raft_config, Network, LogStore::new(journal.clone()), machine).await.map_err(|e| raft_error(&e))?;
    // The metrics are filled in only after the core's first round; its state is there at once.
    let voters: Vec<u64> =
        raft.with_raft_state(|state| state.membership_state.effective().voter_ids().collect()).await.map_err(|e| raft_error(&e))?;
    if raft.is_initialized().await.map_err(|e| raft_error(&e))? {
        if !voters.contains(&config.node_id) {
            return Err(StartError::Raft(format!(
                "the log belongs to other members ({}), not to {}; DATA/identity was changed or copied",
                voters.iter().map(|v| node_id_text(*v)).collect::<Vec<_>>().join(", "),
                node_id_text(config.node_id)
            )));
        }
        if voters.len() == 1 {
            // Nobody else can win: no reason to wait for the election timeout.
            raft.trigger().elect(false).await.map_err(|e| raft_error(&e))?;
        }
    } else {
        let members = std::collections::BTreeMap::from([(config.node_id, config.member.clone())]);
        raft.initialize(members).await.map_err(|e| raft_error(&e))?;
    }
    // Everything in the log when we started is committed and applied again, so reads after a restart see every answer given before.
    raft.wait_for_recovery(None).await.map_err(|e| raft_error(&e))?;
    if voters.len() <= 1 {
        raft.wait(None).state(ServerState::Leader, "the only voter leads").await.map_err(|e| raft_error(&e))?;
    }
    Ok((raft, journal, snapshots, published, gate))
}

/// Log and snapshot must meet: what the log has purged is in the snapshot.
fn check_joint(dir: &std::path::Path, journal: &dyn Journal, snapshot: Option<u64>) -> Result<(), StartError> {
    match journal.purged() {
        Some(purged) if snapshot.is_none_or(|s| s < purged.index) => Err(StartError::SnapshotCorrupt {
            path: dir.join("snapshots"),
            why: format!("the log begins after index {} but the newest snapshot ends at {}", purged.index, snapshot.unwrap_or(0)),
        }),
        _ => Ok(()),
    }
}

fn lead(metrics: &openraft::RaftMetrics<crate::types::TypeConfig>, id: u64) -> Leadership {
    Leadership {
        leader: metrics.current_leader,
        is_leader: metrics.state == ServerState::Leader && metrics.current_leader == Some(id),
        term: metrics.current_term,
    }
}
