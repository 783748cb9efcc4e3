//! What crosses crates: real processes, real clients. A target of package `cli`, so cargo builds the binary first.

mod harness;

mod first_steps;
