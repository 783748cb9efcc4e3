//! What goes wrong, drawn from the seed. Faults may cost availability for as long as they last and never more than that:
//! a quorum of disks is always left, so nothing that was acknowledged may be lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::dice::Dice;
use super::node::Node;
use super::wire::Link;
use super::world::World;
use crate::config::Begin;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// One member loses power and comes back.
    Kill,
    /// The leader loses power.
    KillLeader,
    /// All members lose power at once.
    Blackout,
    /// A member's process is stopped and goes on later (SIGSTOP).
    Pause,
    /// The leader's is.
    PauseLeader,
    /// A minority is cut off.
    Minority,
    /// The leader is cut off.
    IsolateLeader,
    /// Two halves that both reach one member in the middle.
    Bridge,
    /// Messages of one direction between two members are lost.
    OneWay,
    /// One member is heard by nobody but hears all.
    Mute,
    /// All links are slow.
    Delay,
    /// Calls arrive twice and late.
    Duplicate,
    /// Messages are lost, connections reset.
    Lossy,
    /// A disk is slow.
    SlowDisk,
    /// A wall clock jumps.
    Skew,
    /// A disk is lost; the machine joins again under a new id.
    Wipe,
    /// Two more members join.
    Grow,
    /// A member is let go.
    Shrink,
    /// A member writes a snapshot.
    Snapshot,
    /// Leadership is handed over.
    Transfer,
    /// A member is asked to leave (SIGTERM) and comes back.
    Terminate,
    /// Nothing.
    Calm,
}

/// All kinds.
pub const ALL: [Fault; 22] = [
    Fault::Kill,
    Fault::KillLeader,
    Fault::Blackout,
    Fault::Pause,
    Fault::PauseLeader,
    Fault::Minority,
    Fault::IsolateLeader,
    Fault::Bridge,
    Fault::OneWay,
    Fault::Mute,
    Fault::Delay,
    Fault::Duplicate,
    Fault::Lossy,
    Fault::SlowDisk,
    Fault::Skew,
    Fault::Wipe,
    Fault::Grow,
    Fault::Shrink,
    Fault::Snapshot,
    Fault::Transfer,
    Fault::Terminate,
    Fault::Calm,
];

/// Members at most; the product promotes five by itself.
const MEMBERS_MAX: usize = 5;
/// Patience with a change of the membership under faults.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// How often each kind happened.
pub type Counts = BTreeMap<Fault, u64>;

/// Does harm for `steps` steps.
pub async fn nemesis(world: &Arc<World>, steps: u64) -> Counts {
    let mut dice = world.dice("nemesis");
    let mut counts = Counts::new();
    // Each seed knows some kinds only: rare combinations come up more often than if all seeds did everything.
    let mut kinds = ALL.to_vec();
    dice.shuffle(&mut kinds);
    kinds.truncate(dice.range(4..ALL.len() as u64 + 1) as usize);
    for _ in 0..steps {
        let n = if dice.percent(30) { 2 } else { 1 };
        for _ in 0..n {
            let Some(kind) = dice.pick(&kinds).copied() else {
                continue;
            };
            if harm(world, kind, &mut dice).await {
                *counts.entry(kind).or_default() += 1;
                world.oracle.trace([8, kind as u64, 0, 0]);
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.range(100..1_500))).await;
        // Most of the time everything is mended before the next fault; sometimes they pile up.
        if dice.percent(70) {
            world.heal();
            tokio::time::sleep(Duration::from_millis(dice.range(0..800))).await;
        }
    }
    counts
}

