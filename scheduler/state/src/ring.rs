//! The event ring of a table: what watches replay. Trimmed by logged time, count and bytes only, so that every member
//! keeps the same window; below its floor a watch gets 410 Expired.

use std::sync::Arc;

use coracle_api::Timestamp;
use jiff::SignedDuration;

use crate::table::{Obj, Table};

/// Events kept per table at most: at 100 changes/s this is more than the time bound.
pub const EVENTS_MAX: usize = 50_000;
/// Bytes kept per table at most (old values are alive only here).
pub const BYTES_MAX: usize = 64 << 20;
/// Age kept: 5 min, as kube-apiserver over etcd with its usual compaction.
pub const AGE_MAX: SignedDuration = SignedDuration::from_secs(300);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It was written.
    Modified,
    /// It is gone; the event's object is its last form at the revision of the deletion.
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// Revision of the change; no two events of the cluster share one.
    pub revision: u64,
    /// Logged time.
    pub at: Timestamp,
    /// What happened.
    pub change: Change,
    /// The object after the change (for `Deleted`: its last form, stamped with the deletion's revision).
    pub obj: Arc<Obj>,
    /// The object before the change, for watches whose selector it may have left.
    pub before: Option<Arc<Obj>>,
}

impl Table {
    pub(crate) fn push(&mut self, event: Event) {
        self.ring_bytes += event.obj.bytes.len();
        self.ring.push_back(Arc::new(event));
    }

    pub(crate) fn trim(&mut self, now: Timestamp) {
        while let Some(front) = self.ring.front() {
            let old = now.duration_since(front.at) > AGE_MAX;
            if !(old || self.ring.len() > EVENTS_MAX || self.ring_bytes > BYTES_MAX) {
                break;
            }
            self.ring_floor = front.revision;
            self.ring_bytes -= front.obj.bytes.len();
            self.ring.pop_front();
        }
    }

    /// Events after `revision`, oldest first; `None` if some of them are no longer kept (410 Expired).
    pub fn events_after(&self, revision: u64) -> Option<Vec<Arc<Event>>> {
        if revision < self.ring_floor {
            return None;
        }
        let at = self
            .ring
            .binary_search_by(|e| e.revision.cmp(&revision))
            .map_or_else(|i| i, |i| i + 1);
        Some(
            (at..self.ring.len())
                .filter_map(|i| self.ring.get(i).cloned())
                .collect(),
        )
    }
}
