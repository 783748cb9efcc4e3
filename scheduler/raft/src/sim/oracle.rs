//! What is true: an observer of every log, every apply and every vote that keeps its own copy of the state machine and
//! names the invariant at the moment it breaks. Nothing in the cluster can see it.
//!
//! A term alone does not name a leader: openraft's advanced mode orders leaders by (term, node), so two nodes may lead in
//! one term, one after the other. "One leader per term" is therefore checked as: a log position (term, node, index) has one
//! content everywhere, votes never go back, and nothing is committed without a quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coracle_state::{Batch, Key, Op, State};
use openraft::EntryPayload;

use super::disk::{Disk, SimJournal};
use crate::types::{Entry, LogId, Vote};

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What happened.
    pub detail: String,
    /// Virtual time.
    pub at: Duration,
}

/// One change that the log made.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its revision.
    pub revision: u64,
    /// Table.
    pub table: String,
    /// Object.
    pub key: Key,
    /// The new bytes; `None` for a deletion.
    pub value: Option<Bytes>,
}

#[derive(Default)]
struct Inner {
    violations: Vec<Violation>,
    /// The state after `ids.len() - 1` entries, and what it was at each index.
    model: State,
    ids: Vec<LogId>,
    hashes: Vec<u64>,
    revisions: Vec<u64>,
    voters: Vec<BTreeSet<u64>>,
    members: BTreeSet<u64>,
    truth: Vec<Change>,
    /// Content of every position ever appended anywhere.
    contents: BTreeMap<(u64, u64, u64), u32>,
    disks: BTreeMap<u64, Arc<Disk>>,
    gone: BTreeSet<u64>,
    votes: BTreeMap<u64, Vote>,
    /// Positions that each member has cut off durably and not got again.
    cut: BTreeMap<u64, BTreeSet<(u64, u64, u64)>>,
    applied: BTreeMap<u64, (u64, u64)>,
    digest: u64,
    events: u64,
}

/// The observer.
#[derive(Default)]
pub struct Oracle(Mutex<Inner>);

impl std::fmt::Debug for Oracle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Oracle")
    }
}

fn position(id: &LogId) -> (u64, u64, u64) {
    (id.leader_id.term, id.leader_id.node_id, id.index)
}

fn content(entry: &Entry) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    match &entry.payload {
        EntryPayload::Blank => crc.update(b"blank"),
        EntryPayload::Normal(d) => crc.update(&d.0),
        EntryPayload::Membership(m) => crc.update(format!("{m:?}").as_bytes()),
    }
    crc.finalize()
}

fn quorum(joint: &[BTreeSet<u64>], have: &BTreeSet<u64>) -> bool {
    joint
        .iter()
        .all(|voters| voters.intersection(have).count() * 2 > voters.len())
}

impl Inner {
    fn violated(&mut self, invariant: &'static str, detail: String) {
        // What breaks later is a consequence, but a few help to understand.
        if self.violations.len() < 20 {
            let at = super::now();
            self.violations.push(Violation {
                invariant,
                detail,
                at,
            });
        }
    }