/// Does one kind of harm now; `false` if it is not possible now.
pub async fn harm(world: &Arc<World>, kind: Fault, dice: &mut Dice) -> bool {
    let mut nodes = world.nodes();
    dice.shuffle(&mut nodes);
    let Some(one) = nodes.first().cloned() else {
        return false;
    };
    let ids: Vec<u64> = nodes.iter().map(|n| n.id).collect();
    match kind {
        Fault::Calm => {}
        Fault::Kill => one.kill(),
        Fault::KillLeader => match world.leader() {
            Some(leader) => leader.kill(),
            None => return false,
        },
        Fault::Blackout => nodes.iter().for_each(|n| n.kill()),
        Fault::Pause => freeze(&one),
        Fault::PauseLeader => match world.leader() {
            Some(leader) => freeze(&leader),
            None => return false,
        },
        Fault::Minority => {
            let minority = (ids.len() - 1) / 2;
            world.wire.part(&ids[..minority], &ids[minority..]);
        }
        Fault::IsolateLeader => match world.leader() {
            Some(leader) => world.wire.part(&[leader.id], &except(&ids, leader.id)),
            None => return false,
        },
        Fault::Bridge => {
            if ids.len() < 3 {
                return false;
            }
            let middle = 1 + (ids.len() - 1) / 2;
            world.wire.part(&ids[1..middle], &ids[middle..]);
        }
        Fault::OneWay => match ids[..] {
            [a, b, ..] => world.wire.link(a, b, |l| l.cut = true),
            _ => return false,
        },
        Fault::Mute => {
            for other in except(&ids, one.id) {
                world.wire.link(one.id, other, |l| l.cut = true);
            }
        }
        Fault::Delay => {
            let slowest = dice.range(20_000..400_000);
            usual(world, |l| l.delay_us = (1_000, slowest));
            world.wire.set_snapshot_rate(dice.range(20..1_000));
        }
        Fault::Duplicate => usual(world, |l| {
            l.twice = 300;
            l.delay_us = (1_000, 60_000);
        }),
        Fault::Lossy => {
            let loss = dice.range(20..300);
            usual(world, |l| {
                l.loss = loss;
                l.reset = loss / 5;
            });
        }
        Fault::SlowDisk => {
            let slowest = dice.range(50_000..600_000);
            one.disk.set_sync(10_000..slowest);
            if let Some(host) = one.host() {
                host.set_file_delay(Duration::from_micros(slowest * 2));
            }
        }
        Fault::Skew => {
            let off = *dice
                .pick(&[-3_600_000, -5_000, 0, 5_000, 200_000])
                .expect("not empty");
            one.skew(off + dice.range(0..1_000) as i64);
        }
        Fault::Wipe => return wipe(world, dice).await,
        Fault::Grow => return grow(world).await,
        Fault::Shrink => return shrink(world, dice).await,
        Fault::Snapshot => match one.replica() {
            // Its end is not waited for.
            Some((host, replica)) => {
                host.spawn(async move { replica.snapshot().await });
            }
            None => return false,
        },
        Fault::Transfer => match one.replica() {
            Some((host, replica)) => {
                let to = dice.percent(50).then(|| ids[ids.len() - 1]);
                host.spawn(async move { replica.transfer(to).await });
            }
            None => return false,
        },
        Fault::Terminate => match one.replica() {
            Some(_) => {
                let away = Duration::from_millis(dice.range(50..2_000));
                tokio::spawn(async move {
                    one.terminate().await;
                    tokio::time::sleep(away).await;
                    if one.wanted.load(Ordering::SeqCst) {
                        one.start();
                    }
                });
            }
            None => return false,
        },
    }
    true
}

fn freeze(node: &Node) {
    if let Some(host) = node.host() {
        host.freeze();
    }
}

fn except(ids: &[u64], id: u64) -> Vec<u64> {
    ids.iter().copied().filter(|i| *i != id).collect()
}

fn usual(world: &World, change: impl FnOnce(&mut Link)) {
    let mut link = world.options.link.clone();
    change(&mut link);
    world.wire.set_usual(link);
}

/// Lets a member go through any other one.
pub async fn let_go(world: &World, id: u64, force: bool, patience: Duration) -> bool {
    let end = super::now() + patience;
    let mut turn = 0;
    while super::now() < end {
        let serving = world.serving();
        if !serving.is_empty() {
            let (_, host, replica) = serving[turn % serving.len()].clone();
            let asked = host.spawn(async move { replica.remove_member(id, force).await });
            if let Ok(Ok(Ok(()))) = tokio::time::timeout(patience, asked).await {
                return true;
            }
        }
        turn += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    false
}

/// A disk is lost: the machine comes back under a new id, the old one is let go. Only while all other voters have theirs.
async fn wipe(world: &Arc<World>, dice: &mut Dice) -> bool {
    let voters: Vec<u64> = world.oracle.voters().into_iter().collect();
    let known: Vec<u64> = world.nodes().iter().map(|n| n.id).collect();
    let whole = voters.iter().all(|v| known.contains(v));
    if voters.len() < 3 || !whole || world.oracle.in_joint() {
        return false;
    }
    let Some(lost) = dice.pick(&voters).copied() else {
        return false;
    };
    world.heal();
    world.discard(lost);
    let fresh = world.machine(Begin::Join);
    fresh.start();
    let admitted = world.admit(&fresh, CHANGE_PATIENCE).await;
    let gone = let_go(world, lost, true, CHANGE_PATIENCE).await;
    tracing::debug!(admitted, gone, "a wiped member was replaced");
    true
}

/// Two more join, so that the number of voters stays odd.
async fn grow(world: &Arc<World>) -> bool {
    if world.nodes().len() + 2 > MEMBERS_MAX {
        return false;
    }
    for _ in 0..2 {
        let node = world.machine(Begin::Join);
        node.start();
        if !world.admit(&node, CHANGE_PATIENCE).await {
            // Whether it was let in is not known: it goes on trying with the next heal.
            tracing::debug!("a member was not let in yet");
        }
    }
    true
}

/// One is let go; of five voters three are left, the fourth stays as a learner.
async fn shrink(world: &Arc<World>, dice: &mut Dice) -> bool {
    let nodes = world.nodes();
    if nodes.len() <= 3 || world.oracle.in_joint() {
        return false;
    }
    let Some(node) = dice.pick(&nodes).cloned() else {
        return false;
    };
    if !let_go(world, node.id, false, CHANGE_PATIENCE).await {
        return false;
    }
    node.wanted.store(false, Ordering::SeqCst);
    world.discard(node.id);
    true
}
