//! What clients did and what they were told, and whether one order of the log explains all of it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coracle_state::Key;

use super::oracle::{Change, Oracle};
use super::wgl;

/// The table clients write to.
pub const TABLE: &str = "configmaps";

/// The key of a number.
pub fn key(n: u64) -> Key {
    Key::new("default", format!("k{n}"))
}

/// The bytes of a unique value; `pad` makes the log grow.
pub fn encode(value: u64, pad: usize) -> Bytes {
    format!("{{\"v\":{value},\"pad\":\"{}\"}}", "x".repeat(pad)).into()
}

/// The value in some bytes; 0 if there is none.
pub fn decode(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .skip_while(|b| !b.is_ascii_digit())
        .take_while(|b| b.is_ascii_digit())
        .fold(0, |n, b| n * 10 + u64::from(b - b'0'))
}

/// What a client wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Whatever is there.
    Put(u64),
    /// Only if nothing is there.
    Create(u64),
    /// Only if this revision with this value is there.
    Swap {
        /// Revision it read.
        revision: u64,
        /// Value it read there.
        value: u64,
        /// The new one.
        to: u64,
    },
    /// Whatever is there.
    Delete,
    /// A fresh read.
    Read,
}

impl Want {
    /// The value it writes.
    pub fn writes(self) -> Option<u64> {
        match self {
            Want::Put(v) | Want::Create(v) | Want::Swap { to: v, .. } => Some(v),
            Want::Delete | Want::Read => None,
        }
    }
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It took effect at this revision (or changed nothing).
    Done {
        /// The revision.
        revision: u64,
        /// Whether something changed.
        changed: bool,
    },
    /// The precondition did not hold; this revision was there.
    Refused(Option<u64>),
    /// Nothing happened.
    Not,
    /// It may or may not have happened.
    Unknown,
    /// The view's revision, and (revision, value) of the object.
    Saw {
        /// Revision of the view.
        view: u64,
        /// The object.
        object: Option<(u64, u64)>,
    },
}

/// One operation.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "client and member are shown in reports")]
pub struct Operation {
    /// Who.
    pub client: u64,
    /// Through which member.
    pub member: u64,
    /// Which key.
    pub key: u64,
    /// What.
    pub want: Want,
    /// Operations of one atomic group share a number above 0.
    pub group: u64,
    /// When it was asked.
    pub from: Duration,
    /// When it was answered.
    pub to: Duration,
    /// The answer.
    pub told: Told,
}

/// The object under a key after `revision`, by the log.
fn at(changes: &[&Change], revision: u64) -> Option<(u64, u64)> {
    let n = changes.partition_point(|c| c.revision <= revision);
    let last = changes.get(n.checked_sub(1)?)?;
    last.value.as_ref().map(|v| (last.revision, decode(v)))
}

/// Checks a whole history against the log, which `oracle` knows.
pub fn check(operations: &[Operation], oracle: &Oracle) {
    let truth = oracle.truth();
    let mut by_key: BTreeMap<u64, Vec<&Change>> = BTreeMap::new();
    let mut by_revision: BTreeMap<u64, &Change> = BTreeMap::new();
    let mut by_value: BTreeMap<u64, &Change> = BTreeMap::new();
    let mut last = 0;
    for c in truth.iter().filter(|c| c.table == TABLE) {
        if c.revision <= last {
            oracle.violated("revisions_never_go_back", format!("{c:?} after {last}"));
        }
        last = c.revision;
        let n = decode(c.key.name.as_bytes());
        by_key.entry(n).or_default().push(c);
        by_revision.insert(c.revision, c);
        if let Some(v) = &c.value
            && let Some(first) = by_value.insert(decode(v), c)
        {
            oracle.violated(
                "a_write_is_applied_once",
                format!(
                    "value {} at {} and {}",
                    decode(v),
                    first.revision,
                    c.revision
                ),
            );
        }
    }
    for op in operations {
        effect(op, oracle, &by_revision, &by_value);
        contents(op, oracle, by_key.get(&op.key).map_or(&[], Vec::as_slice));
    }
    groups(operations, oracle, &by_value);
    real_time(operations, oracle);
    for (key, changes) in keys(operations) {
        let happened = |v: u64| by_value.contains_key(&v);
        if let Err(why) = wgl::check(&changes, happened) {
            oracle.violated(
                "reads_and_writes_are_linearizable",
                format!("key {key}: {why}"),
            );
        }
    }
}

