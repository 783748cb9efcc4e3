//! Many watchers, each of which must see every change once and in order. On our side a watcher is a watch request; in
//! etcd it is a watch on the connection's one watch stream, as etcd's own client multiplexes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Uri;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::client::{NAMESPACE, Side, get_json, name};
use super::puts::connections;
use super::streams::{etcd, ours};
use crate::bench::servers::Cluster;

/// Watchers that share one connection; under the streams that either server allows on one.
const WATCHERS_PER_CONNECTION: usize = 100;
/// Time for all watches to be there.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// "Not seen" in a list of times.
pub const NEVER: u32 = u32::MAX;

/// What is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every object of the namespace (in etcd: of the prefix).
    All,
    /// Watcher `w` watches object `w` only.
    Own,
}

/// What one watcher saw.
pub struct Seen {
    /// Microseconds from the start to the event of put `n`, [`NEVER`] if it has not come.
    pub times: Vec<u32>,
    /// Highest revision so far.
    pub last_revision: u64,
    /// Events that came again.
    pub twice: u64,
    /// Events whose revision was not above the highest.
    pub disorder: u64,
}

/// Sums over all watchers.
#[derive(Default)]
pub struct Verdict {
    /// Events that came.
    pub delivered: u64,
    /// Events that did not come in time.
    pub lost: u64,
    /// Events that came again.
    pub twice: u64,
    /// Events whose revision was not above the one before.
    pub disorder: u64,
    /// Watches that the server ended.
    pub ended: u64,
    /// Put acknowledged to event received, microseconds, sorted; 0 where the event was faster than the answer.
    pub from_acknowledged: Vec<u32>,
    /// Put sent to event received, microseconds, sorted.
    pub from_sent: Vec<u32>,
}

/// When a put was sent and acknowledged, by [`Watchers::micros`].
#[derive(Clone, Copy, Default)]
pub struct Times {
    /// Sent.
    pub sent: u32,
    /// Acknowledged.
    pub acknowledged: u32,
}

/// What the watchers of one bench share.
pub struct Shared {
    begin: Instant,
    /// First part of the names.
    pub series: u32,
    puts: usize,
    /// What each watches.
    pub scope: Scope,
    /// Objects; put `n` touches object `n % keys` (all different for [`Scope::All`]).
    keys: usize,
    missing: AtomicU64,
    moved: Notify,
    /// Watches that are there.
    pub ready: AtomicU64,
    /// Watches that the server ended.
    pub ended: AtomicU64,
}

/// Watchers that run.
pub struct Watchers {
    shared: Arc<Shared>,
    tasks: JoinSet<Vec<(usize, Seen)>>,
    count: usize,
    stop: Arc<Notify>,
}

/// Connections that so many watchers are spread over: 10, or one per hundred.
pub fn connection_count(watchers: usize) -> usize {
    watchers
        .div_ceil(WATCHERS_PER_CONNECTION)
        .max(10)
        .min(watchers)
}

