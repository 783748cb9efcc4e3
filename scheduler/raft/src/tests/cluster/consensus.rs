//! The bugs that openraft had, each as a scenario of ours.

use std::sync::Arc;
use std::time::Duration;

use super::{outcomes, scenario};
use crate::config::Begin;
use crate::sim::client;
use crate::sim::fault::let_go;
use crate::sim::history::{Told, Want};
use crate::sim::run;
use crate::sim::world::{Options, World};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn violated(world: &World, invariant: &'static str, detail: impl Into<String>) {
    world.oracle.violated(invariant, detail.into());
}

/// One follower misses so much that it needs a snapshot, and installs it slowly while writes go on.
async fn lag_behind(world: Arc<World>, rounds: u64) {
    world.workers(4, 4);
    let mut dice = world.dice("laggard");
    for _ in 0..rounds {
        let leader = world.leader().map_or(0, |l| l.id);
        let Some(behind) = world.nodes().into_iter().find(|n| n.id != leader) else {
            return;
        };
        let others: Vec<u64> = world
            .nodes()
            .iter()
            .map(|n| n.id)
            .filter(|id| *id != behind.id)
            .collect();
        world.wire.part(&[behind.id], &others);
        tokio::time::sleep(ms(dice.range(1_500..3_000))).await;
        if let Some(host) = behind.host() {
            host.set_file_delay(ms(dice.range(0..400)));
        }
        behind.disk.set_sync(1_000..dice.range(2_000..300_000));
        world.wire.heal();
        tokio::time::sleep(ms(dice.range(1_000..2_500))).await;
        world.heal();
    }
}

/// openraft #2116: a lagging follower's core panics when an apply is scheduled between the purge and the install of a
/// snapshot. With few logs kept members do need snapshots here; should a core stop (none did so far under the simulated
/// load), it must be seen, and nothing may be lost. With the logs that production keeps a follower that was away for
/// seconds needs no snapshot at all.
#[test]
fn a_snapshot_loses_nothing_and_is_not_needed_with_production_limits() {
    let few = |seed| {
        let mut options = Options::new(seed);
        options.limits.snapshot_entries_max = 20;
        options.limits.keep_entries = 0;
        options
    };
    let all = outcomes(8, few, |world| lag_behind(world, 5));
    let stopped: usize = all.iter().map(|o| o.lines.len()).sum();
    let snapshots: u64 = all.iter().map(|o| o.snapshots).sum();
    println!("few logs kept: {snapshots} snapshots sent, {stopped} cores stopped");
    assert!(snapshots > 0, "the follower never needed a snapshot");
    for o in &all {
        assert!(
            o.lines.iter().all(|l| l.starts_with("E_RAFT_STOPPED")),
            "{:?}",
            o.lines
        );
        let other: Vec<_> = o
            .violations
            .iter()
            .filter(|v| v.invariant != "no_core_stops")
            .collect();
        assert!(other.is_empty(), "seed {}: {other:?}", o.seed);
    }
    let production = |seed| {
        let mut options = Options::new(seed);
        options.limits.snapshot_entries_max = 20;
        options
    };
    let test = "tests::cluster::consensus::a_snapshot_loses_nothing_and_is_not_needed_with_production_limits";
    let all = outcomes(8, production, |world| lag_behind(world, 5));
    run::assert_held(test, &all);
    assert_eq!(all.iter().map(|o| o.snapshots).sum::<u64>(), 0);
}

/// What #2116 does to a process: its core panics. That is seen within a moment, the process ends itself with one line, and
/// the member recovers from its log.
#[test]
fn a_stopped_core_ends_the_process_and_a_restart_recovers() {
    let body = |world: Arc<World>| async move {
        world.workers(3, 8);
        for leads in [false, true] {
            let leader = world.leader().map_or(0, |l| l.id);
            let mut serving = world.serving();
            serving.retain(|(n, ..)| (n.id == leader) == leads);
            let Some((node, host, replica)) = serving.into_iter().next() else {
                return violated(&world, "a_leader_is_elected", "before a core was stopped");
            };
            host.spawn(async move {
                let raft = replica.raft();
                raft.with_raft_state(|_| -> () { panic!("a planted bug") })
                    .await
            });
            let ended = || host.is_dead() && !node.lines().is_empty();
            if !world.until(ms(2_000), ended).await {
                violated(&world, "a_stopped_core_is_seen", format!("{:x}", node.id));
            }
            tokio::time::sleep(ms(800)).await;
            world.heal();
            tokio::time::sleep(ms(1_500)).await;
        }
    };
    for o in outcomes(3, Options::new, body) {
        assert_eq!(o.lines.len(), 2, "{:?}", o.lines);
        assert!(o.lines.iter().all(|l| l.starts_with("E_RAFT_STOPPED")));
        let other: Vec<_> = o
            .violations
            .iter()
            .filter(|v| v.invariant != "no_core_stops")
            .collect();
        assert!(other.is_empty(), "seed {}: {other:?}", o.seed);
    }
}

