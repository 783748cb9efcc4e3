//! A simulated disk with the log on it. Writes are visible at once and durable after a delay; a crash keeps some prefix of
//! what was not yet synced and may tear the last append. Disk loss is a new disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::EntryPayload;
use tokio::sync::Notify;

use super::dice::Dice;
use super::host::Host;
use super::oracle::Oracle;
use super::plant::Plant;
use crate::journal::{Done, Journal};
use crate::types::{Entry, LogId, Vote};

/// Bytes of an entry beside its data, about what the real log takes.
const ENTRY_OVERHEAD: u64 = 48;

/// What a log holds.
#[derive(Clone, Debug, Default)]
pub struct Image {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
    end: u64,
    bytes: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Vote(Vote),
    Committed(LogId),
    Append(Vec<Entry>),
    Truncate(u64),
    Purge(LogId),
}

fn size(entry: &Entry) -> u64 {
    ENTRY_OVERHEAD
        + match &entry.payload {
            EntryPayload::Normal(d) => d.0.len() as u64,
            _ => 0,
        }
}

impl Image {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Vote(v) => self.vote = Some(*v),
            Op::Committed(id) => self.committed = Some(*id),
            Op::Append(entries) => {
                for e in entries {
                    self.end += size(e);
                    self.bytes += size(e);
                    self.entries.insert(e.log_id.index, e.clone());
                }
            }
            Op::Truncate(index) => {
                let cut = self.entries.split_off(index);
                self.bytes -= cut.values().map(size).sum::<u64>();
            }
            Op::Purge(id) => {
                let kept = self.entries.split_off(&(id.index + 1));
                self.bytes = kept.values().map(size).sum();
                self.entries = kept;
                self.purged = self.purged.max(Some(*id));
            }
        }
    }

    fn last(&self) -> Option<LogId> {
        let entry = self.entries.values().next_back().map(|e| e.log_id);
        entry.max(self.purged)
    }

    fn id_at(&self, index: u64) -> Option<LogId> {
        self.entries.get(&index).map(|e| e.log_id)
    }

    /// Voters as of the last membership entry, if one is in the log.
    fn voters(&self) -> Option<Vec<BTreeSet<u64>>> {
        self.entries.values().rev().find_map(|e| match &e.payload {
            EntryPayload::Membership(m) => Some(m.get_joint_config().to_vec()),
            _ => None,
        })
    }
}

struct Platter {
    /// What survives anything.
    durable: Image,
    /// What was written since, oldest first, with who waits for it.
    pending: VecDeque<(Op, Option<Done>)>,
    dice: Dice,
    sync_us: Range<u64>,
}

/// A member's disk; outlives its process.
pub struct Disk {
    /// Whose it is.
    pub member: u64,
    platter: Mutex<Platter>,
    oracle: Arc<Oracle>,
    plant: Option<Plant>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk of {:x}", self.member)
    }
}

