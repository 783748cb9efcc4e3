//! Clusters of real processes, each member in a network namespace of its own, with real faults; and the proof that they
//! lose nothing: histories of concurrent clients are checked for linearizability, revisions for their order, watches
//! for gaps.
//!
//! Needs root, `ip`, `iptables` and `gcc`; otherwise the tests say that they are skipped, or fail if `CORACLE_REQUIRE`
//! holds `netns`. Larger runs: `CORACLE_CLUSTER_OPS=100000 CORACLE_CLUSTER_FAULTS=100 cargo test --test e2e
//! cluster_survives_faults -- --nocapture`; `CORACLE_CLUSTER_SEED` repeats an order of faults.

mod client;
mod fleet;
mod history;
mod linear;
mod member;
mod nemesis;
mod net;
mod proxy;
mod revisions;
mod shim;
mod trace;
mod verdict;
mod watcher;
mod workload;

mod checkers;
mod faults;
mod full_disk;
mod grows;
mod recovery;
mod refusals;
mod rolling;
mod runner;

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}