/// openraft #1706: purging did not wait for a snapshot under way, so that a slow follower needed the next one, and the
/// next. The logs kept must cover what is written during an install.
#[test]
fn a_slow_snapshot_install_comes_to_an_end() {
    let options = |seed| {
        let mut options = Options::new(seed);
        options.limits.snapshot_entries_max = 150;
        options.limits.keep_entries = 1_500;
        options
    };
    let body = |world: Arc<World>| async move {
        world.workers(6, 3);
        let leader = world.leader().map_or(0, |l| l.id);
        let Some(slow) = world.nodes().into_iter().find(|n| n.id != leader) else {
            return;
        };
        let sent = world.wire.snapshots();
        // A disk is lost: nothing but a snapshot helps. Loading it takes three seconds.
        world.discard(slow.id);
        let fresh = world.machine(Begin::Join);
        tokio::time::sleep(ms(2_500)).await;
        for (_, host, replica) in world.serving() {
            host.spawn(async move { replica.snapshot().await });
        }
        fresh.start();
        if let Some(host) = fresh.host() {
            host.set_file_delay(ms(3_000));
        }
        if !world.admit(&fresh, ms(10_000)).await {
            violated(&world, "members_join", "a fresh member was not let in");
        }
        let caught_up = || {
            let (index, ..) = world.oracle.committed();
            fresh
                .replica()
                .is_some_and(|(_, r)| r.status().applied + 50 >= index)
        };
        if !world.until(ms(40_000), caught_up).await {
            violated(
                &world,
                "members_converge",
                "the follower loops on snapshots",
            );
        }
        let sent = world.wire.snapshots() - sent;
        if sent > 2 {
            violated(
                &world,
                "members_converge",
                format!("it took {sent} snapshots"),
            );
        }
        if !let_go(&world, slow.id, true, ms(10_000)).await {
            violated(&world, "members_leave", "the lost member was not let go");
        }
    };
    scenario(
        "tests::cluster::consensus::a_slow_snapshot_install_comes_to_an_end",
        options,
        body,
    );
}

/// openraft #1802: the commit index advanced without a quorum. A leader on the wrong side of a partition commits nothing,
/// also while the membership changes; `commit_needs_a_quorum` counts disks at every single entry.
#[test]
fn nothing_is_committed_without_a_quorum() {
    let options = |seed| Options {
        members: if seed % 2 == 0 { 3 } else { 5 },
        ..Options::new(seed)
    };
    let body = |world: Arc<World>| async move {
        let mut dice = world.dice("cuts");
        for _ in 0..5 {
            if !world.until(ms(10_000), || world.leader().is_some()).await {
                violated(&world, "a_leader_is_elected", "between two cuts");
            }
            let Some(leader) = world.leader() else { return };
            let Some((host, replica)) = leader.replica() else {
                continue;
            };
            let mut others: Vec<u64> = world.nodes().iter().map(|n| n.id).collect();
            others.retain(|id| *id != leader.id);
            dice.shuffle(&mut others);
            let with = (others.len() / 2).saturating_sub(dice.range(0..2) as usize);
            let mut side = vec![leader.id];
            side.extend(&others[..with.min(others.len() / 2 - (others.len() / 2 == 1) as usize)]);
            let rest: Vec<u64> = others
                .iter()
                .copied()
                .filter(|id| !side.contains(id))
                .collect();
            world.wire.part(&side, &rest);
            let (index, ..) = world.oracle.committed();
            // It still believes to lead for a while and takes what it is given.
            let through = (leader.clone(), host.clone(), replica.clone());
            let late = {
                let world = world.clone();
                tokio::spawn(async move {
                    let want = Want::Put(world.value());
                    client::write(&world, &through, 1, 0, want).await
                })
            };
            if dice.percent(30) {
                let (replica, id) = (replica.clone(), rest[0]);
                host.spawn(async move { replica.remove_member(id, true).await });
            }
            tokio::time::sleep(ms(dice.range(300..2_500))).await;
            if replica.status().applied > index
                && replica.status().leadership.leader == Some(leader.id)
                && !rest.is_empty()
                && side.len() * 2 < world.oracle.voters().len()
                && !world
                    .serving()
                    .iter()
                    .any(|(n, _, r)| rest.contains(&n.id) && r.is_leader())
            {
                violated(&world, "commit_needs_a_quorum", "on the smaller side");
            }
            world.heal();
            match late.await {
                Ok(Told::Done { .. } | Told::Unknown | Told::Not) => {}
                other => violated(&world, "clients_end", format!("{other:?}")),
            }
        }
    };
    scenario(
        "tests::cluster::consensus::nothing_is_committed_without_a_quorum",
        options,
        body,
    );
}

