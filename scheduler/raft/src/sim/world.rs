//! A simulated cluster: machines on one network under one clock, drawn from one seed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::client;
use super::dice::Dice;
use super::disk::Disk;
use super::history::{self, Operation};
use super::host::Host;
use super::node::{Node, Parts};
use super::oracle::Oracle;
use super::plant::Plant;
use super::watcher::{self, Span};
use super::wire::{Link, SNAPSHOT_RATE, Wire};
use crate::config::{Begin, Limits};
use crate::replica::Replica;

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Members at the start: 1, 3 or 5.
    pub members: u64,
    /// Keys clients write.
    pub keys: u64,
    /// Microseconds a sync takes.
    pub sync_us: (u64, u64),
    /// The usual link.
    pub link: Link,
    /// Sizes of every member.
    pub limits: Limits,
    /// Clock rates differ by up to so many parts per million.
    pub drift_ppm: u64,
    /// A planted bug.
    pub plant: Option<Plant>,
}

impl Options {
    /// Small numbers, so that snapshots and purges happen within a few hundred writes.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            members: 3,
            keys: 5,
            sync_us: (100, 3_000),
            link: Link::default(),
            limits: Limits {
                snapshot_log_bytes_min: 64 << 20,
                snapshot_entries_max: 1_000_000,
                keep_entries: 200_000,
                keep_log_bytes: 512 << 20,
                chunk_bytes: 1 << 20,
                keep_free_bytes: Some(0),
            },
            drift_ppm: 0,
            plant: None,
        }
    }

    /// What this seed draws.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed).split("options");
        let mut options = Self::new(seed);
        options.members = *dice.pick(&[1, 3, 3, 3, 5]).expect("not empty");
        options.keys = dice.range(1..8);
        let slowest = *dice.pick(&[500, 3_000, 20_000]).expect("not empty");
        options.sync_us = (50, slowest);
        let latest = *dice.pick(&[300, 2_000, 30_000]).expect("not empty");
        options.link.delay_us = (50, latest);
        options.link.twice = *dice.pick(&[0, 0, 50]).expect("not empty");
        options.link.loss = *dice.pick(&[0, 0, 10]).expect("not empty");
        if dice.percent(70) {
            // A log this short makes lagging members need snapshots.
            options.limits.snapshot_entries_max = dice.range(20..150);
            options.limits.keep_entries = dice.range(20..200);
        }
        if dice.percent(30) {
            options.drift_ppm = *dice.pick(&[100, 20_000, 100_000]).expect("not empty");
        }
        options
    }
}

/// The cluster and everything that watches it.
pub struct World {
    /// How it was made.
    pub options: Options,
    /// What is true.
    pub oracle: Arc<Oracle>,
    /// The network.
    pub wire: Arc<Wire>,
    /// What clients saw.
    pub history: Mutex<Vec<Operation>>,
    /// What watchers saw.
    pub spans: Mutex<Vec<Span>>,
    /// Ends clients.
    pub stop: AtomicBool,
    nodes: Mutex<BTreeMap<u64, Arc<Node>>>,
    clients: Mutex<Vec<JoinHandle<()>>>,
    values: AtomicU64,
    ids: AtomicU64,
    files: TempDir,
    dice: Dice,
}

/// Memory, if there is such a file system: file syncs of snapshots are not what is simulated.
fn files() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    let builder = tempfile::Builder::new();
    if memory.is_dir()
        && let Ok(dir) = builder.tempdir_in(&memory)
    {
        return dir;
    }
    builder.tempdir().expect("a temporary directory")
}

impl World {
    /// A world without a machine.
    pub fn new(options: Options) -> Arc<Self> {
        let dice = Dice::new(options.seed);
        let oracle = Arc::new(Oracle::default());
        let wire = Wire::new(dice.split("wire"), options.link.clone(), oracle.clone());
        Arc::new(Self {
            oracle,
            wire,
            history: Mutex::default(),
            spans: Mutex::default(),
            stop: AtomicBool::new(false),
            nodes: Mutex::default(),
            clients: Mutex::default(),
            values: AtomicU64::new(0),
            ids: AtomicU64::new(0),
            files: files(),
            dice,
            options,
        })
    }

    /// A stream of choices of its own.
    pub fn dice(&self, name: &str) -> Dice {
        self.dice.split(name)
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine with an empty disk, switched off. Ids are not in order: leaders are ordered by (term, id).
    pub fn machine(&self, begin: Begin) -> Arc<Node> {
        let n = self.ids.fetch_add(1, Ordering::SeqCst);
        let mut dice = self.dice(&format!("machine {n}"));
        let id = dice.range(1..16) << 8 | n;
        let drift = self.options.drift_ppm;
        let parts = Parts {
            id,
            begin,
            disk: Disk::new(
                id,
                dice.split("disk"),
                self.options.sync_us.0..self.options.sync_us.1,
                self.oracle.clone(),
                self.options.plant,
            ),
            dir: self.files.path().join(format!("m{id:x}")),
            limits: self.options.limits.clone(),
            drift_ppm: dice.range(0..2 * drift + 1) as i64 - drift as i64,
        };
        let node = Node::new(parts, self.wire.clone(), self.oracle.clone());
        self.map().insert(id, node.clone());
        node
    }

    /// A machine is thrown away with its disk.
    pub fn discard(&self, id: u64) {
        let node = self.map().remove(&id);
        if let Some(node) = node {
            node.wanted.store(false, Ordering::SeqCst);
            node.kill();
            self.oracle.disk_gone(id);
        }
    }

    /// All machines in order of id.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.map().values().cloned().collect()
    }

