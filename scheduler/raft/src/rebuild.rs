//! Work on the log directory of a member that does not run: reading everything in it, and making a new one that begins
//! with a given state. Both use the production log and snapshot code, so that what is read is what a start would apply
//! and what is written is what a start opens.
//!
//! The caller holds the lock of the data directory. Nothing is deleted here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use coracle_state::{Batch, State};
use openraft::{EntryPayload, Membership};

use crate::durable;
use crate::error::StartError;
use crate::journal::wal::{self, WalJournal};
use crate::journal::{Done, Journal};
use crate::snapshot::{self, Header, Snapshots};
use crate::types::{LogId, Member, SnapshotMeta, StoredMembership, Vote};

/// Bytes of log read at a time.
const READ_BYTES: usize = 4 << 20;

/// A term and an index of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Index.
    pub index: u64,
}

impl Position {
    /// Of a log id; zeros for none.
    pub fn of(id: Option<&LogId>) -> Self {
        id.map_or_else(Self::default, |id| Self {
            term: id.leader_id.term,
            index: id.index,
        })
    }
}

/// Everything a log directory holds.
#[derive(Clone, Debug)]
pub struct Found {
    /// The state after every entry that is on this disk, committed or not.
    pub state: State,
    /// The last entry.
    pub last: Position,
    /// The last entry that this member is known to have seen committed.
    pub committed: Position,
    /// The newest snapshot, zeros if there is none.
    pub snapshot: Position,
    /// The newest term this member has voted in.
    pub voted: u64,
    /// The newest membership on this disk.
    pub members: Vec<Known>,
}

/// A member by the newest membership on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: u64,
    /// Its name and addresses.
    pub member: Member,
    /// Whether it votes.
    pub voter: bool,
}

/// Members of a membership, by id.
pub fn members(stored: &StoredMembership) -> Vec<Known> {
    let voters: BTreeSet<u64> = stored.voter_ids().collect();
    let known = stored.nodes().map(|(id, member)| Known {
        id: *id,
        member: member.clone(),
        voter: voters.contains(id),
    });
    known.collect()
}

/// Reads a log directory: the newest snapshot and every entry after it. A torn tail is cut off as at any start.
pub fn read(dir: &Path) -> Result<Found, StartError> {
    if !wal::exists(dir) {
        return Err(StartError::DataUnreadable {
            path: dir.into(),
            why: "holds no log".into(),
        });
    }
    let loaded = match newest(&dir.join("snapshots"))? {
        Some(path) => Some(snapshot::load(&path)?),
        None => None,
    };
    let (mut state, mut applied, mut membership) = match loaded {
        None => (State::default(), None, StoredMembership::default()),
        Some((stored, state)) => {
            let meta = stored.header.meta;
            (state, meta.last_log_id, meta.last_membership)
        }
    };
    let snapshot = Position::of(applied.as_ref());
    let journal = WalJournal::open(dir)?;
    if let Some(purged) = journal.purged()
        && applied.as_ref().is_none_or(|a| a.index < purged.index)
    {
        return Err(StartError::SnapshotCorrupt {
            path: dir.join("snapshots"),
            why: format!(
                "the log begins after index {} but the newest snapshot ends at {}",
                purged.index, snapshot.index
            ),
        });
    }
    let mut from = applied.as_ref().map_or(0, |a| a.index + 1);
    loop {
        let entries = journal
            .read(from, u64::MAX, READ_BYTES)
            .map_err(|e| StartError::io(dir, e))?;
        let Some(last) = entries.last() else { break };
        from = last.log_id.index + 1;
        for entry in entries {
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(data) => {
                    state.apply(&Batch::decode(&data.0)?);
                }
                EntryPayload::Membership(m) => {
                    membership = StoredMembership::new(Some(entry.log_id), m);
                }
            }
            applied = Some(entry.log_id);
        }
    }
    Ok(Found {
        state,
        last: Position::of(applied.as_ref()),
        // A snapshot holds committed entries only, and may be newer than the note in the log.
        committed: Position::of(journal.committed().as_ref()).max(snapshot),
        snapshot,
        voted: journal.vote().map_or(0, |v| v.leader_id.term),
        members: members(&membership),
    })
}

/// The newest complete snapshot of a directory, which may be missing.
fn newest(dir: &Path) -> Result<Option<std::path::PathBuf>, StartError> {
    if !dir.is_dir() {
        return Ok(None);
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| StartError::io(dir, e))? {
        let path = entry.map_err(|e| StartError::io(dir, e))?.path();
        if path.extension().is_some_and(|e| e == "snap") {
            names.push(path);
        }
    }
    // Names begin with the index in fixed width.
    Ok(names.into_iter().max())
}

/// Makes a log directory in which this member is the only voter and that begins with `state`, one position after
/// `after` in a new term. The directory must not be there yet; when this answers, everything in it is on stable storage.
pub fn write(
    dir: &Path,
    state: &State,
    after: Position,
    id: u64,
    member: &Member,
) -> Result<(), StartError> {
    let io = |e| StartError::io(dir, e);
    if dir.exists() {
        return Err(StartError::DataDir {
            path: dir.into(),
            why: "it is there already".into(),
        });
    }
    durable::create_dir(dir).map_err(io)?;
    // A term nobody has voted in: no log position of the old history can be taken for one of the new.
    let at = LogId {
        leader_id: openraft::impls::leader_id_adv::LeaderId {
            term: after.term + 1,
            node_id: id,
        },
        index: after.index + 1,
    };
    let nodes = BTreeMap::from([(id, member.clone())]);
    let membership = Membership::new(vec![BTreeSet::from([id])], nodes)
        .map_err(|e| StartError::Raft(e.to_string()))?;
    let journal = WalJournal::open(dir)?;
    synced(|done| journal.save_vote(&Vote::new(at.leader_id.term, id), done)).map_err(io)?;
    let (snapshots, _) = Snapshots::open(&dir.join("snapshots"))?;
    let header = Header {
        meta: SnapshotMeta {
            last_log_id: Some(at),
            last_membership: StoredMembership::new(Some(at), membership),
        },
        log_end: journal.end_offset(),
    };
    snapshots.write(state, header).map_err(io)?;
    // Only now: a log whose beginning is purged needs the snapshot.
    synced(|done| journal.purge(&at, done)).map_err(io)?;
    drop(journal);
    durable::sync_dir(dir).map_err(io)
}

fn synced(write: impl FnOnce(Done) -> std::io::Result<()>) -> std::io::Result<()> {
    let (tx, rx) = std::sync::mpsc::channel();
    write(Done::new(move |result| {
        // The receiver waits below.
        let _ = tx.send(result);
    }))?;
    rx.recv()
        .unwrap_or_else(|_| Err(std::io::Error::other("the log's flush thread is gone")))
}
