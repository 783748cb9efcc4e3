//! A simulated process: a set of tasks that can be frozen (SIGSTOP) or dropped (kill -9) together, with a clock of its own
//! speed. Every task that production code starts through the runtime of `TypeConfig` belongs to the host that started it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Tasks remembered before finished ones are swept out.
const SWEEP_AT: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Frozen,
    Dead,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    tasks: Vec<AbortHandle>,
    parked: Vec<Waker>,
    sweep_at: usize,
    /// Extra time of every blocking file operation.
    file_delay: Duration,
}

/// Told of every published state: log index, hash, revision.
type Observer = Box<dyn Fn(u64, u64, u64) + Send + Sync>;

/// One incarnation of a simulated process.
pub struct Host {
    /// Local seconds per million true seconds, minus a million: how fast its clock runs.
    drift_ppm: i64,
    observer: OnceLock<Observer>,
    inner: Mutex<Inner>,
}

impl Host {
    /// A running process whose clock is `drift_ppm` parts per million fast.
    pub fn new(drift_ppm: i64) -> Arc<Self> {
        Arc::new(Self {
            drift_ppm,
            observer: OnceLock::new(),
            inner: Mutex::new(Inner {
                phase: Phase::Running,
                tasks: Vec::new(),
                parked: Vec::new(),
                sweep_at: SWEEP_AT,
                file_delay: Duration::ZERO,
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is told of the states it publishes. Once.
    pub fn observe(&self, observer: impl Fn(u64, u64, u64) + Send + Sync + 'static) {
        // A second observer would be a mistake of the simulator, without harm.
        let _ = self.observer.set(Box::new(observer));
    }

    /// The host whose task runs now.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.with(|c| c.borrow().clone())
    }

    /// Runs a task on this host.
    pub fn spawn<F>(self: &Arc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let handle = tokio::spawn(Gated {
            host: self.clone(),
            inner: Box::pin(future),
        });
        let mut inner = self.inner();
        if inner.phase == Phase::Dead {
            handle.abort();
            return handle;
        }
        if inner.tasks.len() >= inner.sweep_at {
            inner.tasks.retain(|t| !t.is_finished());
            inner.sweep_at = SWEEP_AT.max(inner.tasks.len() * 2);
        }
        inner.tasks.push(handle.abort_handle());
        handle
    }

    /// Stops polling its tasks; time and the network go on.
    pub fn freeze(&self) {
        let mut inner = self.inner();
        if inner.phase == Phase::Running {
            inner.phase = Phase::Frozen;
        }
    }

    /// Goes on where it was frozen.
    pub fn thaw(&self) {
        let mut inner = self.inner();
        if inner.phase == Phase::Frozen {
            inner.phase = Phase::Running;
        }
        let parked = std::mem::take(&mut inner.parked);
        drop(inner);
        parked.into_iter().for_each(Waker::wake);
    }

    /// Drops all its tasks where they are.
    pub fn kill(&self) {
        let mut inner = self.inner();
        inner.phase = Phase::Dead;
        let tasks = std::mem::take(&mut inner.tasks);
        inner.parked.clear();
        drop(inner);
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.inner().phase == Phase::Dead
    }

    /// Whether it neither was killed nor is frozen.
    pub fn is_running(&self) -> bool {
        self.inner().phase == Phase::Running
    }

    /// Polls one of its tasks, if it is to run now.
    fn poll<F: Future>(
        self: &Arc<Self>,
        task: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        {
            let mut inner = self.inner();
            match inner.phase {
                Phase::Running => {}
                // Aborted; only its drop is to come.
                Phase::Dead => return Poll::Pending,
                Phase::Frozen => {
                    if !inner.parked.iter().any(|w| w.will_wake(cx.waker())) {
                        inner.parked.push(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        }
        let _entered = Entered(CURRENT.with(|c| c.replace(Some(self.clone()))));
        task.poll(cx)
    }

    /// How long a blocking file operation takes from now on.
    pub fn set_file_delay(&self, delay: Duration) {
        self.inner().file_delay = delay;
    }

    /// See [`Host::set_file_delay`].
    pub fn file_delay(&self) -> Duration {
        self.inner().file_delay
    }

    /// What its clock shows after `real` has passed.
    pub fn local(&self, real: Duration) -> Duration {
        scale(real, 1_000_000 + self.drift_ppm, 1_000_000)
    }

    /// How long it takes until its clock has advanced by `local`.
    pub fn real(&self, local: Duration) -> Duration {
        scale(local, 1_000_000, 1_000_000 + self.drift_ppm)
    }
}

fn scale(d: Duration, numerator: i64, denominator: i64) -> Duration {
    if numerator == denominator {
        return d;
    }
    let nanos = d.as_nanos().min(u128::from(u64::MAX >> 1)) * numerator.unsigned_abs() as u128
        / denominator.unsigned_abs() as u128;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A task of a host.
struct Gated<F> {
    host: Arc<Host>,
    inner: Pin<Box<F>>,
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        this.host.poll(this.inner.as_mut(), cx)
    }
}

/// Puts the previous host back, also after a panic of the task.
struct Entered(Option<Arc<Host>>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|c| *c.borrow_mut() = self.0.take());
    }
}

/// Makes every random number drawn on this thread depend on the seed.
pub fn seed_thread(seed: u64) {
    SEED.with(|s| s.set(Some(seed)));
}

/// The next seed of this thread; `None` outside a simulation.
pub fn next_seed() -> Option<u64> {
    SEED.with(|s| {
        let next = super::dice::Dice::new(s.get()?).next();
        s.set(Some(next));
        Some(next)
    })
}

/// Whether this thread runs a simulation.
pub fn in_simulation() -> bool {
    SEED.with(|s| s.get().is_some())
}

/// Called by production code, in tests only, when a member publishes a state.
pub fn published(applied: u64, hash: u64, revision: u64) {
    if let Some(host) = Host::current()
        && let Some(observer) = host.observer.get()
        && !host.is_dead()
    {
        observer(applied, hash, revision);
    }
}

/// The time a blocking file operation takes here.
pub async fn file_work() {
    if let Some(host) = Host::current() {
        tokio::time::sleep(host.file_delay()).await;
    }
}

/// A task that is polled as part of the host on which it was made, whoever polls it.
pub fn hosted<F: Future>(task: F) -> impl Future<Output = F::Output> {
    let host = Host::current();
    let mut task = Box::pin(task);
    std::future::poll_fn(move |cx| match &host {
        Some(host) => host.poll(task.as_mut(), cx),
        None => task.as_mut().poll(cx),
    })
}
