//! [`Journal`](super::Journal) over files of our own: preallocated, so that a sync commits no metadata, and written by one thread in
//! groups, see [`record`] for the format and [`recover`] for what is read back after a crash.
//!
//! Calls change the state in memory, queue the bytes and return; [`flush`] writes. The newest entries stay in memory as
//! the shared bytes they came as, for replication and apply; the disk is read for members that are far behind.

mod calls;
mod convert;
pub mod flush;
pub mod group;
pub mod index;
pub mod record;
pub mod recover;
pub mod segment;
mod spare;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use self::flush::{Live, Op, Position, Writer};
use self::index::{Cache, Spans};
use self::record::Head;
use self::segment::{SEGMENT_BYTES_MIN, Segment};
use self::spare::Spares;
use super::synced::Synced;
use crate::durable;
use crate::error::StartError;
use crate::fatal::Fatal;
use crate::gate::Gate;
use crate::types::LogId;
use crate::version;

/// Length of a file once the log has grown to it.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Length of the first file: made while the process starts.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;
/// On a small file system: a file is at most this part of it.
const SEGMENTS_PER_DISK: u64 = 32;
/// Memory for the newest entries: what an apply or a follower that keeps up ever reads.
const CACHE_BYTES: usize = 32 << 20;

/// How to open the log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Full length of a file in bytes.
    pub segment_bytes: u64,
    /// Bytes of newest entries kept in memory. Entries that are not yet written are kept in any case.
    pub cache_bytes: usize,
    /// Writes past the page cache where the file system can.
    pub direct: bool,
    /// Knows how much space there is, and holds the ballast.
    pub gate: Option<Arc<Gate>>,
    /// Told when the log cannot be written any more.
    pub fatal: Option<Fatal>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            cache_bytes: CACHE_BYTES,
            direct: true,
            gate: None,
            fatal: None,
        }
    }
}

struct State {
    head: Head,
    spans: Spans,
    cache: Cache,
    queue: VecDeque<Op>,
    /// A commit position that goes out with the next write.
    committed: Option<LogId>,
    disk_bytes: u64,
    closing: bool,
    failed: Option<String>,
}

/// What callers, readers and the flush thread share.
pub struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    cache_bytes: usize,
    fatal: Option<Fatal>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves the log in an unknown state: whoever comes next must not go on.
        self.state
            .lock()
            .expect("the log was not left half-changed by a panic")
    }

    /// Waits for work; returns without any after `timeout`. `true`: the log is being closed, this is all.
    fn next(&self, timeout: Option<Duration>) -> (VecDeque<Op>, bool) {
        let mut state = self.lock();
        while state.queue.is_empty() && !state.closing {
            state = match timeout {
                None => self
                    .wake
                    .wait(state)
                    .expect("the log was not left half-changed by a panic"),
                Some(t) => {
                    let (state, waited) = self
                        .wake
                        .wait_timeout(state, t)
                        .expect("the log was not left half-changed by a panic");
                    if waited.timed_out() {
                        return (VecDeque::new(), state.closing && state.queue.is_empty());
                    }
                    state
                }
            };
        }
        let mut batch = std::mem::take(&mut state.queue);
        batch.extend(state.committed.take().map(Op::Committed));
        (batch, state.closing)
    }

    /// A group is on disk. `cut`: from where on operations that follow it have removed entries.
    fn written(&self, spans: Spans, cut: Option<u64>, disk_bytes: u64, base: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let queued = state.queue.iter().filter_map(flush::cuts).min();
        let cut = cut.into_iter().chain(queued).min().unwrap_or(u64::MAX);
        state
            .spans
            .append(spans, cut, state.head.purged.map(|id| id.index));
        state.disk_bytes = disk_bytes;
        state.head.base = base;
        let on_disk = state.spans.end().unwrap_or_else(|| state.head.first());
        state.cache.shrink(self.cache_bytes, on_disk);
    }

    /// Ends the process, if a hook was given; else nothing is taken any more. Each error is final: after a failed sync
    /// the page cache may have dropped what it was asked to write.
    fn fail(&self, error: &io::Error, path: &Path) {
        let line = format!(
            "E_LOG_IO: cannot write the log {}: {error}; the process ends, since what the disk holds is not known any more: nothing that was acknowledged is lost, check the disk and start again",
            path.display()
        );
        if let Some(fatal) = &self.fatal {
            fatal.fire(&line);
        }
        let mut state = self.lock();
        state.failed.get_or_insert(line);
        let dropped = std::mem::take(&mut state.queue);
        drop(state);
        // Each completion reports its failure when it is dropped, outside of the lock.
        drop(dropped);
    }
}

/// The log of one member in one directory.
pub struct WalJournal {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held locked while the log is open.
    lock: fs::File,
}

impl WalJournal {
    /// Opens (or creates) the log in `raft`, the directory of one member: ignores a torn tail, refuses damage where
    /// acknowledged writes are, takes over a log of the format before.
    pub fn open(raft: &Path) -> Result<Self, StartError> {
        Self::open_options(raft, Options::default())
    }

    /// As [`Self::open`], with another length of its files.
    pub fn open_with(raft: &Path, segment_bytes: usize) -> Result<Self, StartError> {
        let options = Options {
            segment_bytes: segment_bytes as u64,
            ..Options::default()
        };
        Self::open_options(raft, options)
    }