    fn trace(&mut self, parts: [u64; 4]) {
        self.events += 1;
        let now = super::now().as_nanos() as u64;
        for part in parts.into_iter().chain([now]) {
            self.digest = (self.digest ^ part)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23);
        }
    }

    /// Applies the entry that some member has just published as committed.
    fn commit(&mut self, member: u64, entry: &Entry) {
        let index = entry.log_id.index;
        let holders: BTreeSet<u64> = self
            .disks
            .iter()
            .filter(|(_, d)| d.holds(&entry.log_id))
            .map(|(id, _)| *id)
            .collect();
        // Which configuration the leader counted by is its secret; one of those that are around must agree.
        let known: Vec<Vec<BTreeSet<u64>>> = self
            .disks
            .iter()
            .filter(|(id, _)| !self.gone.contains(id))
            .filter_map(|(_, d)| d.voters())
            .collect();
        let committed = std::mem::take(&mut self.voters);
        if (committed.is_empty() || !quorum(&committed, &holders))
            && !known.iter().any(|joint| quorum(joint, &holders))
        {
            self.violated(
                "commit_needs_a_quorum",
                format!(
                    "member {member:x} applied {} which only {holders:x?} have on disk; voters {committed:x?}",
                    entry.log_id
                ),
            );
        }
        self.voters = committed;
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(m) => {
                self.voters = m.get_joint_config().to_vec();
                self.members = m.nodes().map(|(id, _)| *id).collect();
            }
            EntryPayload::Normal(data) => match Batch::decode(&data.0) {
                Ok(batch) => self.apply(&batch),
                Err(e) => self.violated("entries_decode", format!("{}: {e}", entry.log_id)),
            },
        }
        self.ids.push(entry.log_id);
        self.hashes.push(self.model.hash());
        self.revisions.push(self.model.revision());
        self.trace([
            1,
            index,
            u64::from(content(entry)),
            entry.log_id.leader_id.term,
        ]);
    }

    fn apply(&mut self, batch: &Batch) {
        let before = self.model.revision();
        let results = self.model.apply(batch);
        for (command, result) in batch.commands.iter().zip(&results) {
            let Ok(done) = result else { continue };
            if !done.changed || done.revision <= before {
                continue;
            }
            let value = match &command.op {
                Op::Put { bytes, .. } => Some(bytes.clone()),
                Op::Delete => None,
                Op::Check => continue,
            };
            self.truth.push(Change {
                revision: done.revision,
                table: command.table.clone(),
                key: command.key.clone(),
                value,
            });
        }
    }
}

impl Oracle {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a broken invariant.
    pub fn violated(&self, invariant: &'static str, detail: String) {
        self.inner().violated(invariant, detail);
    }

