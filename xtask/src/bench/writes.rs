//! writes: durable object writes, ours against etcd, one cluster at a time on fresh directories, forwards and then
//! backwards through the systems (A-B-B-A) so that drift of the machine hits all alike.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, json};

use super::args::{LoadArgs, interleaved};
use super::load::client::name;
use super::load::puts::{self, Load, Outcome};
use super::servers::meter::load_average;
use super::servers::strace::Trace;
use super::servers::{Cluster, Ground, System};
use super::{Figure, median, report, round, spread};

/// Puts under strace.
const TRACED: u64 = 500;

struct Case {
    members: usize,
    clients: usize,
    size: usize,
}

/// Runs the bench.
pub async fn run(args: &LoadArgs, skip_syncs: bool) -> Result<()> {
    let ground = Ground {
        coracle: args.coracle()?,
        net: None,
    };
    let systems = args.systems(System::EtcdDefaults)?;
    let members = args.members.clone().unwrap_or(match args.quick {
        true => vec![1],
        false => vec![1, 3],
    });
    let clients = args.clients.clone().unwrap_or(match args.quick {
        true => vec![64],
        false => vec![1, 64, 256],
    });
    let sizes = args.size.clone().unwrap_or(match args.quick {
        true => vec![1024],
        false => vec![256, 1024, 4096],
    });
    if !skip_syncs {
        for m in &members {
            for s in &systems {
                syncs(&ground, *s, *m).await?;
            }
        }
    }
    for m in &members {
        for size in &sizes {
            for c in &clients {
                let case = Case {
                    members: *m,
                    clients: *c,
                    size: *size,
                };
                one(args, &ground, &systems, &case).await?;
            }
        }
    }
    Ok(())
}

async fn one(args: &LoadArgs, ground: &Ground, systems: &[System], case: &Case) -> Result<()> {
    let runs = args.runs.unwrap_or(if args.quick { 3 } else { 5 });
    let seconds = args.seconds.unwrap_or(if args.quick { 4.0 } else { 10.0 });
    let warm = if args.quick { 1.0 } else { 2.0 };
    let busy = load_average();
    let mut outcomes: Vec<Vec<Outcome>> = systems.iter().map(|_| Vec::new()).collect();
    let mut stored = vec![0; systems.len()];
    for run in 0..runs {
        for i in interleaved(systems.len(), run) {
            let cluster = Cluster::start(ground, systems[i], case.members).await?;
            stored[i] = case.size.max(cluster.overhead + 1);
            let outcome = puts::run(
                &cluster,
                Load {
                    clients: case.clients,
                    size: case.size,
                    warm: Duration::from_secs_f64(warm),
                    slice: Duration::from_secs_f64(seconds),
                    slices: 1,
                    rate: args.rate,
                    cycle: None,
                    series: run as u32,
                    leader_only: args.leader_only,
                },
            )
            .await?;
            let s = &outcome.slices[0];
            eprintln!(
                "writes: {} members, {} clients, {} B: run {}: {}: {:.0} puts/s, p50 {:.2} ms, p99 {:.2} ms, {} failures",
                case.members,
                case.clients,
                case.size,
                run + 1,
                systems[i].label(),
                s.per_second,
                s.p50_ms,
                s.p99_ms,
                outcome.failures
            );
            for t in &outcome.texts {
                eprintln!("writes: {}: failed: {t}", systems[i].label());
            }
            outcomes[i].push(outcome);
        }
    }
    let name = format!(
        "{}m-{}c-{}B-{}tls{}",
        case.members,
        case.clients,
        case.size,
        if args.leader_only { "leader-" } else { "" },
        args.rate.map(|r| format!("-at-{r}")).unwrap_or_default()
    );
    let rate = |o: &Outcome| o.slices[0].per_second;
    let p99 = |o: &Outcome| o.slices[0].p99_ms;
    for peer in 1..systems.len().max(2) {
        let theirs = outcomes.get(peer).map_or(&[][..], Vec::as_slice);
        let label = systems.get(peer).map_or("none".to_string(), |s| s.label());
        let mut extra = Map::new();
        side(&mut extra, "ours", &outcomes[0]);
        if !theirs.is_empty() {
            side(&mut extra, "theirs", theirs);
        }
        extra.insert("stored_bytes".into(), json!([stored[0], stored.get(peer)]));
        extra.insert("load_before".into(), json!(busy));
        extra.insert("seconds".into(), json!(seconds));
        // A fixed rate is about latency, the closed loop about throughput.
        let (value, unit): (fn(&Outcome) -> f64, _) = match args.rate {
            Some(_) => (p99, "ms p99"),
            None => (rate, "puts/s"),
        };
        let pairs = (0..runs)
            .map(|i| {
                [
                    round(value(&outcomes[0][i])),
                    theirs.get(i).map_or(f64::NAN, |o| round(value(o))),
                ]
            })
            .collect::<Vec<_>>();
        let ours = median(pairs.iter().map(|p| p[0]).collect());
        let theirs = median(pairs.iter().map(|p| p[1]).collect());
        report(&Figure {
            bench: "writes",
            case: &name,
            ours,
            peer: &label,
            theirs,
            ratio: round(if args.rate.is_some() {
                theirs / ours
            } else {
                ours / theirs
            }),
            unit,
            runs: pairs,
            extra,
        })?;
    }
    Ok(())
}