    /// As [`Self::open`], with everything.
    pub fn open_options(raft: &Path, options: Options) -> Result<Self, StartError> {
        durable::create_dir(raft).map_err(|e| StartError::io(raft, e))?;
        if let Some(gate) = &options.gate {
            gate.make_ballast();
        }
        convert::convert(raft, &options)?;
        Self::open_files(&dir(raft), options, || version::raise(raft))
    }

    /// The log in a directory that holds nothing else; `sound` is called when it was read and before it is changed.
    fn open_files(
        dir: &Path,
        options: Options,
        sound: impl FnOnce() -> Result<(), StartError>,
    ) -> Result<Self, StartError> {
        let io = |path: &Path, e| StartError::io(path, e);
        durable::create_dir(dir).map_err(|e| io(dir, e))?;
        let lock = lock(dir)?;
        let marker_path = dir.join("synced");
        let marker = Synced::open(&marker_path).map_err(|e| io(&marker_path, e))?;
        let found = recover::read(dir, marker.offset(), &options)?;
        // From here on the directory is known to be sound.
        if found.torn {
            tracing::warn!(dir = %dir.display(), group = found.group + 1,
                "the log ended in a group that was not completely written and never acknowledged; it is dropped");
        }
        sound()?;
        let mut options = options;
        let total = options.gate.as_ref().and_then(|g| g.total());
        options.segment_bytes = options
            .segment_bytes
            .min(total.map_or(u64::MAX, |t| t / SEGMENTS_PER_DISK))
            .max(SEGMENT_BYTES_MIN);
        let mut files = found.files;
        let file = match files.pop_back() {
            Some(last) => {
                // A killed process leaves in memory what it had not synced; we have read it and others may rely on it now.
                let path = &last.segment.path;
                last.segment.file.sync_data().map_err(|e| io(path, e))?;
                last
            }
            None => {
                let want = FIRST_SEGMENT_BYTES.min(options.segment_bytes);
                let first = flush::create(dir, 1, want, SEGMENT_BYTES_MIN, &options)
                    .map_err(|e| io(dir, e))?;
                Live {
                    segment: Arc::new(first),
                    highest: None,
                }
            }
        };
        let spare = reuse(dir, &found.unused, file.segment.seq + 1, &options)?;
        durable::sync_dir(dir).map_err(|e| io(dir, e))?;
        let older: u64 = files.iter().map(|f| f.segment.len).sum();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                head: found.head,
                spans: found.spans,
                cache: found.cache,
                queue: VecDeque::new(),
                committed: None,
                disk_bytes: older + found.at,
                closing: false,
                failed: None,
            }),
            wake: Condvar::new(),
            cache_bytes: options.cache_bytes,
            fatal: options.fatal.clone(),
        });
        let spares = Arc::new(Spares::new(
            shared.clone(),
            dir.into(),
            options.clone(),
            spare,
        ));
        let position = Position {
            older: files,
            file,
            at: found.at,
            group: found.group,
            head: found.head,
        };
        let writer = Writer::new(
            shared.clone(),
            spares.clone(),
            dir.into(),
            options,
            marker,
            position,
        );
        let mut journal = Self {
            shared,
            threads: Vec::new(),
            lock,
        };
        let thread = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(run)
                .map_err(|e| io(dir, e))
        };
        journal
            .threads
            .push(thread("raft-log", Box::new(move || writer.run()))?);
        journal
            .threads
            .push(thread("raft-log-spare", Box::new(move || spares.run()))?);
        Ok(journal)
    }
}

impl Drop for WalJournal {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
        // Closing is not enough: a process being started by another thread may hold a copy of the descriptor.
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }
}

/// Removes files without groups, but for the longest, which becomes the next one.
fn reuse(
    dir: &Path,
    unused: &[PathBuf],
    seq: u64,
    options: &Options,
) -> Result<Option<Arc<Segment>>, StartError> {
    let mut best: Option<Segment> = None;
    for path in unused {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((seq, salt)) = segment::parse(&name) {
            let file = Segment::open(path.clone(), seq, salt, options.direct)
                .map_err(|e| StartError::io(path, e))?;
            let longer = best.as_ref().is_none_or(|b| b.len < file.len);
            if longer && (SEGMENT_BYTES_MIN..=options.segment_bytes).contains(&file.len) {
                if let Some(b) = best.replace(file) {
                    fs::remove_file(&b.path).map_err(|e| StartError::io(&b.path, e))?;
                }
                continue;
            }
        }
        fs::remove_file(path).map_err(|e| StartError::io(path, e))?;
    }
    best.map(|b| {
        b.recycle(dir, seq)
            .map(Arc::new)
            .map_err(|e| StartError::io(dir, e))
    })
    .transpose()
}

fn lock(dir: &Path) -> Result<fs::File, StartError> {
    let path = dir.join("lock");
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| StartError::io(&path, e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::DataDir {
            path: dir.into(),
            why: "another process holds its log".into(),
        }),
        Err(e) => Err(StartError::io(&path, e.into())),
    }
}

/// The directory of the log inside `DATA/raft`.
pub fn dir(raft: &Path) -> PathBuf {
    raft.join("wal")
}

/// Whether `DATA/raft` holds a log, of this format or the one before.
pub fn exists(raft: &Path) -> bool {
    dir(raft).is_dir() || raft.join("log").is_dir()
}
