//! Puts by many clients: closed loop (each client sends the next put when the last one is acknowledged) for the peak, or
//! open loop (a fixed rate; latency counts from the time a put was *meant* to be sent, so a stall is not hidden).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::{CONNECT, Client, Values, Verb, name};
use super::http2::Connection;
use crate::bench::servers::Cluster;
use crate::bench::servers::meter::Usage;

/// Clients that share one connection at most, as a busy gRPC client would.
const CLIENTS_PER_CONNECTION: usize = 8;
/// Connections at most.
const CONNECTIONS_MAX: usize = 32;
/// A put that takes longer is a failure.
const PUT_LIMIT: Duration = Duration::from_secs(20);
/// Rest after a failure, so that a refused client does not spin.
const FAILURE_REST: Duration = Duration::from_millis(20);
/// Failures whose text is kept.
const TEXTS: usize = 3;
/// How often the pacer hands out puts.
const PACE: Duration = Duration::from_micros(200);

/// What to send.
pub struct Load {
    /// Clients.
    pub clients: usize,
    /// Bytes stored per put.
    pub size: usize,
    /// Time before measuring.
    pub warm: Duration,
    /// Time of one slice.
    pub slice: Duration,
    /// Slices measured, one after the other without a pause.
    pub slices: usize,
    /// Puts per second; none: closed loop.
    pub rate: Option<f64>,
    /// Overwrite this many objects round and round (they must exist) instead of creating new ones.
    pub cycle: Option<u64>,
    /// First part of the names, different for each load on one cluster.
    pub series: u32,
    /// Talk to the leader only, not to every member.
    pub leader_only: bool,
}

/// One slice, as measured.
#[derive(Default)]
pub struct Slice {
    /// Acknowledged puts.
    pub puts: u64,
    /// Acknowledged puts per second.
    pub per_second: f64,
    /// Median latency, ms.
    pub p50_ms: f64,
    /// 99th percentile, ms.
    pub p99_ms: f64,
    /// Slowest, ms.
    pub max_ms: f64,
    /// Failed puts.
    pub failures: u64,
}

/// What a load gave.
pub struct Outcome {
    /// Slices in order.
    pub slices: Vec<Slice>,
    /// Failed puts, warm-up included.
    pub failures: u64,
    /// Some of the failures.
    pub texts: Vec<String>,
    /// What the servers used over all slices.
    pub servers: Usage,
    /// What the load generator used over all slices.
    pub generator: Usage,
}

impl Outcome {
    /// Acknowledged puts over all slices.
    pub fn puts(&self) -> u64 {
        self.slices.iter().map(|s| s.puts).sum()
    }
}

/// The value at `q` of sorted microseconds, in ms.
pub fn quantile_ms(sorted: &[u32], q: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let at = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len()) - 1;
    f64::from(sorted[at]) / 1000.0
}

#[derive(Default)]
struct Tally {
    latencies: Vec<Vec<u32>>,
    failures: Vec<u64>,
    failures_all: u64,
    texts: Vec<String>,
}

struct Shared {
    load: Load,
    next: AtomicU64,
    permits: Semaphore,
    start: Instant,
    begin: Instant,
    end: Instant,
}

/// Opens `count` connections spread over the members (or all to the leader).
pub async fn connections(
    cluster: &Cluster,
    count: usize,
    leader_only: bool,
) -> Result<Vec<(usize, Connection)>> {
    let members: Vec<usize> = if leader_only {
        vec![cluster.leader().await?]
    } else {
        (0..cluster.members.len()).collect()
    };
    let mut list = Vec::new();
    for i in 0..count {
        let member = members[i % members.len()];
        let endpoint = cluster.endpoint(member);
        list.push((member, Connection::open(&endpoint, CONNECT).await?));
    }
    Ok(list)
}

/// Connections for so many clients on so many members: the same on both sides, at least one per member.
pub fn connection_count(clients: usize, members: usize) -> usize {
    clients
        .div_ceil(CLIENTS_PER_CONNECTION)
        .clamp(1, CONNECTIONS_MAX)
        .max(members.min(clients))
}

/// Runs the load.
pub async fn run(cluster: &Cluster, load: Load) -> Result<Outcome> {
    let values = Values::new();
    let count = connection_count(load.clients, cluster.members.len());
    let connections = connections(cluster, count, load.leader_only).await?;
    let mut clients = Vec::new();
    for i in 0..load.clients {
        let (member, connection) = &connections[i % connections.len()];
        let client = Client::new(
            cluster.side,
            &cluster.endpoint(*member),
            connection.clone(),
            values.clone(),
            cluster.overhead,
        )?;
        clients.push(client);
    }
    drop(connections);
    let start = Instant::now();
    let begin = start + load.warm;
    let end = begin + load.slice * load.slices as u32;
    let (slices, slice) = (load.slices, load.slice);
    let shared = Arc::new(Shared {
        load,
        next: AtomicU64::new(0),
        permits: Semaphore::new(0),
        start,
        begin,
        end,
    });
    let pacer = shared.load.rate.map(|rate| {
        let shared = shared.clone();
        std::thread::spawn(move || pace(&shared, rate))
    });
    let mut tasks = JoinSet::new();
    for client in clients {
        let shared = shared.clone();
        tasks.spawn(async move { worker(client, &shared).await });
    }
    let pids = cluster.pids();
    tokio::time::sleep_until(begin.into()).await;
    let (servers, generator) = (Usage::of(&pids)?, Usage::own()?);
    tokio::time::sleep_until(end.into()).await;
    let servers = Usage::of(&pids)?.since(&servers);
    let generator = Usage::own()?.since(&generator);
    shared.permits.close();
    let mut tallies = Vec::new();
    while let Some(t) = tasks.join_next().await {
        tallies.push(t.context("a client of the load generator panicked")?);
    }
    if let Some(p) = pacer {
        ensure!(p.join().is_ok(), "the pacer panicked");
    }
    cluster.check_alive()?;
    Ok(sum(tallies, slices, slice, servers, generator))
}

