//! The space gate: refuses client writes before the log can meet a full disk, and opens again by itself.
//!
//! An append that fails stops the member (a sync error is never retried), so the disk is asked before, not after.
//! Elections and commits pass by: they have the files the log prepared, what the gate keeps free, and then the ballast.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use coracle_state::ProposeError;

use crate::ballast::Ballast;
use crate::error::StartError;

/// Most that is kept free, and put aside as ballast. Votes, commits and a registry in the same directory fit many times.
const KEEP_FREE_MAX: u64 = 64 << 20;
/// Least that is kept free, on a small file system: one largest batch.
const KEEP_FREE_MIN: u64 = 8 << 20;
/// Least ballast: room for a few files of the log at their smallest.
const BALLAST_MIN: u64 = 2 << 20;
/// Kept free, and put aside: this part of a small file system.
const PART: u64 = 20;
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
    /// Bytes of ballast that are not there.
    missing: u64,
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
    ballast: Ballast,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("dir", &self.dir)
            .field("ballast", &self.ballast)
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
            ballast: Ballast::at(&dir.join("raft/ballast")),
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
                missing: ballast_bytes(space).saturating_sub(self.ballast.held()),
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
        let need = keep.saturating_add(bytes).saturating_add(k.missing);
        let made = if left < need {
            Err(None)
        } else if k.missing > 0 {
            self.ballast.make(ballast_bytes(k.space)).map_err(Some)
        } else {
            Ok(())
        };
        if let Err(error) = made {
            if !k.closed {
                tracing::error!(free = left, need, ?error, dir = %self.dir.display(), "the disk is nearly full: writes are refused until there is space");
            }
            k.closed = true;
            return Err(ProposeError::Unavailable(format!(
                "E_DISK_FULL: the file system of {} has {} MiB free and writes need {} MiB; free some space, writes resume by themselves",
                self.dir.display(),
                left >> 20,
                need.div_ceil(1 << 20),
            )));
        }
        if k.closed {
            tracing::info!(free = left, "the disk has space again: writes are accepted");
            k.closed = false;
        }
        k.since += bytes + std::mem::take(&mut k.missing);
        Ok(())
    }

    /// Whether `bytes` more would leave what is kept free. Used for snapshots and prepared log files; an unanswering
    /// file system counts as full.
    pub fn has_room(&self, bytes: u64) -> bool {
        (self.ask)(&self.dir).is_ok_and(|s| s.free >= self.keep(s).saturating_add(bytes))
    }

    /// Size of the file system, if it answers.
    pub fn total(&self) -> Option<u64> {
        (self.ask)(&self.dir).ok().map(|s| s.total)
    }

    /// Puts the ballast aside, if there is room for it beside what is kept free. Without it client writes are refused.
    pub fn make_ballast(&self) {
        let Ok(space) = (self.ask)(&self.dir) else {
            return;
        };
        let want = ballast_bytes(space);
        let missing = want.saturating_sub(self.ballast.held());
        if missing == 0 || space.free < self.keep(space).saturating_add(missing) {
            return;
        }
        if let Err(error) = self.ballast.make(want) {
            tracing::warn!(%error, dir = %self.dir.display(), "no space could be put aside for votes and commits");
        }
    }

    /// The log has met a full disk: gives it the ballast. Client writes are refused until it is there again.
    pub fn release_ballast(&self) -> u64 {
        let freed = self.ballast.release();
        tracing::error!(bytes = freed, dir = %self.dir.display(), "the disk is full: the space put aside is used for votes and commits");
        *self.known.lock().expect("no panic while holding this lock") = None;
        freed
    }

    /// Refuses to start where the first vote could meet a full disk, which would end the process without a word.
    pub fn check_start(&self) -> Result<(), StartError> {
        let space = (self.ask)(&self.dir).map_err(|e| StartError::io(&self.dir, e))?;
        if space.free.saturating_add(self.ballast.held()) < START_FREE_MIN {
            return Err(StartError::DiskFull {
                path: self.dir.clone(),
                free_kib: space.free >> 10,
            });
        }
        Ok(())
    }

    fn keep(&self, space: Space) -> u64 {
        self.keep_free
            .unwrap_or_else(|| (space.total / PART).clamp(KEEP_FREE_MIN, KEEP_FREE_MAX))
    }
}

fn ballast_bytes(space: Space) -> u64 {
    (space.total / PART).clamp(BALLAST_MIN, KEEP_FREE_MAX)
}

fn statvfs(dir: &Path) -> std::io::Result<Space> {
    let s = rustix::fs::statvfs(dir)?;
    Ok(Space {
        free: s.f_bavail.saturating_mul(s.f_frsize),
        total: s.f_blocks.saturating_mul(s.f_frsize),
    })
}
