//! `cargo xtask bench NAME [--quick]`: us and the peer in one run, interleaved, medians; one JSON line per figure,
//! printed and appended to target/bench/NAME.jsonl. `ratio` above 1 means we are ahead, whatever the unit.

mod cluster;
mod peers;
mod serve;
mod start;

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::root::target;

/// Benches.
#[derive(clap::Subcommand)]
pub enum Bench {
    /// Install the peers into target/peers.
    Peers,
    /// Ingress to Service to replica against `wasmtime serve` with the pooling allocator.
    Serve {
        /// End within 45 s.
        #[arg(long)]
        quick: bool,
    },
    /// `coracle up` in an empty folder to the first 200.
    Start {
        /// End within 45 s.
        #[arg(long)]
        quick: bool,
    },
}

/// One figure.
#[derive(Serialize)]
pub struct Figure<'a> {
    /// Bench.
    pub bench: &'a str,
    /// Case.
    pub case: &'a str,
    /// Our median.
    pub ours: f64,
    /// Who we are compared with.
    pub peer: &'a str,
    /// Their median.
    pub theirs: f64,
    /// Above 1: we are ahead.
    pub ratio: f64,
    /// Unit of both.
    pub unit: &'a str,
    /// Every run, ours and theirs in the order they were made.
    pub runs: Vec<[f64; 2]>,
}

/// Prints and keeps a figure.
pub fn report(figure: &Figure<'_>) -> Result<()> {
    let line = serde_json::to_string(figure)?;
    println!("{line}");
    let dir = target().join("bench");
    std::fs::create_dir_all(&dir)?;
    let mut f = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join(format!("{}.jsonl", figure.bench)))?;
    writeln!(f, "{line}")?;
    Ok(())
}

/// The middle of some runs.
pub fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    match runs.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => runs[n / 2],
        n => (runs[n / 2 - 1] + runs[n / 2]) / 2.0,
    }
}

/// Runs a bench.
pub fn run(what: Bench) -> Result<()> {
    match what {
        Bench::Peers => peers::install(),
        Bench::Serve { quick } => serve::run(quick),
        Bench::Start { quick } => start::run(quick),
    }
}
