//! The targets under `cargo test`: every seed, then mutations of the seeds in an order that never changes.
//!
//! `CORACLE_FUZZ_ROUNDS=10000000 cargo test -p coracle-registry fuzz` goes on for longer. An input that breaks something
//! is printed, to become one more seed of its target.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::mutate::Mutator;
use super::{TARGETS, Target};

/// Mutations per target that costs microseconds, about a second in a debug build.
const ROUNDS: usize = 20_000;
/// Mutations per target that opens a registry and sends some dozen requests.
const ROUNDS_OF_REQUESTS: usize = 500;
/// One in so many inputs must be accepted, and one refused, or the mutations miss the point of the target.
const SHARE: usize = 200;

/// Runs one target over its seeds and `rounds` mutations.
fn run(name: &str, rounds: usize) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let longer = std::env::var("CORACLE_FUZZ_ROUNDS").ok();
    let rounds = longer.map_or(rounds, |text| text.parse().unwrap());
    let seeds = (target.seeds)();
    let mut mutator = Mutator::new(&seeds, target.words, 0x0c0a_c1e5);
    let (mut accepted, mut refused) = (0, 0);
    for seed in &seeds {
        one(target, seed);
    }
    for _ in 0..rounds {
        if one(target, &mutator.input()) {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    println!("{name}: {accepted} accepted, {refused} refused");
    let least = rounds / SHARE;
    assert!(
        accepted >= least && refused >= least,
        "{name}: {accepted} and {refused}"
    );
}

fn one(target: &Target, input: &[u8]) -> bool {
    match catch_unwind(AssertUnwindSafe(|| (target.check)(input))) {
        Ok(accepted) => accepted,
        Err(panic) => {
            eprintln!(
                "target {} breaks on b\"{}\"",
                target.name,
                input.escape_ascii()
            );
            resume_unwind(panic)
        }
    }
}

#[test]
fn digests() {
    run("digests", ROUNDS);
}

#[test]
fn manifests() {
    run("manifests", ROUNDS);
}

#[test]
fn names() {
    run("names", ROUNDS);
}

#[test]
fn paths() {
    run("paths", ROUNDS);
}

#[test]
fn queries() {
    run("queries", ROUNDS);
}

#[test]
fn ranges() {
    run("ranges", ROUNDS);
}

#[test]
fn referrers() {
    run("referrers", ROUNDS_OF_REQUESTS);
}

#[test]
fn sessions() {
    run("sessions", ROUNDS_OF_REQUESTS);
}

#[test]
fn uploads() {
    run("uploads", ROUNDS);
}

/// The package of the libFuzzer targets lists the same ones.
#[test]
fn every_target_is_a_libfuzzer_target() {
    let manifest = include_str!("../../../fuzz/Cargo.toml");
    for target in TARGETS {
        let path = format!("path = \"fuzz_targets/{}.rs\"", target.name);
        assert!(manifest.contains(&path), "{path}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// A mutator that forgot its seed would make failures that nobody can repeat.
#[test]
fn the_same_seed_makes_the_same_inputs() {
    let seeds = [b"one".to_vec(), b"two".to_vec()];
    let row = |seed| {
        let mut mutator = Mutator::new(&seeds, &["word"], seed);
        (0..50).map(|_| mutator.input()).collect::<Vec<_>>()
    };
    assert_eq!(row(1), row(1));
    assert_ne!(row(1), row(2));
}
