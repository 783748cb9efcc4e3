//! What goes wrong: one fault at a time, each until the rest of the cluster has done some work without whoever is
//! missing, then everything is put right again and every member must take writes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::fleet::{Fleet, SmallDisk};
use super::net::{Net, RAFT_PORT};
use super::proxy::{Proxy, Slowness};
use super::shim::Shim;
use super::workload::Shared;
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;

/// Writes that must be acknowledged while a fault lasts.
const WRITES_DURING: u64 = 20;
/// A fault lasts at least so long: two election timeouts and more, or the others would never notice.
const LASTS: Duration = Duration::from_secs(1);
/// Part of the packets that a lossy network loses.
const LOSS: f64 = 0.1;
/// A slow network: a bad link between continents.
const SLOW: Slowness = Slowness {
    delay: Duration::from_millis(15),
    jitter: Duration::from_millis(30),
    rate: 1 << 20,
};
/// Seconds that a clock jumps.
const JUMP_S: i64 = 30;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to the leader; it comes back later.
    KillLeader,
    /// SIGKILL to a follower.
    KillFollower,
    /// SIGKILL to all at once.
    KillAll,
    /// SIGSTOP to the leader; at SIGCONT it still believes to lead.
    PauseLeader,
    /// SIGSTOP to a follower.
    PauseFollower,
    /// The leader reaches no other member, but clients reach it.
    CutLeader,
    /// A follower reaches no other member.
    CutFollower,
    /// Two members do not hear each other, both hear the third.
    Bridge,
    /// One direction only: nobody hears the leader, or it hears nobody, in turn.
    OneWay,
    /// Packets are lost at random between all members.
    Lossy,
    /// Delay, overtaking and a low rate between all members.
    SlowLinks,
    /// Every sync of one member takes long.
    SlowDisk,
    /// A sync of one member fails: it must end itself.
    BrokenDisk,
    /// One member's disk is full.
    FullDisk,
    /// The leader is told to hand over.
    Transfer,
    /// A member is removed, loses its disk and joins again under a new id.
    Replace,
    /// A member's clock jumps forth or back.
    ClockJump,
}

impl Fault {
    pub const ALL: [Fault; 17] = [
        Fault::KillLeader,
        Fault::KillFollower,
        Fault::KillAll,
        Fault::PauseLeader,
        Fault::PauseFollower,
        Fault::CutLeader,
        Fault::CutFollower,
        Fault::Bridge,
        Fault::OneWay,
        Fault::Lossy,
        Fault::SlowLinks,
        Fault::SlowDisk,
        Fault::BrokenDisk,
        Fault::FullDisk,
        Fault::Transfer,
        Fault::Replace,
        Fault::ClockJump,
    ];
}

/// The source of all evil.
pub struct Nemesis {
    pub rng: StdRng,
    /// Clock and disk of each member.
    pub shims: Vec<Shim>,
    /// The one member whose data is on a small disk, and that disk.
    pub small: (usize, SmallDisk),
    /// Faults so far, and the longest time from a fault to the next write that began after it and was acknowledged.
    pub done: BTreeMap<Fault, (usize, Duration)>,
}

