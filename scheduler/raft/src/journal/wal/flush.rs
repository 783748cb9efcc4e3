//! The one thread that writes: takes what is queued, one write, one sync, then tells everybody who waits.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::group::{Body, Group};
use super::index::Spans;
use super::record::{
    ENTRY_OVERHEAD, GROUP_HEAD, HEAD_BYTES_MAX, Head, SMALL_BYTES_MAX, Seed, aligned,
};
use super::segment::{Fill, SEGMENT_BYTES_MIN, Segment, is_full};
use super::spare::Spares;
use super::{Options, Shared};
use crate::journal::Done;
use crate::journal::synced::Synced;
use crate::types::{LogId, Vote};

/// Bytes of one group at most (one larger entry has its own): what is lost together, and what memory a write takes.
pub const GROUP_BYTES_MAX: usize = 4 << 20;
/// How often the marker is written at most. It only sharpens the check at the next start.
const MARK_EVERY: Duration = Duration::from_millis(100);
/// A file grows from its predecessor by this factor until it has the full length: a small cluster keeps small files.
const GROWTH: u64 = 4;
/// The next file is prepared when this part of the current one is used.
const PREPARE_AT: u64 = 4;

/// One change, in the order of the calls.
pub enum Op {
    /// The vote.
    Vote(Vote, Done),
    /// Entries, at least one.
    Append(Vec<(LogId, Body)>, Done),
    /// Entries at the index and above are gone; the last position then.
    Truncate(u64, Option<LogId>, Done),
    /// The commit position; nobody waits.
    Committed(LogId),
    /// Entries up to here are gone.
    Purge(LogId, Done),
    /// Nothing to write: done when everything before is.
    Nothing(Done),
}

/// The flush thread's own state.
pub struct Writer {
    shared: Arc<Shared>,
    spares: Arc<Spares>,
    dir: PathBuf,
    options: Options,
    marker: Synced,
    marked_at: Instant,
    /// Files with live groups, oldest first; the last one is `segment`.
    files: VecDeque<Live>,
    /// Bytes of the files before the last one.
    older_bytes: u64,
    segment: Arc<Segment>,
    at: u64,
    /// Number of the last group written.
    group: u64,
    life: u64,
    /// The state after everything encoded so far.
    head: Head,
    open: Option<Group>,
    buf: Vec<u8>,
    spans: Spans,
    dones: Vec<Done>,
    batch: VecDeque<Op>,
}

/// A file and the highest index an entry in it ever had: once that is purged, nothing in it is needed.
pub struct Live {
    /// The file.
    pub segment: Arc<Segment>,
    /// `None`: it holds no entry.
    pub highest: Option<u64>,
}

/// Where the log goes on.
pub struct Position {
    /// Files with live groups, oldest first.
    pub older: VecDeque<Live>,
    /// The file to write to.
    pub file: Live,
    /// Offset in it.
    pub at: u64,
    /// Number of the last group.
    pub group: u64,
    /// The state.
    pub head: Head,
}

impl Writer {
    /// A writer at the end of the log.
    pub fn new(
        shared: Arc<Shared>,
        spares: Arc<Spares>,
        dir: PathBuf,
        options: Options,
        marker: Synced,
        from: Position,
    ) -> Self {
        let mut files = from.older;
        let older_bytes = files.iter().map(|f| f.segment.len).sum();
        let segment = from.file.segment.clone();
        files.push_back(from.file);
        Self {
            shared,
            spares,
            dir,
            options,
            marker,
            marked_at: Instant::now(),
            files,
            older_bytes,
            segment,
            at: from.at,
            group: from.group,
            life: rand::random(),
            head: from.head,
            open: None,
            buf: Vec::new(),
            spans: Spans::default(),
            dones: Vec::new(),
            batch: VecDeque::new(),
        }
    }

