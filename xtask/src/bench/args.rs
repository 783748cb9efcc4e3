//! What the benches of the control plane have in common on their command lines.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::cluster::release_binary;
use super::peers;
use super::servers::System;

/// Which etcd to measure against.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// As it comes.
    Defaults,
    /// With our timeouts, pre-vote and a bounded history.
    Tuned,
    /// Both of these.
    Both,
    /// None: only our side, for tuning.
    None,
}

/// Options.
#[derive(clap::Args)]
pub struct LoadArgs {
    /// End within 45 s: fewer cases, fewer and shorter runs.
    #[arg(long)]
    pub quick: bool,
    /// Members of each cluster.
    #[arg(long, value_delimiter = ',')]
    pub members: Option<Vec<usize>>,
    /// Clients (watch: watchers).
    #[arg(long, value_delimiter = ',')]
    pub clients: Option<Vec<usize>>,
    /// Bytes stored per object.
    #[arg(long, value_delimiter = ',')]
    pub size: Option<Vec<usize>>,
    /// Runs of each side per case.
    #[arg(long)]
    pub runs: Option<usize>,
    /// Seconds measured per run.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Puts per second in an open loop, latency from the intended time; default: closed loop.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Which etcd (default: both; with --quick one).
    #[arg(long, value_enum)]
    pub peer: Option<Peer>,
    /// Clients talk to the leader only, not to every member in turn.
    #[arg(long)]
    pub leader_only: bool,
    /// This `coracle` instead of building a release one.
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

impl LoadArgs {
    /// Our binary, built unless one is given.
    pub fn coracle(&self) -> Result<PathBuf> {
        match &self.binary {
            Some(b) => {
                ensure!(b.is_file(), "{} is not there", b.display());
                Ok(std::path::absolute(b)?)
            }
            None => release_binary(),
        }
    }

    /// The systems in the order A, B, C; `quick_peer` alone with --quick.
    pub fn systems(&self, quick_peer: System) -> Result<Vec<System>> {
        let peer = match (self.peer, self.quick) {
            (Some(p), _) => p,
            (None, true) if quick_peer == System::EtcdTuned => Peer::Tuned,
            (None, true) => Peer::Defaults,
            (None, false) => Peer::Both,
        };
        if peer != Peer::None {
            peers::etcd()?;
        }
        Ok(match peer {
            Peer::Defaults => vec![System::Ours, System::EtcdDefaults],
            Peer::Tuned => vec![System::Ours, System::EtcdTuned],
            Peer::Both => vec![System::Ours, System::EtcdDefaults, System::EtcdTuned],
            Peer::None => vec![System::Ours],
        })
    }
}

/// Order of the systems in a run: forwards, then backwards.
pub fn interleaved(systems: usize, run: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..systems).collect();
    if run % 2 == 1 {
        order.reverse();
    }
    order
}
