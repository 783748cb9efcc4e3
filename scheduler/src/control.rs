//! The leader's loop: take a view, let `coracle-plan` say what follows from it, propose that, wait for the next change.
//!
//! It decides nothing and remembers nothing that a new leader would miss: tasks come from events and a resync, and what
//! proxies acknowledged is reported again. It runs on a thread of its own, so that planning over a large cluster delays
//! neither raft nor requests.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use coracle_api::{Ids, Timestamp};
use coracle_plan::{Input, Queue, Settings, Volatile, tasks_after_ack};
use coracle_raft::Replica;
use coracle_state::{Propose, ProposeError, Views};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::acks::Acks;
use crate::error::StartError;
use crate::pki::Ca;

/// Everything is looked at again this often, so that a wake-up that plan forgot costs a minute at most.
const RESYNC_EVERY: Duration = Duration::from_secs(60);
/// First wait after a proposal got no answer; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest such wait: after the disk has space again, or a leader is back, planning goes on within it.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Wait before the loop begins anew after a panic in a decision.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// How far the control loop has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has not led yet.
    Starting,
    /// The cluster's first objects are there and plans are made.
    Running,
    /// Proposals are not accepted; the reason.
    Blocked(String),
}

/// The loop and what it needs.
pub(crate) struct Control {
    pub replica: Arc<Replica>,
    pub acks: Arc<Acks>,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub settings: Settings,
    /// The roots that pods are told of; they rotate.
    pub ca: Arc<Ca>,
    /// Port of the API, for the Service `kubernetes`.
    pub api_port: u16,
    pub phase: watch::Sender<Phase>,
    pub stop: CancellationToken,
}

impl Control {
    /// Starts the thread.
    pub fn spawn(self) -> Result<JoinHandle<()>, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(StartError::Thread)?;
        let run = move || {
            runtime.block_on(async {
                // A bug in one decision must not end all of them: the loop begins anew with what is in the log.
                while AssertUnwindSafe(self.run()).catch_unwind().await.is_err() {
                    tracing::error!("a decision panicked; the control loop begins anew");
                    tokio::time::sleep(PANIC_PAUSE).await;
                }
            });
        };
        std::thread::Builder::new()
            .name("control".into())
            .spawn(run)
            .map_err(StartError::Thread)
    }

    /// Leads whenever this member is the leader, until told to stop.
    async fn run(&self) {
        let mut leadership = self.replica.leader_changes();
        loop {
            let term = tokio::select! {
                () = self.stop.cancelled() => return,
                led = leadership.wait_for(|l| l.is_leader) => match led {
                    Ok(l) => l.term,
                    // The replica is gone, and with it the reason to plan.
                    Err(_) => return,
                },
            };
            tracing::info!(term, "this member leads: planning begins");
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.lead() => {}
                _ = leadership.wait_for(|l| !l.is_leader || l.term != term) => {}
            }
            tracing::info!(term, "planning ends");
        }
    }

    /// Plans for as long as it is polled.
    async fn lead(&self) {
        let mut pause = Pause::default();
        self.settled(&mut pause).await;
        let mut ids = Ids::new(rand::random());
        let mut roots = self.ca.changes();
        let mut settings = self.settings.clone();
        settings.ca_pem = self.ca.bundle();
        self.bootstrap(&mut ids, &settings, &mut pause).await;
        self.phase.send_replace(Phase::Running);
        let (mut queue, mut volatile) = (Queue::default(), Volatile::default());
        let mut resync = Instant::now() + RESYNC_EVERY;
        loop {
            let (view, now) = (self.replica.view(), (self.clock)());
            volatile.observe(&view, now);
            let mut heard = false;
            for (node, applied) in self.acks.take() {
                heard |= volatile.ack(&node, applied);
            }
            if heard {
                queue.add(tasks_after_ack(&view));
            }
            queue.note(&view);
            let bundle = self.ca.bundle();
            let rotated = settings.ca_pem != bundle;
            settings.ca_pem = bundle;
            if rotated || Instant::now() >= resync {
                queue.resync(&view);
                resync = Instant::now() + RESYNC_EVERY;
            }
            let input = Input {
                view: &view,
                volatile: &volatile,
                now,
                settings: &settings,
            };
            let mut unanswered = None;
            for proposal in queue.plan(&input, &mut ids) {
                match self.replica.propose(proposal.commands.clone()).await {
                    Ok(results) => {
                        for (note, result) in proposal.notes.iter().zip(&results) {
                            match result {
                                Ok(_) => tracing::debug!(note, "written"),
                                Err(why) => tracing::debug!(note, %why, "refused"),
                            }
                        }
                        queue.settle(&proposal, &results, (self.clock)());
                    }
                    Err(e) => {
                        queue.retry(&proposal, (self.clock)());
                        unanswered = Some(e);
                    }
                }
            }
            match unanswered {
                Some(e) => {
                    self.blocked(&e, &mut pause).await;
                    // What was proposed is applied, or never will be, before anything is planned again.
                    self.settled(&mut pause).await;
                }
                None => {
                    pause.reset();
                    self.phase.send_if_modified(|p| {
                        std::mem::replace(p, Phase::Running) != Phase::Running
                    });
                    if !queue.busy() {
                        self.wait(&queue, view.revision, resync, &mut roots).await;
                    }
                }
            }
        }
    }

    /// Waits for a change, a report, other roots, a timer or the resync.
    async fn wait(
        &self,
        queue: &Queue,
        revision: u64,
        resync: Instant,
        roots: &mut watch::Receiver<u64>,
    ) {
        let wake = queue.next_wake().map_or(resync, |at| {
            let left =
                Duration::try_from(at.duration_since((self.clock)())).unwrap_or(Duration::ZERO);
            resync.min(Instant::now() + left)
        });
        tokio::select! {
            _ = self.replica.newer_than(revision) => {}
            () = self.acks.arrived() => {}
            // The CA lives as long as this loop.
            _ = roots.changed() => {}
            () = tokio::time::sleep_until(wake) => {}
        }
    }

    /// The objects every cluster has.
    async fn bootstrap(&self, ids: &mut Ids, settings: &Settings, pause: &mut Pause) {
        loop {
            let view = self.replica.view();
            let commands = coracle_plan::bootstrap(
                &view,
                (self.clock)(),
                ids,
                &settings.ca_pem,
                self.api_port,
            );
            if commands.is_empty() {
                return;
            }
            match self.replica.propose(commands).await {
                Ok(results) => {
                    // A refusal is somebody else's write: the next look shows it. It must not spin if it stays.
                    if results.iter().any(Result::is_err) {
                        pause.wait().await;
                    }
                }
                Err(e) => {
                    self.blocked(&e, pause).await;
                    self.settled(pause).await;
                }
            }
        }
    }

    /// Returns once everything proposed earlier is in the view or can no longer be.
    async fn settled(&self, pause: &mut Pause) {
        while let Err(e) = self.replica.barrier().await {
            self.blocked(&e, pause).await;
        }
    }

    /// Says once why proposals are not accepted, and waits a little.
    async fn blocked(&self, e: &ProposeError, pause: &mut Pause) {
        let now = Phase::Blocked(e.to_string());
        let new = self.phase.send_if_modified(|p| {
            let first = !matches!(p, Phase::Blocked(_));
            *p = now;
            first
        });
        if new {
            tracing::warn!(error = %e, "the control loop's writes are not accepted; it goes on when they are");
        }
        pause.wait().await;
    }
}

/// A wait that grows.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSE_MIN)
    }
}

impl Pause {
    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }

    fn reset(&mut self) {
        self.0 = PAUSE_MIN;
    }
}
