//! The space gate: refuses client writes before the log can meet a full disk, and opens again by itself.
//!
//! An append that fails stops the member (a sync error is never retried), so the disk is asked before, not after.
//! Elections and commits pass by: they need the space the gate keeps free.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use coracle_state::ProposeError;

use crate::error::StartError;

/// Most that is kept free. Votes, commits, chunk heads and a registry in the same directory fit many times.
const KEEP_FREE_MAX: u64 = 64 << 20;
/// Least that is kept free, on a small file system: one largest batch.
const KEEP_FREE_MIN: u64 = 8 << 20;
/// Least that must be free to start: votes, a log file's head, certificates and the kubeconfig.
const START_FREE_MIN: u64 = 1 << 20;
/// How old an answer of the file system may be: other writers share it.
const FRESH: Duration = Duration::from_millis(100);

/// Free and total bytes of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes a process without privileges may still write.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
}

type Ask = dyn Fn(&Path) -> std::io::Result<Space> + Send + Sync;

struct Known {
    at: Instant,
    space: Space,
    /// Bytes let through since the file system was asked.
    since: u64,
    closed: bool,
}

/// The gate of one data directory.
pub struct Gate {
    dir: PathBuf,
    keep_free: Option<u64>,
    ask: Box<Ask>,
    known: Mutex<Option<Known>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate on the file system of `dir`. `keep_free` bytes stay free; by default a twentieth of it, 8 to 64 MiB.
    pub fn new(dir: &Path, keep_free: Option<u64>) -> Self {
        Self::with(dir, keep_free, Box::new(statvfs))
    }

    /// A gate that asks something else than the file system.
    pub fn with(dir: &Path, keep_free: Option<u64>, ask: Box<Ask>) -> Self {
        Self {
            dir: dir.into(),
            keep_free,
            ask,
            known: Mutex::new(None),
        }
    }

    /// Lets `bytes` through to the log, or refuses them.
    pub fn admit(&self, bytes: u64) -> Result<(), ProposeError> {
        let mut known = self.known.lock().expect("no panic while holding this lock");
        let fresh = known
            .as_ref()
            .is_some_and(|k| !k.closed && k.at.elapsed() < FRESH);
        if !fresh {
            let was_closed = known.as_ref().is_some_and(|k| k.closed);
            let space = (self.ask)(&self.dir).map_err(|e| {
                ProposeError::Unavailable(format!(
                    "E_DISK_FULL: cannot ask the file system of {}: {e}",
                    self.dir.display()
                ))
            })?;
            *known = Some(Known {
                at: Instant::now(),
                space,
                since: 0,
                closed: was_closed,
            });
        }
        let Some(k) = known.as_mut() else {
            return Err(ProposeError::Unavailable(
                "E_DISK_FULL: the file system did not answer".into(),
            ));
        };
        let keep = self.keep(k.space);
        let left = k.space.free.saturating_sub(k.since);
        if left < keep.saturating_add(bytes) {
            if !k.closed {
                tracing::error!(free = left, keep, dir = %self.dir.display(), "the disk is nearly full: writes are refused until there is space");
            }
            k.closed = true;
            return Err(ProposeError::Unavailable(format!(
                "E_DISK_FULL: the file system of {} has {} MiB free and writes need {} MiB; free some space, writes resume by themselves",
                self.dir.display(),
                left >> 20,
                keep.saturating_add(bytes).div_ceil(1 << 20),
            )));
        }
        if k.closed {
            tracing::info!(free = left, "the disk has space again: writes are accepted");
            k.closed = false;
        }
        k.since += bytes;
        Ok(())
    }

    /// Whether `bytes` more would leave what is kept free. Used for snapshots; an unanswering file system counts as full.
    pub fn has_room(&self, bytes: u64) -> bool {
        (self.ask)(&self.dir).is_ok_and(|s| s.free >= self.keep(s).saturating_add(bytes))
    }

    /// Refuses to start where the first vote could meet a full disk, which would end the process without a word.
    pub fn check_start(&self) -> Result<(), StartError> {
        let space = (self.ask)(&self.dir).map_err(|e| StartError::io(&self.dir, e))?;
        if space.free < START_FREE_MIN {
            return Err(StartError::DiskFull {
                path: self.dir.clone(),
                free_kib: space.free >> 10,
            });
        }
        Ok(())
    }

    fn keep(&self, space: Space) -> u64 {
        self.keep_free
            .unwrap_or_else(|| (space.total / 20).clamp(KEEP_FREE_MIN, KEEP_FREE_MAX))
    }
}

fn statvfs(dir: &Path) -> std::io::Result<Space> {
    let s = rustix::fs::statvfs(dir)?;
    Ok(Space {
        free: s.f_bavail.saturating_mul(s.f_frsize),
        total: s.f_blocks.saturating_mul(s.f_frsize),
    })
}
