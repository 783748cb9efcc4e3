//! Watchers that go from member to member and resume where they were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value as Json;
use tokio::task::JoinHandle;

use super::client::{Client, Credentials, Lines, Reply};
use super::fleet::revision;
use super::history::Revision;
use super::trace::{Change, Event, Seen, Trace};
use super::workload::{COLLECTION, read_object};
use crate::harness::cluster::LONG;

/// A watch that says nothing for so long is given up: its member may be cut off, and another one is not.
const SILENCE: Duration = Duration::from_secs(2);
/// Pause before the next member is asked after one could not be reached.
const RETRY: Duration = Duration::from_millis(50);
/// A watcher leaves its member after so many events, drawn anew each time.
const STAY_EVENTS: std::ops::Range<usize> = 5..120;

/// Watchers of the workload's namespace.
pub struct Watchers {
    last: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Trace>>,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl Watchers {
    /// Starts `n` watchers that go round `members` members, and waits until each has listed.
    #[track_caller]
    pub fn start(
        runtime: &Arc<tokio::runtime::Runtime>,
        credentials: &Credentials,
        members: usize,
        n: usize,
        seed: u64,
    ) -> Self {
        let last = Arc::new(AtomicU64::new(u64::MAX));
        let mut tasks = Vec::new();
        let mut listed = Vec::new();
        for id in 0..n {
            let (tell, told) = tokio::sync::oneshot::channel();
            let watcher = Watcher {
                credentials: credentials.clone(),
                members,
                member: id % members,
                rng: StdRng::seed_from_u64(seed.wrapping_add(id as u64)),
                trace: Trace {
                    name: format!("watcher {}", id + 1),
                    seen: Vec::new(),
                },
                position: None,
                last: last.clone(),
                listed: Some(tell),
            };
            tasks.push(runtime.spawn(watcher.run()));
            listed.push(told);
        }
        for told in listed {
            runtime.block_on(async {
                tokio::time::timeout(LONG, told).await.unwrap().unwrap();
            });
        }
        Self {
            last,
            tasks,
            runtime: runtime.clone(),
        }
    }

    /// Lets every watcher go on until it has reached `last`; answers what they saw.
    #[track_caller]
    pub fn finish(mut self, last: Revision) -> Vec<Trace> {
        self.last.store(last, Ordering::SeqCst);
        let tasks = std::mem::take(&mut self.tasks);
        let wait = async {
            let mut traces = Vec::new();
            for t in tasks {
                traces.push(tokio::time::timeout(LONG, t).await.unwrap().unwrap());
            }
            traces
        };
        self.runtime.block_on(wait)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for t in &self.tasks {
            t.abort();
        }
    }
}

struct Watcher {
    credentials: Credentials,
    members: usize,
    member: usize,
    rng: StdRng,
    trace: Trace,
    position: Option<Revision>,
    last: Arc<AtomicU64>,
    listed: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Watcher {
    async fn run(mut self) -> Trace {
        while self.position.unwrap_or(0) < self.last.load(Ordering::SeqCst) {
            let mut client = Client::new(&self.credentials, self.member);
            let reached = match self.position {
                None => self.list(&mut client).await,
                Some(p) => self.watch(&mut client, p).await,
            };
            if !reached {
                tokio::time::sleep(RETRY).await;
            }
            // On to any other member, where there is one.
            if self.members > 1 {
                let step = self.rng.random_range(1..self.members);
                self.member = (self.member + step) % self.members;
            }
        }
        self.trace
    }

    async fn list(&mut self, client: &mut Client) -> bool {
        let Reply::Answer(StatusCode::OK, body) = client.call(Method::GET, COLLECTION, None).await
        else {
            return false;
        };
        let Some(at) = revision(&body) else {
            return false;
        };
        let items = body["items"].as_array().into_iter().flatten();
        let items: BTreeMap<_, _> = items
            .filter_map(read_object)
            .map(|(k, v, r)| (k, (v, r)))
            .collect();
        self.trace.seen.push(Seen::Listed {
            revision: at,
            items,
        });
        self.position = Some(at);
        if let Some(tell) = self.listed.take() {
            let _ = tell.send(());
        }
        true
    }

    /// Watches one member for a while. Answers whether it was reached.
    async fn watch(&mut self, client: &mut Client, position: Revision) -> bool {
        // Half of the watches end by the clock, which a bookmark must precede.
        let seconds = match self.rng.random_bool(0.5) {
            true => self.rng.random_range(1..=2),
            false => 600,
        };
        let path = format!(
            "{COLLECTION}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={position}"
        );
        let Ok(lines) = client.stream(&path).await else {
            return false;
        };
        match lines.status {
            StatusCode::OK => {}
            StatusCode::GONE => {
                self.expired();
                return true;
            }
            // Not there yet, or no leader to ask: another member may be.
            _ => {
                drop(lines.text().await);
                return false;
            }
        }
        self.trace.seen.push(Seen::Resumed {
            member: self.member,
        });
        let stay = self.rng.random_range(STAY_EVENTS);
        self.follow(lines, stay).await;
        true
    }

    async fn follow(&mut self, mut lines: Lines, stay: usize) {
        for _ in 0..stay {
            if self.position.unwrap_or(0) >= self.last.load(Ordering::SeqCst) {
                return;
            }
            let Ok(Some(line)) = tokio::time::timeout(SILENCE, lines.next()).await else {
                return;
            };
            if !self.take(&line) {
                return;
            }
        }
    }

    /// One frame. Answers whether the watch goes on.
    fn take(&mut self, line: &Json) -> bool {
        let object = &line["object"];
        let change = match line["type"].as_str() {
            Some("ADDED") => Change::Added,
            Some("MODIFIED") => Change::Modified,
            Some("DELETED") => Change::Deleted,
            Some("BOOKMARK") => {
                let Some(at) = revision(object) else {
                    return false;
                };
                self.position = Some(self.position.unwrap_or(0).max(at));
                self.trace.seen.push(Seen::Bookmark { revision: at });
                return true;
            }
            _ => {
                if object["code"] == 410 {
                    self.expired();
                }
                return false;
            }
        };
        if let Some((key, value, at)) = read_object(object) {
            self.position = Some(self.position.unwrap_or(0).max(at));
            self.trace.seen.push(Seen::Event {
                revision: at,
                event: Event { change, key, value },
            });
        }
        true
    }

    fn expired(&mut self) {
        self.trace.seen.push(Seen::Expired);
        self.position = None;
    }
}
