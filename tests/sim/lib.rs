//! The simulator: one seed, one virtual clock, one map of events, and the *production* `plan`, `state`, `agent` and
//! `route` crates in the middle of it. What is fake sits only at the seams: a log that orders proposals (and loses,
//! delays and reorders them), watches that lag and break, instances that start slowly and crash, an API that reads and
//! proposes.
//!
//! A run has two phases. While faults are on, safety is checked after every event. Then faults stop, and the cluster
//! has to converge within a bound of virtual time and plan nothing more. Everything follows from the seed, so a
//! failing one is replayed by one command.
//!
//! Reading order: [`world`] owns time and events, [`order`] is the log and its members, [`control`] the leader's loop,
//! [`node`] a machine with its runner, proxy and instances, [`server`] the API as far as writes go, [`user`] and
//! [`fault`] what happens to them, [`check`] what must hold.

mod check;
mod control;
mod dice;
mod fault;
mod knobs;
mod node;
mod order;
mod report;
mod request;
pub mod script;
mod server;
mod user;
mod watch;
mod world;

pub use knobs::Knobs;
pub use report::{Failure, Report};

/// What a run is asked for beside seed and steps.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Print every event to stderr.
    pub verbose: bool,
}

/// Runs one seed: `steps` events with faults, then convergence.
///
/// # Errors
/// The first property that did not hold.
pub fn run(seed: u64, steps: u64, options: &Options) -> Result<Report, Box<Failure>> {
    let mut world = world::World::new(seed, Knobs::draw(seed), options.verbose);
    world.populate();
    world.run_faulty(steps)?;
    world.converge()?;
    Ok(world.report)
}
