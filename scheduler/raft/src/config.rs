//! How a replica is started: where, as whom, with which bounds.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use crate::fatal::Fatal;
use crate::net::{Nobody, Transport};
use crate::service::Desk;
use crate::types::Member;

/// Where the leader's time stamps come from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

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

/// What a directory without a log begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// A cluster of this member alone.
    #[default]
    Alone,
    /// Nothing: it waits for the leader of a cluster to add it.
    Join,
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
    /// What an empty directory begins with.
    pub begin: Begin,
    /// The bound raft listener, if others shall reach this member.
    pub listener: Option<Arc<std::net::TcpListener>>,
    /// How messages travel.
    pub transport: Arc<dyn Transport>,
    /// Who answers messages of the layer above.
    pub desk: Option<Arc<dyn Desk>>,
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
            begin: Begin::Alone,
            listener: None,
            transport: Arc::new(Nobody),
            desk: None,
        }
    }
}