impl Watchers {
    /// Opens `count` watchers; back when all of them would see the next change. They expect the puts 0..puts of
    /// `series`. With [`Scope::Own`] the put `n` goes to the object `n % count`, which must exist, and only the object's
    /// watcher expects it.
    pub async fn open(
        cluster: &Cluster,
        count: usize,
        scope: Scope,
        series: u32,
        puts: usize,
    ) -> Result<Self> {
        let revision = match cluster.side {
            Side::Ours => {
                let list = get_json(
                    &cluster.endpoint(cluster.leader().await?),
                    &format!("/api/v1/namespaces/{NAMESPACE}/configmaps?limit=1"),
                )
                .await?;
                let v = list["metadata"]["resourceVersion"].as_str();
                v.context("a list without resourceVersion")?.to_string()
            }
            // From now on.
            Side::Etcd => String::new(),
        };
        let expected = match scope {
            Scope::All => count as u64 * puts as u64,
            Scope::Own => puts as u64,
        };
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            series,
            puts,
            scope,
            keys: count,
            missing: AtomicU64::new(expected),
            moved: Notify::new(),
            ready: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        });
        let stop = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let connections = connections(cluster, connection_count(count), false).await?;
        let total = connections.len();
        for (c, (member, connection)) in connections.into_iter().enumerate() {
            let mine: Vec<usize> = (c..count).step_by(total).collect();
            let address = cluster.members[member].address;
            match cluster.side {
                Side::Etcd => {
                    let uri: Uri = format!("https://{address}/etcdserverpb.Watch/Watch").parse()?;
                    let (shared, stop) = (shared.clone(), stop.clone());
                    let mut connection = connection;
                    tasks.spawn(async move {
                        let mut seen = mine.iter().map(|_| shared.blank()).collect::<Vec<_>>();
                        tokio::select! {
                            r = etcd(&mut connection, &uri, &mine, &shared, &mut seen) => if let Err(e) = r {
                                eprintln!("watch: a stream ended: {e:#}");
                            },
                            () = stop.notified() => {}
                        }
                        mine.into_iter().zip(seen).collect()
                    });
                }
                Side::Ours => {
                    for w in mine {
                        let more = match scope {
                            Scope::All => String::new(),
                            Scope::Own => {
                                format!("&fieldSelector=metadata.name%3D{}", name(series, w as u64))
                            }
                        };
                        let uri: Uri = format!(
                            "https://{address}/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&resourceVersion={revision}{more}"
                        )
                        .parse()?;
                        let (shared, stop, mut connection) =
                            (shared.clone(), stop.clone(), connection.clone());
                        tasks.spawn(async move {
                            let mut seen = shared.blank();
                            tokio::select! {
                                r = ours(&mut connection, uri, &shared, &mut seen) => if let Err(e) = r {
                                    eprintln!("watch: a watch ended: {e:#}");
                                },
                                () = stop.notified() => {}
                            }
                            vec![(w, seen)]
                        });
                    }
                }
            }
        }
        let watchers = Self {
            shared,
            tasks,
            count,
            stop,
        };
        let until = Instant::now() + OPEN_LIMIT;
        while watchers.shared.ready.load(Ordering::Acquire) < count as u64 {
            ensure!(
                watchers.shared.ended.load(Ordering::Acquire) == 0,
                "a watch ended before the first put"
            );
            ensure!(
                Instant::now() < until,
                "only {} of {count} watches were open after {} s",
                watchers.shared.ready.load(Ordering::Acquire),
                OPEN_LIMIT.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(watchers)
    }

    /// Microseconds since the watchers' own zero.
    pub fn micros(&self) -> u32 {
        self.shared.micros()
    }

    /// Waits until every event has come, or nothing has moved for `patience`.
    pub async fn wait(&self, patience: Duration) {
        let mut before = u64::MAX;
        loop {
            let missing = self.shared.missing.load(Ordering::Acquire);
            if missing == 0 || missing == before {
                return;
            }
            before = missing;
            // Wakes when the last event has come; else looks whether anything moved.
            let _ = tokio::time::timeout(patience, self.shared.moved.notified()).await;
        }
    }

    /// Ends all watchers and judges what they saw: sums, and when the last event came; `times[n]` is about put `n`.
    pub async fn finish(mut self, times: &[Times]) -> Result<(Verdict, u32)> {
        let mut verdict = Verdict {
            ended: self.shared.ended.load(Ordering::Acquire),
            ..Verdict::default()
        };
        let mut last = 0;
        let mut back = 0;
        self.stop.notify_waiters();
        while let Some(part) = self.tasks.join_next().await {
            for (watcher, seen) in part.context("a watcher panicked")? {
                back += 1;
                verdict.twice += seen.twice;
                verdict.disorder += seen.disorder;
                for (n, at) in seen.times.iter().enumerate() {
                    if self.shared.scope == Scope::Own && n % self.count != watcher {
                        continue;
                    }
                    if *at == NEVER {
                        verdict.lost += 1;
                        continue;
                    }
                    verdict.delivered += 1;
                    last = last.max(*at);
                    let since = |t: u32| at.saturating_sub(t);
                    verdict.from_acknowledged.push(since(times[n].acknowledged));
                    verdict.from_sent.push(since(times[n].sent));
                }
            }
        }
        ensure!(
            back == self.count,
            "{back} of {} watchers reported",
            self.count
        );
        verdict.from_acknowledged.sort_unstable();
        verdict.from_sent.sort_unstable();
        Ok((verdict, last))
    }
}

impl Shared {
    /// Nothing seen yet.
    pub fn blank(&self) -> Seen {
        Seen {
            times: vec![NEVER; self.puts],
            last_revision: 0,
            twice: 0,
            disorder: 0,
        }
    }

    /// Microseconds since the start.
    pub fn micros(&self) -> u32 {
        u32::try_from(self.begin.elapsed().as_micros()).unwrap_or(NEVER - 1)
    }

    /// Notes one event: object number `object` at `revision`. In own-key mode the puts on one object come in order, so
    /// the next one not seen is meant.
    pub fn note(&self, seen: &mut Seen, object: u64, revision: u64, at: u32) -> bool {
        if revision <= seen.last_revision {
            seen.disorder += 1;
        }
        seen.last_revision = seen.last_revision.max(revision);
        let n = match self.scope {
            Scope::All => object as usize,
            Scope::Own => {
                let mut n = object as usize;
                while seen.times.get(n).is_some_and(|t| *t != NEVER) {
                    n += self.keys;
                }
                n
            }
        };
        match seen.times.get_mut(n) {
            Some(t) if *t == NEVER => {
                *t = at;
                true
            }
            _ => {
                seen.twice += 1;
                false
            }
        }
    }

    /// So many expected events came.
    pub fn arrived(&self, events: u64) {
        if events > 0 && self.missing.fetch_sub(events, Ordering::AcqRel) == events {
            self.moved.notify_one();
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Four puts on two objects.
    pub fn shared(scope: Scope) -> Shared {
        Shared {
            begin: Instant::now(),
            series: 1,
            puts: 4,
            scope,
            keys: 2,
            missing: AtomicU64::new(8),
            moved: Notify::new(),
            ready: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    #[test]
    fn own_keys_count_up_through_their_puts() {
        let shared = shared(Scope::Own);
        let mut seen = shared.blank();
        assert!(shared.note(&mut seen, 1, 5, 50));
        assert!(shared.note(&mut seen, 1, 6, 60));
        assert_eq!(seen.times, [NEVER, 50, NEVER, 60]);
    }
}
