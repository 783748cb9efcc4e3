//! How long certificates live, and when they are replaced.

use std::time::Duration;

use coracle_api::Timestamp;
use jiff::SignedDuration;

/// A day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates begin this much before they are made, because clocks differ; a tenth of a shorter life.
const EARLY_MAX: Duration = DAY;

/// Life of the certificates a cluster issues. Times in certificates are whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// Of a root.
    pub root: Duration,
    /// Of every other certificate; replaced at two thirds.
    pub leaf: Duration,
}

impl Default for Lives {
    /// Ten years for a root, a year for the others.
    fn default() -> Self {
        Self {
            root: DAY * 3_650,
            leaf: DAY * 365,
        }
    }
}

/// A time some while later; the far end of time if there is none.
pub(crate) fn after(now: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| now.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

/// A time some while earlier.
fn before(now: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| now.checked_sub(by).ok())
        .unwrap_or(Timestamp::MIN)
}

/// From when to when a certificate made now is valid, as seconds since 1970. The last time known lies in the year 9999,
/// which is also the last that a certificate can name.
pub(super) fn window(now: Timestamp, life: Duration) -> (u64, u64) {
    let second = |t: Timestamp| t.as_second().max(0).unsigned_abs();
    let early = EARLY_MAX.min(life / 10);
    (second(before(now, early)), second(after(now, life)))
}

/// When a certificate made at `issued` should be replaced.
pub(crate) fn renew_at(issued: Timestamp, life: Duration) -> Timestamp {
    after(issued, life * 2 / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_and_bounded() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let s = now.as_second().unsigned_abs();
        assert_eq!(window(now, Duration::from_secs(30)), (s - 3, s + 30));
        assert_eq!(window(now, DAY * 365), (s - 86_400, s + 365 * 86_400));
        assert_eq!(
            window(now, Duration::from_secs(u64::MAX)).1,
            Timestamp::MAX.as_second().unsigned_abs()
        );
        assert_eq!(
            renew_at(now, Duration::from_secs(30)),
            after(now, Duration::from_secs(20))
        );
    }
}
