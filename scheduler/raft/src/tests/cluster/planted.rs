//! The simulation is worth something only if it catches bugs: each of these is planted into a simulated piece and must be
//! named by an invariant within some seeds.

use std::future::Future;
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

/// As [`caught_by`], with random faults of some kinds.
fn caught(plant: Plant, kinds: &'static [Fault], by: &[&str], tune: fn(&mut Options)) {
    caught_by(plant, by, tune, |world| harmed(world, kinds, 10));
}

/// Runs seeds until one of the invariants breaks; without the plant the same seed holds.
fn caught_by<F>(
    plant: Plant,
    by: &[&str],
    tune: fn(&mut Options),
    body: impl Fn(Arc<World>) -> F + Copy + Send + 'static,
) where
    F: Future<Output = Outcome> + Send + 'static,
{
    let one = |seed, plant| {
        let mut options = Options::new(seed);
        options.sync_us = (500, 8_000);
        tune(&mut options);
        options.plant = plant;
        run::simulate(seed, async move { body(World::new(options)).await })
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
    // What was cut is soon written over: the power must go right after a leader came back from its partition.
    caught_by(
        Plant::LostTruncate,
        &["a_truncated_log_stays_truncated"],
        |_| {},
        |world| async move {
            if !world.grow(world.options.members).await {
                world
                    .oracle
                    .violated("members_join", format!("{:?}", world.oracle.voters()));
            }
            world.workers(16, 4);
            let mut dice = world.dice("harm");
            for _ in 0..12 {
                fault::harm(&world, Fault::IsolateLeader, &mut dice).await;
                tokio::time::sleep(Duration::from_millis(dice.range(500..900))).await;
                world.heal();
                tokio::time::sleep(Duration::from_millis(dice.range(5..120))).await;
                fault::harm(&world, Fault::Blackout, &mut dice).await;
                world.heal();
                tokio::time::sleep(Duration::from_millis(600)).await;
                if !world.oracle.violations().is_empty() {
                    break;
                }
            }
            world.end_clients().await;
            run::finish(&world, Default::default())
        },
    );
}

/// Answers from before a partition arrive after it, when the deposed leader has sent an empty request: openraft takes them
/// for the answers to that one and believes to be followed.
#[test]
fn fresh_reads_by_openrafts_confirmation_alone() {
    caught(
        Plant::TrustedConfirmation,
        &[Fault::IsolateLeader, Fault::Blackout, Fault::PauseLeader],
        &["answers_follow_real_time"],
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
