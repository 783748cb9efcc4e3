//! The bugs that etcd had, each as a scenario of ours.

use std::sync::Arc;
use std::time::Duration;

use coracle_state::Views;

use super::scenario;
use crate::sim::client;
use crate::sim::history::{TABLE, Told, Want, decode};
use crate::sim::world::{Options, World};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Starts what was killed and waits for a leader.
async fn back(world: &World) {
    world.heal();
    if !world.until(ms(20_000), || world.leader().is_some()).await {
        world
            .oracle
            .violated("a_leader_is_elected", "not after a power cut".into());
    }
}

/// etcd #14370: a single member answered before its log was synced, and lost the write at a crash.
#[test]
fn a_single_member_loses_no_acknowledged_write_at_a_power_cut() {
    let options = |seed| Options {
        members: 1,
        sync_us: (2_000, 20_000),
        ..Options::new(seed)
    };
    let body = |world: Arc<World>| async move {
        world.workers(4, 5);
        let mut dice = world.dice("cuts");
        for _ in 0..12 {
            tokio::time::sleep(ms(dice.range(20..300))).await;
            world.nodes().iter().for_each(|n| n.kill());
            back(&world).await;
        }
    };
    scenario(
        "tests::cluster::etcd::a_single_member_loses_no_acknowledged_write_at_a_power_cut",
        options,
        body,
    );
}

/// etcd #17780: a crash in the middle of a compaction brought the revision back to an older one.
#[test]
fn the_revision_does_not_go_back_after_a_crash_in_a_compaction() {
    let options = |seed| {
        let mut options = Options::new(seed);
        options.limits.snapshot_entries_max = 20;
        options.limits.keep_entries = 5;
        options.sync_us = (500, 10_000);
        options
    };
    let body = |world: Arc<World>| async move {
        world.workers(4, 10);
        let mut dice = world.dice("cuts");
        for _ in 0..8 {
            tokio::time::sleep(ms(dice.range(300..900))).await;
            for (_, host, replica) in world.serving() {
                host.set_file_delay(ms(dice.range(0..30)));
                host.spawn(async move { replica.snapshot().await });
            }
            tokio::time::sleep(ms(dice.range(0..60))).await;
            let (_, before, _) = world.oracle.committed();
            world.nodes().iter().for_each(|n| n.kill());
            back(&world).await;
            for through in world.serving() {
                let told = client::read(&world, &through, 50, 0).await;
                if let Told::Saw { view, .. } = told
                    && view < before
                {
                    world
                        .oracle
                        .violated("revisions_never_go_back", format!("{view} after {before}"));
                }
            }
        }
    };
    scenario(
        "tests::cluster::etcd::the_revision_does_not_go_back_after_a_crash_in_a_compaction",
        options,
        body,
    );
}

/// Pauses the leader again and again; the first things it does when it goes on are reads.
async fn pauses(world: Arc<World>) {
    world.workers(6, 4);
    let mut dice = world.dice("pauses");
    for _ in 0..6 {
        let Some(old) = world.leader() else {
            back(&world).await;
            continue;
        };
        let Some((host, replica)) = old.replica() else {
            continue;
        };
        host.freeze();
        tokio::time::sleep(ms(dice.range(0..3_000))).await;
        let others = || {
            let mut serving = world.serving();
            serving.retain(|(n, h, _)| n.id != old.id && h.is_running());
            serving
        };
        let elected = || others().iter().any(|(_, _, r)| r.is_leader());
        if !world.until(ms(10_000), elected).await {
            world
                .oracle
                .violated("a_leader_is_elected", "beside a paused one".into());
        }
        if let Some(through) = others().first() {
            client::write(&world, through, 90, 0, Want::Put(world.value())).await;
        }
        let readers: Vec<_> = (0..12u64)
            .map(|n| {
                let (world, through) =
                    (world.clone(), (old.clone(), host.clone(), replica.clone()));
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(n * 150)).await;
                    client::read(&world, &through, 91, 0).await
                })
            })
            .collect();
        // The first of them is there before it goes on.
        tokio::task::yield_now().await;
        host.thaw();
        for reader in readers {
            if let Err(e) = reader.await {
                world.oracle.violated("clients_end", e.to_string());
            }
        }
    }
}

