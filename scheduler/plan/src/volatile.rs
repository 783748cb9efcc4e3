//! What the leader knows and does not log: when each node was last heard, and what each proxy has applied.
//!
//! A new leader starts with an empty one. That errs to the safe side: every node gets a whole lease again before it
//! is given up, and no leaving pod counts as drained until its proxies have reported to the new leader.

use std::collections::BTreeMap;

use coracle_api::{Key, Timestamp};
use coracle_state::{Obj, View};
use jiff::SignedDuration;

use crate::writer::later;
use crate::{Settings, pods};

/// Where runners renew their Leases.
pub const NODE_LEASES: &str = "kube-node-lease";
/// Lease of a node whose Lease does not say, where only its order of magnitude matters.
const LEASE_MS: i64 = 40_000;
pub(crate) const LEASES: &str = "leases.coordination.k8s.io";

/// The leader's own memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volatile {
    /// What the proxy on each node has swapped in: the revision of the newest EndpointSlice event (or list) it holds.
    pub acks: BTreeMap<String, u64>,
    heard: BTreeMap<String, Heard>,
    seen: Option<u64>,
    /// When this leader last looked.
    looked_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Heard {
    /// Revision of the Lease when it last changed; 0 = the node has none.
    lease_revision: u64,
    /// When this leader saw that change, by its own clock; `None` = not in its time.
    at: Option<Timestamp>,
    /// `spec.leaseDurationSeconds` in ms, if the Lease says.
    lease_ms: Option<i64>,
}

/// Whether a node is alive, as far as this leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Its lease runs until then.
    Live {
        /// When to look again at the latest: a quarter of a lease from now, or when it expires.
        look_at: Timestamp,
    },
    /// Its lease has expired.
    Expired,
}

impl Volatile {
    /// Takes a proxy's report. The newest report counts even if it is lower: a restarted proxy may hold an older list.
    /// Returns whether it differs from the last one; then [`crate::tasks_after_ack`] are due.
    pub fn ack(&mut self, node: &str, applied: u64) -> bool {
        self.acks.insert(node.to_string(), applied) != Some(applied)
    }

    /// Notes which Leases have changed since the last call. Call it with every new view, before planning on it.
    ///
    /// Only the change is looked at, never `renewTime`: the leader's clock and the node's may differ by more than a lease.
    ///
    /// Time in which this leader did not look (the machine slept, the loop was held up, the clock was set) counts for
    /// nobody: a lease runs only while somebody would see its renewal. Otherwise a laptop that wakes up would give its
    /// own pods up before their runner has a chance to speak.
    pub fn observe(&mut self, view: &View, now: Timestamp) {
        if let Some(before) = self.looked_at.replace(now) {
            let gap = now.duration_since(before);
            for heard in self.heard.values_mut() {
                let lease_ms = heard.lease_ms.unwrap_or(LEASE_MS);
                let blind = gap.is_negative() || gap > SignedDuration::from_millis(lease_ms / 2);
                if let Some(at) = heard.at.filter(|_| blind) {
                    heard.at = at.checked_add(gap).ok().or(Some(now));
                }
            }
        }
        let since = |table: &str| self.seen.and_then(|seen| view.events_after(table, seen));
        match (since(LEASES), since("nodes")) {
            (Some(leases), Some(nodes)) => {
                for event in leases.iter().chain(&nodes) {
                    if event.obj.key.namespace.is_empty() || event.obj.key.namespace == NODE_LEASES
                    {
                        self.hear(view, &event.obj.key.name, now);
                    }
                }
            }
            _ => {
                let names: Vec<String> = view
                    .list(LEASES, Some(NODE_LEASES))
                    .chain(view.list("nodes", None))
                    .map(|o| o.key.name.clone())
                    .chain(self.heard.keys().cloned())
                    .collect();
                for name in names {
                    self.hear(view, &name, now);
                }
            }
        }
        self.seen = Some(view.revision);
    }

    fn hear(&mut self, view: &View, name: &str, now: Timestamp) {
        let lease = view.get(LEASES, &Key::new(NODE_LEASES, name));
        let node = view.get("nodes", &Key::new("", name));
        if lease.is_none() && node.is_none() {
            self.heard.remove(name);
            self.acks.remove(name);
            return;
        }
        let revision = lease.map_or(0, |l| l.revision);
        let lease_ms = lease
            .and_then(|l| l.value()["spec"]["leaseDurationSeconds"].as_i64())
            .map(|s| s.saturating_mul(1000));
        match self.heard.get_mut(name) {
            Some(heard) if heard.lease_revision == revision => {}
            Some(heard) => {
                *heard = Heard {
                    lease_revision: revision,
                    at: Some(now),
                    lease_ms,
                }
            }
            None => {
                // An earlier leader has given this node up and nothing came since: it does not get another lease.
                let given_up = node.is_some_and(|n| revision < n.revision && unreachable(n));
                self.heard.insert(
                    name.into(),
                    Heard {
                        lease_revision: revision,
                        at: (!given_up).then_some(now),
                        lease_ms,
                    },
                );
            }
        }
    }

    /// Whether a node is alive. One this leader has not been shown yet counts as just heard.
    pub fn liveness(&self, node: &str, settings: &Settings, now: Timestamp) -> Liveness {
        let (from, lease_ms) = match self.heard.get(node) {
            None => (now, settings.node_lease_ms),
            Some(Heard { at: None, .. }) => return Liveness::Expired,
            Some(Heard {
                at: Some(at),
                lease_ms,
                ..
            }) => (*at, lease_ms.unwrap_or(settings.node_lease_ms)),
        };
        let until = later(from, lease_ms);
        if until > now {
            Liveness::Live {
                look_at: until.min(later(now, lease_ms / 4 + 1)),
            }
        } else {
            Liveness::Expired
        }
    }

    /// Nodes whose proxies must acknowledge: those with a Lease that has not expired; with when to look again at each.
    pub fn live_proxies(&self, settings: &Settings, now: Timestamp) -> BTreeMap<&str, Timestamp> {
        let leased = self.heard.iter().filter(|(_, h)| h.lease_revision > 0);
        leased
            .filter_map(|(name, _)| match self.liveness(name, settings, now) {
                Liveness::Live { look_at } => Some((name.as_str(), look_at)),
                Liveness::Expired => None,
            })
            .collect()
    }
}

/// Whether a node is marked as one that has stopped reporting.
pub(crate) fn unreachable(node: &Obj) -> bool {
    pods::condition(&node.value(), "Ready").is_some_and(|c| c["status"] == "Unknown")
}