fn keys(operations: &[Operation]) -> BTreeMap<u64, Vec<Operation>> {
    let mut keys: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for op in operations {
        keys.entry(op.key).or_default().push(*op);
    }
    keys
}

/// What was acknowledged is in the log where it was said to be, what was refused is not.
fn effect(
    op: &Operation,
    oracle: &Oracle,
    by_revision: &BTreeMap<u64, &Change>,
    by_value: &BTreeMap<u64, &Change>,
) {
    match op.told {
        Told::Done {
            revision,
            changed: true,
        } => {
            let there = by_revision.get(&revision);
            let same = there.is_some_and(|c| {
                c.key == key(op.key) && c.value.as_ref().map(|v| decode(v)) == op.want.writes()
            });
            if !same {
                oracle.violated(
                    "acknowledged_writes_are_never_lost",
                    format!("{op:?}, but the log has {there:?}"),
                );
            }
        }
        Told::Refused(_) | Told::Not => {
            if let Some(c) = op.want.writes().and_then(|v| by_value.get(&v)) {
                oracle.violated(
                    "refused_writes_do_nothing",
                    format!("{op:?}, but the log has {c:?}"),
                );
            }
        }
        _ => {}
    }
}

/// A read returns what the log has at the revision of its view.
fn contents(op: &Operation, oracle: &Oracle, changes: &[&Change]) {
    if let Told::Saw { view, object } = op.told {
        let expected = at(changes, view);
        if expected != object {
            oracle.violated(
                "a_view_is_the_log_up_to_its_revision",
                format!("{op:?}, expected {expected:?}"),
            );
        }
    }
}

/// Of an atomic group all or nothing is in the log.
fn groups(operations: &[Operation], oracle: &Oracle, by_value: &BTreeMap<u64, &Change>) {
    let mut groups: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
    for op in operations.iter().filter(|op| op.group > 0) {
        if let Some(v) = op.want.writes() {
            groups
                .entry(op.group)
                .or_default()
                .push(by_value.contains_key(&v));
        }
    }
    for (group, there) in groups {
        if there.iter().any(|t| *t) && !there.iter().all(|t| *t) {
            oracle.violated("groups_are_atomic", format!("group {group}: {there:?}"));
        }
    }
}

/// All operations lie on one line: the revision of a write, the view's revision of a read. Whatever was answered before an
/// operation was asked is not behind it. Cheaper and stronger than a search, since the position is known.
fn real_time(operations: &[Operation], oracle: &Oracle) {
    let position = |op: &Operation| match op.told {
        Told::Done {
            revision,
            changed: true,
        } => Some((revision, true)),
        Told::Saw { view, .. } => Some((view, false)),
        _ => None,
    };
    let mut ends: Vec<(Duration, u64, &Operation)> = operations
        .iter()
        .filter_map(|op| position(op).map(|(p, _)| (op.to, p, op)))
        .collect();
    ends.sort_by_key(|e| (e.0, e.1));
    let mut begins: Vec<&Operation> = operations
        .iter()
        .filter(|op| position(op).is_some())
        .collect();
    begins.sort_by_key(|op| op.from);
    let mut ended = ends.iter().peekable();
    let mut floor: Option<(u64, &Operation)> = None;
    for op in begins {
        while let Some((_, p, before)) = ended.next_if(|(to, _, _)| *to < op.from) {
            if floor.is_none_or(|(f, _)| f < *p) {
                floor = Some((*p, before));
            }
        }
        let (Some((p, write)), Some((floor, before))) = (position(op), floor) else {
            continue;
        };
        if p < floor || (write && p == floor) {
            oracle.violated(
                "answers_follow_real_time",
                format!("{op:?} is not after {before:?}"),
            );
        }
    }
}
