//! The event ring of a table: what watches replay. Trimmed by logged time, count and bytes only, so that every member
//! keeps the same window; below its floor a watch gets 410 Expired.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use coracle_api::{Timestamp, canonical};
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
    /// The change as watches send it, once somebody has asked for it.
    pub frame: Frame,
}

/// A watch frame that is made once and shared by every watch; it goes with its event, so that a ring whose table is
/// watched holds at most twice [`BYTES_MAX`]. Neither logged nor hashed.
#[derive(Debug, Default)]
pub struct Frame(OnceLock<Bytes>);

impl Change {
    /// What a watch without selectors calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl Event {
    /// `{"type":..,"object":..}` and a line feed, as a watch without selectors sends it. Made at the first call.
    pub fn frame(&self) -> &Bytes {
        self.frame
            .0
            .get_or_init(|| frame(self.change.word(), &self.obj.bytes, self.obj.revision).into())
    }
}

/// One watch frame: stored bytes at a revision.
pub fn frame(what: &str, bytes: &[u8], revision: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 80);
    frame_into(&mut out, what, bytes, revision);
    out
}

/// Appends what [`frame`] makes.
pub fn frame_into(out: &mut Vec<u8>, what: &str, bytes: &[u8], revision: u64) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(what.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    match canonical::metadata_at(bytes) {
        None => out.extend_from_slice(bytes),
        Some(at) => {
            out.extend_from_slice(&bytes[..at]);
            out.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
            if bytes.get(at) != Some(&b'}') {
                out.push(b',');
            }
            out.extend_from_slice(&bytes[at..]);
        }
    }
    out.extend_from_slice(b"}\n");
}

impl Table {
    pub(crate) fn push(&mut self, event: Event) {
        self.ring_bytes += event.obj.bytes.len();
        self.ring.push_back(Arc::new(event));
    }

    /// Whether [`Self::trim`] would change anything.
    pub(crate) fn untrimmed(&self, now: Timestamp) -> bool {
        self.ring.front().is_some_and(|front| {
            now.duration_since(front.at) > AGE_MAX
                || self.ring.len() > EVENTS_MAX
                || self.ring_bytes > BYTES_MAX
        })
    }

    pub(crate) fn trim(&mut self, now: Timestamp) {
        while self.untrimmed(now)
            && let Some(front) = self.ring.front()
        {
            self.ring_floor = front.revision;
            self.ring_bytes -= front.obj.bytes.len();
            self.ring.pop_front();
        }
    }

    /// Events after `revision`, oldest first; `None` if some of them are no longer kept (410 Expired).
    pub fn events_after(&self, revision: u64) -> Option<Vec<Arc<Event>>> {
        Some(self.events_since(revision)?.cloned().collect())
    }

    /// As [`Self::events_after`], without copying: what is not taken costs nothing.
    pub fn events_since(
        &self,
        revision: u64,
    ) -> Option<impl DoubleEndedIterator<Item = &Arc<Event>> + '_> {
        if revision < self.ring_floor {
            return None;
        }
        // Most who ask have seen all but the last few.
        let at = match self.ring.last() {
            Some(last) if last.revision <= revision => self.ring.len(),
            _ => self
                .ring
                .binary_search_by(|e| e.revision.cmp(&revision))
                .map_or_else(|i| i, |i| i + 1),
        };
        Some(self.ring.focus().narrow(at..).into_iter())
    }

    /// Revision of the newest change of this table that anybody can know of; 0 if there never was one.
    pub fn changed(&self) -> u64 {
        self.ring.last().map_or(self.ring_floor, |e| e.revision)
    }

    /// The table as it was at an earlier revision, made by taking back the changes since; `None` if they are no longer
    /// kept. It has no ring. Costs as much as the changes did, so it is for pages of lists, not for every read.
    pub fn at(&self, revision: u64) -> Option<Self> {
        let mut old = self.clone();
        old.ring = imbl::Vector::new();
        old.ring_floor = revision;
        old.ring_bytes = 0;
        for event in self.events_since(revision)?.rev() {
            if event.change != Change::Deleted {
                old.unindex(&event.obj);
                old.objects.remove(&event.obj.key);
            }
            match &event.before {
                Some(before) => {
                    old.index(before);
                    old.objects.insert(before.key.clone(), before.clone());
                }
                None if event.change == Change::Added => {}
                // Nobody knows any more what was there.
                None => return None,
            }
        }
        Some(old)
    }
}
