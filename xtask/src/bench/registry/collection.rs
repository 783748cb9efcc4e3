//! What a pusher notices of garbage collection: the same pushes beside a collector that never rests, and beside none.
//! Only our side: the other one collects while it is switched off or read-only.

use anyhow::{Result, ensure};
use serde_json::{Map, json};

use super::content::Contents;
use super::load::{self, Operation, Outcome};
use super::servers::{Registry, System};
use super::{KIB, interleaved, median, report, round};
use crate::bench::Figure;

/// Blobs that no manifest names: every pass has something to look at and to remove.
const GARBAGE: u64 = 4_000;
/// Pushes of a run.
const PUSHES: u64 = 2_000;
/// Clients.
const CLIENTS: usize = 8;
/// Blobs are garbage after half a second, and a pass begins 10 ms after the last one.
const RESTLESS: &[&str] = &[
    "--registry-gc-age-ms",
    "500",
    "--registry-gc-every-ms",
    "10",
];

/// Runs the case.
pub async fn run(coracle: &std::path::Path, contents: &Contents, runs: usize) -> Result<()> {
    let sides: [&[&str]; 2] = [RESTLESS, &[]];
    let mut outcomes: [Vec<Outcome>; 2] = [Vec::new(), Vec::new()];
    let mut removed = 0;
    for run in 0..runs {
        for i in interleaved(sides.len(), run) {
            let mut registry = Registry::start_with(System::Ours, coracle, sides[i]).await?;
            let series = 2_000_000 + run as u64;
            let garbage = (0..GARBAGE).map(|n| Operation::Push(contents.blob(KIB, series, n)));
            load::run(&registry, CLIENTS, garbage.collect()).await?;
            let pushes = (0..PUSHES)
                .map(|n| Operation::Push(contents.blob(KIB, series + 1_000_000, n)))
                .collect();
            let outcome = load::run(&registry, CLIENTS, pushes).await?;
            registry.check_alive()?;
            let left = registry.blobs()?;
            if i == 0 {
                removed += (GARBAGE + PUSHES).saturating_sub(left);
            }
            eprintln!(
                "registry: collection: run {}: {}: {:.0} blobs/s, p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, {left} blobs left",
                run + 1,
                if i == 0 {
                    "collecting"
                } else {
                    "not collecting"
                },
                outcome.per_second,
                outcome.p50_ms,
                outcome.p99_ms,
                outcome.max_ms
            );
            outcomes[i].push(outcome);
        }
    }
    ensure!(
        removed > 0,
        "nothing was collected: the case has shown nothing"
    );
    let over = |i: usize, f: &dyn Fn(&Outcome) -> f64| median(outcomes[i].iter().map(f).collect());
    let mut extra = Map::new();
    for (i, who) in ["collecting", "not_collecting"].into_iter().enumerate() {
        extra.insert(
            format!("{who}_p50_ms"),
            json!(round(over(i, &|o| o.p50_ms))),
        );
        extra.insert(
            format!("{who}_max_ms"),
            json!(round(over(i, &|o| o.max_ms))),
        );
        extra.insert(
            format!("{who}_blobs_per_s"),
            json!(round(over(i, &|o| o.per_second))),
        );
    }
    extra.insert("collected".into(), json!(removed));
    let (with, without) = (over(0, &|o| o.p99_ms), over(1, &|o| o.p99_ms));
    report(&Figure {
        bench: "registry",
        case: "collection-push-1KiB-8c",
        ours: round(with),
        peer: "coracle, not collecting",
        theirs: round(without),
        ratio: round(without / with),
        unit: "ms p99",
        runs: (0..runs)
            .map(|i| [round(outcomes[0][i].p99_ms), round(outcomes[1][i].p99_ms)])
            .collect(),
        extra,
    })
}
