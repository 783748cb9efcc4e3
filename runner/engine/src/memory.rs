//! Memory budgets: one per replica, one per node, charged before a guest's memory grows.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A sum that never exceeds its limit.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Budget {
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// Takes `bytes`, or nothing if they do not fit.
    pub(crate) fn charge(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit)
        });
        match taken {
            Ok(before) => {
                let now = before + bytes;
                if now > self.peak.load(Relaxed) {
                    self.peak.fetch_max(now, Relaxed);
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Gives back what was charged.
    pub(crate) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_exceeded() {
        let budget = Budget::new(100);
        assert!(budget.charge(60) && !budget.charge(41) && budget.charge(40));
        budget.release(100);
        assert_eq!((budget.used(), budget.peak()), (0, 100));
        assert!(!budget.charge(u64::MAX));
    }
}