impl Nemesis {
    /// Does one fault from beginning to end.
    #[track_caller]
    pub fn act(&mut self, fault: Fault, fleet: &mut Fleet, shared: &Shared) {
        let leader = fleet.leader();
        let n = fleet.members.len();
        let follower = (leader + 1 + self.rng.random_range(0..n - 1)) % n;
        let third = (0..n).find(|i| *i != leader && *i != follower).unwrap();
        let even = self
            .done
            .get(&fault)
            .is_none_or(|(n, _)| n.is_multiple_of(2));
        let mut since = shared.recorder.now();
        match fault {
            Fault::KillLeader | Fault::KillFollower => {
                let who = pick(fault == Fault::KillLeader, leader, follower);
                fleet.members[who].kill9();
                work_goes_on(fault, fleet, shared);
                fleet.restart(who);
            }
            Fault::KillAll => {
                for m in &mut fleet.members {
                    m.kill9();
                }
                since = shared.recorder.now();
                for m in &mut fleet.members {
                    m.spawn(&fleet.net, &[]);
                }
                for m in &mut fleet.members {
                    m.ready();
                }
                work_goes_on(fault, fleet, shared);
            }
            Fault::PauseLeader | Fault::PauseFollower => {
                let who = pick(fault == Fault::PauseLeader, leader, follower);
                fleet.members[who].pause();
                work_goes_on(fault, fleet, shared);
                fleet.members[who].resume();
            }
            Fault::CutLeader | Fault::CutFollower => {
                let who = pick(fault == Fault::CutLeader, leader, follower);
                for other in (0..n).filter(|o| *o != who) {
                    fleet.net.cut(who, other);
                }
                work_goes_on(fault, fleet, shared);
                fleet.net.heal();
            }
            Fault::Bridge => {
                // In turn: the leader and a follower, and the two followers.
                let one = pick(even, leader, third);
                fleet.net.cut(one, follower);
                work_goes_on(fault, fleet, shared);
                fleet.net.heal();
            }
            Fault::OneWay => {
                for other in (0..n).filter(|o| *o != leader) {
                    match even {
                        true => fleet.net.cut_one_way(other, leader),
                        false => fleet.net.cut_one_way(leader, other),
                    }
                }
                work_goes_on(fault, fleet, shared);
                fleet.net.heal();
            }
            Fault::Lossy => {
                for (a, b) in pairs(n) {
                    fleet.net.lose(a, b, LOSS);
                }
                work_goes_on(fault, fleet, shared);
                fleet.net.heal();
            }
            Fault::SlowLinks => {
                let mut proxies = Vec::new();
                for (a, b) in pairs(n) {
                    let target = format!("{}:{RAFT_PORT}", Net::ip_of(b));
                    let proxy = Proxy::start(&fleet.runtime, target, SLOW);
                    fleet.net.detour(a, b, proxy.port());
                    proxies.push(proxy);
                }
                work_goes_on(fault, fleet, shared);
                let carried: u64 = proxies.iter().map(Proxy::carried).sum();
                assert!(carried > 0, "no member's connection went through the proxy");
                fleet.net.heal();
            }
            Fault::SlowDisk => {
                let who = pick(even, leader, follower);
                self.shims[who].slow();
                work_goes_on(fault, fleet, shared);
                self.shims[who].well();
            }
            Fault::BrokenDisk => {
                let who = pick(even, leader, follower);
                self.shims[who].broken();
                let status = fleet.members[who].ended();
                assert!(!status.success(), "a member survived a failed sync");
                self.shims[who].well();
                work_goes_on(fault, fleet, shared);
                fleet.restart(who);
            }
            Fault::FullDisk => {
                let (who, disk) = &self.small;
                disk.fill();
                if *who == leader {
                    // Nothing can be written; reads go on, and no member ends.
                    refused_for_space(fleet, *who);
                } else {
                    work_goes_on(fault, fleet, shared);
                }
                assert!(
                    fleet.members[*who].running(),
                    "a full disk ended the member:\n{}",
                    fleet.members[*who].log()
                );
                disk.free();
            }
            Fault::Transfer => {
                let to = fleet.members[follower].name.clone();
                fleet.coracle(third, &["members", "transfer", &to]).ok();
                work_goes_on(fault, fleet, shared);
            }
            Fault::Replace => {
                let name = fleet.members[follower].name.clone();
                fleet.members[follower].kill9();
                work_goes_on(fault, fleet, shared);
                fleet
                    .coracle(leader, &["members", "remove", &name, "--force"])
                    .ok();
                fleet.members[follower].wipe();
                fleet.enter(follower, leader);
                fleet.wait_voters(n);
            }
            Fault::ClockJump => {
                let who = self.rng.random_range(0..n);
                let seconds = if even { JUMP_S } else { -JUMP_S };
                self.shims[who].turn(seconds);
                work_goes_on(fault, fleet, shared);
                self.shims[who].turn(0);
            }
        }
        fleet.wait_writable();
        let next = wait_for("a write that began after the fault", LONG, || {
            let ack = shared.recorder.first_ack_since(since);
            ack.ok_or_else(|| format!("{} writes acknowledged", shared.recorder.acked()))
        });
        let took = Duration::from_nanos(u64::try_from(shared.recorder.now() - since).unwrap_or(0));
        println!("  {fault:?}: {:.2} s", took.as_secs_f64());
        let pause = Duration::from_nanos(u64::try_from(next - since).unwrap_or(0));
        let entry = self.done.entry(fault).or_default();
        *entry = (entry.0 + 1, entry.1.max(pause));
    }

    /// Faults so far.
    pub fn total(&self) -> usize {
        self.done.values().map(|(n, _)| n).sum()
    }

    /// One line per kind.
    pub fn report(&self) -> String {
        let line = |(f, (n, pause)): (&Fault, &(usize, Duration))| {
            format!(
                "  {f:?}: {n}, longest time to the next acknowledged write {:.2} s\n",
                pause.as_secs_f64()
            )
        };
        self.done.iter().map(line).collect()
    }
}

fn pick(first: bool, a: usize, b: usize) -> usize {
    if first { a } else { b }
}

fn pairs(n: usize) -> Vec<(usize, usize)> {
    (0..n)
        .flat_map(|a| (0..n).filter(move |b| *b != a).map(move |b| (a, b)))
        .collect()
}

/// A quorum is there: writes go on.
#[track_caller]
fn work_goes_on(fault: Fault, fleet: &Fleet, shared: &Shared) {
    let (begin, since) = (shared.recorder.acked(), Instant::now());
    let lasts = match fault {
        Fault::Transfer | Fault::KillAll => Duration::ZERO,
        _ => LASTS,
    };
    wait_for(&format!("writes to go on during {fault:?}"), LONG, || {
        let acked = shared.recorder.acked() - begin;
        if acked >= WRITES_DURING && since.elapsed() >= lasts {
            Ok(())
        } else {
            Err(format!("{acked} writes acknowledged; {}", fleet.logs()))
        }
    });
}

/// The leader's disk is full: a write is refused with the code or lead goes to another member, and reads are answered.
#[track_caller]
pub fn refused_for_space(fleet: &mut Fleet, who: usize) {
    wait_for("a write refused with E_DISK_FULL", LONG, || {
        match fleet.write_marker(who) {
            Err(e) if e.contains("E_DISK_FULL") => Ok(()),
            // Another member leads by now, and has room.
            Ok(_) if fleet.leader() != who => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for i in 0..fleet.members.len() {
        let read = fleet.get(i, "/api/v1/namespaces/default");
        assert!(read.is_ok(), "a read on member {}: {read:?}", i + 1);
    }
}
