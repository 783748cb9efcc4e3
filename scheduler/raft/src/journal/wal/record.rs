//! The bytes of the log. A *group* is what one write and one sync put on disk: a head and records, padded to whole
//! blocks, so that no byte that was synced is ever written again. Groups are numbered through the life of the log and a
//! group is written only after the one before it was synced: a readable group is therefore proof that all before it were.
//!
//! Checksums are seeded with the file's salt, the number of the group and a number drawn at each opening: neither what a
//! recycled file held before, nor a mixture of two unsynced writes, nor bytes a client sent can pass for a record.

use bytes::Bytes;
use coracle_state::command::BATCH_BYTES_MAX;
use openraft::EntryPayload;

use crate::types::{Data, Entry, LogId, Vote};

/// Unit of a group's length: a page and a physical sector of today's disks.
pub const BLOCK: usize = 4096;
/// Bytes of a group's head.
pub const GROUP_HEAD: usize = 32;
/// Bytes before a record's content: length and checksum.
pub(super) const RECORD_HEAD: usize = 8;
/// Longest content of one record: a batch, or a membership, and its position. A longer length field is rot.
pub(super) const RECORD_BYTES_MAX: usize = BATCH_BYTES_MAX + (1 << 20);
/// Upper bound of an encoded [`Head`] record.
pub const HEAD_BYTES_MAX: usize = RECORD_HEAD + 128;
/// Bytes of an entry's record beside its body.
pub const ENTRY_OVERHEAD: usize = RECORD_HEAD + 1 + 24;
/// Bytes of any record that is not an entry or a head.
pub const SMALL_BYTES_MAX: usize = RECORD_HEAD + 1 + 8 + 1 + 24;

pub(super) const MAGIC: [u8; 4] = *b"CWL\x02";
/// Version of the records, in each file's first record.
pub(super) const FORMAT: u8 = 2;

pub(super) const HEAD: u8 = 1;
pub(super) const VOTE: u8 = 2;
pub(super) const TRUNCATE: u8 = 3;
pub(super) const COMMITTED: u8 = 4;
pub(super) const PURGED: u8 = 5;
pub(super) const BLANK: u8 = 16;
pub(super) const NORMAL: u8 = 17;
pub(super) const MEMBERSHIP: u8 = 18;

/// `len` rounded up to whole blocks.
pub fn aligned(len: usize) -> usize {
    len.next_multiple_of(BLOCK)
}

/// What checksums of one group start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Drawn when the file got its name.
    pub salt: u64,
    /// Drawn when the log was opened by the process that wrote the group.
    pub life: u64,
    /// Number of the group.
    pub group: u64,
}

impl Seed {
    pub(super) fn hasher(self) -> crc32fast::Hasher {
        let mut hasher = crc32fast::Hasher::new();
        let mut raw = [0u8; 24];
        raw[..8].copy_from_slice(&self.salt.to_le_bytes());
        raw[8..16].copy_from_slice(&self.life.to_le_bytes());
        raw[16..].copy_from_slice(&self.group.to_le_bytes());
        hasher.update(&raw);
        hasher
    }
}

/// State at the beginning of a file, so that older files can go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes of records ever written before this file.
    pub base: u64,
    /// The vote.
    pub vote: Option<Vote>,
    /// The noted commit position.
    pub committed: Option<LogId>,
    /// The purged position.
    pub purged: Option<LogId>,
    /// The last position.
    pub last: Option<LogId>,
}

impl Head {
    /// Entries up to `id` are gone; above the last one, the log goes on after it.
    pub fn purge(&mut self, id: LogId) {
        self.purged = Some(id);
        if self.last.is_none_or(|last| last.index < id.index) {
            self.last = Some(id);
        }
    }

    /// Index of the first entry that is not purged.
    pub fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// Index after the last entry.
    pub fn next(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }
}

pub(super) fn head_crc(raw: &[u8], seed: Seed) -> u32 {
    let mut hasher = seed.hasher();
    hasher.update(&raw[..12]);
    hasher.finalize()
}

/// The head of a group as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHead {
    /// Bytes of its records.
    pub body: usize,
    /// Number of its records.
    pub count: u32,
    /// What its checksums start from.
    pub seed: Seed,
}

/// Reads a group's head at the start of `raw`; `None` if there is none of the file with this salt.
pub fn read_head(raw: &[u8], salt: u64) -> Option<GroupHead> {
    let head: &[u8; GROUP_HEAD] = raw.get(..GROUP_HEAD)?.try_into().ok()?;
    if head[..4] != MAGIC {
        return None;
    }
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let seed = Seed {
        salt,
        group: long(16),
        life: long(24),
    };
    (word(12) == head_crc(head, seed)).then(|| GroupHead {
        body: word(4) as usize,
        count: word(8),
        seed,
    })
}

/// How many bytes of records a group that may begin at `raw` claims to have; 0 if it is none.
pub fn claimed_len(raw: &[u8]) -> usize {
    match raw.first_chunk::<8>() {
        Some([a, b, c, d, len @ ..]) if [*a, *b, *c, *d] == MAGIC => {
            u32::from_le_bytes(*len) as usize
        }
        _ => 0,
    }
}

