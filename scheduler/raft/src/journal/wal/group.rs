//! Putting a group together: records one after the other in a buffer that can be written as it is. See
//! [`record`](super::record) for the format.

use std::io;

use bytes::Bytes;
use openraft::EntryPayload;

use super::record::{
    BLANK, BLOCK, COMMITTED, FORMAT, GROUP_HEAD, HEAD, Head, MAGIC, MEMBERSHIP, NORMAL, PURGED,
    RECORD_BYTES_MAX, RECORD_HEAD, Seed, TRUNCATE, VOTE, aligned, head_crc,
};
use crate::types::{Entry, LogId, Vote};

/// Room of a fresh buffer: what some hundred small writes take.
const START_BYTES: usize = 256 << 10;

/// An entry's content in the form it is written; data bytes are shared with the entry.
#[derive(Clone, Debug)]
pub struct Body {
    kind: u8,
    bytes: Bytes,
}

impl Body {
    /// The content of an entry.
    pub fn of(entry: &Entry) -> io::Result<Self> {
        let (kind, bytes) = match &entry.payload {
            EntryPayload::Blank => (BLANK, Bytes::new()),
            EntryPayload::Normal(data) => (NORMAL, data.0.clone()),
            EntryPayload::Membership(m) => {
                let mut raw = Vec::new();
                ciborium::into_writer(m, &mut raw).map_err(|e| io::Error::other(e.to_string()))?;
                (MEMBERSHIP, raw.into())
            }
        };
        if bytes.len() + 25 > RECORD_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a log entry of {} bytes", bytes.len()),
            ));
        }
        Ok(Self { kind, bytes })
    }

    /// Its length in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// A group being built.
pub struct Group {
    /// The group begins at `start`, which is block-aligned in memory: disks are written past the page cache.
    buf: Vec<u8>,
    start: usize,
    count: u32,
    seed: Seed,
    hasher: crc32fast::Hasher,
}

impl Group {
    /// An empty group; `buf` is reused.
    pub fn new(mut buf: Vec<u8>, seed: Seed) -> Self {
        buf.clear();
        buf.reserve(START_BYTES);
        let start = buf.as_ptr().align_offset(BLOCK);
        buf.resize(start + GROUP_HEAD, 0);
        Self {
            buf,
            start,
            count: 0,
            seed,
            hasher: seed.hasher(),
        }
    }

    /// Makes room for `more` bytes and the padding without losing the alignment.
    pub fn reserve(&mut self, more: usize) {
        let more = more + BLOCK;
        if self.buf.capacity() - self.buf.len() >= more {
            return;
        }
        let mut buf: Vec<u8> = Vec::with_capacity(2 * (self.size() + more) + BLOCK);
        let start = buf.as_ptr().align_offset(BLOCK);
        buf.resize(start, 0);
        buf.extend_from_slice(&self.buf[self.start..]);
        (self.buf, self.start) = (buf, start);
    }

    /// Bytes so far, with the head, without padding.
    pub fn size(&self) -> usize {
        self.buf.len() - self.start
    }

    /// What its checksums start from.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    fn record(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; RECORD_HEAD]);
        self.buf.push(kind);
        fill(&mut self.buf);
        let len = (self.buf.len() - start - RECORD_HEAD) as u32;
        let mut hasher = self.hasher.clone();
        hasher.update(&len.to_le_bytes());
        hasher.update(&self.buf[start + RECORD_HEAD..]);
        self.buf[start..start + 4].copy_from_slice(&len.to_le_bytes());
        self.buf[start + 4..start + 8].copy_from_slice(&hasher.finalize().to_le_bytes());
        self.count += 1;
    }

    /// The first record of a file.
    pub fn head(&mut self, head: &Head) {
        self.record(HEAD, |b| {
            b.push(FORMAT);
            b.extend_from_slice(&head.base.to_le_bytes());
            put_option(b, head.vote.as_ref(), put_vote);
            for id in [&head.committed, &head.purged, &head.last] {
                put_option(b, id.as_ref(), put_id);
            }
        });
    }

    /// A vote.
    pub fn vote(&mut self, vote: &Vote) {
        self.record(VOTE, |b| put_vote(b, vote));
    }

    /// Entries at `index` and above are gone; `last` is the last position then.
    pub fn truncate(&mut self, index: u64, last: Option<&LogId>) {
        self.record(TRUNCATE, |b| {
            b.extend_from_slice(&index.to_le_bytes());
            put_option(b, last, put_id);
        });
    }

    /// The commit position.
    pub fn committed(&mut self, id: &LogId) {
        self.record(COMMITTED, |b| put_id(b, id));
    }

    /// Entries up to `id` are gone.
    pub fn purged(&mut self, id: &LogId) {
        self.record(PURGED, |b| put_id(b, id));
    }

    /// An entry.
    pub fn entry(&mut self, id: &LogId, body: &Body) {
        self.record(body.kind, |b| {
            put_id(b, id);
            b.extend_from_slice(&body.bytes);
        });
    }

    /// Fills in the head and pads. The bytes to write at once.
    pub fn finish(&mut self) -> &[u8] {
        let len = self.size();
        self.buf.resize(self.start + aligned(len), 0);
        let raw = &mut self.buf[self.start..];
        raw[..4].copy_from_slice(&MAGIC);
        raw[4..8].copy_from_slice(&((len - GROUP_HEAD) as u32).to_le_bytes());
        raw[8..12].copy_from_slice(&self.count.to_le_bytes());
        raw[16..24].copy_from_slice(&self.seed.group.to_le_bytes());
        raw[24..32].copy_from_slice(&self.seed.life.to_le_bytes());
        let crc = head_crc(raw, self.seed);
        raw[12..16].copy_from_slice(&crc.to_le_bytes());
        raw
    }

    /// The buffer, for the next group.
    pub fn into_buf(self) -> Vec<u8> {
        self.buf
    }
}

fn put_option<T>(b: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    b.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(b, value);
    }
}

fn put_vote(b: &mut Vec<u8>, v: &Vote) {
    b.extend_from_slice(&v.leader_id.term.to_le_bytes());
    b.extend_from_slice(&v.leader_id.node_id.to_le_bytes());
    b.push(u8::from(v.committed));
}

fn put_id(b: &mut Vec<u8>, id: &LogId) {
    b.extend_from_slice(&id.leader_id.term.to_le_bytes());
    b.extend_from_slice(&id.leader_id.node_id.to_le_bytes());
    b.extend_from_slice(&id.index.to_le_bytes());
}
