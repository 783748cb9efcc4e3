//! Whole clusters under faults, see [`crate::sim`]: seeds, the bugs that other stores had, and the proof that planted
//! bugs are caught.
//!
//! `CORACLE_RAFT_SEEDS` and `CORACLE_RAFT_STEPS` make runs longer, `CORACLE_RAFT_SEED` chooses the first seed.

mod consensus;
mod etcd;
mod planted;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use crate::sim::run::{self, Outcome};
use crate::sim::runtime::SimRuntime;
use crate::sim::world::{Options, World};

/// Seeds of each scenario that is a bug's own.
const SCENARIO_SEEDS: u64 = 6;

/// Runs a scenario over some seeds: a cluster of `options.members`, `body`, then healing and all checks.
fn scenario<F>(
    test: &str,
    options: impl Fn(u64) -> Options + Send + Sync,
    body: impl Fn(Arc<World>) -> F + Send + Sync + Copy + 'static,
) -> Vec<Outcome>
where
    F: Future<Output = ()> + Send + 'static,
{
    let outcomes = outcomes(SCENARIO_SEEDS, options, body);
    run::assert_held(test, &outcomes);
    outcomes
}

/// As [`scenario`], without looking at what broke.
fn outcomes<F>(
    seeds: u64,
    options: impl Fn(u64) -> Options + Send + Sync,
    body: impl Fn(Arc<World>) -> F + Send + Sync + Copy + 'static,
) -> Vec<Outcome>
where
    F: Future<Output = ()> + Send + 'static,
{
    let from = run::number("CORACLE_RAFT_SEED", 1);
    let count = run::number("CORACLE_RAFT_SEEDS", seeds).min(seeds.max(1) * 100);
    run::seeds(from, count, |seed| {
        let options = options(seed);
        run::simulate(seed, async move {
            let world = World::new(options);
            if !world.grow(world.options.members).await {
                world
                    .oracle
                    .violated("members_join", format!("{:?}", world.oracle.voters()));
            }
            body(world.clone()).await;
            world.heal();
            run::liveness(&world).await;
            world.end_clients().await;
            run::converge(&world).await;
            run::finish(&world, BTreeMap::new())
        })
    })
}

#[test]
fn seeds_hold() {
    let from = run::number("CORACLE_RAFT_SEED", 1);
    let count = run::number("CORACLE_RAFT_SEEDS", 200);
    let steps = run::number("CORACLE_RAFT_STEPS", 12);
    let outcomes = run::seeds(from, count, |seed| {
        run::simulate(seed, run::seed(Options::draw(seed), steps))
    });
    let sum = |f: fn(&Outcome) -> u64| outcomes.iter().map(f).sum::<u64>();
    println!(
        "{} seeds: {} operations, {} acknowledged writes, {} watch events, {} snapshots sent",
        outcomes.len(),
        sum(|o| o.operations),
        sum(|o| o.acknowledged),
        sum(|o| o.watched),
        sum(|o| o.snapshots),
    );
    let mut faults = BTreeMap::new();
    for (kind, n) in outcomes.iter().flat_map(|o| &o.faults) {
        *faults.entry(*kind).or_insert(0u64) += n;
    }
    println!("{faults:?}");
    if std::env::var_os("CORACLE_RAFT_SEED").is_some() {
        for o in &outcomes {
            println!(
                "seed {}: {:?} {:x?} {:?}",
                o.seed, o.time, o.digest, o.lines
            );
        }
    }
    run::assert_held("tests::cluster::seeds_hold", &outcomes);
    if count >= 200 {
        for kind in crate::sim::fault::ALL {
            assert!(faults.contains_key(&kind), "{kind:?} never happened");
        }
        assert!(sum(|o| o.snapshots) > 0, "no member ever needed a snapshot");
    }
}

#[test]
fn replays_are_identical() {
    for seed in [3, 12, 17] {
        let one = || run::simulate(seed, run::seed(Options::draw(seed), 6));
        let (a, b) = (one(), one());
        assert_eq!(a.digest, b.digest, "seed {seed} ran differently");
        assert_eq!(a.operations, b.operations);
    }
}

#[test]
fn the_runtime_passes_openrafts_suite() {
    openraft::rt::testing::Suite::<SimRuntime>::test_all();
}
