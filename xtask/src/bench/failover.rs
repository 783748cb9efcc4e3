//! failover: the leader of three is killed, stopped or cut off under 500 puts/s; the time to the first acknowledgement,
//! by any other member, of a put sent after the fault.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::args::{LoadArgs, interleaved};
use super::load::client::{Client, Values, Verb, name};
use super::load::http2::Connection;
use super::servers::meter::load_average;
use super::servers::netns::Net;
use super::servers::{Cluster, Ground, System};
use super::{Figure, median, report, round};

/// Members of each cluster.
const MEMBERS: usize = 3;
/// Puts per second over all members.
const RATE: f64 = 500.0;
/// Bytes stored per put.
const SIZE: usize = 512;
/// A put without an answer is given up after this time.
const PUT_LIMIT: Duration = Duration::from_secs(5);
/// No acknowledgement for so long after a fault ends the bench.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Time for a new connection.
const CONNECT: Duration = Duration::from_millis(500);
/// Pause between attempts to connect.
const CONNECT_AGAIN: Duration = Duration::from_millis(10);
/// Objects written round and round, so that a long bench does not fill memory.
const KEYS: u64 = 2_000;
/// Calm before each fault, so that leases and connections have settled.
const CALM: Duration = Duration::from_millis(700);

/// What happens to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
enum Fault {
    Kill,
    Stop,
    Cut,
}

/// An acknowledged put.
struct Ack {
    sent: Instant,
    at: Instant,
    member: usize,
}

