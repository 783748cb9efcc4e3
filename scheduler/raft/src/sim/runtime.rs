//! The runtime openraft and our raft thread run on in this crate's tests: tokio, with tasks that belong to hosts, clocks
//! that drift, file work done in place and random numbers drawn from the seed. Outside a simulation it is plain tokio.
//!
//! What makes a run repeat without `--cfg tokio_unstable`: one current-thread runtime with paused time (FIFO queue, timers
//! in order of deadline), no other thread, [`SimWatch`] instead of tokio's watch channel in openraft, biased selects.
//! `replays_are_identical` compares the traces of two runs of the same seeds.

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use futures_util::FutureExt;
use openraft::impls::TokioRuntime;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::rt::{AsyncRuntime, OptionalSend};

use super::host::{Host, in_simulation, next_seed};
use super::watch::SimWatch;

/// tokio under simulated processes.
pub struct SimRuntime(TokioRuntime);

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRuntime")
    }
}

/// A reading of the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimInstant(Duration);

/// Time since the runtime's clock began; any fixed instant of the past does.
pub fn true_time() -> Duration {
    thread_local!(static START: tokio::time::Instant = tokio::time::Instant::now());
    if in_simulation() {
        START.with(tokio::time::Instant::elapsed)
    } else {
        // One for all threads: they hand instants to each other.
        static REAL: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
        REAL.get_or_init(tokio::time::Instant::now).elapsed()
    }
}

impl openraft::rt::Instant for SimInstant {
    fn now() -> Self {
        let now = true_time() + Duration::from_secs(3600);
        Self(Host::current().map_or(now, |h| h.local(now)))
    }
}

impl Add<Duration> for SimInstant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub<Duration> for SimInstant {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(d))
    }
}

impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, d: Duration) {
        *self = *self - d;
    }
}

impl Sub<Self> for SimInstant {
    type Output = Duration;
    fn sub(self, other: Self) -> Duration {
        self.0.saturating_sub(other.0)
    }
}

fn real(local: Duration) -> Duration {
    Host::current().map_or(local, |h| h.real(local))
}

fn until(deadline: SimInstant) -> Duration {
    real(deadline - <SimInstant as openraft::rt::Instant>::now())
}

type Seeded = DeterministicRng<TokioRuntime>;

impl AsyncRuntime for SimRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = SimInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = SimWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match Host::current() {
            Some(host) => host.spawn(future),
            None => tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(real(duration))
    }

    fn sleep_until(deadline: SimInstant) -> Self::Sleep {
        tokio::time::sleep(until(deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(real(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: SimInstant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(until(deadline), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let seed = next_seed().unwrap_or_else(rand::random);
        Seeded::scope(seed, async { Seeded::thread_rng() })
            .now_or_never()
            .expect("it waits for nothing")
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}
