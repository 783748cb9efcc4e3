//! Runs seeds: each in a thread of its own, several at a time, the failing ones reported with the way to run them again.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::client;
use super::fault::{self, Counts};
use super::history::{Told, Want};
use super::host;
use super::oracle::Violation;
use super::world::{Options, World};

/// Virtual time in which a healed cluster must serve again.
pub const HEALED_WITHIN: Duration = Duration::from_secs(20);

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Broken invariants.
    pub violations: Vec<Violation>,
    /// Faults by kind.
    pub faults: Counts,
    /// Operations of clients.
    pub operations: u64,
    /// Of these, acknowledged writes.
    pub acknowledged: u64,
    /// Events that watchers got.
    pub watched: u64,
    /// Snapshots that were sent.
    pub snapshots: u64,
    /// Virtual time.
    pub time: Duration,
    /// Digest of the trace.
    pub digest: (u64, u64),
    /// Lines with which members ended themselves.
    pub lines: Vec<String>,
}

/// Runs a future in a simulation of its own: one thread, paused time, every random number drawn from the seed.
pub fn simulate<T: Send + 'static>(
    seed: u64,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let thread = std::thread::Builder::new()
        .name(format!("seed {seed}"))
        .spawn(move || {
            host::seed_thread(seed);
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true);
            // Then also the order in which tokio's own watch channel wakes its receivers repeats.
            seed_tokio(&mut builder, seed);
            let runtime = builder.build().expect("a runtime");
            runtime.block_on(async move {
                // The clock begins now.
                super::now();
                future.await
            })
        })
        .expect("a thread");
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[allow(unexpected_cfgs)]
fn seed_tokio(builder: &mut tokio::runtime::Builder, seed: u64) {
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = (builder, seed);
}

/// One seed: setup, clients and faults, healing, liveness, checks.
pub async fn seed(options: Options, steps: u64) -> Outcome {
    let world = World::new(options);
    let mut dice = world.dice("run");
    let members = world.options.members;
    if !world.grow(members).await {
        world.oracle.violated(
            "members_join",
            format!(
                "{members} members were not voters in time: {:?}",
                world.oracle.voters()
            ),
        );
    }
    for n in 0..dice.range(2..6) {
        let (pause, pad) = (dice.range(5..80), dice.range(0..300) as usize);
        world.client(client::worker(world.clone(), n, pause, pad));
    }
    for n in 0..2 {
        world.client(client::watch(world.clone(), n));
    }
    let faults = fault::nemesis(&world, steps).await;
    world.heal();
    liveness(&world).await;
    world.end_clients().await;
    converge(&world).await;
    finish(&world, faults)
}