fn sum(
    mut tallies: Vec<Tally>,
    slices: usize,
    slice: Duration,
    servers: Usage,
    generator: Usage,
) -> Outcome {
    let slices = (0..slices)
        .map(|i| {
            let mut all: Vec<u32> = Vec::new();
            for t in &mut tallies {
                all.append(&mut t.latencies[i]);
            }
            all.sort_unstable();
            Slice {
                puts: all.len() as u64,
                per_second: all.len() as f64 / slice.as_secs_f64(),
                p50_ms: quantile_ms(&all, 0.50),
                p99_ms: quantile_ms(&all, 0.99),
                max_ms: quantile_ms(&all, 1.0),
                failures: tallies.iter().map(|t| t.failures[i]).sum(),
            }
        })
        .collect();
    Outcome {
        slices,
        failures: tallies.iter().map(|t| t.failures_all).sum(),
        texts: tallies
            .into_iter()
            .flat_map(|t| t.texts)
            .take(TEXTS)
            .collect(),
        servers,
        generator,
    }
}

/// Hands out puts on time, from a thread of its own: the timer of the runtime has steps of a millisecond.
fn pace(shared: &Shared, rate: f64) {
    let mut given = 0_u64;
    while Instant::now() < shared.end {
        let due = (shared.start.elapsed().as_secs_f64() * rate) as u64;
        if due > given {
            shared.permits.add_permits((due - given) as usize);
            given = due;
        }
        std::thread::sleep(PACE);
    }
}

async fn worker(mut client: Client, shared: &Shared) -> Tally {
    let load = &shared.load;
    let mut tally = Tally {
        latencies: vec![Vec::new(); load.slices],
        failures: vec![0; load.slices],
        ..Tally::default()
    };
    loop {
        let (n, from) = match load.rate {
            None => (shared.next.fetch_add(1, Ordering::Relaxed), Instant::now()),
            Some(rate) => {
                match shared.permits.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => break,
                }
                let n = shared.next.fetch_add(1, Ordering::Relaxed);
                (n, shared.start + Duration::from_secs_f64(n as f64 / rate))
            }
        };
        if Instant::now() >= shared.end {
            break;
        }
        let (verb, object) = match load.cycle {
            None => (Verb::Create, name(load.series, n)),
            Some(keys) => (Verb::Update, name(load.series, n % keys)),
        };
        let result = tokio::time::timeout(PUT_LIMIT, client.put(verb, &object, n, load.size))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {} s", PUT_LIMIT.as_secs())));
        let done = Instant::now();
        let slice = (done >= shared.begin && done < shared.end)
            .then(|| (done - shared.begin).as_nanos() / load.slice.as_nanos())
            .map(|s| s as usize);
        match (result, slice) {
            (Ok(()), Some(s)) => {
                let us = u32::try_from((done - from).as_micros()).unwrap_or(u32::MAX);
                tally.latencies[s].push(us);
            }
            (Ok(()), None) => {}
            (Err(e), slice) => {
                tally.failures_all += 1;
                if let Some(s) = slice {
                    tally.failures[s] += 1;
                }
                if tally.texts.len() < TEXTS {
                    tally.texts.push(format!("{e:#}"));
                }
                tokio::time::sleep(FAILURE_REST).await;
                // A member that cannot be reached fails the next put, which is counted then.
                let _ = client.reopen().await;
            }
        }
    }
    tally
}

/// Creates the objects 0..keys of a series, with 64 clients; any failure is an error.
pub async fn fill(cluster: &Cluster, series: u32, keys: u64, size: usize) -> Result<()> {
    const CLIENTS: u64 = 64;
    let connections = connections(cluster, 8, false).await?;
    let values = Values::new();
    let mut tasks = JoinSet::new();
    for c in 0..CLIENTS {
        let (member, connection) = &connections[c as usize % connections.len()];
        let mut client = Client::new(
            cluster.side,
            &cluster.endpoint(*member),
            connection.clone(),
            values.clone(),
            cluster.overhead,
        )?;
        tasks.spawn(async move {
            let mut n = c;
            while n < keys {
                client.put(Verb::Create, &name(series, n), n, size).await?;
                n += CLIENTS;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_taken_from_above() {
        let us: Vec<u32> = (1..=100).map(|n| n * 1000).collect();
        assert_eq!(quantile_ms(&us, 0.5), 50.0);
        assert_eq!(quantile_ms(&us, 0.99), 99.0);
        assert_eq!(quantile_ms(&us, 1.0), 100.0);
        assert!(quantile_ms(&[], 0.5).is_nan());
    }

    #[test]
    fn both_sides_get_the_same_connections() {
        assert_eq!(connection_count(1, 1), 1);
        assert_eq!(connection_count(1, 3), 1);
        assert_eq!(connection_count(64, 1), 8);
        assert_eq!(connection_count(16, 3), 3);
        assert_eq!(connection_count(1000, 3), 32);
    }
}
