//! 100 to 1,000 runners fetch one blob at once, on a virtual clock, while some die, lie or stall and the leader is lost:
//! whoever lives gets it, and the members send it a few times.

use super::*;

/// Length of the blob, in units.
const SIZE: u64 = 400;
/// Units that one sender sends in a tick, shared by its children.
const RATE: u64 = 16;
/// A tick, in ms.
const TICK_MS: u64 = 100;
/// As the runner's.
fn patience_ms(depth: u32) -> u64 {
    10_000 + 5_000 * u64::from(depth)
}
/// Parents that a runner tries before it goes to the members; as the runner's.
const TRIES: u32 = 6;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Honest,
    /// Sends bytes that do not match, and says that it has all of them.
    Liar,
    /// Gets bytes and passes none on.
    Miser,
    /// Is dead from this time on.
    Dies(u64),
}

struct Runner {
    kind: Kind,
    have: u64,
    /// Whether a liar's bytes are among them.
    bad: bool,
    from: Option<Parent>,
    moved_ms: u64,
    tries: u32,
    avoid: Vec<String>,
    done: bool,
}

struct World {
    now_ms: u64,
    holders: Holders,
    runners: Vec<Runner>,
    /// Transfers that the members began from zero.
    transfers: u64,
    /// Units that they sent.
    sent: u64,
}

fn name(n: usize) -> String {
    format!("n{n}")
}

fn number(name: &str) -> usize {
    name[1..].parse().unwrap()
}

impl World {
    fn new(kinds: Vec<Kind>) -> Self {
        let runner = |kind| Runner {
            kind,
            have: 0,
            bad: false,
            from: None,
            moved_ms: 0,
            tries: 0,
            avoid: Vec::new(),
            done: false,
        };
        Self {
            now_ms: 0,
            holders: Holders::default(),
            runners: kinds.into_iter().map(runner).collect(),
            transfers: 0,
            sent: 0,
        }
    }

    fn alive(&self, n: usize) -> bool {
        !matches!(self.runners[n].kind, Kind::Dies(at) if at <= self.now_ms)
    }

    fn ask(&mut self, n: usize, trouble: Option<Trouble>) {
        let me = name(n);
        let before = match (&self.runners[n].from, trouble) {
            (Some(Parent::Runner { name, .. }), Some(_)) => Some(name.clone()),
            _ => None,
        };
        let complaint = before.as_deref().zip(trouble);
        let avoid = self.runners[n].avoid.clone();
        let answer = if self.runners[n].tries >= TRIES {
            Parent::Members
        } else {
            self.holders.ask(self.now_ms, &me, "b", complaint, &avoid)
        };
        let r = &mut self.runners[n];
        r.avoid.extend(before);
        r.tries += 1;
        r.moved_ms = self.now_ms;
        if answer == Parent::Members && r.have == 0 {
            self.transfers += 1;
        }
        r.from = Some(answer);
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let mut loads: BTreeMap<usize, u64> = BTreeMap::new();
        for r in &self.runners {
            if let (false, Some(Parent::Runner { name, .. })) = (r.done, &r.from) {
                *loads.entry(number(name)).or_default() += 1;
            }
        }
        for n in 0..self.runners.len() {
            if self.runners[n].done || !self.alive(n) {
                continue;
            }
            let Some(from) = self.runners[n].from.clone() else {
                self.ask(n, None);
                continue;
            };
            let (limit, rate, bad, depth) = match &from {
                Parent::Members => (SIZE, RATE, false, 1),
                Parent::Runner { name, depth } => {
                    let p = number(name);
                    if !self.alive(p) {
                        self.ask(n, Some(Trouble::Failed));
                        continue;
                    }
                    let parent = &self.runners[p];
                    let rate = (RATE / loads.get(&p).copied().unwrap_or(1)).max(1);
                    match parent.kind {
                        Kind::Miser => (0, 0, false, *depth),
                        Kind::Liar => (SIZE, rate, true, *depth),
                        _ => (parent.have, rate, parent.bad, *depth),
                    }
                }
            };
            let now_ms = self.now_ms;
            let r = &mut self.runners[n];
            let got = limit.saturating_sub(r.have).min(rate);
            r.have += got;
            r.bad |= bad && got > 0;
            if got > 0 {
                r.moved_ms = now_ms;
            }
            if from == Parent::Members {
                self.sent += got;
            }
            if r.have == SIZE && r.bad {
                // It does not match: all over again, from somebody else.
                (r.have, r.bad) = (0, false);
                self.ask(n, Some(Trouble::Failed));
            } else if r.have == SIZE {
                r.done = true;
                self.holders.have(now_ms, &name(n), "b");
            } else if now_ms - r.moved_ms > patience_ms(depth) {
                self.ask(n, Some(Trouble::Failed));
            }
        }
    }