    /// What broke so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.inner().violations.clone()
    }

    /// Notes an event of the run in the trace.
    pub fn trace(&self, parts: [u64; 4]) {
        self.inner().trace(parts);
    }

    /// A digest of everything that happened and when, and the number of events: equal in a replay.
    pub fn digest(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.digest, inner.events)
    }

    /// Everything the log changed, in order of revision.
    pub fn truth(&self) -> Vec<Change> {
        self.inner().truth.clone()
    }

    /// Index, revision and hash of what is committed.
    pub fn committed(&self) -> (u64, u64, u64) {
        let inner = self.inner();
        (
            (inner.ids.len() as u64).saturating_sub(1),
            inner.model.revision(),
            inner.model.hash(),
        )
    }

    /// Voters as of the last committed membership.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.inner().voters.iter().flatten().copied().collect()
    }

    /// Voters and learners as of the last committed membership.
    pub fn members(&self) -> BTreeSet<u64> {
        self.inner().members.clone()
    }

    /// Whether the last committed membership is a joint one.
    pub fn in_joint(&self) -> bool {
        self.inner().voters.len() > 1
    }

    /// A member's disk is part of the cluster from now on.
    pub fn disk(&self, id: u64, disk: Arc<Disk>) {
        self.inner().disks.insert(id, disk);
    }

    /// A member's disk is lost or its member was removed. What it held counted when it was there: entries that are only now
    /// seen to be committed may have been by its vote.
    pub fn disk_gone(&self, id: u64) {
        let mut inner = self.inner();
        inner.gone.insert(id);
        inner.votes.remove(&id);
        inner.applied.remove(&id);
    }

    /// A truncation is reported durable; it removed these.
    pub fn cut(&self, member: u64, ids: impl Iterator<Item = LogId>) {
        let mut inner = self.inner();
        let cut = inner.cut.entry(member).or_default();
        cut.extend(ids.map(|id| position(&id)));
    }

    /// A process opened its log and found this vote and these entries.
    pub fn opened(&self, member: u64, vote: Option<Vote>, mut ids: impl Iterator<Item = LogId>) {
        let mut inner = self.inner();
        if let Some(cut) = inner.cut.get(&member)
            && let Some(id) = ids.find(|id| cut.contains(&position(id)))
        {
            inner.violated(
                "a_truncated_log_stays_truncated",
                format!("member {member:x} found {id} again, which it had cut off"),
            );
        }
        let known = inner.votes.get(&member).copied();
        if known.is_some_and(|k| vote.is_none_or(|v| v < k)) {
            inner.violated(
                "a_vote_never_goes_back",
                format!("member {member:x} had {known:?} on disk and found {vote:?} after a crash"),
            );
        }
    }

    /// A vote is reported durable.
    pub fn voted(&self, member: u64, vote: Vote) {
        let mut inner = self.inner();
        let known = inner.votes.insert(member, vote);
        if known.is_some_and(|k| vote < k) {
            inner.violated(
                "a_vote_never_goes_back",
                format!("member {member:x} saved {vote:?} after {known:?}"),
            );
        }
        inner.trace([
            2,
            member,
            vote.leader_id.term,
            vote.leader_id.node_id * 2 + u64::from(vote.committed),
        ]);
    }

    /// An entry is appended.
    pub fn appended(&self, member: u64, entry: &Entry, expected: u64) {
        let mut inner = self.inner();
        if entry.log_id.index != expected {
            inner.violated(
                "the_log_has_no_hole",
                format!(
                    "member {member:x} appended {} where {expected} is next",
                    entry.log_id
                ),
            );
        }
        if let Some(cut) = inner.cut.get_mut(&member) {
            cut.remove(&position(&entry.log_id));
        }
        let crc = content(entry);
        let known = *inner.contents.entry(position(&entry.log_id)).or_insert(crc);
        if known != crc {
            inner.violated(
                "a_position_has_one_content",
                format!("member {member:x} got another entry at {}", entry.log_id),
            );
        }
        inner.trace([3, member, entry.log_id.index, u64::from(crc)]);
    }

    /// A log is cut.
    pub fn truncated(&self, member: u64, index: u64) {
        let mut inner = self.inner();
        // Cutting what this member has applied is never right; what others have committed it may have in another form.
        let applied = inner.applied.get(&member).map_or(0, |(a, _)| *a);
        if index <= applied && applied > 0 {
            inner.violated(
                "committed_entries_never_change",
                format!("member {member:x} cut its log at {index}, applied was {applied}"),
            );
        }
        inner.trace([4, member, index, 0]);
    }

    /// A process begins with nothing applied.
    pub fn started(&self, member: u64) {
        let mut inner = self.inner();
        inner.applied.remove(&member);
        inner.trace([5, member, 0, 0]);
    }

    /// A member published its state.
    pub fn published(
        &self,
        member: u64,
        journal: &SimJournal,
        applied: u64,
        hash: u64,
        revision: u64,
    ) {
        let mut inner = self.inner();
        if applied == 0 && inner.ids.is_empty() {
            return;
        }
        while (inner.ids.len() as u64) <= applied {
            let next = inner.ids.len() as u64;
            match journal.entry(next) {
                Some(entry) => inner.commit(member, &entry),
                None => {
                    inner.violated(
                        "committed_entries_are_logged",
                        format!("member {member:x} applied {applied} without entry {next}"),
                    );
                    return;
                }
            }
        }
        let at = applied as usize;
        if let Some(entry) = journal.entry(applied)
            && entry.log_id != inner.ids[at]
        {
            let was = inner.ids[at];
            inner.violated(
                "committed_entries_never_change",
                format!(
                    "member {member:x} applied {} where {was} was committed",
                    entry.log_id
                ),
            );
        }
        if applied > 0 && (inner.hashes[at] != hash || inner.revisions[at] != revision) {
            let (h, r) = (inner.hashes[at], inner.revisions[at]);
            inner.violated(
                "state_hashes_are_equal",
                format!("member {member:x} at index {applied}: revision {revision} hash {hash:x}, should be {r} {h:x}"),
            );
        }
        let before = inner.applied.insert(member, (applied, revision));
        if before.is_some_and(|(a, r)| a > applied || r > revision) {
            inner.violated(
                "revisions_never_go_back",
                format!(
                    "member {member:x} went from {before:?} to {:?}",
                    (applied, revision)
                ),
            );
        }
        inner.trace([6, member, applied, hash]);
    }
}
