//! The leader's loop, as `scheduler::control` runs it: what changed, plan, propose, wait for all answers, again.

use std::collections::BTreeSet;

use coracle_api::{Ids, Timestamp};
use coracle_plan::{Input, Proposal, Queue, Settings, Volatile, tasks_after_ack};
use coracle_state::Results;

use crate::Knobs;
use crate::dice::Dice;
use crate::world::{Event, Who, World};

/// The loop's state; a new leader starts with a new one.
pub(crate) struct Control {
    pub queue: Queue,
    pub volatile: Volatile,
    pub settings: Settings,
    dice: Dice,
    ids: Ids,
    outstanding: BTreeSet<u64>,
    /// When it is going to look next.
    wake: Option<Timestamp>,
}

impl Control {
    pub fn new(seed: u64, knobs: &Knobs) -> Self {
        let settings = Settings {
            node_lease_ms: knobs.lease_ms as i64,
            pod_eviction_ms: knobs.eviction_ms,
            ca_pem: "PEM".into(),
            ingress_addresses: vec!["127.0.0.1".into()],
            ..Settings::default()
        };
        let mut dice = Dice::new(seed, "control");
        let ids = Ids::new(dice.next());
        Self {
            queue: Queue::default(),
            volatile: Volatile::default(),
            settings,
            dice,
            ids,
            outstanding: BTreeSet::new(),
            wake: None,
        }
    }

    /// What a leader has that has just been elected.
    fn reset(&mut self) {
        self.queue = Queue::default();
        self.volatile = Volatile::default();
        self.outstanding.clear();
        self.wake = None;
        // Every leader draws ids of its own.
        self.ids = Ids::new(self.dice.next());
    }
}

impl World {
    /// Writes what every cluster has from the start.
    pub fn bootstrap(&mut self) {
        let view = self.order.members[0].state.view();
        let commands = coracle_plan::bootstrap(&view, self.now, &mut self.control.ids, "PEM", 6443);
        if let Some(result) = self.order.commit(self.now, 0, commands) {
            self.must(result);
        }
        for member in 1..self.order.members.len() {
            let result = self.order.follow(member, self.order.log.len());
            self.must(result);
        }
        self.wake_control();
    }

    /// Makes the leader look soon.
    pub fn wake_control(&mut self) {
        let at = self.after(1);
        if self.control.outstanding.is_empty() && self.control.wake.is_none_or(|w| w > at) {
            self.control.wake = Some(at);
            self.schedule_at(at, Event::Control);
        }
    }

    pub fn on_control(&mut self) {
        if self.control.wake != Some(self.now) || !self.control.outstanding.is_empty() {
            return;
        }
        self.control.wake = None;
        let Some(view) = self.view() else { return };
        let c = &mut self.control;
        c.queue.note(&view);
        c.volatile.observe(&view, self.now);
        let input = Input {
            view: &view,
            volatile: &c.volatile,
            now: self.now,
            settings: &c.settings,
        };
        let proposals = c.queue.plan(&input, &mut c.ids);
        let term = self.order.term;
        for proposal in proposals {
            let id = self.propose(
                Who::Control {
                    term,
                    planned_at: view.revision,
                    proposal: proposal.clone(),
                },
                proposal.commands,
            );
            self.control.outstanding.insert(id);
        }
        self.sleep_control();
    }

    fn sleep_control(&mut self) {
        if !self.control.outstanding.is_empty() {
            return;
        }
        if self.control.queue.busy() {
            return self.wake_control();
        }
        if let Some(at) = self.control.queue.next_wake() {
            let at = at.max(self.after(1));
            if self.control.wake.is_none_or(|w| w > at) {
                self.control.wake = Some(at);
                self.schedule_at(at, Event::Control);
            }
        }
    }

    /// An answer, or none, to one of the loop's proposals.
    pub fn control_settled(
        &mut self,
        id: u64,
        term: u64,
        proposal: &Proposal,
        results: Option<&Results>,
    ) {
        if term != self.order.term || !self.control.outstanding.remove(&id) {
            return;
        }
        match results {
            Some(results) => self.control.queue.settle(proposal, results, self.now),
            None => self.control.queue.retry(proposal, self.now),
        }
        if self.control.outstanding.is_empty() {
            self.wake_control();
        }
    }

    pub fn on_ack(&mut self, node: usize, applied: u64) {
        let Some(view) = self.view() else { return };
        let name = self.nodes[node].name.clone();
        if self.control.volatile.ack(&name, applied) {
            self.control.queue.add(tasks_after_ack(&view));
            self.wake_control();
        }
    }

    /// Makes some member the leader, if a majority is up and there is none.
    pub fn elect(&mut self) {
        if self.order.leader.is_some() || !self.order.quorum() {
            return;
        }
        let up: Vec<usize> = (0..self.order.members.len())
            .filter(|m| self.order.members[*m].up)
            .collect();
        let Some(member) = self.faults.pick(&up).copied() else {
            return;
        };
        let result = self.order.elect(member);
        self.must(result);
        self.say(|| format!("member {member} leads"));
        self.control.reset();
        self.wake_watches(member);
        self.wake_control();
    }

    /// What a resync of the cluster at rest would write: nothing.
    pub fn plans_nothing(&mut self) -> Result<(), String> {
        let Some(view) = self.view() else {
            return Err("no leader".into());
        };
        let mut queue = Queue::default();
        queue.note(&view);
        let c = &mut self.control;
        let input = Input {
            view: &view,
            volatile: &c.volatile,
            now: self.now,
            settings: &c.settings,
        };
        let proposals = queue.plan(&input, &mut c.ids);
        match proposals.iter().flat_map(|p| &p.notes).next() {
            None => Ok(()),
            Some(note) => Err(format!("a resync plans: {note}")),
        }
    }
}