/// etcd #20418: a leader that was paused answered reads from its past before it learned that it leads no more. A
/// partition does it to openraft's own confirmation of reads, see `planted::fresh_reads_by_openrafts_confirmation_alone`.
#[test]
fn no_read_is_stale_after_a_pause() {
    scenario(
        "tests::cluster::etcd::no_read_is_stale_after_a_pause",
        Options::new,
        pauses,
    );
}

/// etcd #19179: a watch from the revision of a compaction missed the deletion that was compacted.
#[test]
fn no_deletion_is_lost_at_the_floor_of_the_ring() {
    let body = |world: Arc<World>| async move {
        let mut dice = world.dice("ring");
        let Some(through) = world.serving().first().cloned() else {
            return;
        };
        // The ring's window goes by logged time: the clocks jump, some of the past falls out.
        let mut ahead = 0;
        for _ in 0..60 {
            let key = dice.range(0..3);
            let want = if dice.percent(50) {
                Want::Delete
            } else {
                Want::Put(world.value())
            };
            client::write(&world, &through, 1, key, want).await;
            ahead += dice.range(0..40_000) as i64;
            world.nodes().iter().for_each(|n| n.skew(ahead));
            let caught_up = || {
                let (index, ..) = world.oracle.committed();
                world
                    .serving()
                    .iter()
                    .all(|(_, _, r)| r.status().applied == index)
            };
            if !world.until(ms(5_000), caught_up).await {
                world
                    .oracle
                    .violated("members_converge", "while writing one by one".into());
            }
            floor(&world);
        }
    };
    scenario(
        "tests::cluster::etcd::no_deletion_is_lost_at_the_floor_of_the_ring",
        Options::new,
        body,
    );
}

/// From every position a member delivers everything after it, or says expired; all members say the same.
fn floor(world: &World) {
    let truth = world.oracle.truth();
    let mut first = None;
    for (node, _, replica) in world.serving() {
        let view = replica.view();
        let mut expired = 0u64;
        for from in 0..=view.revision {
            let Some(events) = view.events_after(TABLE, from) else {
                expired += 1;
                continue;
            };
            let got: Vec<_> = events
                .iter()
                .map(|e| {
                    let gone = e.change == coracle_state::Change::Deleted;
                    (e.revision, (!gone).then(|| decode(&e.obj.bytes)))
                })
                .collect();
            let expected: Vec<_> = truth
                .iter()
                .filter(|c| c.table == TABLE && c.revision > from && c.revision <= view.revision)
                .map(|c| (c.revision, c.value.as_ref().map(|v| decode(v))))
                .collect();
            if got != expected {
                world.oracle.violated(
                    "a_watch_delivers_every_change_once",
                    format!(
                        "member {:x} from {from}: {got:?}, not {expected:?}",
                        node.id
                    ),
                );
            }
        }
        if *first.get_or_insert(expired) != expired {
            world.oracle.violated(
                "rings_are_equal",
                format!(
                    "member {:x} has {expired} expired, another {first:?}",
                    node.id
                ),
            );
        }
    }
}

/// etcd #15271: a watch that moved to a member behind a partition was sent events from before its position.
#[test]
fn a_watch_does_not_go_back_in_time_behind_a_partition() {
    let body = |world: Arc<World>| async move {
        world.workers(3, 10);
        let mut span = None;
        let mut dice = world.dice("moves");
        for _ in 0..10 {
            let leader = world.leader().map_or(0, |l| l.id);
            let serving = world.serving();
            let behind = serving.iter().find(|(n, ..)| n.id != leader).cloned();
            let ahead = serving.iter().find(|(n, ..)| n.id == leader).cloned();
            let (Some(behind), Some(ahead)) = (behind, ahead) else {
                back(&world).await;
                continue;
            };
            let others: Vec<u64> = world
                .nodes()
                .iter()
                .map(|n| n.id)
                .filter(|id| *id != behind.0.id)
                .collect();
            world.wire.part(&[behind.0.id], &others);
            let until =
                |dice: &mut crate::sim::dice::Dice| crate::sim::now() + ms(dice.range(100..900));
            let leave = until(&mut dice);
            client::follow(&world, &ahead, &mut span, leave).await;
            let leave = until(&mut dice);
            client::follow(&world, &behind, &mut span, leave).await;
            world.heal();
            let leave = until(&mut dice);
            client::follow(&world, &behind, &mut span, leave).await;
        }
        if let Some(span) = span {
            world.note_span(span);
        }
    };
    scenario(
        "tests::cluster::etcd::a_watch_does_not_go_back_in_time_behind_a_partition",
        Options::new,
        body,
    );
}
