//! The order of revisions: stronger than linearizability per key and cheap. Every acknowledged write has a
//! resourceVersion of its own, the log of all changes holds it exactly there and nowhere else, and revisions never run
//! against real time.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Action, History, Outcome, Revision, Value};
use super::linear::epoch;
use super::trace::{Change, Log};

/// Violations, in words. Nothing found: an empty list.
pub fn check(history: &History, log: &Log) -> Vec<String> {
    let mut bad = Vec::new();
    let written = acknowledged(history, &mut bad);
    against_log(history, log, &written, &mut bad);
    against_time(history, log, &mut bad);
    lists(history, log, &mut bad);
    bad
}

/// Contents of unanswered calls that the log does not hold: they never happened.
pub fn never_happened(history: &History, log: &Log) -> BTreeSet<Value> {
    let logged: BTreeSet<Value> = log.events.values().filter_map(|e| e.written()).collect();
    history
        .ops
        .iter()
        .filter(|o| matches!(o.outcome, Outcome::Unknown(_)))
        .filter_map(|o| o.action.value())
        .filter(|v| !logged.contains(v))
        .collect()
}

/// Content to revision of every acknowledged write; two with one revision are a violation.
fn acknowledged(history: &History, bad: &mut Vec<String>) -> BTreeMap<Value, Revision> {
    let mut by_revision: BTreeMap<Revision, Value> = BTreeMap::new();
    let mut written = BTreeMap::new();
    for op in &history.ops {
        let (Some(value), Outcome::Done(revision)) = (op.action.value(), &op.outcome) else {
            continue;
        };
        let Some(revision) = *revision else {
            bad.push(format!(
                "an acknowledged write without a resourceVersion: {op:?}"
            ));
            continue;
        };
        if let Some(other) = by_revision.insert(revision, value) {
            bad.push(format!(
                "two acknowledged writes share resourceVersion {revision}: contents {other} and {value}"
            ));
        }
        written.insert(value, revision);
    }
    written
}

fn against_log(
    history: &History,
    log: &Log,
    written: &BTreeMap<Value, Revision>,
    bad: &mut Vec<String>,
) {
    let mut logged: BTreeMap<Value, Revision> = BTreeMap::new();
    for (revision, event) in &log.events {
        if let Some(value) = event.written()
            && let Some(first) = logged.insert(value, *revision)
        {
            bad.push(format!(
                "content {value} was written twice: at {first} and at {revision}"
            ));
        }
    }
    for (value, revision) in written {
        match logged.get(value) {
            Some(at) if at == revision => {}
            Some(at) => bad.push(format!(
                "content {value} was acknowledged at {revision} and is in the log at {at}"
            )),
            None => bad.push(format!(
                "a lost write: content {value} was acknowledged at {revision} and no watcher ever saw it"
            )),
        }
    }
    for op in &history.ops {
        let refused = matches!(
            op.outcome,
            Outcome::Refused(_) | Outcome::Conflict | Outcome::Absent
        );
        if let Some(at) = op.action.value().and_then(|v| logged.get(&v))
            && refused
        {
            bad.push(format!("a refused write took effect at {at}: {op:?}"));
        }
        if let Outcome::Seen(value, revision) = op.outcome
            && logged.get(&value) != Some(&revision)
        {
            bad.push(format!(
                "a read of {} saw content {value} at {revision}; the log has it at {:?}",
                op.key,
                logged.get(&value)
            ));
        }
    }
}

/// A write that began after another was acknowledged has the greater revision, even if its own answer was lost.
fn against_time(history: &History, log: &Log, bad: &mut Vec<String>) {
    let logged: BTreeMap<Value, Revision> = log
        .events
        .iter()
        .filter_map(|(r, e)| Some((e.written()?, *r)))
        .collect();
    let floor = Floor::of(history);
    for op in &history.ops {
        let revision = match (&op.outcome, op.action) {
            (_, Action::Get | Action::Delete) => continue,
            (Outcome::Done(Some(r)), _) => Some(*r),
            (Outcome::Unknown(_), action) => action.value().and_then(|v| logged.get(&v)).copied(),
            _ => None,
        };
        let Some(revision) = revision else { continue };
        if let Some(before) = floor.before(op.call)
            && before >= revision
        {
            bad.push(format!(
                "time runs backwards: {op:?} has revision {revision}, but {before} was acknowledged before it began"
            ));
        }
    }
}

/// A list shows the epoch as the log has it at the list's revision, and that revision holds every write acknowledged
/// before the call.
fn lists(history: &History, log: &Log, bad: &mut Vec<String>) {
    let floor = Floor::of(history);
    let mut by_epoch: BTreeMap<u64, Vec<(Revision, &super::trace::Event)>> = BTreeMap::new();
    for (revision, event) in &log.events {
        let all = by_epoch.entry(epoch(&event.key)).or_default();
        all.push((*revision, event));
    }
    for list in &history.lists {
        if let Some(before) = floor.before(list.call)
            && before > list.revision
        {
            bad.push(format!(
                "a stale list on member {}: at {}, but {before} was acknowledged before it was asked",
                list.member, list.revision
            ));
        }
        let mut expected: BTreeMap<&str, (Value, Revision)> = BTreeMap::new();
        for (revision, event) in by_epoch.get(&list.epoch).into_iter().flatten() {
            if *revision > list.revision {
                break;
            }
            match event.change {
                Change::Deleted => drop(expected.remove(event.key.as_str())),
                _ => drop(expected.insert(&event.key, (event.value, *revision))),
            }
        }
        let same = expected.len() == list.items.len()
            && expected.iter().all(|(k, v)| list.items.get(*k) == Some(v));
        if !same {
            bad.push(format!(
                "a list of epoch {} at {} shows {:?}; the log says {expected:?}",
                list.epoch, list.revision, list.items
            ));
        }
    }
}

/// The highest revision acknowledged before a moment.
struct Floor(Vec<(i64, Revision)>);

impl Floor {
    fn of(history: &History) -> Self {
        let mut acks: Vec<(i64, Revision)> = history
            .ops
            .iter()
            .filter_map(|o| match o.outcome {
                Outcome::Done(Some(r)) => Some((o.ret, r)),
                _ => None,
            })
            .collect();
        acks.sort_unstable();
        let mut highest = 0;
        for (_, r) in &mut acks {
            highest = highest.max(*r);
            *r = highest;
        }
        Self(acks)
    }

    fn before(&self, moment: i64) -> Option<Revision> {
        let n = self.0.partition_point(|(ret, _)| *ret < moment);
        n.checked_sub(1).map(|i| self.0[i].1)
    }
}
