//! Takes over the log of data format 1 (crate `raft-log`): everything is read, written anew beside it and synced, then the
//! new one gets its name, then the old one goes. At each moment one of the two is complete.

use std::fs;
use std::io;
use std::path::Path;

use super::{Options, WalJournal, dir};
use crate::durable;
use crate::error::StartError;
use crate::journal::raftlog::RaftLogJournal;
use crate::journal::{Done, Journal};
use crate::version;

/// Entries moved at a time: what a conversion holds in memory.
const MOVE_BYTES: usize = 8 << 20;

/// Converts the log in `raft`, if it is of the format before.
pub fn convert(raft: &Path, options: &Options) -> Result<(), StartError> {
    let (old, new) = (raft.join("log"), dir(raft));
    let beside = raft.join("wal.new");
    let io = |path: &Path, e| StartError::io(path, e);
    if new.is_dir() || !old.is_dir() {
        // What an interrupted conversion left behind.
        remove(&beside).map_err(|e| io(&beside, e))?;
        if new.is_dir() {
            remove(&old).map_err(|e| io(&old, e))?;
        }
        return Ok(());
    }
    remove(&beside).map_err(|e| io(&beside, e))?;
    // Refused here if it is damaged, with nothing changed.
    let from = RaftLogJournal::open(raft)?;
    // An older version must not write to the old log while the new one grows.
    version::raise(raft)?;
    tracing::info!(dir = %raft.display(), bytes = from.disk_bytes(), "the log is converted to the current format");
    let to = WalJournal::open_files(&beside, options.clone(), || Ok(()))?;
    copy(&from, &to).map_err(|e| io(&beside, e))?;
    drop((from, to));
    durable::sync_dir(&beside).map_err(|e| io(&beside, e))?;
    fs::rename(&beside, &new)
        .and_then(|()| durable::sync_dir(raft))
        .map_err(|e| io(&new, e))?;
    remove(&old)
        .and_then(|()| remove(&raft.join("synced")))
        .and_then(|()| durable::sync_dir(raft))
        .map_err(|e| io(&old, e))
}

fn copy(from: &dyn Journal, to: &dyn Journal) -> io::Result<()> {
    if let Some(purged) = from.purged() {
        synced(|done| to.purge(&purged, done))?;
    }
    let mut next = from.purged().map_or(0, |id| id.index + 1);
    loop {
        let entries = from.read(next, u64::MAX, MOVE_BYTES)?;
        let Some(last) = entries.last() else { break };
        next = last.log_id.index + 1;
        synced(|done| to.append(entries, done))?;
    }
    if let Some(committed) = from.committed() {
        to.save_committed(&committed)?;
    }
    match from.vote() {
        Some(vote) => synced(|done| to.save_vote(&vote, done)),
        None => Ok(()),
    }
}

fn synced(write: impl FnOnce(Done) -> io::Result<()>) -> io::Result<()> {
    let (tx, rx) = std::sync::mpsc::channel();
    write(Done::new(move |result| {
        // The receiver waits below.
        let _ = tx.send(result);
    }))?;
    rx.recv()
        .unwrap_or_else(|_| Err(io::Error::other("the log's flush thread is gone")))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
