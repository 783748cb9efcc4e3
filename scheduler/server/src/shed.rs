//! Events are shed first: they explain what happens, and nothing waits for them. Each source has a rate, all together
//! have one, and none is taken while the member has its hands full with other requests.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use coracle_api::ApiError;
use tokio::time::Instant;

use crate::reply;

/// What one source (a node, a user) may write for long, per second, and how much at once: a node that starts a thousand
/// pods says two things about each.
pub const SOURCE: Rate = Rate {
    per_second: 200.0,
    burst: 2_000.0,
};
/// What all sources together may write: a fifth of what a small machine's log takes.
pub const TOTAL: Rate = Rate {
    per_second: 1_000.0,
    burst: 10_000.0,
};
/// Sources remembered at most. Those that have been quiet for long enough are forgotten first.
const SOURCES_MAX: usize = 20_000;

/// So much per second for long, so much at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens that come back per second.
    pub per_second: f64,
    /// Tokens held at most.
    pub burst: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, at: Instant) -> Self {
        Self {
            tokens: rate.burst,
            at,
        }
    }

    /// Fills up to now.
    fn fill(&mut self, rate: Rate, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * rate.per_second).min(rate.burst);
        self.at = now;
    }
}

#[derive(Debug)]
struct State {
    total: Bucket,
    sources: HashMap<String, Bucket>,
}

/// Counts the Events of each source.
#[derive(Debug)]
pub struct Shed(Mutex<State>);

impl Default for Shed {
    fn default() -> Self {
        Self(Mutex::new(State {
            total: Bucket::full(TOTAL, Instant::now()),
            sources: HashMap::new(),
        }))
    }
}

impl Shed {
    /// Takes one Event of a source, or refuses it with 429. `busy` means that other requests need the member more.
    pub fn admit(&self, source: &str, busy: bool) -> Result<(), ApiError> {
        let refused = |why: &str| {
            Err(reply::later(
                429,
                "TooManyRequests",
                format!("E_EVENTS_SHED: this Event is not stored: {why}"),
            ))
        };
        if busy {
            return refused("the member is busy with other requests");
        }
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { total, sources } = &mut *state;
        total.fill(TOTAL, now);
        if sources.len() >= SOURCES_MAX && !sources.contains_key(source) {
            sources.retain(|_, bucket| {
                bucket.fill(SOURCE, now);
                bucket.tokens < SOURCE.burst
            });
            if sources.len() >= SOURCES_MAX {
                return refused("too many sources write Events");
            }
        }
        let own = sources
            .entry(source.to_string())
            .or_insert_with(|| Bucket::full(SOURCE, now));
        own.fill(SOURCE, now);
        if own.tokens < 1.0 {
            return refused("its source writes too many");
        }
        if total.tokens < 1.0 {
            return refused("the cluster writes too many");
        }
        own.tokens -= 1.0;
        total.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_source_has_a_burst_and_a_rate_and_others_do_not_suffer() {
        let shed = Shed::default();
        let take =
            |source: &str, n: usize| (0..n).filter(|_| shed.admit(source, false).is_ok()).count();
        assert_eq!(take("a", 5_000), 2_000);
        assert_eq!(take("b", 10), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(take("a", 5_000), 200);
        for i in 0..10 {
            take(&format!("c{i}"), 2_000);
        }
        assert_eq!(take("d", 1), 0, "all together have a bound");
        assert_eq!(shed.admit("d", false).unwrap_err().code, 429);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(shed.admit("d", true).unwrap_err().message.contains("busy"));
        assert_eq!(take("d", 1), 1);
    }
}
