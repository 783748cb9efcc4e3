//! The control-plane process as a library: it opens the data directory, starts the crates beside it and wires them.
//!
//! [`start`] gives a [`Scheduler`]: one member of the cluster with the Kubernetes API on a TLS listener, the embedded
//! registry, and (while it leads) the control loop, which reads a view, asks `coracle-plan` what to do and proposes it.
//! Nothing is decided here: decisions are `plan`'s, storage is `raft`'s, meaning is `server`'s.
//!
//! Three runtimes keep out of each other's way: raft on its own thread, the control loop on its own thread, and the
//! caller's runtime for TLS, HTTP and JSON.

mod access;
mod acks;
mod admission;
mod ask;
pub mod backup;
mod blobs;
mod config;
mod control;
mod data;
mod desk;
mod enter;
mod error;
mod gate;
mod holders;
mod join;
mod leases;
mod listeners;
mod members;
mod meta;
mod pki;
mod ports;
mod registry;
mod renew;
mod report;
mod rotate;
mod runners;
mod scheduler;
mod start;
mod token_rows;
mod tokens;
mod upstream;
mod vigil;

pub use access::{RegistryListener, RegistryRole};
pub use backup::Schedule;
pub use config::SchedulerConfig;
pub use coracle_raft::{Fatal, Limits};
pub use data::{DataDir, Identity};
pub use error::StartError;
pub use leases::LeaseDurability;
pub use pki::{Lives, NodeIdentity, kubeconfig};
pub use registry::Garbage;
pub use scheduler::Scheduler;
pub use start::start;
pub use tokens::Role;

/// Target of the log lines that are for operators: who leads, who joins, what is missing. Shown by default.
pub(crate) const LOG: &str = "coracle::members";

#[cfg(test)]
mod tests;
