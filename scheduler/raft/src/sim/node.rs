//! A simulated machine: its disk and snapshot directory outlive its process; the process is the production `Replica`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::disk::Disk;
use super::host::Host;
use super::oracle::Oracle;
use super::wire::{SimTransport, Wire};
use crate::config::{Begin, Config, Limits};
use crate::fatal::Fatal;
use crate::replica::Replica;
use crate::types::Member;

/// Virtual time begins here.
const EPOCH: &str = "2030-01-01T00:00:00Z";

/// A process and what it became.
#[derive(Default)]
struct Process {
    host: Option<Arc<Host>>,
    replica: Option<Arc<Replica>>,
    started: u64,
}

/// A machine.
pub struct Node {
    /// Its id, new for each empty disk.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its disk.
    pub disk: Arc<Disk>,
    begin: Begin,
    dir: PathBuf,
    limits: Limits,
    /// Milliseconds its wall clock is ahead.
    skew_ms: Arc<AtomicI64>,
    drift_ppm: i64,
    wire: Arc<Wire>,
    oracle: Arc<Oracle>,
    process: Mutex<Process>,
    /// Why its processes ended themselves.
    lines: Arc<Mutex<Vec<String>>>,
    /// Whether it is wanted in the cluster.
    pub wanted: AtomicBool,
}

/// What a machine is made of.
pub struct Parts {
    /// Id.
    pub id: u64,
    /// What its empty disk begins with.
    pub begin: Begin,
    /// Disk.
    pub disk: Arc<Disk>,
    /// Where its snapshots go.
    pub dir: PathBuf,
    /// Sizes.
    pub limits: Limits,
    /// How fast its clock is.
    pub drift_ppm: i64,
}

impl Node {
    /// A machine that is switched off.
    pub fn new(parts: Parts, wire: Arc<Wire>, oracle: Arc<Oracle>) -> Arc<Self> {
        oracle.disk(parts.id, parts.disk.clone());
        Arc::new(Self {
            id: parts.id,
            name: format!("m{:x}", parts.id),
            disk: parts.disk,
            begin: parts.begin,
            dir: parts.dir,
            limits: parts.limits,
            skew_ms: Arc::default(),
            drift_ppm: parts.drift_ppm,
            wire,
            oracle,
            process: Mutex::default(),
            lines: Arc::default(),
            wanted: AtomicBool::new(true),
        })
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How others know it.
    pub fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            raft: format!("{}:2380", self.name),
            api: format!("https://{}:6443", self.name),
        }
    }

    /// The running replica, once it has started.
    pub fn replica(&self) -> Option<(Arc<Host>, Arc<Replica>)> {
        let p = self.process();
        let host = p.host.clone().filter(|h| !h.is_dead())?;
        Some((host, p.replica.clone()?))
    }

    /// Whether a process is there, started or starting.
    pub fn is_on(&self) -> bool {
        self.process().host.as_ref().is_some_and(|h| !h.is_dead())
    }

    /// The process, if one is there.
    pub fn host(&self) -> Option<Arc<Host>> {
        self.process().host.clone().filter(|h| !h.is_dead())
    }

    /// Sets how far its wall clock is ahead.
    pub fn skew(&self, ms: i64) {
        self.skew_ms.store(ms, Ordering::SeqCst);
    }

    /// Lines with which its processes ended themselves.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn config(&self, host: &Arc<Host>) -> Config {
        let mut config = Config::new(&self.dir, self.id);
        config.member = self.member();
        config.begin = self.begin;
        config.limits = self.limits.clone();
        config.transport = Arc::new(SimTransport {
            wire: self.wire.clone(),
            me: self.id,
            host: host.clone(),
        });
        let (skew, own) = (self.skew_ms.clone(), host.clone());
        let epoch: Timestamp = EPOCH.parse().expect("a constant");
        config.clock = Arc::new(move || {
            let skew = SignedDuration::from_millis(skew.load(Ordering::SeqCst));
            let passed = own.local(super::now());
            epoch + skew + SignedDuration::try_from(passed).expect("less than an age")
        });
        let (lines, own, id) = (self.lines.clone(), host.clone(), self.id);
        let (oracle, disk) = (self.oracle.clone(), self.disk.clone());
        config.fatal = Fatal::new(move |line| {
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line.to_string());
            oracle.trace([7, id, 0, 0]);
            own.kill();
            disk.crash();
        });
        config
    }

    /// Switches it on. Nothing if it is on.
    pub fn start(self: &Arc<Self>) {
        if self.is_on() {
            return;
        }
        let host = Host::new(self.drift_ppm);
        let journal = self.disk.open(&host);
        self.oracle.started(self.id);
        let (oracle, seen, id) = (self.oracle.clone(), journal.clone(), self.id);
        host.observe(move |applied, hash, revision| {
            oracle.published(id, &seen, applied, hash, revision);
        });
        let number = {
            let mut p = self.process();
            p.started += 1;
            p.host = Some(host.clone());
            p.replica = None;
            p.started
        };
        let (node, config) = (self.clone(), self.config(&host));
        host.spawn(async move {
            match Replica::start_here(config, Box::new(move |_| Ok(journal))).await {
                Ok(replica) => {
                    let mut p = node.process();
                    if p.started == number {
                        p.replica = Some(Arc::new(replica));
                    }
                }
                // Whoever was let go is told so.
                Err(_) if !node.oracle.members().contains(&node.id) => {}
                Err(e) => node
                    .oracle
                    .violated("members_start_again", format!("member {:x}: {e}", node.id)),
            }
        });
    }

    /// Cuts its power.
    pub fn kill(&self) {
        let (host, replica) = {
            let mut p = self.process();
            (p.host.take(), p.replica.take())
        };
        if let Some(host) = host {
            host.kill();
            self.disk.crash();
        }
        // Dropped after its tasks cannot run any more.
        drop(replica);
    }

    /// Asks it to leave as SIGTERM does, then switches it off.
    pub async fn terminate(&self) {
        if let Some((host, replica)) = self.replica() {
            let leaving = host.spawn(async move { replica.shutdown().await });
            // A process that does not come to an end is killed by whoever supervises it.
            let _ = tokio::time::timeout(Duration::from_secs(20), leaving).await;
        }
        self.kill();
    }
}
