//! watch: events delivered to W watchers of one prefix, and to W watchers of one object each, as fast as the system can
//! (puts in a closed loop), then at half the rate of the weaker system for the latency from acknowledgement to event.
//! Every watcher checks that each change came once and in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Map, json};
use tokio::task::JoinSet;

use super::args::{LoadArgs, interleaved};
use super::load::client::{Client, Values, Verb, name};
use super::load::puts::{self, quantile_ms};
use super::load::watchers::{Scope, Times, Verdict, Watchers};
use super::servers::meter::{Usage, load_average};
use super::servers::{Cluster, Ground, System};
use super::{Figure, median, report, round, spread};

/// Clients that put.
const WRITERS: usize = 64;
/// Events that do not move for so long do not come any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a stored object, unless asked otherwise.
const SIZE: usize = 512;
/// Series of the names.
const SERIES: u32 = 7;

struct Case {
    members: usize,
    watchers: usize,
    scope: Scope,
    size: usize,
}

struct Measured {
    events_per_second: f64,
    puts_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_s_per_million_events: f64,
    generator_cpu_s_per_million_events: f64,
    sent_p50_ms: f64,
    sent_p99_ms: f64,
    verdict: Verdict,
}

/// Runs the bench.
pub async fn run(args: &LoadArgs) -> Result<()> {
    let ground = Ground {
        coracle: args.coracle()?,
        net: None,
    };
    let systems = args.systems(System::EtcdDefaults)?;
    let watchers = args.clients.clone().unwrap_or(match args.quick {
        true => vec![100, 5000],
        false => vec![1, 100, 5000],
    });
    let size = args
        .size
        .as_ref()
        .and_then(|s| s.first().copied())
        .unwrap_or(SIZE);
    for members in args.members.clone().unwrap_or(vec![1]) {
        let mut cases: Vec<Case> = watchers
            .iter()
            .map(|w| Case {
                members,
                watchers: *w,
                scope: Scope::All,
                size,
            })
            .collect();
        if !args.quick {
            cases.extend(watchers.iter().max().map(|w| Case {
                members,
                watchers: *w,
                scope: Scope::Own,
                size,
            }));
        }
        for case in &cases {
            one(args, &ground, &systems, case).await?;
        }
    }
    Ok(())
}

/// Puts of one run: enough events to measure, few enough to end in time.
fn put_count(case: &Case, quick: bool) -> usize {
    let events = if quick { 300_000 } else { 1_000_000 };
    match case.scope {
        Scope::All => (events / case.watchers).clamp(20, if quick { 5_000 } else { 20_000 }),
        Scope::Own => case.watchers * 4,
    }
}

async fn one(args: &LoadArgs, ground: &Ground, systems: &[System], case: &Case) -> Result<()> {
    let runs = args.runs.unwrap_or(if args.quick { 3 } else { 5 });
    let busy = load_average();
    let count = put_count(case, args.quick);
    let mut fast: Vec<Vec<Measured>> = systems.iter().map(|_| Vec::new()).collect();
    for run in 0..runs {
        for i in interleaved(systems.len(), run) {
            let m = measure(ground, systems[i], case, count, None).await?;
            eprintln!(
                "watch: {} watchers{}: run {}: {}: {:.0} events/s, {:.0} puts/s, {} lost, {} twice, {} out of order",
                case.watchers,
                own(case),
                run + 1,
                systems[i].label(),
                m.events_per_second,
                m.puts_per_second,
                m.verdict.lost,
                m.verdict.twice,
                m.verdict.disorder
            );
            fast[i].push(m);
        }
    }
    let middle =
        |list: &[Measured], f: &dyn Fn(&Measured) -> f64| median(list.iter().map(f).collect());
    // The latency, where both can keep up.
    let weakest = fast
        .iter()
        .map(|l| middle(l, &|m| m.events_per_second))
        .fold(f64::INFINITY, f64::min);
    let per_put = match case.scope {
        Scope::All => case.watchers as f64,
        Scope::Own => 1.0,
    };
    let rate = args.rate.unwrap_or((weakest / per_put * 0.5).max(1.0));
    let seconds = args.seconds.unwrap_or(if args.quick { 2.0 } else { 10.0 });
    let mut steady: Vec<Vec<Measured>> = systems.iter().map(|_| Vec::new()).collect();
    for run in 0..if args.quick { 1 } else { runs.min(3) } {
        for i in interleaved(systems.len(), run) {
            let puts = ((rate * seconds) as usize).max(10);
            steady[i].push(measure(ground, systems[i], case, puts, Some(rate)).await?);
        }
    }
    let name = format!(
        "{}m-{}w-{}B-tls{}",
        case.members,
        case.watchers,
        case.size,
        own(case)
    );
    for peer in 1..systems.len().max(2) {
        let label = systems.get(peer).map_or("none".to_string(), |s| s.label());
        let mut extra = Map::new();
        for (who, i) in [("ours", 0), ("theirs", peer)] {
            let (Some(fast), Some(steady)) = (fast.get(i), steady.get(i)) else {
                continue;
            };
            let mut put = |key: &str, value: serde_json::Value| {
                extra.insert(format!("{who}_{key}"), value);
            };
            let all = || fast.iter().chain(steady);
            put(
                "puts_per_s",
                json!(round(middle(fast, &|m| m.puts_per_second))),
            );
            put(
                "cpu_s_per_million",
                json!(round(middle(fast, &|m| m.cpu_s_per_million_events))),
            );
            put(
                "generator_cpu_s_per_million",
                json!(round(
                    middle(fast, &|m| m.generator_cpu_s_per_million_events)
                )),
            );
            put(
                "p50_ms_at_half",
                json!(round(middle(steady, &|m| m.p50_ms))),
            );
            put(
                "p99_ms_at_half",
                json!(round(middle(steady, &|m| m.p99_ms))),
            );
            put(
                "sent_p50_ms_at_half",
                json!(round(middle(steady, &|m| m.sent_p50_ms))),
            );
            put(
                "sent_p99_ms_at_half",
                json!(round(middle(steady, &|m| m.sent_p99_ms))),
            );
            put("lost", json!(all().map(|m| m.verdict.lost).sum::<u64>()));
            put("twice", json!(all().map(|m| m.verdict.twice).sum::<u64>()));
            put(
                "disorder",
                json!(all().map(|m| m.verdict.disorder).sum::<u64>()),
            );
            put("ended", json!(all().map(|m| m.verdict.ended).sum::<u64>()));
            let rates: Vec<f64> = fast.iter().map(|m| m.events_per_second).collect();
            put("spread", json!(spread(&rates)));
        }
        extra.insert("puts".into(), json!(count));
        extra.insert("half_rate_puts_per_s".into(), json!(round(rate)));
        extra.insert("load_before".into(), json!(busy));
        let pairs: Vec<[f64; 2]> = (0..runs)
            .map(|r| {
                [
                    round(fast[0][r].events_per_second),
                    fast.get(peer)
                        .map_or(f64::NAN, |l| round(l[r].events_per_second)),
                ]
            })
            .collect();
        let ours = median(pairs.iter().map(|p| p[0]).collect());
        let theirs = median(pairs.iter().map(|p| p[1]).collect());
        report(&Figure {
            bench: "watch",
            case: &name,
            ours,
            peer: &label,
            theirs,
            ratio: round(ours / theirs),
            unit: "events/s",
            runs: pairs,
            extra,
        })?;
    }
    Ok(())
}