/// A record as read back; an entry's body is still where it was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Record<'a> {
    /// State at the beginning of a file.
    Head(Head),
    /// A vote.
    Vote(Vote),
    /// Entries at this index and above are gone; the last position then.
    Truncate(u64, Option<LogId>),
    /// The commit position.
    Committed(LogId),
    /// Entries up to here are gone.
    Purged(LogId),
    /// An entry: position, kind and body.
    Entry(LogId, u8, &'a [u8]),
}

/// Why a record does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Cut, or its checksum does not match: never completely written, or rotten.
    Torn(&'static str),
    /// It is what was written, and this version does not understand it.
    Unknown(String),
}

/// Records one after the other, each with its offset in the given bytes.
pub struct Records<'a> {
    raw: &'a [u8],
    at: usize,
    hasher: crc32fast::Hasher,
}

impl<'a> Records<'a> {
    /// The records in `raw`.
    pub fn new(raw: &'a [u8], seed: Seed) -> Self {
        Self {
            raw,
            at: 0,
            hasher: seed.hasher(),
        }
    }

    /// Where the next record begins.
    pub fn offset(&self) -> usize {
        self.at
    }

    fn take(&mut self) -> Result<Record<'a>, Bad> {
        let rest = &self.raw[self.at..];
        let Some(head) = rest.get(..RECORD_HEAD) else {
            return Err(Bad::Torn("its records end early"));
        };
        let len = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
        if len == 0 || len > RECORD_BYTES_MAX {
            return Err(Bad::Torn("a record has an impossible length"));
        }
        let Some(content) = rest.get(RECORD_HEAD..RECORD_HEAD + len) else {
            return Err(Bad::Torn("its last record is incomplete"));
        };
        let mut hasher = self.hasher.clone();
        hasher.update(&head[..4]);
        hasher.update(content);
        if hasher.finalize().to_le_bytes() != head[4..8] {
            return Err(Bad::Torn("a record's checksum does not match"));
        }
        self.at += RECORD_HEAD + len;
        decode(content)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (usize, Result<Record<'a>, Bad>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.raw.len() {
            return None;
        }
        let at = self.at;
        let record = self.take();
        if record.is_err() {
            // What follows has no beginning.
            self.at = self.raw.len();
        }
        Some((at, record))
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn long(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Option<LogId> {
        Some(LogId {
            leader_id: openraft::impls::leader_id_adv::LeaderId {
                term: self.long()?,
                node_id: self.long()?,
            },
            index: self.long()?,
        })
    }

    fn vote(&mut self) -> Option<Vote> {
        let (term, node) = (self.long()?, self.long()?);
        Some(match self.bytes::<1>()? {
            [0] => Vote::new(term, node),
            _ => Vote::new_committed(term, node),
        })
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.bytes::<1>()? {
            [0] => Some(None),
            _ => read(self).map(Some),
        }
    }
}

/// Reads the content of a record whose checksum matched.
pub fn decode(content: &[u8]) -> Result<Record<'_>, Bad> {
    let mut f = Fields(content);
    let short = || Bad::Unknown("a record is shorter than its kind".into());
    let [kind] = f.bytes().ok_or_else(short)?;
    let record = match kind {
        HEAD => {
            let [format] = f.bytes().ok_or_else(short)?;
            if format != FORMAT {
                return Err(Bad::Unknown(format!("log format {format}")));
            }
            (|| {
                Some(Record::Head(Head {
                    base: f.long()?,
                    vote: f.option(Fields::vote)?,
                    committed: f.option(Fields::id)?,
                    purged: f.option(Fields::id)?,
                    last: f.option(Fields::id)?,
                }))
            })()
        }
        VOTE => f.vote().map(Record::Vote),
        TRUNCATE => (|| Some(Record::Truncate(f.long()?, f.option(Fields::id)?)))(),
        COMMITTED => f.id().map(Record::Committed),
        PURGED => f.id().map(Record::Purged),
        BLANK | NORMAL | MEMBERSHIP => {
            let id = f.id().ok_or_else(short)?;
            return Ok(Record::Entry(id, kind, f.0));
        }
        other => return Err(Bad::Unknown(format!("a record of kind {other}"))),
    };
    match record {
        Some(record) if f.0.is_empty() => Ok(record),
        Some(_) => Err(Bad::Unknown("a record is longer than its kind".into())),
        None => Err(short()),
    }
}

/// Makes an entry of what [`Record::Entry`] holds.
pub fn entry(id: LogId, kind: u8, body: &[u8]) -> Result<Entry, Bad> {
    let payload = match kind {
        BLANK if body.is_empty() => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Data(Bytes::copy_from_slice(body))),
        MEMBERSHIP => EntryPayload::Membership(
            ciborium::from_reader(body)
                .map_err(|e| Bad::Unknown(format!("a membership that does not read: {e}")))?,
        ),
        other => return Err(Bad::Unknown(format!("an entry of kind {other}"))),
    };
    Ok(Entry {
        log_id: id,
        payload,
    })
}
