//! The runner's way to its cluster, against API servers of the test: failover, renewal, other roots.

mod failover;
pub mod fake;
mod renewal;
