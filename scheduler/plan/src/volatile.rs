//! What the leader knows and does not log: when each node was last heard, and what each proxy has applied.
//!
//! A new leader starts with an empty one. That errs to the safe side: every node gets a whole lease again before it
//! is given up, and no leaving pod counts as drained until its proxies have reported to the new leader.

use std::collections::BTreeMap;

use coracle_api::{Key, Timestamp};
use coracle_state::{Obj, View};
use jiff::SignedDuration;

use crate::{Settings, pods};

/// Where runners renew their Leases.
pub const NODE_LEASES: &str = "kube-node-lease";
pub(crate) const LEASES: &str = "leases.coordination.k8s.io";

/// The leader's own memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volatile {
    /// What the proxy on each node has swapped in: the revision of the newest EndpointSlice event (or list) it holds.
    pub acks: BTreeMap<String, u64>,
    heard: BTreeMap<String, Heard>,
    seen: Option<u64>,
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
        /// When it expires if it is not renewed.
        until: Timestamp,
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
    pub fn observe(&mut self, view: &View, now: Timestamp) {
        let since = |table: &str| self.seen.and_then(|seen| view.events_after(table, seen));
        match (since(LEASES), since("nodes")) {
            (Some(leases), Some(nodes)) => {
                for event in leases.iter().chain(&nodes) {
                    if event.obj.key.namespace.is_empty() || event.obj.key.namespace == NODE_LEASES {
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
        let lease_ms = lease.and_then(|l| l.value()["spec"]["leaseDurationSeconds"].as_i64()).map(|s| s.saturating_mul(1000));
        match self.heard.get_mut(name) {
            Some(heard) if heard.lease_revision == revision => {}
            Some(heard) => *heard = Heard { lease_revision: revision, at: Some(now), lease_ms },
            None => {
                // An earlier leader has given this node up and nothing came since: it does not get another lease.
                let given_up = node.is_some_and(|n| revision < n.revision && unreachable(n));
                self.heard.insert(name.into(), Heard { lease_revision: revision, at: (!given_up).then_some(now), lease_ms });
            }
        }
    }

    /// Whether a node is alive. One this leader has not been shown yet counts as just heard.
    pub fn liveness(&self, node: &str, settings: &Settings, now: Timestamp) -> Liveness {
        let lease = |ms: Option<i64>| SignedDuration::from_millis(ms.unwrap_or(settings.node_lease_ms));
        let (from, ms) = match self.heard.get(node) {
            None => (now, None),
            Some(Heard { at: None, .. }) => return Liveness::Expired,
            Some(Heard { at: Some(at), lease_ms, .. }) => (*at, *lease_ms),
        };
        match from.checked_add(lease(ms)) {
            Ok(until) if until > now => Liveness::Live { until },
            Ok(_) => Liveness::Expired,
            Err(_) => Liveness::Live { until: Timestamp::MAX },
        }
    }

    /// Nodes whose proxies must acknowledge: those with a Lease that has not expired; with the expiry of each.
    pub fn live_proxies(&self, settings: &Settings, now: Timestamp) -> BTreeMap<&str, Timestamp> {
        let leased = self.heard.iter().filter(|(_, h)| h.lease_revision > 0);
        leased
            .filter_map(|(name, _)| match self.liveness(name, settings, now) {
                Liveness::Live { until } => Some((name.as_str(), until)),
                Liveness::Expired => None,
            })
            .collect()
    }
}

/// Whether a node is marked as one that has stopped reporting.
pub(crate) fn unreachable(node: &Obj) -> bool {
    pods::condition(&node.value(), "Ready").is_some_and(|c| c["status"] == "Unknown")
}
