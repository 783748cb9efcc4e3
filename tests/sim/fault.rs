//! What goes wrong, and how it is put right at the end.

use crate::world::{Event, World};

impl World {
    pub fn on_fault(&mut self) {
        if !self.faulty {
            return;
        }
        let wait = self.knobs.fault_ms_max;
        self.soon(wait, Event::Fault);
        let up: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].up)
            .collect();
        let node = self.faults.pick(&up).copied();
        match (self.faults.below(12), node) {
            // Down for less than a lease, or for more.
            (0 | 1, Some(node)) => {
                self.report.crashes += 1;
                self.stop_node(node);
                let ms = self.faults.between(10, self.knobs.lease_ms * 2);
                self.schedule(ms, Event::StartNode(node));
            }
            (2 | 3, Some(node)) => {
                let name = self.nodes[node].name.clone();
                self.say(|| format!("{name} is cut off"));
                self.nodes[node].cut = true;
                let ms = self.faults.between(10, self.knobs.lease_ms * 2);
                self.schedule(ms, Event::Heal(node));
            }
            (4..=6, Some(node)) => {
                let serving: Vec<String> = self.nodes[node]
                    .instances
                    .iter()
                    .filter(|(_, i)| i.accepting)
                    .map(|(uid, _)| uid.clone())
                    .collect();
                if let Some(uid) = self.faults.pick(&serving).cloned() {
                    self.say(|| format!("a replica crashes: {uid}"));
                    self.crash_instance(node, &uid, 1);
                }
            }
            (7 | 8, _) => self.move_leader(),
            (9 | 10, _) => {
                let up: Vec<usize> = (0..self.order.members.len())
                    .filter(|m| self.order.members[*m].up)
                    .collect();
                if let Some(member) = self.faults.pick(&up).copied() {
                    self.stop_member(member);
                }
            }
            // Every watch of one node breaks at once.
            (11, Some(node)) => {
                for watch in 0..self.nodes[node].watches.len() {
                    if self.nodes[node].watches[watch].at.take().is_some() {
                        self.report.relists += 1;
                    }
                    self.wake_watch(node, watch);
                }
            }
            _ => {}
        }
    }

    /// Leadership goes to another member, or back to the same one in a new term.
    pub fn move_leader(&mut self) {
        if self.order.leader.take().is_some() {
            self.report.leader_moves += 1;
            self.say(|| "the leader steps down".into());
            let ms = self.faults.between(1, 400);
            self.schedule(ms, Event::Elect);
        }
    }

    fn stop_member(&mut self, member: usize) {
        self.report.crashes += 1;
        if self.order.leader == Some(member) {
            self.report.leader_moves += 1;
        }
        self.say(|| format!("member {member} is dead"));
        let result = self.order.crash(member);
        self.must(result);
        let back = self.faults.between(5, 1_500);
        self.schedule(back, Event::StartMember(member));
        let elect = self.faults.between(1, 400);
        self.schedule(elect, Event::Elect);
    }

    pub fn start_member(&mut self, member: usize) {
        if self.order.members[member].up {
            return;
        }
        let result = self.order.restart(member);
        self.must(result);
        self.say(|| format!("member {member} is back"));
        self.order.members[member].following = true;
        self.schedule(1, Event::Follow(member));
        self.schedule(1, Event::Elect);
    }

    /// Puts everything right.
    pub fn mend(&mut self) {
        self.say(|| "faults stop".into());
        for member in 0..self.order.members.len() {
            self.start_member(member);
        }
        self.elect();
        for node in 0..self.nodes.len() {
            self.start_node(node);
            self.heal(node);
        }
        self.tidy_up();
    }
}
