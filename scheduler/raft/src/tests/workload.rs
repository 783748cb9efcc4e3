//! A made-up life of a log: operations drawn from a seed, each one allowed by what was before it, and the model that says
//! what a log must hold after any number of them.

use std::collections::VecDeque;

use bytes::Bytes;
use openraft::EntryPayload;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::journal::{Done, Journal};
use crate::types::{Data, Entry, LogId, Vote};

/// One change.
#[derive(Clone, Debug)]
pub enum Op {
    Append(Vec<Entry>),
    Vote(Vote),
    Truncate(u64),
    Purge(LogId),
    Committed(LogId),
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub entries: VecDeque<Entry>,
}

impl Model {
    /// What the journal says it holds.
    pub fn of(journal: &dyn Journal) -> Self {
        Self {
            vote: journal.vote(),
            purged: journal.purged(),
            last: journal.last(),
            entries: journal.read(0, u64::MAX, usize::MAX).unwrap().into(),
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(entries) => {
                self.entries.extend(entries.iter().cloned());
                self.last = entries.last().map(|e| e.log_id).or(self.last);
            }
            Op::Vote(vote) => self.vote = Some(*vote),
            Op::Truncate(index) => {
                while self
                    .entries
                    .pop_back_if(|e| e.log_id.index >= *index)
                    .is_some()
                {}
                self.last = self.entries.back().map(|e| e.log_id).or(self.purged);
            }
            Op::Purge(id) => {
                if self.purged.is_some_and(|p| p.index >= id.index) {
                    return;
                }
                while self
                    .entries
                    .pop_front_if(|e| e.log_id.index <= id.index)
                    .is_some()
                {}
                self.purged = Some(*id);
                self.last = self.entries.back().map(|e| e.log_id).or(self.purged);
            }
            Op::Committed(_) => {}
        }
    }
}

/// Draws operations.
pub struct Workload {
    rng: StdRng,
    pub model: Model,
    term: u64,
    /// Index after the noted commit position: what is below is never truncated.
    committed: u64,
    /// Largest body of an entry in bytes.
    pub body_max: usize,
}

impl Workload {
    pub fn new(seed: u64, body_max: usize) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            model: Model::default(),
            term: 1,
            committed: 0,
            body_max,
        }
    }

    fn position(&self, index: u64) -> LogId {
        LogId {
            leader_id: openraft::impls::leader_id_adv::LeaderId {
                term: self.term,
                node_id: 1,
            },
            index,
        }
    }

    /// The next operation; the model has it already.
    pub fn next(&mut self) -> Op {
        let first = self.model.purged.map_or(0, |id| id.index + 1);
        let next = self.model.last.map_or(0, |id| id.index + 1);
        let held = next - first;
        let open = next - first.max(self.committed);
        let op = match self.rng.random_range(0..100) {
            0..8 => {
                self.term += 1;
                Op::Vote(if self.rng.random() {
                    Vote::new(self.term, 1)
                } else {
                    Vote::new_committed(self.term, 1)
                })
            }
            8..15 if open > 0 => {
                self.term += 1;
                // Mostly the end, sometimes everything.
                let cut = match self.rng.random_range(0..10) {
                    0 => open,
                    _ => self.rng.random_range(1..=open.min(5)),
                };
                Op::Truncate(next - cut)
            }
            15..28 if held > 8 => {
                let index = first + self.rng.random_range(0..held);
                let at = (index - first) as usize;
                Op::Purge(self.model.entries[at].log_id)
            }
            // A snapshot from the leader: the log goes on far above.
            28..30 => {
                let above = self.rng.random_range(0..100);
                Op::Purge(self.position(next + above))
            }
            30..40 if open > 0 => {
                let at = held - open + self.rng.random_range(0..open);
                self.committed = first + at + 1;
                Op::Committed(self.model.entries[at as usize].log_id)
            }
            _ => {
                let n = self.rng.random_range(1..=6);
                let entries = (next..next + n).map(|index| {
                    let payload = match self.rng.random_range(0..12) {
                        0 => EntryPayload::Blank,
                        1 => EntryPayload::Membership(openraft::Membership::new_with_defaults(
                            vec![std::collections::BTreeSet::from([1, index])],
                            [],
                        )),
                        _ => {
                            let mut body = vec![0u8; self.rng.random_range(0..=self.body_max)];
                            self.rng.fill(&mut body[..]);
                            EntryPayload::Normal(Data(Bytes::from(body)))
                        }
                    };
                    Entry {
                        log_id: self.position(index),
                        payload,
                    }
                });
                Op::Append(entries.collect())
            }
        };
        self.model.apply(&op);
        op
    }
}

/// Starts an operation on a journal.
pub fn start(journal: &dyn Journal, op: &Op, done: Done) -> std::io::Result<()> {
    match op {
        Op::Append(entries) => journal.append(entries.clone(), done),
        Op::Vote(vote) => journal.save_vote(vote, done),
        Op::Truncate(index) => journal.truncate(*index, done),
        Op::Purge(id) => journal.purge(id, done),
        Op::Committed(id) => {
            journal.save_committed(id)?;
            done.complete(Ok(()));
            Ok(())
        }
    }
}
