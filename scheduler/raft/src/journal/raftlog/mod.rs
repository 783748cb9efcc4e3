//! [`Journal`] over the crate `raft-log`: the log of data format 1. It is read to be converted, and is the second
//! implementation that the tests compare ours with.

pub mod codec;
pub mod repair;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::Span;
use raft_log::{RaftLog, Types};

use self::codec::{Payload, WalId, WalVote};
use super::synced::Synced;
use super::{Done, Journal};
use crate::durable;
use crate::error::StartError;
use crate::types::{Entry, LogId, Vote};

/// Size of one file. Small, since a file's entries stay in memory until it is full, and purging removes whole files.
const CHUNK_BYTES: usize = 32 << 20;
/// Memory for entries of full files, so that appliers and followers read from memory.
const CACHE_BYTES: usize = 32 << 20;
/// Replay buffer, per file, freed after opening.
const READ_BUFFER_BYTES: usize = 1 << 20;
/// How long the flush thread collects writes that are already queued: long enough to take all of them, far shorter than a sync.
const FLUSH_GATHER: Duration = Duration::from_micros(50);

/// Type parameters of `raft-log`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTypes;

impl Types for LogTypes {
    type LogId = WalId;
    type LogPayload = Payload;
    type Vote = WalVote;
    type Callback = Flushed;
    type UserData = ();

    fn log_index(id: &WalId) -> u64 {
        id.index
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.body.len() as u64
    }
}

/// Fired by the flush thread: first the marker, then whoever waits.
pub struct Flushed {
    done: Done,
    synced: Arc<Synced>,
    upto: u64,
}

impl raft_log::Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        if result.is_ok() {
            self.synced.advance(self.upto);
        }
        self.done.complete(result);
    }
}

/// The log of one member in one directory.
pub struct RaftLogJournal {
    log: Mutex<RaftLog<LogTypes>>,
    synced: Arc<Synced>,
}

impl RaftLogJournal {
    /// Opens (or creates) the log: cuts a torn tail, refuses damage where acknowledged writes are.
    pub fn open(dir: &Path) -> Result<Self, StartError> {
        Self::open_with(dir, CHUNK_BYTES)
    }

    /// As [`Self::open`], with another file size (tests of rotation and purging).
    pub fn open_with(dir: &Path, chunk_bytes: usize) -> Result<Self, StartError> {
        let files = dir.join("log");
        durable::create_dir(&files).map_err(|e| StartError::io(&files, e))?;
        let marker = dir.join("synced");
        let synced = Arc::new(Synced::open(&marker).map_err(|e| StartError::io(&marker, e))?);
        durable::sync_dir(dir).map_err(|e| StartError::io(dir, e))?;
        repair::check::<LogTypes>(&files, synced.offset())?;
        let mut cut = false;
        let log = loop {
            match RaftLog::<LogTypes>::open(Arc::new(config(&files, chunk_bytes))) {
                Ok(log) => break log,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(StartError::DataDir {
                        path: files,
                        why: "another process holds its log".into(),
                    });
                }
                Err(e) if cut => {
                    return Err(StartError::LogCorrupt {
                        path: files,
                        why: e.to_string(),
                    });
                }
                Err(e) => cut = repair::cut_torn_tail::<LogTypes>(&files, synced.offset(), &e)?,
            }
        };
        let journal = Self {
            log: Mutex::new(log),
            synced,
        };
        journal.check_range(&files)?;
        Ok(journal)
    }

    /// A removed oldest file leaves records that read well but a log with a hole at its start.
    fn check_range(&self, files: &Path) -> Result<(), StartError> {
        let log = self.lock();
        let (purged, last) = (
            log.log_state().purged().copied(),
            log.log_state().last().copied(),
        );
        let first = purged.map_or(0, |p| p.index + 1);
        if let Some(last) = last
            && last.index >= first
            && log.read(first, first + 1).next().is_none()
        {
            return Err(StartError::LogCorrupt {
                path: files.into(),
                why: format!("entries from index {first} on are missing"),
            });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, RaftLog<LogTypes>> {
        // A panic while holding the lock leaves the log in an unknown state: whoever comes next must not go on.
        self.log
            .lock()
            .expect("the log was not left half-changed by a panic")
    }

    fn sync(&self, log: &mut RaftLog<LogTypes>, upto: u64, done: Done) -> io::Result<()> {
        log.flush(
            true,
            Some(Flushed {
                done,
                synced: self.synced.clone(),
                upto,
            }),
        )
    }
}

fn config(files: &Path, chunk_bytes: usize) -> raft_log::Config {
    let mut config = raft_log::Config::new(files.display());
    config.wal.chunk_max_size = Some(chunk_bytes);
    config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
    config.wal.truncate_incomplete_record = Some(false);
    config.wal.flush_batch_wait = Some(FLUSH_GATHER);
    config.log_cache_capacity = Some(CACHE_BYTES);
    config
}

impl Journal for RaftLogJournal {
    fn vote(&self) -> Option<Vote> {
        self.lock().log_state().vote().map(|v| (*v).into())
    }

    fn committed(&self) -> Option<LogId> {
        self.lock().log_state().committed().map(|id| (*id).into())
    }

    fn purged(&self) -> Option<LogId> {
        self.lock().log_state().purged().map(|id| (*id).into())
    }

    fn last(&self) -> Option<LogId> {
        self.lock().log_state().last().map(|id| (*id).into())
    }

    fn save_vote(&self, vote: &Vote, done: Done) -> io::Result<()> {
        let mut log = self.lock();
        let end = log.save_vote(vote.into())?.end().0;
        self.sync(&mut log, end, done)
    }

    fn save_committed(&self, id: &LogId) -> io::Result<()> {
        let mut log = self.lock();
        let id = WalId::from(id);
        // After a snapshot was installed the commit may be above a log that is about to be purged up to it.
        if log.log_state().last() >= Some(&id) {
            log.commit(id)?;
            log.flush(false, None)?;
        }
        Ok(())
    }

    fn append(&self, entries: Vec<Entry>, done: Done) -> io::Result<()> {
        let mut records = Vec::with_capacity(entries.len());
        for entry in &entries {
            records.push((WalId::from(&entry.log_id), Payload::of(entry)?));
        }
        let mut log = self.lock();
        let end = RaftLogWriter::append(&mut *log, records)?.end().0;
        self.sync(&mut log, end, done)
    }

    fn truncate(&self, index: u64, done: Done) -> io::Result<()> {
        let mut log = self.lock();
        let last = log.log_state().last().map(|id| id.index);
        if last.is_none_or(|last| index > last) {
            let end = log.stat().open_chunk.global_end;
            return self.sync(&mut log, end, done);
        }
        let end = log.truncate(index)?.end().0;
        self.sync(&mut log, end, done)
    }

    fn purge(&self, id: &LogId, done: Done) -> io::Result<()> {
        let mut log = self.lock();
        let end = log.purge(id.into())?.end().0;
        self.sync(&mut log, end, done)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let log = self.lock();
        let (mut entries, mut bytes) = (Vec::new(), 0usize);
        if from >= to {
            return Ok(entries);
        }
        for item in log.read(from, to) {
            let (id, payload) = item?;
            bytes = bytes.saturating_add(payload.body.len());
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(payload.entry(id)?);
        }
        Ok(entries)
    }

    fn end_offset(&self) -> u64 {
        let log = self.lock();
        log.stat().open_chunk.global_end
    }

    fn disk_bytes(&self) -> u64 {
        self.lock().on_disk_size()
    }
}
