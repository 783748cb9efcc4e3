//! CPU time: exact accounting of guest polls, and a token bucket that holds a replica to a fraction of a core.
//!
//! A poll of a guest is timed as a whole. A guest that does not return from its poll is charged at each epoch tick
//! instead, so the bucket is never behind by more than a tick. The start of the slice is kept in a thread-local because
//! the epoch callback runs on the fiber, far from the code that polls it.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::replica::{InFlight, Shared};
use crate::ticker::TICK;

thread_local! {
    static SLICE_START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Length of a CPU period: a replica may burst for what it is due in this time, as in Kubernetes.
const PERIOD: Duration = Duration::from_millis(100);

/// CPU tokens of one replica.
#[derive(Debug)]
pub(crate) struct Bucket {
    millicores: u32,
    state: Mutex<BucketState>,
}

#[derive(Debug)]
struct BucketState {
    tokens_ns: i64,
    refilled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(millicores: u32, now: Instant) -> Self {
        let millicores = millicores.max(1);
        let bucket = Bucket {
            millicores,
            state: Mutex::new(BucketState {
                tokens_ns: 0,
                refilled: now,
            }),
        };
        bucket.state().tokens_ns = bucket.burst_ns();
        bucket
    }

    fn state(&self) -> std::sync::MutexGuard<'_, BucketState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due_ns(&self, elapsed: Duration) -> i64 {
        let due = elapsed
            .as_nanos()
            .saturating_mul(u128::from(self.millicores))
            / 1_000;
        i64::try_from(due).unwrap_or(i64::MAX)
    }

    /// At least one tick, or nothing could ever run.
    fn burst_ns(&self) -> i64 {
        self.due_ns(PERIOD).max(self.due_ns(TICK)).max(1)
    }

    /// Takes used time out; the balance may go below zero by what one slice used.
    pub(crate) fn charge(&self, used: Duration) {
        let used = i64::try_from(used.as_nanos()).unwrap_or(i64::MAX);
        let mut state = self.state();
        state.tokens_ns = state.tokens_ns.saturating_sub(used);
    }

    /// How long to wait until there is a slice to use; `None` if there is one.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        let due = self.due_ns(now.saturating_duration_since(state.refilled));
        if due > 0 {
            state.tokens_ns = state.tokens_ns.saturating_add(due).min(self.burst_ns());
            state.refilled = now;
        }
        if state.tokens_ns > 0 {
            return None;
        }
        let missing = u64::try_from(-state.tokens_ns)
            .unwrap_or(0)
            .saturating_add(1);
        let wait = Duration::from_nanos(missing.saturating_mul(1_000) / u64::from(self.millicores));
        Some(wait.max(TICK))
    }
}

impl Shared {
    /// Charges CPU time to the replica.
    pub(crate) fn charge_cpu(&self, used: Duration) {
        self.metrics
            .cpu_ns
            .fetch_add(u64::try_from(used.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if let Some(bucket) = &self.cpu {
            bucket.charge(used);
        }
    }

    /// Charges the slice that runs on this thread up to `now` and starts the next one.
    pub(crate) fn charge_slice(&self, now: Instant) {
        if let Some(start) = SLICE_START.replace(Some(now)) {
            self.charge_cpu(now.saturating_duration_since(start));
        }
    }

    /// Waits until the replica has CPU time to use.
    pub(crate) async fn wait_for_cpu(&self) {
        if let Some(bucket) = &self.cpu {
            while let Some(wait) = bucket.wait(Instant::now()) {
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// A guest whose polls are timed and charged.
///
/// The fields are dropped in this order: the call is over when its store is gone.
pub(crate) struct Timed<T> {
    pub guest: Pin<Box<dyn Future<Output = T> + Send>>,
    pub admitted: InFlight,
}

impl<T> Future for Timed<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let outer = SLICE_START.replace(Some(Instant::now()));
        let result = self.guest.as_mut().poll(cx);
        let now = Instant::now();
        self.admitted.shared().charge_slice(now);
        // A guest polled inside another one's poll: the outer slice goes on from here, without the inner one's time.
        SLICE_START.set(outer.map(|_| now));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_core_gets_half_the_time() {
        let start = Instant::now();
        let bucket = Bucket::new(500, start);
        assert_eq!(bucket.wait(start), None);
        bucket.charge(Duration::from_millis(60)); // 50 ms of burst, so 10 ms behind
        let wait = bucket.wait(start).unwrap();
        assert!(
            wait >= Duration::from_millis(20) && wait < Duration::from_millis(21),
            "{wait:?}"
        );
        assert_eq!(bucket.wait(start + Duration::from_millis(21)), None);
    }

    #[test]
    fn a_long_rest_saves_no_more_than_a_period() {
        let start = Instant::now();
        let bucket = Bucket::new(100, start);
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.wait(later), None);
        bucket.charge(Duration::from_millis(11));
        assert!(bucket.wait(later).is_some());
    }
}
