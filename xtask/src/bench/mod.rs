//! `cargo xtask bench NAME [--quick]`: us and the peer in one run, interleaved, medians; one JSON line per figure,
//! printed and appended to target/bench/NAME.jsonl. `ratio` above 1 means we are ahead, whatever the unit.

mod args;
mod cluster;
mod failover;
mod load;
mod peers;
mod registry;
mod serve;
mod servers;
mod start;
mod sustain;
mod watch;
mod writes;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use self::args::LoadArgs;
use crate::root::{root, run as run_command, target};

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
    /// Durable object writes against etcd.
    Writes {
        /// How.
        #[command(flatten)]
        args: LoadArgs,
        /// Do not count system calls with strace first.
        #[arg(long)]
        skip_syncs: bool,
    },
    /// Events delivered to many watchers, against etcd.
    Watch {
        /// How.
        #[command(flatten)]
        args: LoadArgs,
    },
    /// The leader of three is killed, stopped or cut off: time to the next acknowledged write, against etcd.
    Failover {
        /// How.
        #[command(flatten)]
        args: LoadArgs,
    },
    /// Push and pull of blobs and manifests, against docker-registry.
    Registry {
        /// How.
        #[command(flatten)]
        args: registry::RegistryArgs,
    },
    /// 90 % of the peak for a long time on three members: the same term, nothing stopped, nothing failed.
    Sustain {
        /// How.
        #[command(flatten)]
        args: LoadArgs,
        /// How long.
        #[arg(long, default_value_t = 30.0)]
        minutes: f64,
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
    /// More about the case, by name.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// Prints and keeps a figure.
pub fn report(figure: &Figure<'_>) -> Result<()> {
    keep(figure.bench, &serde_json::to_string(figure)?)
}

/// Prints a line and appends it to the file of a bench.
pub fn keep(bench: &str, line: &str) -> Result<()> {
    println!("{line}");
    let dir = target().join("bench");
    std::fs::create_dir_all(&dir)?;
    let mut f = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join(format!("{bench}.jsonl")))?;
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

/// Four significant digits: what a bench knows.
pub fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let factor = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * factor).round() / factor
}

/// Lowest and highest run, relative to the median, in percent.
pub fn spread(runs: &[f64]) -> [f64; 2] {
    let middle = median(runs.to_vec());
    let of = |x: f64| round((x / middle - 1.0) * 100.0);
    [
        of(runs.iter().copied().fold(f64::INFINITY, f64::min)),
        of(runs.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
    ]
}

/// Runs a bench.
pub fn run(what: Bench) -> Result<()> {
    match what {
        Bench::Peers => peers::install(),
        Bench::Serve { quick } => serve::run(quick),
        Bench::Start { quick } => start::run(quick),
        Bench::Writes { args, skip_syncs } => loaded(writes::run(&args, skip_syncs)),
        Bench::Watch { args } => loaded(watch::run(&args)),
        Bench::Failover { args } => loaded(failover::run(&args)),
        Bench::Registry { args } => loaded(registry::run(&args)),
        Bench::Sustain { args, minutes } => loaded(sustain::run(&args, minutes)),
    }
}

/// Runs a bench that generates load itself. A load generator without optimisation would measure itself, so a debug
/// build hands over to a release build of this program.
fn loaded(bench: impl Future<Output = Result<()>>) -> Result<()> {
    if cfg!(debug_assertions) {
        run_command(
            Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .args(["build", "--release", "--quiet", "--package", "xtask"])
                .current_dir(root()),
        )?;
        let error = Command::new(target().join("release/xtask"))
            .args(std::env::args_os().skip(1))
            .exec();
        return Err(error).context("the release build of the load generator");
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(bench)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_four_digits() {
        assert_eq!(round(12345.678), 12350.0);
        assert_eq!(round(0.00123456), 0.001235);
        assert_eq!(round(0.0), 0.0);
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(spread(&[90.0, 100.0, 120.0]), [-10.0, 20.0]);
    }
}
