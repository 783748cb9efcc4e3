//! Counters of one replica: plain atomics, bumped on the call path and read by whoever exports them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub requests: AtomicU64,
    pub failures: AtomicU64,
    pub traps: AtomicU64,
    pub deadlines: AtomicU64,
    pub refused: AtomicU64,
    pub instances: AtomicU64,
    pub reused: AtomicU64,
    pub cpu_ns: AtomicU64,
}

/// The counters of a replica at one moment. Counters only grow; gauges say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsSnapshot {
    /// Calls and runs that were let in.
    pub requests: u64,
    /// Calls and runs that ended in an error, traps included.
    pub failures: u64,
    /// Guests that trapped.
    pub traps: u64,
    /// Calls that ran out of time.
    pub deadlines: u64,
    /// Calls refused because the replica or the node was full, or the replica was leaving.
    pub refused: u64,
    /// Instances created.
    pub instances: u64,
    /// Calls served by an instance that had served before.
    pub reused: u64,
    /// CPU time spent in guests and the host functions they called, in nanoseconds.
    pub cpu_ns: u64,
    /// Guest memory and tables held now, in bytes (gauge).
    pub memory_bytes: u64,
    /// Highest `memory_bytes` so far (gauge).
    pub memory_peak_bytes: u64,
    /// Calls and runs in progress (gauge).
    pub in_flight: u32,
}

pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
