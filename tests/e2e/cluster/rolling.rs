//! Every member is restarted, one after the other, while clients write with the patience of kubectl: no write fails for
//! good, no watch has a gap, and the leader hands over before it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::json;
use tokio::task::JoinHandle;

use super::client::{Client, Reply};
use super::fleet::Fleet;
use super::watcher::Watchers;
use super::workload::{COLLECTION, PACE, Workload};
use super::{net, verdict};
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;

const MEMBERS: usize = 3;
/// Clients that must not fail.
const WRITERS: u64 = 3;
/// How long one of them tries: as long as a kubectl user would wait.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two tries, as client-go's first backoff.
const BACKOFF: Duration = Duration::from_millis(100);
/// Writes of theirs that must succeed before a member goes and after it is back.
const WRITES_BETWEEN: usize = 20;
/// No longer than this without an acknowledged write when the leader is told to stop. Undisturbed it takes some tens of
/// milliseconds; the rest is for a debug build on two cores with other tests beside it.
const HANDOVER_MAX: Duration = Duration::from_secs(3);

/// Clients that repeat what failed.
struct Patient {
    stop: Arc<AtomicBool>,
    acks: Arc<std::sync::Mutex<Vec<Instant>>>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Patient {
    fn start(fleet: &Fleet) -> Self {
        let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let task = |id: u64| {
            let writer = Writer {
                id,
                stop: stop.clone(),
                acks: Arc::clone(&acks),
                clients: (0..MEMBERS)
                    .map(|m| Client::new(&fleet.credentials, m))
                    .collect(),
            };
            fleet.runtime.spawn(writer.run())
        };
        let tasks = (0..WRITERS).map(task).collect();
        Self { stop, acks, tasks }
    }

    fn count(&self) -> usize {
        self.acks.lock().unwrap().len()
    }

    #[track_caller]
    fn wait_for_more(&self) {
        let begin = self.count();
        wait_for("more writes", LONG, || match self.count() - begin {
            n if n >= WRITES_BETWEEN => Ok(()),
            n => Err(format!("{n} writes")),
        });
    }

    /// The longest time without an acknowledgement since a moment.
    fn longest_pause(&self, since: Instant) -> Duration {
        let acks = self.acks.lock().unwrap();
        let mut last = since;
        let mut longest = Duration::ZERO;
        for at in acks.iter().filter(|a| **a >= since) {
            longest = longest.max(at.duration_since(last));
            last = *at;
        }
        longest
    }

    /// Ends them; answers what failed for good.
    fn finish(self, fleet: &Fleet) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut failed = Vec::new();
        for t in self.tasks {
            failed.extend(fleet.runtime.block_on(t).unwrap());
        }
        failed
    }
}

struct Writer {
    id: u64,
    stop: Arc<AtomicBool>,
    acks: Arc<std::sync::Mutex<Vec<Instant>>>,
    clients: Vec<Client>,
}

impl Writer {
    async fn run(mut self) -> Vec<String> {
        let mut failed = Vec::new();
        let mut n = 0;
        // Past what the workload's clients write, and apart for each writer.
        let first = (self.id + 1) << 40;
        while !self.stop.load(Ordering::SeqCst) {
            n += 1;
            if let Err(e) = self.write(first + n, n as usize).await {
                failed.push(e);
            }
        }
        failed
    }

    /// One object of its own; a repeated create that finds it is a success.
    async fn write(&mut self, value: u64, turn: usize) -> Result<(), String> {
        let name = format!("w{}-{value}", self.id);
        // Not one of the workload's objects, which carry a label: those are checked another way.
        let o = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let begin = Instant::now();
        let mut member = turn % MEMBERS;
        loop {
            let reply = self.clients[member]
                .call(Method::POST, COLLECTION, Some(&o))
                .await;
            let why = match reply {
                Reply::Answer(StatusCode::CREATED | StatusCode::CONFLICT, _) => {
                    self.acks.lock().unwrap().push(Instant::now());
                    return Ok(());
                }
                Reply::Answer(s, body) if !s.is_server_error() && s != 429 => {
                    return Err(format!("{name}: {s} {body}"));
                }
                other => format!("{other:?}"),
            };
            if begin.elapsed() > PATIENCE {
                return Err(format!("{name}: gave up after {PATIENCE:?}: {why}"));
            }
            tokio::time::sleep(BACKOFF).await;
            member = (member + 1) % MEMBERS;
        }
    }
}

/// Restarts every member in turn, the leader last, with `binary` if there is another one.
#[track_caller]
fn roll(fleet: &mut Fleet, name: &str, binary: Option<&std::path::Path>) {
    verdict::prepare(fleet);
    let watchers = Watchers::start(&fleet.runtime, &fleet.credentials, MEMBERS, 3, 7);
    let work = Workload::start(&fleet.runtime, &fleet.credentials, MEMBERS, 2, PACE, 7);
    let patient = Patient::start(fleet);
    patient.wait_for_more();
    let leader = fleet.leader();
    let mut order: Vec<usize> = (0..MEMBERS).filter(|i| *i != leader).collect();
    order.push(leader);
    for i in order {
        let leads = fleet.leader() == i;
        let begin = Instant::now();
        fleet.members[i].terminate();
        let status = fleet.members[i].ended();
        assert!(
            status.success(),
            "SIGTERM: {status}\n{}",
            fleet.members[i].log()
        );
        patient.wait_for_more();
        let pause = patient.longest_pause(begin);
        println!(
            "{name}: {} {} stopped in {:.2} s, longest time without an acknowledged write {:.3} s",
            if leads { "leader" } else { "follower" },
            fleet.members[i].name,
            begin.elapsed().as_secs_f64(),
            pause.as_secs_f64()
        );
        assert!(pause < HANDOVER_MAX, "no write for {pause:?}");
        if let Some(binary) = binary {
            fleet.members[i].binary = binary.to_path_buf();
        }
        fleet.restart(i);
        fleet.wait_voters(MEMBERS);
        fleet.wait_writable();
        patient.wait_for_more();
    }
    let written = patient.count();
    let failed = patient.finish(fleet);
    assert!(
        failed.is_empty(),
        "writes that failed for good: {failed:#?}"
    );
    let summary = verdict::judge(fleet, work, watchers);
    verdict::same_state(fleet);
    println!("{name}: {written} patient writes, none failed; {summary:?}");
    assert_eq!(
        summary.watch.relists, 3,
        "a watcher had to list again during a restart"
    );
}

#[test]
fn rolling_restart() {
    if !net::possible() {
        return;
    }
    let mut fleet = Fleet::start(MEMBERS);
    roll(&mut fleet, "rolling_restart", None);
}

/// From `CORACLE_OLD_BINARY` to this binary. Without it there is nothing to upgrade from, and `rolling_restart` shows
/// the same with one version.
#[test]
fn rolling_upgrade() {
    let Some(old) = std::env::var_os("CORACLE_OLD_BINARY") else {
        println!(
            "SKIPPED: rolling_upgrade: CORACLE_OLD_BINARY names no older version; rolling_restart ran this one"
        );
        return;
    };
    if !net::possible() {
        return;
    }
    let old = std::path::PathBuf::from(old);
    let new = std::path::PathBuf::from(crate::harness::program::CORACLE);
    let mut fleet = Fleet::start_with(MEMBERS, &|m| m.binary = old.clone());
    roll(&mut fleet, "rolling_upgrade", Some(&new));
}
