//! A seeded simulation of a whole cluster in one thread: the production `Replica` (raft, log store, state machine,
//! forwarding, membership, pulses) of several members over a simulated disk, network, clock and process.
//!
//! A seed decides sizes, speeds, faults and clients. While faults happen, [`oracle`] and the checkers of [`history`] and
//! [`watcher`] hold every invariant by name; when they stop, the cluster must elect a leader, take writes through every
//! member and converge.
//!
//! Replays: see [`runtime`]. A failing seed prints the command that runs it again.

pub mod client;
pub mod dice;
pub mod disk;
pub mod fault;
pub mod history;
pub mod host;
pub mod node;
pub mod oracle;
pub mod plant;
pub mod run;
pub mod runtime;
pub mod watch;
pub mod watcher;
mod wgl;
pub mod wire;
pub mod world;

use std::time::Duration;

/// Virtual time since the simulation began.
pub fn now() -> Duration {
    runtime::true_time()
}