/// After healing: a leader, and writes through every member.
pub async fn liveness(world: &Arc<World>) {
    let end = super::now() + HEALED_WITHIN;
    let left = || end.saturating_sub(super::now());
    if !world.until(left(), || world.leader().is_some()).await {
        let view: Vec<_> = world
            .nodes()
            .iter()
            .map(|n| (n.id, n.is_on(), n.replica().map(|(_, r)| r.status())))
            .collect();
        world.oracle.violated(
            "a_leader_is_elected",
            format!("none {HEALED_WITHIN:?} after healing: {view:?}"),
        );
        return;
    }
    let members: Vec<u64> = world
        .leader()
        .and_then(|l| l.replica())
        .map(|(_, r)| r.status().members.into_iter().map(|m| m.0).collect())
        .unwrap_or_default();
    // A machine that was let in by nobody (its joining failed under faults) serves nobody.
    let joined = world
        .nodes()
        .into_iter()
        .filter(|n| members.contains(&n.id));
    for node in joined {
        let wrote = loop {
            if let Some((host, replica)) = node.replica() {
                let through = (node.clone(), host, replica);
                let want = Want::Put(world.value());
                if let Told::Done { .. } = client::write(world, &through, 99, 0, want).await {
                    break true;
                }
            }
            if super::now() >= end {
                break false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        if !wrote {
            world.oracle.violated(
                "writes_succeed_after_healing",
                format!(
                    "through member {:x}, {HEALED_WITHIN:?} after healing: {:?}",
                    node.id,
                    node.replica().map(|(_, r)| r.status())
                ),
            );
        }
    }
}

/// In the end all members have applied the same log.
pub async fn converge(world: &Arc<World>) {
    let equal = || {
        let (index, _, hash) = world.oracle.committed();
        // Who has lost its disk and could not be let go yet is a voter still.
        let mut voters = world.oracle.voters();
        let known: Vec<u64> = world.nodes().iter().map(|n| n.id).collect();
        voters.retain(|v| known.contains(v));
        let there: Vec<_> = world
            .serving()
            .iter()
            .filter(|(n, ..)| voters.contains(&n.id))
            .map(|(_, _, r)| r.status())
            .collect();
        there.len() >= voters.len() && there.iter().all(|s| s.applied == index && s.hash == hash)
    };
    if !world.until(HEALED_WITHIN, equal).await {
        let all: Vec<_> = world
            .serving()
            .iter()
            .map(|(n, _, r)| {
                let s = r.status();
                format!("{:x}: applied {} of {}", n.id, s.applied, s.last_log)
            })
            .collect();
        world.oracle.violated(
            "members_converge",
            format!("committed {:?}, {all:?}", world.oracle.committed()),
        );
    }
}

/// Checks the histories and sums up.
pub fn finish(world: &World, faults: Counts) -> Outcome {
    world.check();
    let mut lines = Vec::new();
    for node in world.nodes() {
        for line in node.lines() {
            // A member that missed its removal may be told by the others; that is what the line is for.
            if !line.starts_with("E_MEMBER_REMOVED") {
                world
                    .oracle
                    .violated("no_core_stops", format!("member {:x}: {line}", node.id));
            }
            lines.push(line);
        }
    }
    let history = world.history.lock().unwrap_or_else(PoisonError::into_inner);
    let spans = world.spans.lock().unwrap_or_else(PoisonError::into_inner);
    Outcome {
        seed: world.options.seed,
        violations: world.oracle.violations(),
        faults,
        operations: history.len() as u64,
        acknowledged: history
            .iter()
            .filter(|op| matches!(op.told, Told::Done { changed: true, .. }))
            .count() as u64,
        watched: spans.iter().map(|s| s.events.len() as u64).sum(),
        snapshots: world.wire.snapshots(),
        time: super::now(),
        digest: world.oracle.digest(),
        lines,
    }
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}

/// Runs seeds on all cores; `one` makes the outcome of a seed. A panic is an outcome, too.
pub fn seeds(from: u64, count: u64, one: impl Fn(u64) -> Outcome + Send + Sync) -> Vec<Outcome> {
    let next = AtomicU64::new(from);
    let outcomes = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= from + count {
                        break;
                    }
                    let outcome =
                        catch_unwind(AssertUnwindSafe(|| one(seed))).unwrap_or_else(|_| {
                            let panicked = Violation {
                                invariant: "nothing_panics",
                                detail: "the simulation panicked, see above".into(),
                                at: Duration::ZERO,
                            };
                            Outcome {
                                seed,
                                violations: vec![panicked],
                                ..Outcome::default()
                            }
                        });
                    outcomes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|o| o.seed);
    outcomes
}

/// Fails with every broken invariant and the command that runs its seed again.
pub fn assert_held(test: &str, outcomes: &[Outcome]) {
    let mut report = String::new();
    for o in outcomes.iter().filter(|o| !o.violations.is_empty()) {
        for v in o.violations.iter().take(4) {
            report += &format!(
                "VIOLATION {} (seed {}, {:?}): {}\n",
                v.invariant, o.seed, v.at, v.detail
            );
        }
        report += &format!(
            "  again: CORACLE_RAFT_SEED={} CORACLE_RAFT_SEEDS=1 cargo test -p coracle-raft --lib {test} -- --exact --nocapture\n",
            o.seed
        );
    }
    assert!(report.is_empty(), "\n{report}");
}