/// Puts at a fixed rate to every member in turn, whatever happens to them.
struct Stream {
    acks: Arc<Mutex<Vec<Ack>>>,
    failures: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Stream {
    fn start(cluster: &Cluster) -> Self {
        let acks = Arc::new(Mutex::new(Vec::new()));
        let failures = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let values = Values::new();
        for member in 0..cluster.members.len() {
            let endpoint = cluster.endpoint(member);
            let (tell, current) = watch::channel(None::<Connection>);
            let done = stop.clone();
            let to = endpoint.clone();
            // Keeps one connection to the member open.
            tasks.spawn(async move {
                while !done.load(Ordering::Acquire) {
                    let is_open = tell.borrow().as_ref().is_some_and(Connection::is_open);
                    if !is_open {
                        let opened = Connection::open(&to, CONNECT).await.ok();
                        tell.send_replace(opened);
                    }
                    tokio::time::sleep(CONNECT_AGAIN).await;
                }
            });
            let (acks, failures, stop, values) =
                (acks.clone(), failures.clone(), stop.clone(), values.clone());
            let (side, overhead, members) = (cluster.side, cluster.overhead, cluster.members.len());
            tasks.spawn(async move {
                let start = Instant::now();
                let every = Duration::from_secs_f64(members as f64 / RATE);
                let mut n = 0_u64;
                while !stop.load(Ordering::Acquire) {
                    let due = start + every * u32::try_from(n).unwrap_or(u32::MAX);
                    tokio::time::sleep_until(due.into()).await;
                    n += 1;
                    let connection = current.borrow().clone();
                    let client = connection.filter(Connection::is_open).and_then(|c| {
                        Client::new(side, &endpoint, c, values.clone(), overhead).ok()
                    });
                    let Some(mut client) = client else {
                        failures.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let (acks, failures) = (acks.clone(), failures.clone());
                    tokio::spawn(async move {
                        let object = name(member as u32, n % KEYS);
                        let sent = Instant::now();
                        let put = client.put(Verb::Update, &object, n, SIZE);
                        match tokio::time::timeout(PUT_LIMIT, put).await {
                            Ok(Ok(())) => {
                                let at = Instant::now();
                                if let Ok(mut list) = acks.lock() {
                                    list.push(Ack { sent, at, member });
                                }
                            }
                            _ => {
                                failures.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
        }
        Self {
            acks,
            failures,
            stop,
            tasks,
        }
    }

    /// The first acknowledgement by another member than `victim` of a put sent after `effective`.
    fn first(&self, victim: usize, effective: Instant) -> Option<Instant> {
        let list = self.acks.lock().ok()?;
        list.iter()
            .filter(|a| a.member != victim && a.sent > effective)
            .map(|a| a.at)
            .min()
    }

    fn forget(&self) -> usize {
        self.acks
            .lock()
            .map(|mut l| std::mem::take(&mut *l).len())
            .unwrap_or(0)
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Release);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Runs the bench.
pub async fn run(args: &LoadArgs) -> Result<()> {
    let net = match Net::new(MEMBERS) {
        Ok(net) => Some(Arc::new(net)),
        Err(e) => {
            eprintln!("failover: cuts are SKIPPED, no network namespaces here: {e:#}");
            None
        }
    };
    let mut faults = vec![Fault::Kill, Fault::Stop];
    if net.is_some() {
        faults.push(Fault::Cut);
    }
    let ground = Ground {
        coracle: args.coracle()?,
        net,
    };
    let systems = args.systems(System::EtcdTuned)?;
    let times = args.runs.unwrap_or(if args.quick { 3 } else { 30 });
    // Three blocks, forwards and backwards, each on a fresh cluster.
    let blocks = if args.quick { 1 } else { times.min(3) };
    let busy = load_average();
    let mut results: Vec<BTreeMap<Fault, Vec<f64>>> =
        systems.iter().map(|_| BTreeMap::new()).collect();
    for block in 0..blocks {
        let share = times / blocks + usize::from(block < times % blocks);
        for i in interleaved(systems.len(), block) {
            let cluster = Cluster::start(&ground, systems[i], MEMBERS).await?;
            for member in 0..MEMBERS {
                super::load::puts::fill(&cluster, member as u32, KEYS, SIZE).await?;
            }
            let stream = Stream::start(&cluster);
            for fault in &faults {
                for _ in 0..share {
                    let ms = strike(&ground, &cluster, &stream, *fault)
                        .await
                        .with_context(|| format!("{}: {fault:?}", systems[i].label()))?;
                    eprintln!("failover: {}: {fault:?}: {ms:.0} ms", systems[i].label());
                    results[i].entry(*fault).or_default().push(ms);
                }
            }
            let failures = stream.failures.load(Ordering::Relaxed);
            eprintln!(
                "failover: {}: {failures} puts failed or were not sent in this block (the client does not retry)",
                systems[i].label()
            );
            stream.end().await;
        }
    }
    for fault in faults {
        for peer in 1..systems.len().max(2) {
            let ours = results[0].get(&fault).cloned().unwrap_or_default();
            let theirs = results
                .get(peer)
                .and_then(|r| r.get(&fault).cloned())
                .unwrap_or_default();
            figure(fault, &systems, peer, &ours, &theirs, busy)?;
        }
    }
    Ok(())
}

fn figure(
    fault: Fault,
    systems: &[System],
    peer: usize,
    ours: &[f64],
    theirs: &[f64],
    busy: f64,
) -> Result<()> {
    let label = systems.get(peer).map_or("none".to_string(), |s| s.label());
    let mut extra = Map::new();
    for (who, list) in [("ours", ours), ("theirs", theirs)] {
        for (key, q) in [("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)] {
            extra.insert(format!("{who}_{key}"), json!(round(quantile(list, q))));
        }
        extra.insert(format!("{who}_faults"), json!(list.len()));
    }
    extra.insert("load_before".into(), json!(busy));
    let (a, b) = (quantile(ours, 0.99), quantile(theirs, 0.99));
    let runs = (0..ours.len())
        .map(|i| {
            [
                round(ours[i]),
                theirs.get(i).copied().map_or(f64::NAN, round),
            ]
        })
        .collect();
    report(&Figure {
        bench: "failover",
        case: &format!("3m-{}", format!("{fault:?}").to_lowercase()),
        ours: round(a),
        peer: &label,
        theirs: round(b),
        ratio: round(b / a),
        unit: "ms p99",
        runs,
        extra,
    })
}

fn quantile(list: &[f64], q: f64) -> f64 {
    let mut sorted = list.to_vec();
    sorted.sort_by(f64::total_cmp);
    if q == 0.5 {
        return median(sorted);
    }
    let at = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(at.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// One fault: milliseconds from just before it to the first acknowledgement. The victim is brought back and has caught
/// up before this returns.
async fn strike(ground: &Ground, cluster: &Cluster, stream: &Stream, fault: Fault) -> Result<f64> {
    cluster.wait_healthy().await?;
    stream.forget();
    tokio::time::sleep(CALM).await;
    let victim = cluster.leader().await?;
    ensure!(
        stream.forget() > 0,
        "no put was acknowledged before the fault"
    );
    let member = &cluster.members[victim];
    let cut = || ground.net.as_ref().context("a cut needs namespaces");
    let before = Instant::now();
    match fault {
        Fault::Kill => member.kill()?,
        Fault::Stop => member.stop()?,
        Fault::Cut => cut()?.cut(victim)?,
    }
    let effective = Instant::now();
    let first = loop {
        if let Some(at) = stream.first(victim, effective) {
            break at;
        }
        if effective.elapsed() > GIVE_UP {
            bail!("no acknowledged put for {} s", GIVE_UP.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    match fault {
        Fault::Kill => member.restart()?,
        Fault::Stop => member.resume()?,
        Fault::Cut => cut()?.heal(victim)?,
    }
    cluster.wait_healthy().await?;
    Ok((first - before).as_secs_f64() * 1000.0)
}
