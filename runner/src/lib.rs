//! One node: pods bound to it run here, their logs are kept here, and traffic to them enters here.
//!
//! The shape is decide and do. [`coracle_agent::Agent`] decides; [`drive`] is the one loop that feeds it (the watch on
//! this node's pods, results of work, the clock) and hands its actions to [`perform`], which spawns the work and sends
//! the result back over one bounded channel. Beside the loop run parts that need no decisions: [`node`] keeps the Node
//! object and its Lease alive, [`feed`] builds routing tables and acknowledges them, [`listener`] serves logs to the
//! API server and requests to peers.
//!
//! What this crate is not: it knows no scheduler crate, no raft, no table of the state. It speaks to the cluster as any
//! client does, through the API.

mod api;
mod config;
mod configs;
mod connect;
mod drive;
mod endpoints;
mod events;
mod feed;
mod files;
pub mod join;
mod listener;
mod live;
mod logs;
mod node;
mod outbound;
mod perform;
mod prefetch;
mod pull;
mod renew;
mod replicas;
mod start;
mod tls;
mod volumes;
mod watch;

#[cfg(test)]
mod tests;

pub use config::{RunnerConfig, Settings};
pub use start::{Runner, StartError, start};
