//! Reading the log at start. Decides what its end is (the first group that was never completely written) and what is
//! damage (such a group, though something later proves that it had been synced). Changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_state::command::BATCH_BYTES_MAX;

use super::Options;
use super::flush::{GROUP_BYTES_MAX, Live};
use super::index::{Cache, Spans};
use super::record::{self, BLOCK, Bad, GROUP_HEAD, Head, Record, Records, Seed, aligned};
use super::segment::{Segment, parse};
use crate::error::StartError;

/// What the directory holds.
pub struct Found {
    /// Files with live groups, oldest first; the last one is being written.
    pub files: VecDeque<Live>,
    /// Where the next group goes in the last file.
    pub at: u64,
    /// Number of the last group.
    pub group: u64,
    /// The state at the end; its base is the bytes of all records.
    pub head: Head,
    /// Where entries are.
    pub spans: Spans,
    /// The newest entries.
    pub cache: Cache,
    /// Files without live groups, by number: prepared ones, left-overs, unfinished ones.
    pub unused: Vec<PathBuf>,
    /// The log ended in a group that was not completely written.
    pub torn: bool,
}

struct Named {
    seq: u64,
    salt: u64,
    path: PathBuf,
    /// Its first block begins a group.
    begun: bool,
}

fn corrupt(path: &Path, why: String) -> StartError {
    StartError::LogCorrupt {
        path: path.into(),
        why,
    }
}

fn list(dir: &Path, unused: &mut Vec<PathBuf>) -> io::Result<Vec<Named>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((seq, salt)) = parse(&name) {
            let mut first = vec![0; GROUP_HEAD];
            let begun = match read_some(&path, &mut first)? {
                true => record::read_head(&first, salt).is_some(),
                false => false,
            };
            found.push(Named {
                seq,
                salt,
                path,
                begun,
            });
        } else if name.ends_with(".new") {
            unused.push(path);
        }
    }
    found.sort_by(|a, b| (a.seq, a.begun, &a.path).cmp(&(b.seq, b.begun, &b.path)));
    Ok(found)
}

/// How far after a damaged group the next one can begin: the longest group. Further on nothing is looked at, so that a
/// start does not read megabytes of zeros.
const LATER_BYTES: usize = GROUP_BYTES_MAX + BATCH_BYTES_MAX + (2 << 20);
const LOAD_BYTES: usize = 1 << 20;

/// The beginning of a file, as far as it was needed.
struct Loaded {
    file: fs::File,
    len: usize,
    raw: Vec<u8>,
}

impl Loaded {
    fn open(path: &Path) -> io::Result<Self> {
        let file = fs::File::open(path)?;
        let len = file.metadata()?.len() as usize / BLOCK * BLOCK;
        Ok(Self {
            file,
            len,
            raw: Vec::new(),
        })
    }

    /// Everything up to `end` at least, or the whole file.
    fn upto(&mut self, end: usize) -> io::Result<&[u8]> {
        if end > self.raw.len() {
            let from = self.raw.len();
            self.raw
                .resize(end.next_multiple_of(LOAD_BYTES).min(self.len).max(from), 0);
            self.file
                .read_exact_at(&mut self.raw[from..], from as u64)?;
        }
        Ok(&self.raw)
    }

    /// Everything a group that begins at `at` can reach.
    fn group(&mut self, at: usize) -> io::Result<&[u8]> {
        let head = self.upto(at + BLOCK)?;
        let body = match head.get(at..) {
            // The salt does not matter for how much to read.
            Some(raw) => record::claimed_len(raw),
            None => 0,
        };
        let raw = self.upto(at + GROUP_HEAD + body)?;
        Ok(raw.get(at..).unwrap_or_default())
    }
}

fn read_some(path: &Path, buf: &mut [u8]) -> io::Result<bool> {
    match io::Read::read_exact(&mut fs::File::open(path)?, buf) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// The first place at or after `from` where a group with a number above `group` begins.
fn later_group(raw: &[u8], salt: u64, from: usize, group: u64) -> Option<(usize, u64)> {
    (from..raw.len()).step_by(BLOCK).find_map(|at| {
        record::read_head(&raw[at..], salt)
            .filter(|h| h.seed.group > group)
            .map(|h| (at, h.seed.group))
    })
}

/// A whole group at the start of `raw`: its length with padding, what its checksums start from, its records.
type Whole<'a> = (usize, Seed, Vec<(usize, usize, Record<'a>)>);

