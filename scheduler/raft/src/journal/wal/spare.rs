//! The thread that has the next file of the log ready before it is needed, and takes back files that are not needed any more.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::segment::{Fill, Segment, is_full};
use super::{Options, Shared};

/// A wish: the number of the next file and its length.
#[derive(Clone, Copy, Debug)]
struct Job {
    seq: u64,
    len: u64,
}

#[derive(Default)]
struct Slot {
    job: Option<Job>,
    busy: bool,
    ready: Option<Arc<Segment>>,
    retired: Vec<Arc<Segment>>,
    closing: bool,
    /// The disk does not do what it is asked: the log has ended.
    failed: bool,
}

/// What the flush thread and the preparing thread share.
pub struct Spares {
    shared: Arc<Shared>,
    dir: PathBuf,
    options: Options,
    slot: Mutex<Slot>,
    wake: Condvar,
}

impl Spares {
    /// For the log in `dir`; `ready` is a file prepared by an earlier process.
    pub fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        options: Options,
        ready: Option<Arc<Segment>>,
    ) -> Self {
        Self {
            shared,
            dir,
            options,
            slot: Mutex::new(Slot {
                ready,
                ..Slot::default()
            }),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().expect("no panic while holding this lock")
    }

    /// Asks for the file `seq`, if it is neither there nor asked for.
    pub fn request(&self, seq: u64, len: u64) {
        let mut slot = self.lock();
        if slot.busy || slot.job.is_some() || slot.ready.as_ref().is_some_and(|s| s.seq >= seq) {
            return;
        }
        slot.job = Some(Job { seq, len });
        self.wake.notify_all();
    }

    /// The prepared file `seq` of at least `len` bytes, waiting for one that is being prepared. `None`: make one.
    pub fn take(&self, seq: u64, len: u64) -> io::Result<Option<Arc<Segment>>> {
        let mut slot = self.lock();
        while slot.busy || slot.job.is_some() {
            slot = self
                .wake
                .wait(slot)
                .expect("no panic while holding this lock");
        }
        if slot.failed {
            return Err(io::Error::other("the next file could not be prepared"));
        }
        match slot.ready.take() {
            Some(s) if s.seq == seq && s.len >= len => Ok(Some(s)),
            Some(other) => {
                slot.retired.push(other);
                self.wake.notify_all();
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Gives files back.
    pub fn retire(&self, segments: Vec<Arc<Segment>>) {
        if segments.is_empty() {
            return;
        }
        self.lock().retired.extend(segments);
        self.wake.notify_all();
    }

    /// Ends the thread after what it is doing.
    pub fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_all();
    }

    fn closing(&self) -> bool {
        self.lock().closing
    }

    /// The thread.
    pub fn run(&self) {
        let mut kept: Option<Arc<Segment>> = None;
        loop {
            let (job, retired) = {
                let mut slot = self.lock();
                loop {
                    if slot.job.is_some() && !slot.closing {
                        slot.busy = true;
                    }
                    if slot.busy || slot.closing || !slot.retired.is_empty() {
                        break;
                    }
                    slot = self
                        .wake
                        .wait(slot)
                        .expect("no panic while holding this lock");
                }
                (slot.job.take(), std::mem::take(&mut slot.retired))
            };
            // One is kept for the next wish; the disk space of the others is given back.
            for old in retired {
                match kept.as_ref() {
                    Some(k) if k.len >= old.len => remove(&old),
                    _ => {
                        if let Some(k) = kept.replace(old) {
                            remove(&k);
                        }
                    }
                }
            }
            let Some(job) = job else {
                if self.closing() {
                    return;
                }
                continue;
            };
            let made = if self.closing() {
                Ok(None)
            } else {
                self.make(job, &mut kept)
            };
            if let Err(error) = &made {
                self.shared.fail(error, &self.dir);
            }
            let mut slot = self.lock();
            slot.busy = false;
            slot.failed |= made.is_err();
            slot.ready = made.unwrap_or_default().map(Arc::new);
            self.wake.notify_all();
        }
    }

    fn make(&self, job: Job, kept: &mut Option<Arc<Segment>>) -> io::Result<Option<Segment>> {
        if let Some(old) = kept.take() {
            if old.len == job.len {
                return old.recycle(&self.dir, job.seq).map(Some);
            }
            remove(&old);
        }
        // Space that is short is left to votes and commits; the flush thread makes a small file when it must.
        if self
            .options
            .gate
            .as_ref()
            .is_some_and(|g| !g.has_room(job.len))
        {
            return Ok(None);
        }
        match Segment::create(
            &self.dir,
            job.seq,
            job.len,
            Fill::Zeros,
            self.options.direct,
            &|| !self.closing(),
        ) {
            Ok(segment) => Ok(Some(segment)),
            Err(e) if is_full(&e) || e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn remove(segment: &Segment) {
    // A file that stays is found, unneeded, at the next opening.
    if let Err(error) = fs::remove_file(&segment.path) {
        tracing::warn!(%error, path = %segment.path.display(), "a log file that is not needed any more was not removed");
    }
}
