//! sustain: 90 % of the measured peak for half an hour on three members. The bar: the same leader and term at the end
//! as at the start, every member alive, no failed put. Only our side: it is a property, not a race.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Map, json};

use super::args::LoadArgs;
use super::load::puts::{self, Load};
use super::servers::{Cluster, Ground, System};
use super::{Figure, median, report, round};

/// Clients.
const CLIENTS: usize = 64;
/// Bytes stored per object.
const SIZE: usize = 1024;
/// Objects overwritten round and round: half an hour of new objects would fill the memory of three members on one
/// machine.
const KEYS: u64 = 20_000;
/// Share of the peak.
const SHARE: f64 = 0.9;
/// How often the leader is asked for.
const LOOK: Duration = Duration::from_secs(2);
/// How long the peak is measured, each time: longer than two snapshots are apart at such rates, as what they cost belongs
/// to it.
const PEAK: Duration = Duration::from_secs(60);
/// How often; the median counts. One minute alone says little about the next thirty: on a shared machine the same load
/// with all cores busy gets up to a quarter more in one minute than in another.
const PEAKS: usize = 5;

/// Runs the bench.
pub async fn run(args: &LoadArgs, minutes: f64) -> Result<()> {
    let ground = Ground {
        coracle: args.coracle()?,
        net: None,
    };
    let members = args
        .members
        .as_ref()
        .and_then(|m| m.first().copied())
        .unwrap_or(3);
    let clients = args
        .clients
        .as_ref()
        .and_then(|m| m.first().copied())
        .unwrap_or(CLIENTS);
    let size = args
        .size
        .as_ref()
        .and_then(|m| m.first().copied())
        .unwrap_or(SIZE);
    let cluster = Cluster::start(&ground, System::Ours, members).await?;
    puts::fill(&cluster, 1, KEYS, size).await?;
    cluster.wait_healthy().await?;
    let load = |rate: Option<f64>, slice: Duration, slices: usize| Load {
        clients,
        size,
        warm: Duration::from_secs(3),
        slice,
        slices,
        rate,
        cycle: Some(KEYS),
        series: 1,
        leader_only: args.leader_only,
    };
    let mut peaks = Vec::new();
    let rate = match args.rate {
        Some(r) => r,
        None => {
            let (slice, slices) = if args.quick {
                (PEAK / 6, 1)
            } else {
                (PEAK, PEAKS)
            };
            let outcome = puts::run(&cluster, load(None, slice, slices)).await?;
            peaks = outcome.slices.iter().map(|s| round(s.per_second)).collect();
            let peak = median(peaks.clone());
            eprintln!(
                "sustain: peak {peak:.0} puts/s (of {peaks:?}), so {:.0} puts/s",
                peak * SHARE
            );
            peak * SHARE
        }
    };
    let minutes = if args.quick { 0.4 } else { minutes };
    let slice = Duration::from_secs_f64((minutes * 60.0).min(60.0));
    let slices = (minutes * 60.0 / slice.as_secs_f64()).round().max(1.0) as usize;
    let (term_before, leader_before) = (cluster.term().await?, cluster.leader().await?);
    let steady = load(Some(rate), slice, slices);
    // The leader is looked at all the while, so that one that changes and comes back is seen too.
    let mut leaders = Vec::new();
    let outcome = tokio::select! {
        outcome = puts::run(&cluster, steady) => outcome,
        never = watch_leader(&cluster, &mut leaders) => match never {},
    };
    let outcome = match outcome {
        Ok(o) => o,
        Err(e) => {
            println!("sustain: FAILED: {e:#}");
            return Err(e);
        }
    };
    // A stopped core or a dead member is an error here.
    cluster.wait_healthy().await?;
    let (term_after, leader_after) = (cluster.term().await?, cluster.leader().await?);
    let p99: Vec<f64> = outcome.slices.iter().map(|s| round(s.p99_ms)).collect();
    let achieved = outcome.puts() as f64 / (slice.as_secs_f64() * slices as f64);
    let mut reasons = Vec::new();
    if term_before.is_none() || term_before != term_after {
        reasons.push(format!("term {term_before:?} before, {term_after:?} after"));
    }
    if leader_before != leader_after {
        reasons.push(format!(
            "leader m{leader_before} before, m{leader_after} after"
        ));
    }
    if outcome.failures > 0 {
        reasons.push(format!(
            "{} failed puts: {}",
            outcome.failures,
            outcome.texts.join("; ")
        ));
    }
    if achieved < rate * 0.99 {
        reasons.push(format!("{achieved:.0} puts/s instead of {rate:.0}"));
    }
    let extra = Map::from_iter([
        ("term_before".to_string(), json!(term_before)),
        ("term_after".to_string(), json!(term_after)),
        ("failures".to_string(), json!(outcome.failures)),
        ("peaks".to_string(), json!(peaks)),
        ("p99_ms_per_slice".to_string(), json!(p99)),
        (
            "max_ms_per_slice".to_string(),
            json!(
                outcome
                    .slices
                    .iter()
                    .map(|s| round(s.max_ms))
                    .collect::<Vec<_>>()
            ),
        ),
        (
            "failures_per_slice".to_string(),
            json!(
                outcome
                    .slices
                    .iter()
                    .map(|s| s.failures)
                    .collect::<Vec<_>>()
            ),
        ),
        ("minutes".to_string(), json!(minutes)),
        (
            "resident_mib".to_string(),
            json!(outcome.servers.resident / 1048576),
        ),
        ("verdict".to_string(), json!(reasons.is_empty())),
        ("reasons".to_string(), json!(reasons)),
    ]);
    report(&Figure {
        bench: "sustain",
        case: &format!("{members}m-{clients}c-{size}B-tls-updates"),
        ours: round(achieved),
        peer: "the rate asked for",
        theirs: round(rate),
        ratio: round(achieved / rate),
        unit: "puts/s",
        runs: outcome
            .slices
            .iter()
            .map(|s| [round(s.per_second), round(rate)])
            .collect(),
        extra,
    })?;
    if !reasons.is_empty() {
        bail!("sustain: FAILED: {}", reasons.join("; "));
    }
    println!(
        "sustain: PASSED: {minutes} minutes at {achieved:.0} puts/s, term {} throughout, worst p99 {:.1} ms",
        term_after.unwrap_or(0),
        p99.iter().copied().fold(0.0, f64::max)
    );
    Ok(())
}

/// Appends the leader every now and then, when there is one.
async fn watch_leader(cluster: &Cluster, leaders: &mut Vec<usize>) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Ok(leader) = cluster.leader().await {
            leaders.push(leader);
        }
    }
}