/// openraft, alpha.28: acknowledgements of entries that were cut off meanwhile counted for those in their place. Leaders
/// change often, appends and answers are late and cross each other.
#[test]
fn late_acknowledgements_do_not_count_after_a_log_was_cut() {
    let options = |seed| {
        let mut options = Options::new(seed);
        options.link.delay_us = (1_000, 250_000);
        options.sync_us = (100, 60_000);
        options.members = if seed % 3 == 0 { 5 } else { 3 };
        options
    };
    let body = |world: Arc<World>| async move {
        world.workers(5, 4);
        let mut dice = world.dice("flips");
        for _ in 0..14 {
            let ids: Vec<u64> = world.nodes().iter().map(|n| n.id).collect();
            if let Some(leader) = world.leader() {
                for id in ids.iter().copied().filter(|id| *id != leader.id) {
                    // What it sends arrives or what it is answered, or neither.
                    match dice.range(0..3) {
                        0 => world.wire.link(leader.id, id, |l| l.cut = true),
                        1 => world.wire.link(id, leader.id, |l| l.cut = true),
                        _ => world.wire.part(&[leader.id], &[id]),
                    }
                }
            }
            tokio::time::sleep(ms(dice.range(200..1_500))).await;
            if dice.percent(30)
                && let Some(node) = dice.pick(&world.nodes())
            {
                node.kill();
            }
            world.heal();
            tokio::time::sleep(ms(dice.range(50..900))).await;
        }
    };
    scenario(
        "tests::cluster::consensus::late_acknowledgements_do_not_count_after_a_log_was_cut",
        options,
        body,
    );
}

/// openraft #2091: a leader that removed itself stopped to lead before the others knew, and nobody led any more.
#[test]
fn a_leader_that_is_removed_leaves_a_leader_behind() {
    let options = |seed| Options {
        members: 5,
        ..Options::new(seed)
    };
    let body = |world: Arc<World>| async move {
        world.workers(3, 10);
        for _ in 0..3 {
            if !world.until(ms(10_000), || world.leader().is_some()).await {
                violated(&world, "a_leader_is_elected", "before a removal");
            }
            let Some(leader) = world.leader() else { return };
            if !let_go(&world, leader.id, true, ms(10_000)).await {
                violated(&world, "members_leave", format!("{:x}", leader.id));
            }
            let led = || world.leader().is_some_and(|l| l.id != leader.id);
            if !world.until(ms(5_000), led).await {
                violated(&world, "a_leader_is_elected", "after its removal");
            }
            world.discard(leader.id);
        }
    };
    scenario(
        "tests::cluster::consensus::a_leader_that_is_removed_leaves_a_leader_behind",
        options,
        body,
    );
}

/// One member grows to three and five and shrinks to three again, under load and without a failed write beyond retries.
#[test]
fn membership_goes_from_one_to_five_and_back_to_three() {
    let options = |seed| {
        let mut options = Options::new(seed);
        options.members = 1;
        options.limits.snapshot_entries_max = 40;
        options.limits.keep_entries = 30;
        options
    };
    let body = |world: Arc<World>| async move {
        world.workers(3, 10);
        world.client(client::watch(world.clone(), 1));
        for members in [3, 5] {
            if !world.grow(members).await {
                violated(
                    &world,
                    "members_join",
                    format!("not {members}: {:?}", world.oracle.voters()),
                );
            }
            tokio::time::sleep(ms(500)).await;
        }
        let mut dice = world.dice("leaving");
        for _ in 0..2 {
            let nodes = world.nodes();
            let Some(node) = dice.pick(&nodes) else {
                return;
            };
            if !let_go(&world, node.id, true, ms(20_000)).await {
                violated(&world, "members_leave", format!("{:x}", node.id));
            }
            world.discard(node.id);
        }
        let three = || world.oracle.voters().len() == 3 && !world.oracle.in_joint();
        if !world.until(ms(20_000), three).await {
            violated(
                &world,
                "members_leave",
                format!("{:x?}", world.oracle.voters()),
            );
        }
    };
    scenario(
        "tests::cluster::consensus::membership_goes_from_one_to_five_and_back_to_three",
        options,
        body,
    );
}