    /// Machines whose replica serves and is not frozen.
    pub fn serving(&self) -> Vec<(Arc<Node>, Arc<Host>, Arc<Replica>)> {
        let nodes = self.nodes();
        nodes
            .into_iter()
            .filter_map(|n| n.replica().map(|(h, r)| (n, h, r)))
            .collect()
    }

    /// The leader of the highest term, if one is known to itself.
    pub fn leader(&self) -> Option<Arc<Node>> {
        let serving = self.serving();
        serving
            .into_iter()
            .filter(|(_, _, r)| r.is_leader())
            .max_by_key(|(_, _, r)| r.status().leadership.term)
            .map(|(n, _, _)| n)
    }

    /// A value nobody wrote before.
    pub fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes what a client saw.
    pub fn note(&self, op: Operation) {
        self.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(op);
    }

    /// Notes what a watcher saw.
    pub fn note_span(&self, span: Span) {
        self.spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(span);
    }

    /// Lets something run until the world ends.
    pub fn client(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(tokio::spawn(task));
    }

    /// Starts clients that write and read, about every `pause_ms`.
    pub fn workers(self: &Arc<Self>, n: u64, pause_ms: u64) {
        for client in 0..n {
            self.client(client::worker(self.clone(), client, pause_ms, 50));
        }
    }

    /// Ends all clients.
    pub async fn end_clients(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let clients =
            std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner));
        for task in clients {
            if let Err(e) = task.await {
                self.oracle.violated("clients_end", e.to_string());
            }
        }
    }

    /// Waits until `done`, looking every few milliseconds; `false` after `patience`.
    pub async fn until(&self, patience: Duration, mut done: impl FnMut() -> bool) -> bool {
        let end = super::now() + patience;
        while !done() {
            if super::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Starts the first member and lets others join until `members` vote.
    pub async fn grow(self: &Arc<Self>, members: u64) -> bool {
        if self.nodes().is_empty() {
            self.machine(Begin::Alone).start();
            if !self
                .until(Duration::from_secs(10), || self.leader().is_some())
                .await
            {
                self.oracle.violated(
                    "a_leader_is_elected",
                    "the first member does not lead".into(),
                );
                return false;
            }
        }
        let mut joining = Vec::new();
        while (self.nodes().len() as u64) < members {
            let node = self.machine(Begin::Join);
            node.start();
            joining.push(node);
        }
        for node in joining {
            if !self.admit(&node, Duration::from_secs(20)).await {
                return false;
            }
        }
        self.until(Duration::from_secs(30), || {
            self.oracle.voters().len() as u64 >= members && !self.oracle.in_joint()
        })
        .await
    }

    /// Lets a machine in through any member that serves; tries until `patience` is over.
    pub async fn admit(&self, node: &Arc<Node>, patience: Duration) -> bool {
        let end = super::now() + patience;
        let mut turn = 0;
        while super::now() < end {
            let serving = self.serving();
            let through = serving.iter().filter(|(n, ..)| n.id != node.id);
            let all: Vec<_> = through.collect();
            if !all.is_empty() {
                let (_, host, replica) = all[turn % all.len()];
                let (replica, id, member) = (replica.clone(), node.id, node.member());
                let adding = host.spawn(async move { replica.add_member(id, member).await });
                match tokio::time::timeout(Duration::from_secs(5), adding).await {
                    Ok(Ok(Ok(()))) => return true,
                    Ok(Ok(Err(error))) => tracing::debug!(%error, "not let in"),
                    _ => {}
                }
            }
            turn += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Everything is well again: network, clocks, disks and machines.
    pub fn heal(&self) {
        self.wire.heal();
        self.wire.set_usual(self.options.link.clone());
        self.wire.set_snapshot_rate(SNAPSHOT_RATE);
        for node in self.nodes() {
            node.disk
                .set_sync(self.options.sync_us.0..self.options.sync_us.1);
            if let Some(host) = node.host() {
                host.set_file_delay(Duration::ZERO);
                host.thaw();
            }
            if node.wanted.load(Ordering::SeqCst) {
                node.start();
            }
        }
    }

    /// Compares what clients and watchers saw with what is true.
    pub fn check(&self) {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history::check(&history, &self.oracle);
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        watcher::check(&spans, &self.oracle);
    }
}
