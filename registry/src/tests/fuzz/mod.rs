//! What must hold for any input at all, as functions of bytes.
//!
//! A target gives bytes to a parser or a state machine and compares the answer with a model written from the
//! specification instead of from the code: a regular expression, a set of numbers, a walk over generic JSON. It panics
//! where the two part. `cargo test` runs each target over its seeds and some thousand seeded mutations of them (`run`);
//! the package `registry/fuzz` hands the same functions to libFuzzer, which looks for new paths as long as one lets it.

mod chunks;
mod digests;
mod grammar;
mod manifests;
mod names;
mod paths;
mod queries;
mod ranges;
mod referrers;
mod sessions;
mod uploads;
mod wire;

#[cfg(test)]
mod mutate;
#[cfg(test)]
mod run;

/// One function under fuzz.
pub struct Target {
    /// Its name, also that of the libFuzzer target.
    pub name: &'static str,
    /// Inputs to start from: every shape the code knows, and every input that ever found something.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces that mean something to the code, put in whole by the mutator.
    pub words: &'static [&'static str],
    /// Feeds one input through; panics if an invariant breaks. Answers whether the code under test accepted the input,
    /// so that a run can tell that it has seen both answers.
    pub check: fn(&[u8]) -> bool,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    digests::TARGET,
    manifests::TARGET,
    names::TARGET,
    paths::TARGET,
    queries::TARGET,
    ranges::TARGET,
    referrers::TARGET,
    sessions::TARGET,
    uploads::TARGET,
];

/// Feeds one input to the target of this name.
///
/// # Panics
/// If an invariant breaks, or if there is no such target.
pub fn check(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let Some(target) = target else {
        panic!("there is no fuzz target {name}");
    };
    (target.check)(input);
}

/// Seeds given as text.
fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}