/// The other figures of one side: medians over its runs.
fn side(extra: &mut Map<String, serde_json::Value>, who: &str, outcomes: &[Outcome]) {
    let over = |f: &dyn Fn(&Outcome) -> f64| median(outcomes.iter().map(f).collect());
    let per_put = |total: f64, o: &Outcome| total / o.puts().max(1) as f64;
    let mut put = |key: &str, value: f64| {
        extra.insert(format!("{who}_{key}"), json!(round(value)));
    };
    put("p50_ms", over(&|o| o.slices[0].p50_ms));
    put("p99_ms", over(&|o| o.slices[0].p99_ms));
    put("max_ms", over(&|o| o.slices[0].max_ms));
    put(
        "cpu_s_per_1000",
        over(&|o| per_put(o.servers.cpu_seconds * 1000.0, o)),
    );
    put(
        "generator_cpu_s_per_1000",
        over(&|o| per_put(o.generator.cpu_seconds * 1000.0, o)),
    );
    put(
        "disk_written_per_put",
        over(&|o| per_put(o.servers.disk as f64, o)),
    );
    put(
        "dirtied_per_put",
        over(&|o| per_put(o.servers.dirtied as f64, o)),
    );
    put(
        "resident_mib",
        over(&|o| o.servers.resident as f64 / 1048576.0),
    );
    let rates: Vec<f64> = outcomes.iter().map(|o| o.slices[0].per_second).collect();
    extra.insert(format!("{who}_spread"), json!(spread(&rates)));
    let failures: u64 = outcomes.iter().map(|o| o.failures).sum();
    extra.insert(format!("{who}_failures"), json!(failures));
}

/// Counts the syncs of a short run at one client: each acknowledged put must have cost at least one per member that
/// the acknowledgement stands for.
async fn syncs(ground: &Ground, system: System, members: usize) -> Result<()> {
    let cluster = Cluster::start(ground, system, members).await?;
    // The connection and the first puts are not counted.
    puts::fill(&cluster, u32::MAX - 1, 64, 1024).await?;
    let (_, connection) = puts::connections(&cluster, 1, true).await?.remove(0);
    let leader = cluster.leader().await?;
    let mut client = super::load::client::Client::new(
        cluster.side,
        &cluster.endpoint(leader),
        connection,
        super::load::client::Values::new(),
        cluster.overhead,
    )?;
    let trace = Trace::attach(&cluster.pids())?;
    for n in 0..TRACED {
        client
            .put(
                super::load::client::Verb::Create,
                &name(u32::MAX - 2, n),
                n,
                1024,
            )
            .await?;
    }
    let calls = trace.finish()?;
    let quorum = (members / 2 + 1) as u64;
    let per_thousand = |n: u64| n as f64 * 1000.0 / TRACED as f64;
    let line = json!({
        "bench": "writes",
        "case": format!("syncs-{members}m-1c-1024B-tls"),
        "system": system.label(),
        "acknowledged": TRACED,
        "syncs_per_1000": per_thousand(calls.syncs()),
        "writes_per_1000": per_thousand(calls.writes()),
        "promise_kept": calls.syncs() >= TRACED * quorum,
        "synced_writes": calls.synced_writes,
        "calls": calls.by_name,
    });
    super::keep("writes", &line.to_string())
}
