//! What one node should do next: the pure half of the runner.
//!
//! [`Agent::step`] takes the time and one [`Input`] (a pod from the watch, the result of some work, a tick) and returns
//! [`Action`]s. It owns no handle and does no I/O; the runner's `drive` feeds it and `perform` carries out what it asks.
//! The same code runs under the simulator against fake instances.
//!
//! How to read it: [`spec`] is a pod parsed at the door, [`pod`] the life of a pod, [`run`] its containers on their way,
//! [`container`] the life of one of them, [`leaving`] the way out, [`status`] what the API shows of all that. Every input
//! ends in one level-triggered pass over the pod it concerns, so a lost or repeated input delays but never derails.
//!
//! Invariants:
//! - Nothing here can fail for reasons outside its arguments: no clock, no randomness, no locks, no hashed maps.
//! - A result is believed only if it echoes the [`At`] (pod uid, container, run) that is current; a late one is dropped.
//! - An older revision of a pod never overwrites a newer one, and another uid is another pod, whatever its name.
//! - A pod that has ended is never started again under the same uid.

mod action;
mod agent;
mod backoff;
mod config;
mod container;
mod downward;
mod env;
mod events;
mod input;
mod leaving;
mod pod;
mod prefetch;
mod probe;
mod run;
mod spec;
mod status;
mod volumes;

#[cfg(test)]
mod stories;

pub use action::{
    Action, At, ConfigKind, ConfigRef, EventType, Grants, Limits, MountGrant, ProbeCheck,
    ProbeKind, PullPolicy, Volume, VolumeSource,
};
pub use agent::Agent;
pub use config::AgentConfig;
pub use input::{ContainerKind, Exit, Image, Input, Problem, PullFailure, StatusFailure, Transfer};
pub use prefetch::{Prefetch, replica_set_of};
