//! Crash consistency: every change a real process made to its files is recorded, and for each prefix of that record the
//! directory is built as a power cut could have left it (what was not synced dropped, kept, or torn at 512 bytes in any
//! order), then opened by the production code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::child::{self, Job};

/// What a disk writes as a whole.
const SECTOR: usize = 512;
/// Prefixes looked at per run; all of them if `CORACLE_DEEP` is set.
const PREFIXES: usize = 400;

/// One recorded change; see `tests/faults/faults.c`.
#[derive(Clone, Debug)]
pub enum Event {
    Created(PathBuf, u64),
    Sized(u64, u64),
    Written(PathBuf, u64, u64, Vec<u8>),
    Synced(u64),
    DirSynced(PathBuf),
    Renamed(PathBuf, PathBuf),
    Unlinked(PathBuf),
    MadeDir(PathBuf),
    Reserved(u64, u64),
}

/// Reads a record.
pub fn read(raw: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let word = |i: usize| u32::from_le_bytes(raw[at + i..at + i + 4].try_into().unwrap());
        let long = |i: usize| u64::from_le_bytes(raw[at + i..at + i + 8].try_into().unwrap());
        let (kind, len1, len2) = (word(0), word(4) as usize, word(8) as usize);
        let (ino, offset, len, data_len) = (long(16), long(24), long(32), long(40) as usize);
        let text = |from: usize, n: usize| {
            PathBuf::from(String::from_utf8_lossy(&raw[from..from + n]).into_owned())
        };
        let path = text(at + 48, len1);
        let path2 = text(at + 48 + len1, len2);
        let data = &raw[at + 48 + len1 + len2..at + 48 + len1 + len2 + data_len];
        events.push(match kind {
            1 => Event::Created(path, ino),
            2 => Event::Sized(ino, len),
            3 => Event::Written(path, ino, offset, data.to_vec()),
            4 => Event::Synced(ino),
            5 => Event::DirSynced(path),
            6 => Event::Renamed(path, path2),
            7 | 10 => Event::Unlinked(path),
            8 => Event::MadeDir(path),
            9 => Event::Reserved(ino, len),
            other => panic!("event {other}"),
        });
        at += 48 + len1 + len2 + data_len;
    }
    events
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    /// Cut or extended to exactly this.
    Size(u64),
    /// Extended to at least this.
    Extend(u64),
}

#[derive(Clone, Debug, Default)]
struct Node {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Name {
    Add(PathBuf, usize),
    Dir(PathBuf),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Which unsynced changes a crash keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    Nothing,
    All,
    Some(u64),
}

/// A disk: what is on it for certain, and what is under way.
#[derive(Default)]
pub struct Disk {
    nodes: Vec<Node>,
    by_ino: BTreeMap<u64, usize>,
    names: BTreeMap<PathBuf, Option<usize>>,
    pending: Vec<Name>,
    /// Text of the file ACKS, which is a promise to others and not part of the disk.
    pub acks: String,
}

fn write(to: &mut Vec<u8>, at: usize, data: &[u8]) {
    if to.len() < at + data.len() {
        to.resize(at + data.len(), 0);
    }
    to[at..at + data.len()].copy_from_slice(data);
}

fn change(to: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => write(to, *at as usize, data),
        Change::Size(len) => to.resize(*len as usize, 0),
        Change::Extend(len) => to.resize(to.len().max(*len as usize), 0),
    }
}

fn rename(names: &mut BTreeMap<PathBuf, Option<usize>>, op: &Name) {
    match op {
        Name::Add(path, node) => drop(names.insert(path.clone(), Some(*node))),
        Name::Dir(path) => drop(names.insert(path.clone(), None)),
        Name::Remove(path) => drop(names.remove(path)),
        Name::Move(from, to) => {
            // A directory takes its content along.
            let moved: Vec<_> = names
                .keys()
                .filter(|p| p.starts_with(from))
                .cloned()
                .collect();
            for old in moved {
                let rest = old.strip_prefix(from).unwrap();
                let new = if rest.as_os_str().is_empty() {
                    to.clone()
                } else {
                    to.join(rest)
                };
                let node = names.remove(&old).unwrap();
                names.insert(new, node);
            }
        }
    }
}

