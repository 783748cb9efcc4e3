//! Where entries are: the newest in memory, all of them on disk.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use openraft::EntryPayload;

use super::record::{self, Bad, Record, Records, Seed};
use super::segment::Segment;
use crate::types::Entry;

/// Bytes of records one span covers at most: what a reader of a single entry has to read.
const SPAN_BYTES_MAX: usize = 256 << 10;

/// Consecutive entries that lie one after the other in one group.
#[derive(Clone, Debug)]
pub struct Span {
    /// Index of the first entry.
    pub first: u64,
    /// How many.
    pub count: u64,
    segment: Arc<Segment>,
    seed: Seed,
    at: u64,
    bytes: usize,
}

impl Span {
    /// Index after the last entry.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Reads the entries from `from` on and hands them to `take` until it says `false`.
    pub fn read(&self, from: u64, take: &mut dyn FnMut(Entry) -> bool) -> io::Result<()> {
        let mut raw = vec![0; self.bytes];
        self.segment.file.read_exact_at(&mut raw, self.at)?;
        let mut index = self.first;
        let bad = |why: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "E_LOG_CORRUPT: {} at byte {}: {why}",
                    self.segment.path.display(),
                    self.at
                ),
            )
        };
        for (_, record) in Records::new(&raw, self.seed) {
            if index == self.end() {
                break;
            }
            let (id, kind, body) = match record {
                Ok(Record::Entry(id, kind, body)) => (id, kind, body),
                Ok(other) => return Err(bad(format!("{other:?} instead of entry {index}"))),
                Err(Bad::Torn(why)) => return Err(bad(why.into())),
                Err(Bad::Unknown(why)) => return Err(bad(why)),
            };
            if id.index != index {
                return Err(bad(format!("entry {} instead of {index}", id.index)));
            }
            index += 1;
            if id.index < from {
                continue;
            }
            let entry = record::entry(id, kind, body).map_err(|e| bad(format!("{e:?}")))?;
            if !take(entry) {
                return Ok(());
            }
        }
        if index < self.end() {
            return Err(bad(format!("entry {index} is not there")));
        }
        Ok(())
    }
}

/// Spans in the order of the log.
#[derive(Debug, Default)]
pub struct Spans(VecDeque<Span>);

impl Spans {
    /// Notes an entry written at `at` of a file.
    pub fn push(&mut self, index: u64, segment: &Arc<Segment>, seed: Seed, at: u64, bytes: usize) {
        if let Some(s) = self.0.back_mut()
            && s.end() == index
            && s.seed == seed
            && s.at + s.bytes as u64 == at
            && s.bytes + bytes <= SPAN_BYTES_MAX
            && Arc::ptr_eq(&s.segment, segment)
        {
            s.count += 1;
            s.bytes += bytes;
            return;
        }
        self.0.push_back(Span {
            first: index,
            count: 1,
            segment: segment.clone(),
            seed,
            at,
            bytes,
        });
    }

    /// Takes over the spans of another, leaving out what is at `cut` or above, or at `purged` or below.
    pub fn append(&mut self, mut other: Self, cut: u64, purged: Option<u64>) {
        other.truncate(cut);
        if let Some(purged) = purged {
            other.purge(purged);
        }
        self.0.append(&mut other.0);
    }

    /// Forgets entries at `index` and above.
    pub fn truncate(&mut self, index: u64) {
        while let Some(s) = self.0.back_mut() {
            if s.end() <= index {
                break;
            }
            if s.first >= index {
                self.0.pop_back();
            } else {
                s.count = index - s.first;
            }
        }
    }

    /// Forgets whole spans of entries up to `index`.
    pub fn purge(&mut self, index: u64) {
        while self.0.front().is_some_and(|s| s.end() <= index + 1) {
            self.0.pop_front();
        }
    }

    /// Index of the first entry.
    pub fn first(&self) -> Option<u64> {
        self.0.front().map(|s| s.first)
    }

    /// Index after the last entry.
    pub fn end(&self) -> Option<u64> {
        self.0.back().map(Span::end)
    }

    /// The spans that hold `[from, to)`, until they cover `bytes_max` bytes.
    pub fn covering(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Span> {
        let begin = self.0.partition_point(|s| s.end() <= from);
        let (mut found, mut bytes) = (Vec::new(), 0usize);
        for s in self.0.range(begin..) {
            if s.first >= to || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            bytes = bytes.saturating_add(s.bytes);
            found.push(s.clone());
        }
        found
    }
}

/// The newest entries, without a gap.
#[derive(Debug, Default)]
pub struct Cache {
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// What an entry occupies in memory, about.
pub fn weight(entry: &Entry) -> usize {
    let body = match &entry.payload {
        EntryPayload::Normal(data) => data.0.len(),
        EntryPayload::Blank => 0,
        // A few members with three short texts each.
        EntryPayload::Membership(_) => 1024,
    };
    body + size_of::<Entry>()
}

impl Cache {
    /// Adds the next entry.
    pub fn push(&mut self, entry: Entry) {
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
    }

    /// Forgets entries at `index` and above.
    pub fn truncate(&mut self, index: u64) {
        while let Some(e) = self.entries.pop_back_if(|e| e.log_id.index >= index) {
            self.bytes -= weight(&e);
        }
    }

    /// Forgets entries up to `index`.
    pub fn purge(&mut self, index: u64) {
        while let Some(e) = self.entries.pop_front_if(|e| e.log_id.index <= index) {
            self.bytes -= weight(&e);
        }
    }

    /// Forgets the oldest entries below `below` until at most `bytes_max` bytes are held.
    pub fn shrink(&mut self, bytes_max: usize, below: u64) {
        while self.bytes > bytes_max {
            let Some(e) = self.entries.pop_front_if(|e| e.log_id.index < below) else {
                break;
            };
            self.bytes -= weight(&e);
        }
    }

    /// Index of the oldest entry held.
    pub fn first(&self) -> Option<u64> {
        self.entries.front().map(|e| e.log_id.index)
    }

    /// The entries of `[from, to)`; `from` must not be below [`Self::first`].
    pub fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &Entry> {
        let first = self.first().unwrap_or(from);
        let at = |index: u64| (index.saturating_sub(first) as usize).min(self.entries.len());
        self.entries.range(at(from)..at(to).max(at(from)))
    }

    /// The entry at `index`, if it is held.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first()?)?;
        self.entries.get(at as usize)
    }
}
