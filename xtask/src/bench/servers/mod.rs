//! Clusters of either system, started by the bench: fresh data directories on the same disk, loopback or one network
//! namespace per member, and ended with the bench.

mod etcd;
pub mod guard;
pub mod meter;
pub mod netns;
mod ours;
mod pki;
mod rest;
pub mod strace;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use rustls::ClientConfig;

use self::guard::{Scratch, Server};
use self::netns::Net;
use super::load::client::{self, MemberStatus, Side};
use super::load::http2::Endpoint;

/// Time a cluster has to come up, and a member to come back.
const READY: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Entries that a caught-up member may be behind the others, as the load goes on while one looks.
const CAUGHT_UP: u64 = 200;

/// A system, with how it is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// Coracle.
    Ours,
    /// etcd as it comes.
    EtcdDefaults,
    /// etcd with our timeouts, pre-vote and a bounded history.
    EtcdTuned,
}

impl System {
    /// Its name in figures.
    pub fn label(self) -> String {
        match self {
            Self::Ours => "coracle".to_string(),
            Self::EtcdDefaults => format!("etcd {} defaults", etcd::version()),
            Self::EtcdTuned => format!("etcd {} tuned", etcd::version()),
        }
    }
}

/// One member.
pub struct Member {
    /// Where clients reach it.
    pub address: SocketAddr,
    /// How to start it again over its directory.
    again: Box<dyn Fn() -> Command + Send + Sync>,
    log: PathBuf,
    server: Mutex<Option<Server>>,
}

impl Member {
    fn new(
        address: SocketAddr,
        log: PathBuf,
        server: Server,
        again: Box<dyn Fn() -> Command + Send + Sync>,
    ) -> Self {
        Self {
            address,
            again,
            log,
            server: Mutex::new(Some(server)),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Server) -> Result<T>) -> Result<T> {
        let mut server = self
            .server
            .lock()
            .map_err(|_| anyhow::anyhow!("a thread of the bench panicked"))?;
        f(server.as_mut().context("the member is not running")?)
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        self.with(|s| Ok(s.pid()))
    }

    /// kill -9; back when the process is gone.
    pub fn kill(&self) -> Result<()> {
        self.with(Server::kill)
    }

    /// SIGSTOP; back when every thread stands still.
    pub fn stop(&self) -> Result<()> {
        let pid = self.with(|s| s.signal(Signal::STOP).map(|()| s.pid()))?;
        let until = Instant::now() + Duration::from_secs(5);
        while !meter::is_stopped(pid) {
            ensure!(Instant::now() < until, "process {pid} does not stop");
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.with(|s| s.signal(Signal::CONT))
    }

    /// Starts it again over the same directory.
    pub fn restart(&self) -> Result<()> {
        let server = Server::start((self.again)(), &self.log)?;
        if let Ok(mut s) = self.server.lock() {
            *s = Some(server);
        }
        Ok(())
    }
}

/// A running cluster. Dropping it kills the servers, then removes their data.
pub struct Cluster {
    /// What it is.
    pub system: System,
    /// API it speaks.
    pub side: Side,
    /// Members, in the order they were started.
    pub members: Vec<Member>,
    /// Bytes of one of our objects beside its data; 0 for etcd.
    pub overhead: usize,
    tls: Arc<ClientConfig>,
    _scratch: Scratch,
}

/// Where the binaries are, and where members run.
pub struct Ground {
    /// `coracle`.
    pub coracle: PathBuf,
    /// One namespace per member; none: everything on loopback.
    pub net: Option<Arc<Net>>,
}

impl Ground {
    fn address(&self, i: usize) -> std::net::IpAddr {
        match &self.net {
            Some(n) => n.address(i),
            None => std::net::Ipv4Addr::LOCALHOST.into(),
        }
    }

    fn command(&self, i: usize, program: &Path) -> Command {
        match &self.net {
            Some(n) => n.command(i, program),
            None => Command::new(program),
        }
    }
}

impl Cluster {
    /// Starts a cluster in a fresh directory; back when every member is a voter and knows the leader.
    pub async fn start(ground: &Ground, system: System, members: usize) -> Result<Self> {
        let mut cluster = match system {
            System::Ours => ours::start(ground, members).await?,
            System::EtcdDefaults => etcd::start(ground, members, false)?,
            System::EtcdTuned => etcd::start(ground, members, true)?,
        };
        cluster.wait_healthy().await?;
        if system == System::Ours {
            let leader = cluster.leader().await?;
            cluster.overhead = client::prepare_ours(&cluster.endpoint(leader)).await?;
            cluster.wait_healthy().await?;
        }
        Ok(cluster)
    }

    /// How to reach a member.
    pub fn endpoint(&self, member: usize) -> Endpoint {
        Endpoint {
            address: self.members[member].address,
            tls: self.tls.clone(),
        }
    }

    /// Processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|m| m.pid().ok()).collect()
    }

    /// Fails with its last words if a member has ended.
    pub fn check_alive(&self) -> Result<()> {
        self.members
            .iter()
            .try_for_each(|m| m.with(Server::check_alive))
    }

    /// Index of the leader.
    pub async fn leader(&self) -> Result<usize> {
        let until = Instant::now() + READY;
        loop {
            match self.status().await {
                Ok(all) => {
                    if let Some(i) = all.iter().position(|s| s.leader) {
                        return Ok(i);
                    }
                }
                Err(e) if Instant::now() > until => return Err(e.context("no leader")),
                Err(_) => {}
            }
            ensure!(Instant::now() < until, "no leader in {} s", READY.as_secs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// State of each member, in order.
    pub async fn status(&self) -> Result<Vec<MemberStatus>> {
        match self.side {
            Side::Ours => ours::status(self).await,
            Side::Etcd => {
                let mut all = Vec::new();
                for i in 0..self.members.len() {
                    all.push(client::etcd_status(&self.endpoint(i)).await?);
                }
                Ok(all)
            }
        }
    }

    /// Raft term, as the members tell it; none where a release does not.
    pub async fn term(&self) -> Result<Option<u64>> {
        let told = self.status().await?.iter().filter_map(|s| s.term).max();
        Ok(match (told, self.side) {
            (None, Side::Ours) => ours::term(self).await?,
            (told, _) => told,
        })
    }

    /// Waits until every member answers, one of them leads and none is behind.
    pub async fn wait_healthy(&self) -> Result<()> {
        let until = Instant::now() + READY;
        loop {
            self.check_alive()?;
            let why = match tokio::time::timeout(Duration::from_secs(2), self.status()).await {
                Ok(Ok(all)) => {
                    let leaders = all.iter().filter(|s| s.leader).count();
                    let newest = all.iter().map(|s| s.applied).max().unwrap_or(0);
                    let behind = all
                        .iter()
                        .filter(|s| !s.led || s.applied + CAUGHT_UP < newest)
                        .count();
                    if all.len() == self.members.len() && leaders == 1 && behind == 0 {
                        return Ok(());
                    }
                    format!(
                        "{} of {} members, {leaders} leaders, {behind} behind",
                        all.len(),
                        self.members.len()
                    )
                }
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => "no answer".to_string(),
            };
            if Instant::now() > until {
                let words: Vec<String> = self
                    .members
                    .iter()
                    .map(|m| m.with(|s| Ok(s.last_words())).unwrap_or_default())
                    .collect();
                bail!(
                    "{} is not healthy after {} s: {why}\n{}",
                    self.system.label(),
                    READY.as_secs(),
                    words.join("\n--\n")
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
