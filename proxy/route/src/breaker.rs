//! Ejecting an endpoint that keeps failing: consecutive failures, a growing penalty, one trial after it.
//!
//! A pure state machine. Its time is milliseconds of a monotonic clock, not a timestamp: a clock set back must neither
//! prolong a penalty nor end it.

/// Failures in a row that eject an endpoint.
pub const FAILURES_TO_EJECT: u32 = 7;
/// First penalty; each ejection without a success between doubles it.
pub const PENALTY_MIN_MS: u64 = 1_000;
/// Longest penalty.
pub const PENALTY_MAX_MS: u64 = 60_000;

/// The health of one endpoint as this proxy has seen it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    ejections: u32,
    ejected_until_ms: u64,
}

impl Breaker {
    /// A request got an answer. Ends any penalty and forgets earlier failures.
    pub fn success(&mut self) {
        *self = Self::default();
    }

    /// A request failed. Returns the time until which the endpoint is ejected, if this failure ejects it.
    pub fn failure(&mut self, now_ms: u64) -> Option<u64> {
        self.failures = self.failures.saturating_add(1);
        // After a penalty one failure is enough: the endpoint is on trial.
        let limit = if self.ejections > 0 {
            1
        } else {
            FAILURES_TO_EJECT
        };
        if self.failures < limit || now_ms < self.ejected_until_ms {
            return None;
        }
        let penalty = PENALTY_MIN_MS
            .checked_shl(self.ejections.min(16))
            .map_or(PENALTY_MAX_MS, |p| p.min(PENALTY_MAX_MS));
        self.ejections = self.ejections.saturating_add(1);
        self.failures = 0;
        self.ejected_until_ms = now_ms.saturating_add(penalty);
        Some(self.ejected_until_ms)
    }

    /// Whether the endpoint may be chosen.
    pub fn admits(&self, now_ms: u64) -> bool {
        now_ms >= self.ejected_until_ms
    }

    /// Whether there is nothing to forget.
    pub fn is_pristine(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seven_failures_eject_and_penalties_double_until_a_success() {
        let mut b = Breaker::default();
        for _ in 0..6 {
            assert_eq!(b.failure(10), None);
        }
        assert_eq!(b.failure(10), Some(1_010));
        assert!(!b.admits(1_009) && b.admits(1_010));
        assert_eq!(
            b.failure(500),
            None,
            "a straggler during the penalty does not prolong it"
        );
        assert_eq!(
            b.failure(2_000),
            Some(4_000),
            "one failure on trial ejects again"
        );
        b.success();
        assert!(b.is_pristine() && b.admits(0));
    }

    proptest! {
        #[test]
        fn penalties_stay_in_bounds(steps in prop::collection::vec((any::<bool>(), 0u64..100_000), 0..200)) {
            let (mut b, mut now) = (Breaker::default(), 0);
            for (good, later) in steps {
                now += later;
                if good {
                    b.success();
                    prop_assert!(b.admits(now));
                } else if let Some(until) = b.failure(now) {
                    prop_assert!((PENALTY_MIN_MS..=PENALTY_MAX_MS).contains(&(until - now)));
                }
            }
        }
    }
}
