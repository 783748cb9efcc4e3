//! The simulation is worth something only if it catches bugs: each of these is planted into a simulated piece and must be
//! named by an invariant within some seeds.

use std::sync::Arc;
use std::time::Duration;

use crate::sim::client;
use crate::sim::fault::{self, Fault};
use crate::sim::plant::Plant;
use crate::sim::run::{self, Outcome};
use crate::sim::world::{Options, World};

/// Seeds in which a planted bug must show.
const SEEDS: u64 = 40;

async fn harmed(world: Arc<World>, kinds: &[Fault], rounds: u64) -> Outcome {
    if !world.grow(world.options.members).await {
        world
            .oracle
            .violated("members_join", format!("{:?}", world.oracle.voters()));
    }
    world.workers(4, 8);
    for n in 0..2 {
        world.client(client::watch(world.clone(), n));
    }
    let mut dice = world.dice("harm");
    for _ in 0..rounds {
        if let Some(kind) = dice.pick(kinds) {
            fault::harm(&world, *kind, &mut dice).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.range(100..1_200))).await;
        world.heal();
        tokio::time::sleep(Duration::from_millis(dice.range(0..600))).await;
        if !world.oracle.violations().is_empty() {
            break;
        }
    }
    world.end_clients().await;
    run::finish(&world, Default::default())
}

/// Runs seeds until one of the invariants breaks; without the plant the same runs hold.
fn caught(plant: Plant, kinds: &'static [Fault], by: &[&str], tune: fn(&mut Options)) {
    let one = |seed, plant| {
        let mut options = Options::new(seed);
        options.sync_us = (500, 8_000);
        tune(&mut options);
        options.plant = plant;
        run::simulate(
            seed,
            async move { harmed(World::new(options), kinds, 10).await },
        )
    };
    let mut others = Vec::new();
    for seed in 1..=SEEDS {
        let outcome = one(seed, Some(plant));
        let Some(v) = outcome.violations.first() else {
            continue;
        };
        if by.contains(&v.invariant) {
            println!(
                "{plant:?}: VIOLATION {} (seed {seed}): {}",
                v.invariant, v.detail
            );
            let clean = one(seed, None);
            assert!(
                clean.violations.is_empty(),
                "without it: {:?}",
                clean.violations
            );
            return;
        }
        others.push((seed, v.invariant));
    }
    panic!("{plant:?} is not caught in {SEEDS} seeds; other violations: {others:?}");
}

#[test]
fn a_log_that_answers_before_it_syncs() {
    caught(
        Plant::AckBeforeSync,
        &[Fault::Blackout],
        &[
            "commit_needs_a_quorum",
            "acknowledged_writes_are_never_lost",
        ],
        |_| {},
    );
}

#[test]
fn votes_that_are_not_kept() {
    caught(
        Plant::LostVote,
        &[Fault::Kill, Fault::KillLeader],
        &["a_vote_never_goes_back"],
        |_| {},
    );
}

#[test]
fn truncations_that_are_not_kept() {
    caught(
        Plant::LostTruncate,
        &[Fault::IsolateLeader, Fault::Blackout, Fault::PauseLeader],
        &[
            "a_truncated_log_stays_truncated",
            "committed_entries_never_change",
            "the_log_has_no_hole",
        ],
        |_| {},
    );
}

#[test]
fn retries_that_apply_twice() {
    caught(
        Plant::NoDedupe,
        &[Fault::Lossy, Fault::KillLeader, Fault::IsolateLeader],
        &[
            "refused_writes_do_nothing",
            "a_write_is_applied_once",
            "acknowledged_writes_are_never_lost",
        ],
        |_| {},
    );
}

#[test]
fn fresh_reads_from_the_members_own_view() {
    caught(
        Plant::StaleFresh,
        &[Fault::Minority, Fault::Delay],
        &["answers_follow_real_time"],
        |_| {},
    );
}

#[test]
fn a_watch_that_forgets_its_position() {
    caught(
        Plant::WatchForgets,
        &[Fault::Minority, Fault::Delay],
        &["a_watch_delivers_every_change_once", "a_watch_is_in_order"],
        |_| {},
    );
}

#[test]
fn a_watch_that_skips() {
    caught(
        Plant::WatchSkips,
        &[Fault::Calm],
        &["a_watch_delivers_every_change_once"],
        |_| {},
    );
}

#[test]
fn a_member_that_applies_something_else() {
    caught(
        Plant::ForkedApply,
        &[Fault::Calm, Fault::KillLeader],
        &["state_hashes_are_equal", "a_position_has_one_content"],
        |_| {},
    );
}
