//! start: `coracle up samples/hello` from an empty folder to the first 200, release binary, nothing compiled before.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::cluster;
use super::{Figure, median, report};
use crate::root::root;

/// Published time of the nearest single-binary peer to a ready node, in seconds (k3s: 20 to 30); it is not run here.
const K3S_SECONDS: f64 = 20.0;

/// Runs the bench.
pub fn run(quick: bool) -> Result<()> {
    let binary = cluster::release_binary()?;
    let mut runs = Vec::new();
    for n in 0..if quick { 3 } else { 7 } {
        let dir = tempfile::tempdir()?;
        let begin = Instant::now();
        let process = cluster::up(&binary, &root().join("samples/hello"), dir.path())?;
        let info = cluster::run_json(dir.path(), Duration::from_secs(30))?;
        let ingress = info["ingress"]
            .as_str()
            .context("run.json names no ingress")?
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_string();
        cluster::wait_200(&ingress, "hello.localhost", Duration::from_secs(10))?;
        let seconds = begin.elapsed().as_secs_f64();
        let rss = rss_mib(process.0.id())?;
        eprintln!(
            "start: run {}: {seconds:.3} s, {rss:.0} MiB resident",
            n + 1
        );
        runs.push([seconds, K3S_SECONDS]);
    }
    let ours = median(runs.iter().map(|r| r[0]).collect());
    report(&Figure {
        bench: "start",
        case: "up-hello",
        ours,
        peer: "k3s (published, not run)",
        theirs: K3S_SECONDS,
        ratio: K3S_SECONDS / ours,
        unit: "s",
        runs,
        extra: Default::default(),
    })
}

fn rss_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|l| {
        l.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<f64>()
            .ok()
    });
    Ok(kib.context("no VmRSS")? / 1024.0)
}
