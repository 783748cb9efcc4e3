//! serve: the same component behind our ingress and in `wasmtime serve`, same connections, same cores, alternating.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cluster::{self, Process};
use super::{Figure, median, peers, report};
use crate::root::root;

/// Connections of the load generator.
const CONNECTIONS: u32 = 16;

/// Runs the bench.
pub fn run(quick: bool) -> Result<()> {
    let (wasmtime, wrk) = (peers::wasmtime()?, peers::wrk()?);
    let binary = cluster::release_binary()?;
    let dir = tempfile::tempdir()?;
    let app = root().join("samples/hello");
    let _ours = cluster::up(&binary, &app, dir.path())?;
    let info = cluster::run_json(dir.path(), Duration::from_secs(30))?;
    let ingress = info["ingress"]
        .as_str()
        .context("run.json names no ingress")?
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_string();
    let host = "hello.localhost";
    let component = app.join("prebuilt.wasm");
    let peer = serve(&wasmtime, &component, &[])?;
    let body = cluster::wait_200(&ingress, host, Duration::from_secs(10))?;
    let theirs = cluster::wait_200(&peer.address, host, Duration::from_secs(10))?;
    ensure!(
        body == theirs,
        "the two sides answer differently: {body:?} and {theirs:?}"
    );
    let (rounds, seconds) = if quick { (3, 5) } else { (5, 10) };
    // Warm both.
    load(&wrk, &ingress, host, 2)?;
    load(&wrk, &peer.address, host, 2)?;
    let mut runs = Vec::new();
    let mut p99 = Vec::new();
    for round in 0..rounds {
        let (mut a, mut b) = (Load::default(), Load::default());
        // A-B, then B-A: drift of the machine hits both alike.
        for first in [round % 2 == 0, round % 2 != 0] {
            if first {
                a = load(&wrk, &ingress, host, seconds)?;
            } else {
                b = load(&wrk, &peer.address, host, seconds)?;
            }
        }
        eprintln!(
            "serve: round {}: ours {:.0}/s, theirs {:.0}/s",
            round + 1,
            a.per_second,
            b.per_second
        );
        runs.push([a.per_second, b.per_second]);
        p99.push([a.p99_ms, b.p99_ms]);
    }
    let side = |list: &[[f64; 2]], i: usize| median(list.iter().map(|r| r[i]).collect());
    let (ours, theirs) = (side(&runs, 0), side(&runs, 1));
    report(&Figure {
        bench: "serve",
        case: "fresh",
        ours,
        peer: "wasmtime serve -O pooling-allocator",
        theirs,
        ratio: ours / theirs,
        unit: "requests/s",
        runs,
        extra: Default::default(),
    })?;
    let (ours, theirs) = (side(&p99, 0), side(&p99, 1));
    report(&Figure {
        bench: "serve",
        case: "fresh-p99",
        ours,
        peer: "wasmtime serve -O pooling-allocator",
        theirs,
        ratio: theirs / ours,
        unit: "ms",
        runs: p99,
        extra: Default::default(),
    })
}

struct Peer {
    address: String,
    _process: Process,
}

fn serve(wasmtime: &Path, component: &Path, more: &[&str]) -> Result<Peer> {
    let port = cluster::free_port()?;
    let address = format!("127.0.0.1:{port}");
    let child = Command::new(wasmtime)
        .args([
            "serve",
            "-O",
            "pooling-allocator",
            "-S",
            "cli",
            "--addr",
            &address,
        ])
        .args(more)
        .arg(component)
        // A backtrace captured per trap or error costs either side about 10 %.
        .env_remove("RUST_BACKTRACE")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Peer {
        address,
        _process: Process(child),
    })
}

#[derive(Default)]
struct Load {
    per_second: f64,
    p99_ms: f64,
}

/// One run of the load generator; any answer but 2xx or a broken connection is an error.
fn load(wrk: &Path, address: &str, host: &str, seconds: u32) -> Result<Load> {
    let out = Command::new(wrk)
        .args([
            "-t",
            "1",
            "-c",
            &CONNECTIONS.to_string(),
            "-d",
            &format!("{seconds}s"),
            "--latency",
            "-H",
            &format!("Host: {host}"),
            &format!("http://{address}/"),
        ])
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    ensure!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "not every answer was a 200:\n{text}"
    );
    let per_second = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("Requests/sec:")?.trim().parse().ok())
        .with_context(|| format!("no rate in:\n{text}"))?;
    let p99 = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("99%").map(str::trim))
        .with_context(|| format!("no p99 in:\n{text}"))?;
    Ok(Load {
        per_second,
        p99_ms: milliseconds(p99)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    let (number, factor) = if let Some(n) = text.strip_suffix("us") {
        (n, 0.001)
    } else if let Some(n) = text.strip_suffix("ms") {
        (n, 1.0)
    } else {
        (text.trim_end_matches('s'), 1000.0)
    };
    Ok(number.parse::<f64>()? * factor)
}