impl Disk {
    /// An empty disk whose syncs take `sync_us` microseconds.
    pub fn new(
        member: u64,
        dice: Dice,
        sync_us: Range<u64>,
        oracle: Arc<Oracle>,
        plant: Option<Plant>,
    ) -> Arc<Self> {
        Arc::new(Self {
            member,
            platter: Mutex::new(Platter {
                durable: Image::default(),
                pending: VecDeque::new(),
                dice,
                sync_us,
            }),
            oracle,
            plant,
        })
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a sync takes from now on.
    pub fn set_sync(&self, sync_us: Range<u64>) {
        self.platter().sync_us = sync_us;
    }

    /// The process is gone: of what was not synced some prefix is there, the last append of it perhaps in part.
    pub fn crash(&self) {
        let dropped = {
            let mut p = self.platter();
            let pending = std::mem::take(&mut p.pending);
            let kept = p.dice.range(0..pending.len() as u64 + 1) as usize;
            for (op, _) in pending.iter().take(kept) {
                p.durable.apply(op);
            }
            if let Some((Op::Append(entries), _)) = pending.get(kept)
                && p.dice.percent(50)
            {
                let whole = p.dice.range(0..entries.len() as u64) as usize;
                p.durable.apply(&Op::Append(entries[..whole].to_vec()));
            }
            pending
        };
        // Completions are dropped outside the lock: they call into raft, whose tasks are gone.
        drop(dropped);
    }

    /// Whether this entry is durable here (or was, and is in a snapshot now).
    pub fn holds(&self, id: &LogId) -> bool {
        let p = self.platter();
        p.durable.id_at(id.index) == Some(*id)
            || p.durable
                .purged
                .is_some_and(|purged| purged.index >= id.index)
    }

    /// Voters as of the newest membership entry written here.
    pub fn voters(&self) -> Option<Vec<BTreeSet<u64>>> {
        let p = self.platter();
        let pending = p.pending.iter().rev().find_map(|(op, _)| match op {
            Op::Append(entries) => entries.iter().rev().find_map(|e| match &e.payload {
                EntryPayload::Membership(m) => Some(m.get_joint_config().to_vec()),
                _ => None,
            }),
            _ => None,
        });
        pending.or_else(|| p.durable.voters())
    }

    /// Opens the log for a new process on `host`.
    pub fn open(self: &Arc<Self>, host: &Arc<Host>) -> Arc<SimJournal> {
        let image = self.platter().durable.clone();
        let ids = image.entries.values().map(|e| e.log_id);
        self.oracle.opened(self.member, image.vote, ids);
        let journal = Arc::new(SimJournal {
            disk: self.clone(),
            image: Mutex::new(image),
            written: Arc::new(Notify::new()),
            host: host.clone(),
        });
        host.spawn(flush(self.clone(), journal.written.clone()));
        journal
    }
}

/// The flush thread: everything written so far becomes durable with one sync.
async fn flush(disk: Arc<Disk>, written: Arc<Notify>) {
    loop {
        let (n, delay) = {
            let mut p = disk.platter();
            let range = p.sync_us.clone();
            (p.pending.len(), p.dice.range(range))
        };
        if n == 0 {
            written.notified().await;
            continue;
        }
        tokio::time::sleep(Duration::from_micros(delay)).await;
        let synced: Vec<_> = {
            let mut p = disk.platter();
            let n = n.min(p.pending.len());
            let synced: Vec<_> = p.pending.drain(..n).collect();
            for (op, _) in &synced {
                if let Op::Truncate(index) = op {
                    let cut = p.durable.entries.range(index..).map(|(_, e)| e.log_id);
                    disk.oracle.cut(disk.member, cut);
                }
                let lost = match disk.plant {
                    Some(Plant::LostTruncate) => matches!(op, Op::Truncate(_)),
                    Some(Plant::LostVote) => matches!(op, Op::Vote(_)),
                    _ => false,
                };
                if !lost {
                    p.durable.apply(op);
                }
            }
            synced
        };
        for (op, done) in synced {
            if let Op::Vote(v) = &op {
                disk.oracle.voted(disk.member, *v);
            }
            if let Some(done) = done {
                done.complete(Ok(()));
            }
        }
    }
}

/// The log as one process sees it.
pub struct SimJournal {
    disk: Arc<Disk>,
    image: Mutex<Image>,
    written: Arc<Notify>,
    host: Arc<Host>,
}

impl SimJournal {
    fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, op: Op, done: Option<Done>) -> io::Result<()> {
        if self.host.is_dead() {
            return Err(io::Error::other("the process is gone"));
        }
        self.image().apply(&op);
        let early = {
            let mut p = self.disk.platter();
            if self.disk.plant == Some(Plant::AckBeforeSync) && matches!(op, Op::Append(_)) {
                p.pending.push_back((op, None));
                done
            } else {
                p.pending.push_back((op, done));
                None
            }
        };
        self.written.notify_one();
        if let Some(done) = early {
            done.complete(Ok(()));
        }
        Ok(())
    }

    /// The entry at an index, for checkers.
    pub fn entry(&self, index: u64) -> Option<Entry> {
        self.image().entries.get(&index).cloned()
    }
}

impl Journal for SimJournal {
    fn vote(&self) -> Option<Vote> {
        self.image().vote
    }

    fn committed(&self) -> Option<LogId> {
        self.image().committed
    }

    fn purged(&self) -> Option<LogId> {
        self.image().purged
    }

    fn last(&self) -> Option<LogId> {
        self.image().last()
    }

    fn save_vote(&self, vote: &Vote, done: Done) -> io::Result<()> {
        self.write(Op::Vote(*vote), Some(done))
    }

    fn save_committed(&self, id: &LogId) -> io::Result<()> {
        self.write(Op::Committed(*id), None)
    }

    fn append(&self, mut entries: Vec<Entry>, done: Done) -> io::Result<()> {
        if self.disk.plant == Some(Plant::NoDedupe) {
            entries.iter_mut().for_each(super::plant::forget_request);
        }
        let next = self.image().last().map_or(0, |id| id.index + 1);
        for (expected, e) in (next..).zip(&entries) {
            self.oracle_appended(e, expected);
        }
        self.write(Op::Append(entries), Some(done))
    }

    fn truncate(&self, index: u64, done: Done) -> io::Result<()> {
        self.disk.oracle.truncated(self.disk.member, index);
        self.write(Op::Truncate(index), Some(done))
    }

    fn purge(&self, id: &LogId, done: Done) -> io::Result<()> {
        self.write(Op::Purge(*id), Some(done))
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let image = self.image();
        let mut bytes = 0usize;
        let mut out = Vec::new();
        if from >= to {
            return Ok(out);
        }
        for e in image.entries.range(from..to).map(|(_, e)| e) {
            bytes = bytes.saturating_add(size(e) as usize);
            if !out.is_empty() && bytes > bytes_max {
                break;
            }
            out.push(self.forked(e));
        }
        Ok(out)
    }

    fn end_offset(&self) -> u64 {
        self.image().end
    }

    fn disk_bytes(&self) -> u64 {
        self.image().bytes
    }
}

impl SimJournal {
    /// The planted bug of a member that reads something else than was written.
    fn forked(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        if self.disk.plant == Some(Plant::ForkedApply)
            && self.disk.member & 0xff == 1
            && entry.log_id.index % 16 == 9
        {
            super::plant::change(&mut entry);
        }
        entry
    }

    fn oracle_appended(&self, entry: &Entry, expected: u64) {
        self.disk.oracle.appended(self.disk.member, entry, expected);
    }
}