impl Disk {
    /// One more change.
    pub fn step(&mut self, event: &Event) {
        match event {
            Event::Written(path, _, _, data) if path.ends_with("ACKS") => {
                self.acks.push_str(std::str::from_utf8(data).unwrap());
            }
            Event::Created(path, _) if path.ends_with("ACKS") => {}
            Event::Created(path, ino) => {
                self.nodes.push(Node::default());
                let node = self.nodes.len() - 1;
                self.by_ino.insert(*ino, node);
                self.pending.push(Name::Add(path.clone(), node));
            }
            Event::Sized(ino, len) => self.node(*ino).pending.push(Change::Size(*len)),
            Event::Reserved(ino, len) => self.node(*ino).pending.push(Change::Extend(*len)),
            Event::Written(_, ino, at, data) => {
                self.node(*ino)
                    .pending
                    .push(Change::Write(*at, data.clone()));
            }
            Event::Synced(ino) => {
                let node = self.node(*ino);
                for c in std::mem::take(&mut node.pending) {
                    change(&mut node.durable, &c);
                }
            }
            Event::MadeDir(path) => self.pending.push(Name::Dir(path.clone())),
            Event::Renamed(from, to) => self.pending.push(Name::Move(from.clone(), to.clone())),
            Event::Unlinked(path) => self.pending.push(Name::Remove(path.clone())),
            Event::DirSynced(dir) => {
                let (now, later) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|op| {
                        let path = match op {
                            Name::Add(p, _) | Name::Dir(p) | Name::Move(_, p) | Name::Remove(p) => {
                                p
                            }
                        };
                        path.parent() == Some(dir)
                    });
                self.pending = later;
                let now: Vec<Name> = now;
                now.iter().for_each(|op| rename(&mut self.names, op));
            }
        }
    }

    fn node(&mut self, ino: u64) -> &mut Node {
        &mut self.nodes[self.by_ino[&ino]]
    }

    /// Writes what a crash could leave: names below `from` go below `to`.
    pub fn crash(&self, keep: Keep, from: &Path, to: &Path) {
        let mut rng = StdRng::seed_from_u64(match keep {
            Keep::Some(seed) => seed,
            _ => 0,
        });
        let mut names = self.names.clone();
        // Names are journalled in order; a removal may also come late.
        let upto = match keep {
            Keep::Nothing => 0,
            Keep::All => self.pending.len(),
            Keep::Some(_) => rng.random_range(0..=self.pending.len()),
        };
        for op in &self.pending[..upto] {
            if matches!(op, Name::Remove(_)) && keep != Keep::All && rng.random() {
                continue;
            }
            rename(&mut names, op);
        }
        std::fs::create_dir_all(to).unwrap();
        let mut made: BTreeSet<PathBuf> = BTreeSet::new();
        for (path, node) in names {
            let target = to.join(path.strip_prefix(from).unwrap());
            let Some(node) = node else {
                std::fs::create_dir_all(target).unwrap();
                continue;
            };
            if let Some(parent) = target.parent()
                && made.insert(parent.into())
            {
                std::fs::create_dir_all(parent).unwrap();
            }
            std::fs::write(target, content(&self.nodes[node], keep, &mut rng)).unwrap();
        }
    }
}

fn content(node: &Node, keep: Keep, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = node.durable.clone();
    for c in &node.pending {
        match (keep, c) {
            (Keep::Nothing, _) => {}
            (Keep::All, c) => change(&mut bytes, c),
            (Keep::Some(_), Change::Write(at, data)) => {
                // All of it, nothing of it, or some sectors.
                let odds = [0.0, 1.0, rng.random_range(0.05..0.95)][rng.random_range(0..3)];
                let mut i = 0;
                while i < data.len() {
                    let n = (SECTOR - (*at as usize + i) % SECTOR).min(data.len() - i);
                    if rng.random_bool(odds) {
                        write(&mut bytes, *at as usize + i, &data[i..i + n]);
                    }
                    i += n;
                }
            }
            (Keep::Some(_), c) if rng.random() => change(&mut bytes, c),
            _ => {}
        }
    }
    bytes
}