    /// Runs until all that live have it; answers how long that took, in ms.
    fn run(&mut self, leader_lost_at_ms: Option<u64>) -> u64 {
        for _ in 0..20_000 {
            if leader_lost_at_ms == Some(self.now_ms) {
                self.holders = Holders::default();
            }
            self.tick();
            if (0..self.runners.len()).all(|n| self.runners[n].done || !self.alive(n)) {
                return self.now_ms;
            }
        }
        panic!("some never got it");
    }
}

fn kinds(count: usize, kind: impl Fn(usize) -> Kind) -> Vec<Kind> {
    (0..count).map(kind).collect()
}

#[test]
fn a_thousand_runners_cost_the_members_one_transfer() {
    for count in [1, 2, 100, 1_000] {
        let mut w = World::new(kinds(count, |_| Kind::Honest));
        let took_ms = w.run(None);
        assert_eq!((w.transfers, w.sent), (1, SIZE), "{count} runners");
        // Alone it takes 2.5 s at full rate; with four children each, five levels deep, it may take four times that.
        assert!(took_ms < 15_000, "{count} runners took {took_ms} ms");
    }
}

#[test]
fn the_dead_are_walked_around() {
    // One in five dies, the first one (which all others hang under) among them.
    let mut w = World::new(kinds(1_000, |n| match n % 5 {
        0 => Kind::Dies(1_000 + 37 * n as u64 % 4_000),
        _ => Kind::Honest,
    }));
    let took_ms = w.run(None);
    assert!(w.transfers <= 3, "{} transfers", w.transfers);
    assert!(w.sent <= 6 * SIZE, "{} units", w.sent);
    assert!(took_ms < 60_000, "{took_ms} ms");
}

#[test]
fn liars_and_misers_cost_time_but_nobody_the_blob() {
    let mut w = World::new(kinds(500, |n| match n % 25 {
        7 => Kind::Liar,
        11 => Kind::Miser,
        _ => Kind::Honest,
    }));
    let took_ms = w.run(None);
    assert!(w.runners.iter().all(|r| r.done && !r.bad));
    // Whoever was lied to several times ends at the members.
    assert!(w.transfers <= 50, "{} transfers", w.transfers);
    assert!(took_ms < 300_000, "{took_ms} ms");
}

#[test]
fn a_new_leader_knows_nothing_and_little_is_lost() {
    let mut w = World::new(kinds(1_000, |n| match n % 10 {
        3 => Kind::Dies(2_500),
        _ => Kind::Honest,
    }));
    w.run(Some(2_000));
    assert!(w.transfers <= 3, "{} transfers", w.transfers);
    assert!(w.sent <= 10 * SIZE, "{} units", w.sent);
}

#[test]
fn latecomers_cost_the_members_nothing() {
    let mut w = World::new(kinds(300, |_| Kind::Honest));
    w.run(None);
    let more = World::new(kinds(300, |_| Kind::Honest)).runners;
    w.runners.extend(more);
    w.now_ms += 3_600_000;
    w.run(None);
    assert_eq!((w.transfers, w.sent), (1, SIZE));
}
