//! What crosses crates: real processes, real clients. A target of package `cli`, so cargo builds the binary first.

/// The WIT of the worlds that test guests are made for.
pub const WIT_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");

#[allow(dead_code)]
#[path = "../../runner/engine/tests/engine/guests.rs"]
mod guests;
mod harness;

mod bad_input;
mod client_commands;
mod cluster;
mod crash;
mod durability;
mod first_steps;
mod kubectl;
mod registry_access;
mod registry_admin;
mod registry_clients;
mod registry_soak;
mod registry_storage;
mod registry_trust;
mod rollout;
mod runners;
mod samples;