fn read_group(raw: &[u8], salt: u64) -> Result<Whole<'_>, Bad> {
    let head = record::read_head(raw, salt).ok_or(Bad::Torn("it has no head"))?;
    let body = raw
        .get(GROUP_HEAD..GROUP_HEAD + head.body)
        .ok_or(Bad::Torn("it is longer than the file"))?;
    let mut records = Vec::with_capacity(head.count.min(1 << 16) as usize);
    let mut reader = Records::new(body, head.seed);
    while let Some((at, record)) = reader.next() {
        records.push((GROUP_HEAD + at, reader.offset() - at, record?));
    }
    if records.len() != head.count as usize {
        return Err(Bad::Torn("it has fewer records than its head says"));
    }
    Ok((aligned(GROUP_HEAD + head.body), head.seed, records))
}

struct Replay {
    state: Option<Head>,
    /// Entries from here on are in the files that were read.
    low: u64,
    /// Highest index of an entry in the current file.
    highest: Option<u64>,
    spans: Spans,
    cache: Cache,
    cache_bytes: usize,
}

impl Replay {
    /// Applies the records of one group; `at` is its place in the file.
    fn group(
        &mut self,
        segment: &Arc<Segment>,
        at: u64,
        seed: Seed,
        records: Vec<(usize, usize, Record<'_>)>,
    ) -> Result<(), String> {
        for (offset, len, record) in records {
            if let Record::Head(head) = &record {
                match &self.state {
                    None => {
                        self.low = head.last.map_or(0, |id| id.index + 1);
                        self.state = Some(*head);
                    }
                    Some(state) if state == head => {}
                    Some(state) => {
                        return Err(format!(
                            "it begins with {head:?}, the file before it ends with {state:?}"
                        ));
                    }
                }
            }
            let Some(state) = self.state.as_mut() else {
                return Err("its first record is not a head".into());
            };
            state.base += len as u64;
            match record {
                Record::Head(_) => {}
                Record::Vote(vote) => state.vote = Some(vote),
                Record::Committed(id) => state.committed = Some(id),
                Record::Purged(id) => {
                    state.purge(id);
                    self.spans.purge(id.index);
                    self.cache.purge(id.index);
                }
                Record::Truncate(index, last) => {
                    state.last = last;
                    self.spans.truncate(index);
                    self.cache.truncate(index);
                    self.low = self.low.min(index);
                }
                Record::Entry(id, kind, body) => {
                    if let Some(last) = state.last
                        && id.index != last.index + 1
                    {
                        return Err(format!("entry {} follows entry {}", id.index, last.index));
                    }
                    let entry = record::entry(id, kind, body).map_err(|e| format!("{e:?}"))?;
                    self.spans
                        .push(id.index, segment, seed, at + offset as u64, len);
                    self.cache.push(entry);
                    self.cache.shrink(self.cache_bytes, u64::MAX);
                    state.last = Some(id);
                    self.highest = self.highest.max(Some(id.index));
                }
            }
        }
        Ok(())
    }
}

/// Reads everything. `synced` is the number of a group that is known to have been synced, 0 if none is.
pub fn read(dir: &Path, synced: u64, options: &Options) -> Result<Found, StartError> {
    let mut unused = Vec::new();
    let named = list(dir, &mut unused).map_err(|e| StartError::io(dir, e))?;
    let mut by_seq: BTreeMap<u64, Named> = BTreeMap::new();
    for file in named {
        // Of two with one number the one with groups counts; it comes last.
        if let Some(other) = by_seq.insert(file.seq, file) {
            if other.begun {
                return Err(corrupt(
                    &other.path,
                    format!("another file has its number {:016x}", other.seq),
                ));
            }
            unused.push(other.path);
        }
    }
    let newest = by_seq.values().rev().find(|f| f.begun).map(|f| f.seq);
    // The contiguous files up to the newest one with groups; what is older than a gap was purged.
    let mut first = newest.unwrap_or(0);
    while first > 0 && by_seq.get(&(first - 1)).is_some_and(|f| f.begun) {
        first -= 1;
    }
    let mut replay = Replay {
        state: None,
        low: 0,
        highest: None,
        spans: Spans::default(),
        cache: Cache::default(),
        cache_bytes: options.cache_bytes,
    };
    let mut files = VecDeque::new();
    let mut end = 0u64;
    let mut group: Option<u64> = None;
    let mut torn = false;
    for (seq, file) in by_seq {
        let in_run = newest.is_some_and(|n| (first..=n).contains(&seq));
        if newest.is_some_and(|n| seq < first && first <= n) {
            unused.push(file.path);
            continue;
        }
        let io = |e| StartError::io(&file.path, e);
        let mut loaded = Loaded::open(&file.path).map_err(io)?;
        if !in_run {
            // A prepared file. One that lost its first block still has others.
            let raw = loaded.upto(LATER_BYTES).map_err(io)?;
            if let Some((at, n)) = later_group(raw, file.salt, 0, 0) {
                return Err(corrupt(
                    &file.path,
                    format!(
                        "its first block is damaged, and group {n} at byte {at} was synced after it"
                    ),
                ));
            }
            unused.push(file.path);
            continue;
        }
        let segment = Arc::new(
            Segment::open(file.path.clone(), file.seq, file.salt, options.direct).map_err(io)?,
        );
        let mut at = 0usize;
        let stopped = loop {
            if at >= loaded.len {
                break Bad::Torn("the file ends");
            }
            let raw = loaded.group(at).map_err(io)?;
            let (len, seed, records) = match read_group(raw, file.salt) {
                Ok(whole) => whole,
                Err(why) => break why,
            };
            match group {
                Some(g) if seed.group == g + 1 => {}
                None => {}
                Some(g) => {
                    return Err(corrupt(
                        &file.path,
                        format!(
                            "group {} at byte {at} follows group {g}: what is between them was synced and is gone",
                            seed.group
                        ),
                    ));
                }
            }
            replay
                .group(&segment, at as u64, seed, records)
                .map_err(|why| corrupt(&file.path, format!("the group at byte {at}: {why}")))?;
            group = Some(seed.group);
            at += len;
        };
        let why = match stopped {
            Bad::Torn(why) => why,
            Bad::Unknown(why) => {
                return Err(corrupt(
                    &file.path,
                    format!("the group at byte {at} is intact but not understood ({why})"),
                ));
            }
        };
        let next = group.map_or(1, |g| g + 1);
        let raw = loaded.upto(at + LATER_BYTES).map_err(io)?;
        if let Some((later, n)) = later_group(raw, file.salt, at, next) {
            return Err(corrupt(
                &file.path,
                format!(
                    "group {next} at byte {at} is damaged ({why}), and group {n} at byte {later} was synced after it"
                ),
            ));
        }
        torn = raw
            .get(at..)
            .is_some_and(|raw| record::read_head(raw, file.salt).is_some());
        if at == 0 {
            // Its only group was never completely written.
            unused.push(file.path);
            if newest != Some(seq) {
                return Err(corrupt(
                    &segment.path,
                    format!(
                        "its first group is damaged ({why}), and later files were synced after it"
                    ),
                ));
            }
        } else {
            end = at as u64;
            files.push_back(Live {
                segment,
                highest: replay.highest.take(),
            });
        }
    }
    let group = group.unwrap_or(0);
    if group < synced {
        return Err(corrupt(
            dir,
            match group {
                0 => format!("the log is gone, it had been synced up to group {synced}"),
                _ => format!(
                    "the log ends with group {group}, it had been synced up to group {synced}"
                ),
            },
        ));
    }
    let head = replay.state.unwrap_or_default();
    let needed = head.purged.map_or(0, |id| id.index + 1);
    if head.last.is_some_and(|last| last.index >= needed) && replay.low > needed {
        return Err(corrupt(
            dir,
            format!(
                "entries from index {needed} up to {} are missing",
                replay.low - 1
            ),
        ));
    }
    Ok(Found {
        files,
        at: end,
        group,
        head,
        spans: replay.spans,
        cache: replay.cache,
        unused,
        torn,
    })
}