fn own(case: &Case) -> &'static str {
    match case.scope {
        Scope::All => "",
        Scope::Own => "-own-keys",
    }
}

/// One run on a fresh cluster.
async fn measure(
    ground: &Ground,
    system: System,
    case: &Case,
    puts: usize,
    rate: Option<f64>,
) -> Result<Measured> {
    let cluster = Cluster::start(ground, system, case.members).await?;
    if case.scope == Scope::Own {
        puts::fill(&cluster, SERIES, case.watchers as u64, case.size).await?;
    } else {
        // Warm, outside of what is watched for.
        puts::fill(&cluster, SERIES + 1, 500, case.size).await?;
    }
    cluster.wait_healthy().await?;
    let watchers = Watchers::open(&cluster, case.watchers, case.scope, SERIES, puts).await?;
    let pids = cluster.pids();
    let (servers, generator) = (Usage::of(&pids)?, Usage::own()?);
    let begin = watchers.micros();
    let times = write(&cluster, case, puts, rate, &watchers).await?;
    let last_ack = times.iter().map(|t| t.acknowledged).max().unwrap_or(begin);
    watchers.wait(PATIENCE).await;
    let servers = Usage::of(&pids)?.since(&servers);
    let generator = Usage::own()?.since(&generator);
    let (verdict, last) = watchers.finish(&times).await?;
    cluster.check_alive()?;
    let seconds = f64::from(last.saturating_sub(begin)) / 1e6;
    let millions = verdict.delivered as f64 / 1e6;
    Ok(Measured {
        events_per_second: verdict.delivered as f64 / seconds,
        puts_per_second: puts as f64 / (f64::from(last_ack.saturating_sub(begin)) / 1e6),
        p50_ms: quantile_ms(&verdict.from_acknowledged, 0.50),
        p99_ms: quantile_ms(&verdict.from_acknowledged, 0.99),
        cpu_s_per_million_events: servers.cpu_seconds / millions,
        generator_cpu_s_per_million_events: generator.cpu_seconds / millions,
        sent_p50_ms: quantile_ms(&verdict.from_sent, 0.50),
        sent_p99_ms: quantile_ms(&verdict.from_sent, 0.99),
        verdict,
    })
}

/// Puts 0..puts by [`WRITERS`] clients; when each was sent and acknowledged. A failed put is an error: its event may or may not
/// come.
async fn write(
    cluster: &Cluster,
    case: &Case,
    puts: usize,
    rate: Option<f64>,
    watchers: &Watchers,
) -> Result<Vec<Times>> {
    let connections = puts::connections(cluster, WRITERS / 8, false).await?;
    let next = Arc::new(AtomicU64::new(0));
    let (start, zero) = (Instant::now(), watchers.micros());
    let values = Values::new();
    let mut tasks: JoinSet<Result<Vec<(usize, Times)>>> = JoinSet::new();
    for w in 0..WRITERS {
        let (member, connection) = &connections[w % connections.len()];
        let mut client = Client::new(
            cluster.side,
            &cluster.endpoint(*member),
            connection.clone(),
            values.clone(),
            cluster.overhead,
        )?;
        let next = next.clone();
        let (scope, keys, size) = (case.scope, case.watchers as u64, case.size);
        tasks.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= puts as u64 {
                    return Ok(mine);
                }
                if let Some(rate) = rate {
                    let due = start + Duration::from_secs_f64(n as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                let (verb, object) = match scope {
                    Scope::All => (Verb::Create, name(SERIES, n)),
                    Scope::Own => (Verb::Update, name(SERIES, n % keys)),
                };
                let now =
                    || zero + u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX / 2);
                let sent = now();
                // Another value than the object has from the filling: a put that changes nothing is no event with us.
                client.put(verb, &object, n + keys, size).await?;
                let acknowledged = now();
                mine.push((n as usize, Times { sent, acknowledged }));
            }
        });
    }
    let mut times = vec![Times::default(); puts];
    while let Some(done) = tasks.join_next().await {
        for (n, t) in done?? {
            times[n] = t;
        }
    }
    Ok(times)
}
