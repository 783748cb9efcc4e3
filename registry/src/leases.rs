//! Promises to clients that were told "I have that blob" and so will not send it.
//!
//! Kept in memory: a promise matters for the minutes between a HEAD and the manifest that follows. Two things make
//! forgetting safe: after a start nothing is collected for one lease time, and when the table is full everything counts
//! as promised for one lease time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::digest::Digest;

/// Most promises remembered one by one, about 10 MB.
pub const LEASES_MAX: usize = 65_536;

struct Inner {
    until: BTreeMap<Digest, i64>,
    /// Until then (milliseconds since 1970) everything counts as promised.
    all_until: i64,
}

/// The promises.
pub struct Leases {
    lease_ms: i64,
    inner: Mutex<Inner>,
}

impl Leases {
    /// Begins with everything promised for one lease time: a process before this one may have said so.
    pub fn new(now: Timestamp, lease_ms: i64) -> Leases {
        Leases {
            lease_ms,
            inner: Mutex::new(Inner {
                until: BTreeMap::new(),
                all_until: now.as_millisecond().saturating_add(lease_ms),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The map is whole after every line here, so a panicking holder does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises `digest` for one lease time.
    pub fn hold(&self, digest: &Digest, now: Timestamp) {
        let now = now.as_millisecond();
        let end = now.saturating_add(self.lease_ms);
        let mut inner = self.lock();
        if inner.until.len() >= LEASES_MAX && !inner.until.contains_key(digest) {
            inner.until.retain(|_, until| *until > now);
            if inner.until.len() >= LEASES_MAX {
                inner.all_until = inner.all_until.max(end);
                return;
            }
        }
        inner.until.insert(digest.clone(), end);
    }

    /// Is `digest` promised to anybody?
    pub fn holds(&self, digest: &Digest, now: Timestamp) -> bool {
        let now = now.as_millisecond();
        let inner = self.lock();
        inner.all_until > now || inner.until.get(digest).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn promises_end_and_a_start_promises_everything() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let (a, b) = (
            Algorithm::Sha256.digest(b"a"),
            Algorithm::Sha256.digest(b"b"),
        );
        let leases = Leases::new(at(0), 10);
        assert!(leases.holds(&a, at(9)));
        assert!(!leases.holds(&a, at(10)));
        leases.hold(&a, at(20));
        assert!(leases.holds(&a, at(29)));
        assert!(!leases.holds(&b, at(29)));
        assert!(!leases.holds(&a, at(30)));
    }
}
