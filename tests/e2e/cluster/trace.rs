//! What a watcher saw, and the check of it: every change once, in order, none lost across reconnects. All watchers
//! together give the log of changes that the histories are judged by.

use std::collections::BTreeMap;

use super::history::{Revision, Value};

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub change: Change,
    pub key: String,
    /// The content; of a deletion, the last one.
    pub value: Value,
}

impl Event {
    /// The content that this change wrote.
    pub fn written(&self) -> Option<Value> {
        (self.change != Change::Deleted).then_some(self.value)
    }
}

/// One thing that came to a watcher.
#[derive(Clone, Debug)]
pub enum Seen {
    /// It listed (first, or again after 410).
    Listed {
        revision: Revision,
        items: BTreeMap<String, (Value, Revision)>,
    },
    /// It asked a member for everything after its position.
    Resumed { member: usize },
    /// A change.
    Event { revision: Revision, event: Event },
    /// A bookmark: nothing before this revision is still to come.
    Bookmark { revision: Revision },
    /// 410: the next thing is a list.
    Expired,
}

/// All that one watcher saw.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub name: String,
    pub seen: Vec<Seen>,
}

/// Every change that any watcher saw, by revision.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub events: BTreeMap<Revision, Event>,
}

/// What was counted while checking.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub events: usize,
    pub resumed: usize,
    /// Of these, on another member than the time before.
    pub moved: usize,
    pub bookmarks: usize,
    pub relists: usize,
}

/// Joins what all watchers saw; two that disagree about one revision are a violation.
pub fn merge(traces: &[Trace], bad: &mut Vec<String>) -> Log {
    let mut log = Log::default();
    for trace in traces {
        for seen in &trace.seen {
            let Seen::Event { revision, event } = seen else {
                continue;
            };
            match log.events.get(revision) {
                None => drop(log.events.insert(*revision, event.clone())),
                Some(other) if other == event => {}
                Some(other) => bad.push(format!(
                    "{}: revision {revision} is {event:?}, another watcher saw {other:?}",
                    trace.name
                )),
            }
        }
    }
    log
}

/// Checks each trace against the log of all. `last` is a revision that every watcher must have reached.
pub fn check(traces: &[Trace], log: &Log, last: Revision, bad: &mut Vec<String>) -> Counts {
    let mut counts = Counts::default();
    for trace in traces {
        let mut walk = Walk {
            name: &trace.name,
            log,
            position: None,
            objects: BTreeMap::new(),
        };
        let mut at = None;
        for seen in &trace.seen {
            match seen {
                Seen::Listed { revision, items } => {
                    counts.relists += 1;
                    walk.listed(*revision, items, bad);
                }
                Seen::Resumed { member } => {
                    counts.resumed += 1;
                    counts.moved += usize::from(at.replace(*member) != Some(*member));
                }
                Seen::Event { revision, event } => {
                    counts.events += 1;
                    walk.event(*revision, event, bad);
                }
                Seen::Bookmark { revision } => {
                    counts.bookmarks += 1;
                    walk.bookmark(*revision, bad);
                }
                Seen::Expired => walk.position = None,
            }
        }
        if walk.position.is_none_or(|p| p < last) {
            bad.push(format!(
                "{}: ended at {:?} and never reached {last}",
                trace.name, walk.position
            ));
        }
    }
    counts
}

/// One watcher's way through the log.
struct Walk<'a> {
    name: &'a str,
    log: &'a Log,
    position: Option<Revision>,
    /// The objects as this watcher knows them.
    objects: BTreeMap<String, Value>,
}

impl Walk<'_> {
    fn listed(
        &mut self,
        revision: Revision,
        items: &BTreeMap<String, (Value, Revision)>,
        bad: &mut Vec<String>,
    ) {
        if let Some(p) = self.position
            && revision < p
        {
            bad.push(format!("{}: listed {revision} after {p}", self.name));
        }
        self.position = Some(revision);
        self.objects = items.iter().map(|(k, (v, _))| (k.clone(), *v)).collect();
    }

    /// Whatever the log has between the position and `revision` did not come.
    fn gap(&mut self, revision: Revision, bad: &mut Vec<String>) {
        let Some(p) = self.position else { return };
        if p + 1 >= revision {
            return;
        }
        for (missed, event) in self.log.events.range(p + 1..revision) {
            bad.push(format!(
                "{}: a gap: {event:?} at {missed} did not come between {p} and {revision}",
                self.name
            ));
        }
    }

    fn event(&mut self, revision: Revision, event: &Event, bad: &mut Vec<String>) {
        let Some(p) = self.position else {
            bad.push(format!(
                "{}: {event:?} at {revision} before any list",
                self.name
            ));
            return;
        };
        if revision <= p {
            bad.push(format!(
                "{}: {event:?} at {revision} came again or out of order, after {p}",
                self.name
            ));
            return;
        }
        self.gap(revision, bad);
        self.position = Some(revision);
        let known = self.objects.get(&event.key).copied();
        let sound = match event.change {
            Change::Added => known.is_none(),
            Change::Modified => known.is_some_and(|k| k != event.value),
            Change::Deleted => known == Some(event.value),
        };
        if !sound {
            bad.push(format!(
                "{}: {event:?} at {revision} makes no sense where the content was {known:?}",
                self.name
            ));
        }
        match event.change {
            Change::Deleted => drop(self.objects.remove(&event.key)),
            _ => drop(self.objects.insert(event.key.clone(), event.value)),
        }
    }

    fn bookmark(&mut self, revision: Revision, bad: &mut Vec<String>) {
        let Some(p) = self.position else {
            bad.push(format!(
                "{}: a bookmark at {revision} before any list",
                self.name
            ));
            return;
        };
        if revision < p {
            bad.push(format!("{}: a bookmark at {revision} after {p}", self.name));
            return;
        }
        self.gap(revision + 1, bad);
        self.position = Some(revision);
    }
}
