//! What the control loop does between "something changed" and "propose this": which tasks are due, which writes go
//! into one proposal, and when to look again. Pure, so that the simulator drives the same code as `scheduler::control`:
//!
//! ```text
//! queue.note(&view)                      what changed since last time → tasks
//! for proposal in queue.plan(&input, &mut ids) {
//!     match propose(proposal.commands) { Ok(results) → queue.settle(&proposal, &results, now)
//!                                        Err(_)      → queue.retry(&proposal, now) }
//! }
//! sleep until queue.next_wake(), a new view, or an ack
//! ```

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::{Ids, Key, Timestamp};
use coracle_state::{Command, Op, Results, View};

use crate::writer::later;
use crate::{Input, Outcome, Task, Wait, reconcile, tables, tasks_all, tasks_for};

/// Commands in one proposal at most: applied in a few milliseconds, so that other writers are not held up.
pub const COMMANDS_MAX: usize = 1_000;
/// Bytes of objects in one proposal at most: half of what a log entry may hold, for the envelope's sake.
pub const BYTES_MAX: usize = 4 << 20;
/// First delay of a task whose writes were refused twice in a row, in ms; it doubles.
const RETRY_MS_MIN: i64 = 10;
/// Longest such delay, in ms.
const RETRY_MS_MAX: i64 = 5_000;

/// Writes that go into the log together, and the task behind each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// What to propose, groups numbered apart.
    pub commands: Vec<Command>,
    /// Which task each command is from.
    pub tasks: Vec<Task>,
    /// What each command does.
    pub notes: Vec<String>,
}

/// The tasks of one leader.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    due: BTreeSet<Task>,
    timers: BTreeMap<Task, Timestamp>,
    failures: BTreeMap<Task, u32>,
    waits: BTreeMap<Task, Vec<Wait>>,
    /// Revision up to which events have been turned into tasks; `None` before the first look.
    seen: Option<u64>,
    /// When tasks were last run.
    ran_at: Option<Timestamp>,
}

impl Queue {
    /// Turns what changed since the last call into tasks; everything at first, or when the history is not kept.
    pub fn note(&mut self, view: &View) {
        let Some(seen) = self.seen.replace(view.revision) else {
            return self.resync(view);
        };
        if seen == view.revision {
            return;
        }
        for kind in tables() {
            let Some(events) = view.events_after(kind.table, seen) else {
                return self.resync(view);
            };
            for event in events {
                self.add(tasks_for(kind.table, &event, view));
            }
        }
    }

    /// Looks at everything again.
    pub fn resync(&mut self, view: &View) {
        self.seen = Some(view.revision);
        self.add(tasks_all(view));
    }

    /// Makes tasks due now.
    pub fn add(&mut self, tasks: impl IntoIterator<Item = Task>) {
        self.due.extend(tasks);
    }

    /// Runs every task that is due, on one view. What they decide comes back as proposals in order; tasks that want
    /// to write what another one writes already stay due for the next view.
    pub fn plan(&mut self, input: &Input, ids: &mut Ids) -> Vec<Proposal> {
        // A clock that was set back would leave every timer in a far future.
        let set_back = self
            .ran_at
            .replace(input.now)
            .is_some_and(|before| input.now < before);
        let ripe = self
            .timers
            .iter()
            .filter(|(_, at)| set_back || **at <= input.now);
        let ripe: Vec<Task> = ripe.map(|(task, _)| task.clone()).collect();
        self.due.extend(ripe);
        let (mut proposals, mut touched) = (Vec::new(), BTreeSet::new());
        let mut filling = Filling::default();
        for task in std::mem::take(&mut self.due) {
            self.timers.remove(&task);
            let outcome = reconcile(input, &task, ids);
            if outcome.waits.is_empty() {
                self.waits.remove(&task);
            } else {
                self.waits.insert(task.clone(), outcome.waits.clone());
            }
            if let Some(at) = outcome.wake_at {
                self.timers.insert(task.clone(), at);
            }
            let objects: BTreeSet<(String, Key)> = outcome
                .writes
                .iter()
                .map(|w| (w.command.table.clone(), w.command.key.clone()))
                .collect();
            if objects.iter().any(|o| touched.contains(o)) {
                self.due.insert(task);
                continue;
            }
            touched.extend(objects);
            filling.take(task, outcome, &mut proposals);
        }
        filling.close(&mut proposals);
        proposals
    }

    /// Takes the results of a proposal: a task with a refused write looks again, later and later if that goes on.
    pub fn settle(&mut self, proposal: &Proposal, results: &Results, now: Timestamp) {
        let refused: BTreeSet<&Task> = proposal
            .tasks
            .iter()
            .zip(results)
            .filter(|(_, r)| r.is_err())
            .map(|(t, _)| t)
            .collect();
        for task in proposal.tasks.iter().collect::<BTreeSet<_>>() {
            if refused.contains(task) {
                self.again(task, now);
            } else {
                self.failures.remove(task);
            }
        }
    }

    /// A proposal whose fate is unknown: its tasks look again. Call it only once everything proposed before is either
    /// in the view that is planned on next or can no longer be.
    pub fn retry(&mut self, proposal: &Proposal, now: Timestamp) {
        for task in proposal.tasks.iter().collect::<BTreeSet<_>>() {
            self.again(task, now);
        }
    }

    fn again(&mut self, task: &Task, now: Timestamp) {
        let failures = self.failures.entry(task.clone()).or_insert(0);
        *failures += 1;
        // The first refusal is a lost race, and the next view shows who won.
        if *failures == 1 {
            self.due.insert(task.clone());
            return;
        }
        let delay = RETRY_MS_MIN
            .saturating_mul(1 << (*failures - 2).min(16))
            .min(RETRY_MS_MAX);
        let at = later(now, delay);
        let timer = self.timers.entry(task.clone()).or_insert(at);
        *timer = at.min(*timer);
    }

    /// Whether a task is due at once.
    pub fn busy(&self) -> bool {
        !self.due.is_empty()
    }

    /// When the next timer fires.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.timers.values().min().copied()
    }

    /// What is waited for, by the task that found it.
    pub fn waits(&self) -> &BTreeMap<Task, Vec<Wait>> {
        &self.waits
    }
}

/// The proposal that is being filled.
#[derive(Default)]
struct Filling {
    proposal: Proposal,
    bytes: usize,
    groups: u32,
}

impl Filling {
    fn take(&mut self, task: Task, outcome: Outcome, proposals: &mut Vec<Proposal>) {
        let mut last = 0;
        for write in outcome.writes {
            let group = write.command.group;
            let size = match &write.command.op {
                Op::Put { bytes, .. } => bytes.len(),
                Op::Delete | Op::Check => 0,
            };
            let joins = group != 0 && group == last;
            if !joins
                && (self.proposal.commands.len() >= COMMANDS_MAX || self.bytes + size > BYTES_MAX)
            {
                self.close(proposals);
            }
            if group != 0 && !joins {
                self.groups += 1;
            }
            last = group;
            self.bytes += size;
            let mut command = write.command;
            command.group = if group == 0 { 0 } else { self.groups };
            self.proposal.commands.push(command);
            self.proposal.tasks.push(task.clone());
            self.proposal.notes.push(write.note);
        }
    }

    fn close(&mut self, proposals: &mut Vec<Proposal>) {
        if !self.proposal.commands.is_empty() {
            proposals.push(std::mem::take(&mut self.proposal));
        }
        self.bytes = 0;
    }
}
