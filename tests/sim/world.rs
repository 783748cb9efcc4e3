//! The world: virtual time, one map of events, and everything that lives in it.

use std::collections::{BTreeMap, VecDeque};

use coracle_agent::Input;
use coracle_api::Timestamp;
use coracle_state::{Command, Results, View};
use jiff::SignedDuration;

use crate::Knobs;
use crate::check::Checks;
use crate::control::Control;
use crate::dice::Dice;
use crate::node::Node;
use crate::order::Order;
use crate::report::{Failure, Report};
use crate::request::Request;
use crate::user::{Op, User};

/// Lines kept for a failure.
const TRAIL_MAX: usize = 60;
/// Virtual time in which a cluster without faults has to come to rest: leases, back-offs and grace periods run out
/// several times over in this.
const CONVERGE_MS_MAX: u64 = 600_000;
/// How long nothing may be written for the cluster to count as at rest: longer than any retry.
const REST_MS: u64 = 15_000;

/// What can happen. Numbers are indexes of nodes, members and proposals.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A proposal reaches the leader.
    Commit(u64),
    /// Its answer reaches the proposer.
    Reply(u64),
    /// The proposer gives up waiting.
    Timeout(u64),
    /// A follower looks at the log.
    Follow(usize),
    /// The leader plans.
    Control,
    /// A watch of a node delivers what there is.
    Deliver {
        node: usize,
        epoch: u32,
        watch: usize,
    },
    /// Some work on a node has an outcome.
    Work {
        node: usize,
        epoch: u32,
        input: Box<Input>,
    },
    /// A node renews its lease and repeats its report.
    Heartbeat { node: usize, epoch: u32 },
    /// A proxy's report reaches the leader.
    Ack { node: usize, applied: u64 },
    /// Somebody asks something of a Service.
    Request,
    /// The request reaches the replica that was picked.
    Arrive(Request),
    /// The replica has answered.
    Finish {
        node: usize,
        epoch: u32,
        uid: String,
    },
    /// Something goes wrong.
    Fault,
    /// The user does something.
    User,
    /// The user asks again.
    Ask { op: Box<Op>, tries: u32 },
    /// A node comes back.
    StartNode(usize),
    /// A node that was cut off is reachable again.
    Heal(usize),
    /// A member comes back.
    StartMember(usize),
    /// A new leader is needed, if there is none.
    Elect,
}

/// Who proposed, and what the answer is for.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// The leader's loop of this term.
    Control {
        term: u64,
        /// Revision of the view it was decided on.
        planned_at: u64,
        proposal: coracle_plan::Proposal,
    },
    /// A runner's status write.
    Status {
        node: usize,
        epoch: u32,
        uid: String,
        seq: u64,
    },
    /// A runner's other writes; it repeats them if need be.
    Runner,
    /// The user.
    User { op: Op, tries: u32 },
}

/// A proposal on its way.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub who: Who,
    pub commands: Vec<Command>,
    /// What it came to when it was committed first.
    pub results: Option<Results>,
}

/// Everything.
pub(crate) struct World {
    pub seed: u64,
    pub steps: u64,
    pub knobs: Knobs,
    pub start: Timestamp,
    pub now: Timestamp,
    pub faulty: bool,
    pub verbose: bool,
    pub order: Order,
    pub control: Control,
    pub nodes: Vec<Node>,
    pub user: User,
    pub checks: Checks,
    pub report: Report,
    pub pending: BTreeMap<u64, Pending>,
    pub net: Dice,
    pub faults: Dice,
    pub failure: Option<Box<Failure>>,
    /// Whether requests are sent all the time.
    pub requests: bool,
    /// When something other than a lease was last written.
    pub last_write: Timestamp,
    events: BTreeMap<(Timestamp, u64), Event>,
    sequence: u64,
    proposals: u64,
    trail: VecDeque<String>,
}