    /// The thread: until the log is closed and everything queued is written, or until the first error.
    pub fn run(mut self) {
        // With busy cores the wake-up after a sync would cost more than the sync.
        crate::priority::raise();
        self.release();
        self.prepare();
        loop {
            let unmarked = self.marker.offset() < self.group;
            let (batch, closing) = self.shared.next(unmarked.then_some(MARK_EVERY));
            self.batch = batch;
            if let Err(error) = self.flush() {
                // Whoever waits is told by the drop of its completion, after the process was given the chance to end.
                self.shared.fail(&error, &self.segment.path);
                self.spares.close();
                return;
            }
            if closing || (unmarked && self.marked_at.elapsed() >= MARK_EVERY) {
                self.marker.advance(self.group);
                self.marked_at = Instant::now();
            }
            if closing {
                break;
            }
        }
        self.spares.close();
        if let Err(error) = self.marker.sync() {
            tracing::warn!(%error, "the marker of the last synced group was not written");
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(op) = self.batch.pop_front() {
            match op {
                Op::Nothing(done) => self.dones.push(done),
                Op::Vote(vote, done) => {
                    self.room(SMALL_BYTES_MAX)?.vote(&vote);
                    self.head.vote = Some(vote);
                    self.dones.push(done);
                }
                Op::Committed(id) => {
                    self.room(SMALL_BYTES_MAX)?.committed(&id);
                    self.head.committed = Some(id);
                }
                Op::Truncate(index, last, done) => {
                    self.room(SMALL_BYTES_MAX)?.truncate(index, last.as_ref());
                    self.head.last = last;
                    self.spans.truncate(index);
                    self.dones.push(done);
                }
                Op::Purge(id, done) => {
                    self.room(SMALL_BYTES_MAX)?.purged(&id);
                    self.head.purge(id);
                    self.dones.push(done);
                }
                Op::Append(entries, done) => {
                    for (id, body) in entries {
                        let group = self.room(ENTRY_OVERHEAD + body.size())?;
                        let (from, seed) = (group.size(), group.seed());
                        group.entry(&id, &body);
                        let bytes = group.size() - from;
                        let at = self.at + from as u64;
                        self.spans.push(id.index, &self.segment, seed, at, bytes);
                        self.head.last = Some(id);
                        if let Some(file) = self.files.back_mut() {
                            file.highest = file.highest.max(Some(id.index));
                        }
                    }
                    self.dones.push(done);
                }
            }
        }
        self.write()
    }

    /// A group with room for `need` more bytes: the open one, or a new one after the open one was written.
    fn room(&mut self, need: usize) -> io::Result<&mut Group> {
        if let Some(group) = &self.open {
            let len = group.size() + need;
            if len > GROUP_BYTES_MAX || aligned(len) as u64 > self.segment.len - self.at {
                self.write()?;
            }
        }
        if self.open.is_none() {
            let head = if self.at == 0 { HEAD_BYTES_MAX } else { 0 };
            if aligned(GROUP_HEAD + head + need) as u64 > self.segment.len - self.at {
                self.rotate(aligned(GROUP_HEAD + HEAD_BYTES_MAX + need) as u64)?;
            }
            let seed = Seed {
                salt: self.segment.salt,
                life: self.life,
                group: self.group + 1,
            };
            let mut group = Group::new(std::mem::take(&mut self.buf), seed);
            if self.at == 0 {
                group.head(&self.head);
            }
            self.open = Some(group);
        }
        let group = self
            .open
            .as_mut()
            .ok_or_else(|| io::Error::other("no group is open"))?;
        group.reserve(need);
        Ok(group)
    }

    /// Writes and syncs the open group, then lets readers know where its entries are.
    fn write(&mut self) -> io::Result<()> {
        let Some(mut group) = self.open.take() else {
            self.answer();
            return Ok(());
        };
        self.head.base += (group.size() - GROUP_HEAD) as u64;
        let bytes = group.finish();
        self.segment.write_synced(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.group += 1;
        self.buf = group.into_buf();
        if self.buf.capacity() > 2 * GROUP_BYTES_MAX {
            // An entry of many megabytes is rare; its buffer is not kept.
            self.buf = Vec::new();
        }
        let spans = std::mem::take(&mut self.spans);
        let cut = self.batch.iter().filter_map(cuts).min();
        self.shared
            .written(spans, cut, self.disk_bytes(), self.head.base);
        self.answer();
        self.release();
        self.prepare();
        Ok(())
    }

    /// Everything encoded so far is on disk.
    fn answer(&mut self) {
        self.dones.drain(..).for_each(|done| done.complete(Ok(())));
    }

    fn disk_bytes(&self) -> u64 {
        self.older_bytes + self.at
    }

    /// Gives up the oldest files that hold only purged entries. The purge is on disk: so is everything encoded.
    fn release(&mut self) {
        let first = self.head.first();
        let mut released = Vec::new();
        while self.files.len() > 1 {
            match self
                .files
                .pop_front_if(|f| f.highest.is_none_or(|index| index < first))
            {
                Some(old) => {
                    self.older_bytes -= old.segment.len;
                    released.push(old.segment);
                }
                None => break,
            }
        }
        self.spares.retire(released);
    }

    fn next_len(&self) -> u64 {
        (self.segment.len * GROWTH).min(self.options.segment_bytes)
    }

    fn prepare(&self) {
        if self.at >= self.segment.len / PREPARE_AT {
            self.spares.request(self.segment.seq + 1, self.next_len());
        }
    }

    /// Goes on in the next file, which has at least `need` bytes.
    fn rotate(&mut self, need: u64) -> io::Result<()> {
        let seq = self.segment.seq + 1;
        let segment = match self.spares.take(seq, need)? {
            Some(segment) => segment,
            None => Arc::new(create(
                &self.dir,
                seq,
                self.next_len(),
                need,
                &self.options,
            )?),
        };
        self.older_bytes += self.segment.len;
        self.files.push_back(Live {
            segment: segment.clone(),
            highest: None,
        });
        self.segment = segment;
        self.at = 0;
        Ok(())
    }
}

/// Makes a file at once. On a full disk a smaller one, then one in the place of the ballast.
pub fn create(
    dir: &std::path::Path,
    seq: u64,
    want: u64,
    need: u64,
    options: &Options,
) -> io::Result<Segment> {
    let mut len = want.max(need);
    let make = |len| Segment::create(dir, seq, len, Fill::Reserve, options.direct, &|| true);
    loop {
        match make(len) {
            Err(e) if is_full(&e) && len > need.max(SEGMENT_BYTES_MIN) => {
                len = (len / 4).max(need).max(SEGMENT_BYTES_MIN);
            }
            Err(e) if is_full(&e) => {
                let Some(gate) = &options.gate else {
                    return Err(e);
                };
                let freed = gate.release_ballast();
                if freed == 0 {
                    return Err(e);
                }
                return make(want.min(freed / 2).max(need));
            }
            made => return made,
        }
    }
}

/// From where on an operation removes entries.
pub fn cuts(op: &Op) -> Option<u64> {
    match op {
        Op::Truncate(index, ..) => Some(*index),
        _ => None,
    }
}
