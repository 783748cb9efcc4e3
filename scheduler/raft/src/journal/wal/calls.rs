//! What callers ask of the log: each call changes the state in memory and queues what has to be written.

use std::io;

use super::flush::Op;
use super::group::Body;
use super::index::weight;
use super::{State, WalJournal};
use crate::journal::{Done, Journal};
use crate::types::{Entry, LogId, Vote};

impl WalJournal {
    fn change<T>(
        &self,
        change: impl FnOnce(&mut State) -> io::Result<(T, Option<Op>)>,
    ) -> io::Result<T> {
        let mut state = self.shared.lock();
        if let Some(line) = &state.failed {
            return Err(io::Error::other(line.clone()));
        }
        let (result, op) = change(&mut state)?;
        if let Some(op) = op {
            state.queue.push_back(op);
            drop(state);
            self.shared.wake.notify_one();
        }
        Ok(result)
    }

    /// The position of an entry that is there.
    fn id_of(&self, index: u64) -> io::Result<Option<LogId>> {
        Ok(self
            .read(index, index + 1, 0)?
            .first()
            .map(|entry| entry.log_id))
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

impl Journal for WalJournal {
    fn vote(&self) -> Option<Vote> {
        self.shared.lock().head.vote
    }

    fn committed(&self) -> Option<LogId> {
        let head = self.shared.lock().head;
        // A position above the log says nothing that could be applied.
        head.committed
            .filter(|id| head.last.is_some_and(|last| id.index <= last.index))
    }

    fn purged(&self) -> Option<LogId> {
        self.shared.lock().head.purged
    }

    fn last(&self) -> Option<LogId> {
        self.shared.lock().head.last
    }

    fn save_vote(&self, vote: &Vote, done: Done) -> io::Result<()> {
        self.change(|state| {
            state.head.vote = Some(*vote);
            Ok(((), Some(Op::Vote(*vote, done))))
        })
    }

    fn save_committed(&self, id: &LogId) -> io::Result<()> {
        // Not worth a write of its own: it goes out with the next one.
        let mut state = self.shared.lock();
        if state.head.last.is_none_or(|last| last.index < id.index) {
            return Ok(());
        }
        state.head.committed = Some(*id);
        state.committed = Some(*id);
        Ok(())
    }

    fn append(&self, entries: Vec<Entry>, done: Done) -> io::Result<()> {
        let mut bodies = Vec::with_capacity(entries.len());
        for entry in &entries {
            bodies.push((entry.log_id, Body::of(entry)?));
        }
        self.change(|state| {
            let mut last = state.head.last;
            for (id, _) in &bodies {
                if let Some(last) = last
                    && id.index != last.index + 1
                {
                    return Err(invalid(format!(
                        "entry {} does not follow entry {}",
                        id.index, last.index
                    )));
                }
                last = Some(*id);
            }
            state.head.last = last;
            entries.into_iter().for_each(|e| state.cache.push(e));
            let op = match bodies.is_empty() {
                true => Op::Nothing(done),
                false => Op::Append(bodies, done),
            };
            Ok(((), Some(op)))
        })
    }

    fn truncate(&self, index: u64, done: Done) -> io::Result<()> {
        let head = self.shared.lock().head;
        let index = index.max(head.first());
        let before = match index.checked_sub(1) {
            Some(before) if index > head.first() && index < head.next() => self.id_of(before)?,
            _ => head.purged,
        };
        self.change(|state| {
            if index >= state.head.next() {
                return Ok(((), Some(Op::Nothing(done))));
            }
            state.head.last = before;
            state.spans.truncate(index);
            state.cache.truncate(index);
            Ok(((), Some(Op::Truncate(index, before, done))))
        })
    }

    fn purge(&self, id: &LogId, done: Done) -> io::Result<()> {
        self.change(|state| {
            if state.head.purged.is_some_and(|p| p.index >= id.index) {
                return Ok(((), Some(Op::Nothing(done))));
            }
            state.head.purge(*id);
            state.spans.purge(id.index);
            state.cache.purge(id.index);
            Ok(((), Some(Op::Purge(*id, done))))
        })
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (mut out, mut bytes, mut at) = (Vec::new(), 0usize, from);
        // `false`: enough.
        let mut take = |entry: Entry, out: &mut Vec<Entry>| {
            bytes = bytes.saturating_add(weight(&entry));
            if bytes > bytes_max && !out.is_empty() {
                return false;
            }
            out.push(entry);
            true
        };
        loop {
            let spans = {
                let state = self.shared.lock();
                if out.is_empty() {
                    // A log may begin above what is purged.
                    let there = state.spans.first().or(state.cache.first());
                    at = at.max(state.head.first()).max(there.unwrap_or(at));
                }
                let end = to.min(state.head.next());
                if at >= end {
                    return Ok(out);
                }
                if state.cache.first().is_some_and(|first| first <= at) {
                    for entry in state.cache.range(at, end) {
                        if !take(entry.clone(), &mut out) {
                            break;
                        }
                    }
                    return Ok(out);
                }
                state
                    .spans
                    .covering(at, end.min(state.cache.first().unwrap_or(end)), bytes_max)
            };
            let begun = at;
            for span in spans {
                let mut full = false;
                let read = span.read(at, &mut |entry| {
                    let index = entry.log_id.index;
                    full = index >= to || !take(entry, &mut out);
                    if !full {
                        at = index + 1;
                    }
                    !full
                });
                if let Err(error) = read {
                    // Its file may have been given a new use after a purge; then the entry is not missed.
                    if self.purged().is_none_or(|p| p.index + 1 < span.end()) {
                        return Err(error);
                    }
                    break;
                }
                if full {
                    return Ok(out);
                }
            }
            if at == begun && self.purged().is_none_or(|p| p.index < at) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("E_LOG_CORRUPT: entry {at} is not in the log"),
                ));
            }
            if at == begun && !out.is_empty() {
                return Ok(out);
            }
        }
    }

    fn end_offset(&self) -> u64 {
        self.shared.lock().head.base
    }

    fn disk_bytes(&self) -> u64 {
        self.shared.lock().disk_bytes
    }
}