/// A place for images: memory, if there is some.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir().then(|| TempDir::new_in(memory)) {
        Some(Ok(dir)) => dir,
        _ => TempDir::new().unwrap(),
    }
}

/// Records a life.
fn recorded(job: Job) -> (PathBuf, Vec<Event>) {
    let home = TempDir::new().unwrap();
    let (dir, trace) = (home.path().join("raft"), home.path().join("trace"));
    let vars = [("CORACLE_FAULT_TRACE", trace.to_str().unwrap())];
    let out = child::run(&dir, job, &vars);
    assert!(out.status.success(), "{out:?}");
    (dir, read(&std::fs::read(&trace).unwrap()))
}

/// Replays a life; the first crash that loses something, and how many were looked at.
fn replayed(job: Job, dir: &Path, events: &[Event]) -> (Result<(), String>, usize) {
    let states = job.states();
    let deep = std::env::var_os("CORACLE_DEEP").is_some();
    let every = if deep {
        1
    } else {
        events.len().div_ceil(PREFIXES)
    };
    let mut disk = Disk::default();
    let mut images = 0;
    for (i, event) in events.iter().enumerate() {
        disk.step(event);
        // Of a bounded run, the prefixes differ by the seed.
        if !(i + job.seed as usize).is_multiple_of(every) {
            continue;
        }
        let (begun, acked) = child::acks(&disk.acks);
        let some = (0..if deep { 8 } else { 2 }).map(|n| Keep::Some(((i as u64) << 8) | n));
        for keep in [Keep::Nothing, Keep::All].into_iter().chain(some) {
            let image = scratch();
            disk.crash(keep, dir, image.path());
            images += 1;
            if let Err(why) = child::check(image.path(), job, &states, begun, acked) {
                let why = format!(
                    "after {} of {} events ({keep:?}): {why}",
                    i + 1,
                    events.len()
                );
                return (Err(why), images);
            }
        }
    }
    assert!(acks_all(&disk.acks, job.ops) && images > 100);
    (Ok(()), images)
}

fn every_prefix(seed: u64, direct: bool) {
    let seeds = match std::env::var_os("CORACLE_DEEP") {
        Some(_) => seed..seed + 10,
        None => seed..seed + 1,
    };
    for seed in seeds {
        let job = Job {
            seed,
            ops: 250,
            direct,
        };
        let (dir, events) = recorded(job);
        let (result, images) = replayed(job, &dir, &events);
        if let Err(why) = result {
            panic!("seed {seed}: {why}");
        }
        println!("seed {seed}: {} events, {images} images", events.len());
    }
}

fn acks_all(text: &str, ops: usize) -> bool {
    child::acks(text) == (ops, ops)
}

#[test]
fn every_prefix_of_a_recorded_life_opens() {
    every_prefix(1, true);
}

#[test]
fn every_prefix_of_a_recorded_life_opens_through_the_page_cache() {
    every_prefix(100, false);
}

/// The harness sees what it is for: a life without its file syncs, and one without its directory syncs, loses something.
#[test]
fn a_missing_sync_is_noticed() {
    let job = Job {
        seed: 7,
        ops: 120,
        direct: false,
    };
    let (dir, events) = recorded(job);
    let without = |drop: fn(&Event) -> bool| -> Vec<Event> {
        events.iter().filter(|e| !drop(e)).cloned().collect()
    };
    for kept in [
        without(|e| matches!(e, Event::Synced(_))),
        without(|e| matches!(e, Event::DirSynced(_))),
    ] {
        assert!(kept.len() < events.len());
        assert!(replayed(job, &dir, &kept).0.is_err());
    }
}
