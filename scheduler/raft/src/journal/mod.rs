//! The log store: what raft writes before it answers. [`Journal`] is our own trait with two implementations: [`wal`] is
//! what runs, [`raftlog`] what data format 1 had. Each runs openraft's suite; [`store`] adapts them to openraft.

pub mod raftlog;
pub mod store;
pub mod synced;
pub mod wal;

use std::io;

use crate::types::{Entry, LogId, Vote};

/// Called exactly once with the outcome of a durable write; a dropped one counts as failed, so that nobody waits for ever.
pub struct Done(Option<Box<dyn FnOnce(io::Result<()>) + Send>>);

impl Done {
    /// Runs `f` when the write is on stable storage (or failed), on the flush thread.
    pub fn new(f: impl FnOnce(io::Result<()>) + Send + 'static) -> Self {
        Self(Some(Box::new(f)))
    }

    /// A completion and the future that waits for it.
    pub fn pair() -> (Self, tokio::sync::oneshot::Receiver<io::Result<()>>) {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let done = Self::new(move |result| {
            // The waiter may have gone with its request; the outcome is then nobody's concern.
            let _ = tx.send(result);
        });
        (done, rx)
    }

    /// Reports the outcome.
    pub fn complete(mut self, result: io::Result<()>) {
        if let Some(f) = self.0.take() {
            f(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f(Err(io::Error::other(
                "the log's flush thread ended before the write was synced",
            )));
        }
    }
}

/// A durable raft log with its vote. Calls return once the change is visible to readers of this process; `Done` fires
/// when it is on stable storage. Order of calls = order on disk.
pub trait Journal: Send + Sync + 'static {
    /// The last saved vote.
    fn vote(&self) -> Option<Vote>;
    /// The last saved commit position (best effort, may be older than the truth).
    fn committed(&self) -> Option<LogId>;
    /// The last purged position; entries up to it are gone.
    fn purged(&self) -> Option<LogId>;
    /// The last position, purged or not.
    fn last(&self) -> Option<LogId>;
    /// Saves the vote.
    fn save_vote(&self, vote: &Vote, done: Done) -> io::Result<()>;
    /// Notes the commit position; made durable by a later write.
    fn save_committed(&self, id: &LogId) -> io::Result<()>;
    /// Appends consecutive entries.
    fn append(&self, entries: Vec<Entry>, done: Done) -> io::Result<()>;
    /// Removes entries at `index` and above.
    fn truncate(&self, index: u64, done: Done) -> io::Result<()>;
    /// Removes entries up to and including `id` (which may be above the last one, after a snapshot was installed).
    fn purge(&self, id: &LogId, done: Done) -> io::Result<()>;
    /// Entries in `[from, to)`, at least one if there is one, stopping after `bytes_max` bytes.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>>;
    /// Bytes of records ever appended: rises for the life of the log, survives restarts.
    fn end_offset(&self) -> u64;
    /// Bytes of the disk the log uses now, without what is prepared for later.
    fn disk_bytes(&self) -> u64;
}