impl World {
    pub fn new(seed: u64, knobs: Knobs, verbose: bool) -> Self {
        let start: Timestamp = "2030-01-01T00:00:00Z"
            .parse()
            .unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            seed,
            steps: 0,
            start,
            now: start,
            faulty: false,
            verbose,
            order: Order::new(knobs.members),
            control: Control::new(seed, &knobs),
            nodes: Vec::new(),
            user: User::new(seed),
            checks: Checks::default(),
            report: Report::default(),
            pending: BTreeMap::new(),
            net: Dice::new(seed, "net"),
            faults: Dice::new(seed, "faults"),
            failure: None,
            requests: false,
            last_write: start,
            events: BTreeMap::new(),
            sequence: 0,
            proposals: 0,
            trail: VecDeque::new(),
            knobs,
        }
    }

    /// Bootstraps the cluster and starts its nodes.
    pub fn populate(&mut self) {
        self.bootstrap();
        for _ in 0..self.knobs.nodes {
            let cpu = self.knobs.node_cpu_millis;
            self.add_node(cpu, 40);
        }
    }

    /// The virtual time since the start, in ms.
    pub fn at_ms(&self) -> i64 {
        i64::try_from(self.now.duration_since(self.start).as_millis()).unwrap_or(i64::MAX)
    }

    /// A time from now.
    pub fn after(&self, ms: u64) -> Timestamp {
        self.now
            .checked_add(SignedDuration::from_millis(ms as i64))
            .unwrap_or(Timestamp::MAX)
    }

    pub fn schedule_at(&mut self, at: Timestamp, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    pub fn schedule(&mut self, ms: u64, event: Event) {
        self.schedule_at(self.after(ms), event);
    }

    /// Schedules within `1..=ms_max`.
    pub fn soon(&mut self, ms_max: u64, event: Event) {
        let ms = self.net.between(1, ms_max.max(1));
        self.schedule(ms, event);
    }

    /// Notes a line for the trail.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        let line = format!("{:>8} {}", self.at_ms(), line());
        if self.verbose {
            eprintln!("{line}");
        }
        self.trail.push_back(line);
        if self.trail.len() > TRAIL_MAX {
            self.trail.pop_front();
        }
    }

    /// Records that a property does not hold; the first one counts.
    pub fn violated(&mut self, property: &'static str, message: impl Into<String>) {
        if self.failure.is_none() {
            self.failure = Some(Box::new(Failure {
                seed: self.seed,
                steps: self.steps,
                at_ms: self.at_ms(),
                property,
                message: message.into(),
                knobs: self.knobs.clone(),
                trail: self.trail.iter().cloned().collect(),
            }));
        }
    }

    /// Records a failure of the log itself.
    pub fn must<T: Default>(&mut self, result: Result<T, String>) -> T {
        result.unwrap_or_else(|message| {
            self.violated("replicas agree", message);
            T::default()
        })
    }

    /// The committed state, if there is a leader to ask.
    pub fn view(&self) -> Option<View> {
        self.order.leader_view()
    }

    /// The first phase: everything may go wrong.
    pub fn run_faulty(&mut self, steps: u64) -> Result<(), Box<Failure>> {
        self.steps = steps;
        (self.faulty, self.requests) = (true, true);
        for event in [Event::Fault, Event::User, Event::User, Event::Request] {
            self.schedule(1, event);
        }
        for _ in 0..steps {
            if !self.step()? {
                break;
            }
        }
        Ok(())
    }

    /// The second phase: faults stop, and the cluster has to come to rest where it should be.
    pub fn converge(&mut self) -> Result<(), Box<Failure>> {
        self.faulty = false;
        self.mend();
        self.rest(CONVERGE_MS_MAX)?;
        self.final_checks();
        self.failed()
    }

    /// Runs until nothing but leases has been written for some virtual time; nothing is said about whether that is well.
    pub fn quiet(&mut self, quiet_ms: u64, ms_max: u64) -> Result<(), Box<Failure>> {
        let deadline = self.after(ms_max);
        self.last_write = self.now;
        while self.now.duration_since(self.last_write).as_millis() < i128::from(quiet_ms) {
            if self.now >= deadline {
                self.violated("convergence", format!("still writing after {ms_max} ms"));
                return self.failed();
            }
            self.run_for(1_000)?;
        }
        Ok(())
    }

    /// Runs until nothing but leases is written any more and everything is as it should be.
    pub fn rest(&mut self, ms_max: u64) -> Result<(), Box<Failure>> {
        let deadline = self.after(ms_max);
        loop {
            self.run_for(REST_MS)?;
            let idle = self.now.duration_since(self.last_write).as_millis() >= i128::from(REST_MS);
            let missing = if idle {
                self.unfinished()
            } else {
                Some("it is still writing".to_string())
            };
            match missing {
                None => return Ok(()),
                Some(what) if self.now >= deadline => {
                    self.violated(
                        "convergence",
                        format!(
                            "the cluster is not at rest after {ms_max} ms without faults: {what}"
                        ),
                    );
                    return self.failed();
                }
                // The user's last requests may have come after everything was put right.
                Some(_) => self.tidy_up(),
            }
        }
    }

    /// Runs events for some virtual time.
    pub fn run_for(&mut self, ms: u64) -> Result<(), Box<Failure>> {
        let end = self.after(ms);
        while self
            .events
            .first_key_value()
            .is_some_and(|((at, _), _)| *at <= end)
        {
            self.step()?;
        }
        self.now = end;
        Ok(())
    }

    pub fn failed(&mut self) -> Result<(), Box<Failure>> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Takes one event. Returns false if there is none.
    fn step(&mut self) -> Result<bool, Box<Failure>> {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return Ok(false);
        };
        self.now = at;
        self.report.steps += 1;
        if self.verbose {
            eprintln!("{:>8}   {event:?}", self.at_ms());
        }
        self.take(event);
        self.failed().map(|()| true)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Commit(id) => self.on_commit(id),
            Event::Reply(id) => self.on_reply(id),
            Event::Timeout(id) => self.on_timeout(id),
            Event::Follow(member) => self.on_follow(member),
            Event::Control => self.on_control(),
            Event::Deliver { node, epoch, watch } => self.on_deliver(node, epoch, watch),
            Event::Work { node, epoch, input } => self.on_work(node, epoch, *input),
            Event::Heartbeat { node, epoch } => self.on_heartbeat(node, epoch),
            Event::Ack { node, applied } => self.on_ack(node, applied),
            Event::Request => self.on_request(),
            Event::Arrive(request) => self.on_arrive(request),
            Event::Finish { node, epoch, uid } => self.on_finish(node, epoch, &uid),
            Event::Fault => self.on_fault(),
            Event::User => self.on_user(),
            Event::Ask { op, tries } => self.ask(*op, tries),
            Event::StartNode(node) => self.start_node(node),
            Event::Heal(node) => self.heal(node),
            Event::StartMember(member) => self.start_member(member),
            Event::Elect => self.elect(),
        }
    }

    /// Proposes commands; the answer comes as an event.
    pub fn propose(&mut self, who: Who, commands: Vec<Command>) -> u64 {
        self.proposals += 1;
        let id = self.proposals;
        self.pending.insert(
            id,
            Pending {
                who,
                commands,
                results: None,
            },
        );
        self.soon(self.knobs.propose_ms_max, Event::Commit(id));
        id
    }

    fn on_commit(&mut self, id: u64) {
        let Some(pending) = self.pending.get(&id).cloned() else {
            return;
        };
        let first = pending.results.is_none();
        let lost = first && self.faulty && self.net.chance(self.knobs.lost_proposal);
        // A deposed leader's proposal may still be forwarded to its successor.
        let stale = matches!(&pending.who, Who::Control { term, .. } if *term != self.order.term);
        if lost || (stale && first && !self.net.chance(self.knobs.late_proposal)) {
            return self.soon(self.knobs.propose_ms_max * 4, Event::Timeout(id));
        }
        let before = self.view();
        let Some(results) = self.order.commit(self.now, id, pending.commands.clone()) else {
            return self.schedule(self.knobs.propose_ms_max * 4, Event::Timeout(id));
        };
        let results = self.must(results);
        self.report.entries += 1;
        if let Some(known) = &pending.results {
            if *known != results {
                self.violated(
                    "a retry applies once",
                    format!("proposal {id} gave {known:?}, then {results:?}"),
                );
            }
        } else {
            self.note_commit(&pending, &results);
        }
        if let Some(p) = self.pending.get_mut(&id) {
            p.results = Some(results);
        }
        if let (Some(before), Some(after)) = (before, self.view()) {
            if after.revision > before.revision {
                self.changed(&before, &after);
            }
            self.check_commit(&before, &after, &pending.who);
        }
        if self.faulty && self.net.chance(self.knobs.lost_reply) {
            self.report.lost_replies += 1;
            // Propose retries by itself with the same request id, or gives up.
            let event = if self.net.chance(600) {
                Event::Commit(id)
            } else {
                Event::Timeout(id)
            };
            return self.soon(self.knobs.propose_ms_max * 4, event);
        }
        self.soon(self.knobs.propose_ms_max, Event::Reply(id));
    }

    fn note_commit(&mut self, pending: &Pending, results: &Results) {
        for (i, (command, result)) in pending.commands.iter().zip(results).enumerate() {
            if command.table == "leases.coordination.k8s.io" {
                continue;
            }
            let note = match &pending.who {
                Who::Control { proposal, .. } => {
                    format!("plan: {}", proposal.notes.get(i).map_or("", String::as_str))
                }
                Who::Status { node, .. } => format!("n{}: status of {}", node + 1, command.key),
                Who::Runner => format!("runner: {} {}", command.table, command.key),
                Who::User { op, .. } => format!("user: {op}"),
            };
            if note.contains("create events")
                || note.contains("update events")
                || note.contains("require ")
            {
                continue;
            }
            self.say(|| match result {
                Ok(applied) if applied.changed => format!("{note} @{}", applied.revision),
                Ok(_) => format!("{note} (no change)"),
                Err(why) => format!("{note} REFUSED: {why}"),
            });
        }
    }

    /// Spreads the news of a commit.
    fn changed(&mut self, before: &View, after: &View) {
        let leases_only = after.tables.iter().all(|(name, table)| {
            name == "leases.coordination.k8s.io"
                || table
                    .events_after(before.revision)
                    .is_some_and(|e| e.is_empty())
        });
        if !leases_only {
            self.last_write = self.now;
        }
        for member in 0..self.order.members.len() {
            if Some(member) != self.order.leader
                && self.order.members[member].up
                && !self.order.members[member].following
            {
                self.order.members[member].following = true;
                self.soon(self.knobs.follow_ms_max, Event::Follow(member));
            }
        }
        if let Some(leader) = self.order.leader {
            self.wake_watches(leader);
        }
        self.wake_control();
    }

    fn on_follow(&mut self, member: usize) {
        self.order.members[member].following = false;
        if !self.order.members[member].up {
            return;
        }
        let result = self.order.follow(member, self.order.log.len());
        self.must(result);
        self.wake_watches(member);
    }

    fn on_reply(&mut self, id: u64) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        let Some(results) = pending.results else {
            return;
        };
        match pending.who {
            Who::Control { term, proposal, .. } => {
                self.control_settled(id, term, &proposal, Some(&results))
            }
            Who::Status {
                node,
                epoch,
                uid,
                seq,
            } => self.status_settled(node, epoch, uid, seq, Some(&results)),
            Who::Runner => {}
            Who::User { op, tries } => self.user_settled(op, tries, Some(&results)),
        }
    }

    fn on_timeout(&mut self, id: u64) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        match pending.who {
            Who::Control { term, proposal, .. } => self.control_settled(id, term, &proposal, None),
            Who::Status {
                node,
                epoch,
                uid,
                seq,
            } => self.status_settled(node, epoch, uid, seq, None),
            Who::Runner => {}
            Who::User { op, tries } => self.user_settled(op, tries, None),
        }
    }
}
