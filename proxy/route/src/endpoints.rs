//! The endpoints of one Service port and the rule of which of them may be chosen.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One replica, as an EndpointSlice tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Uid of the pod; empty for an endpoint outside the cluster (a hand-written EndpointSlice).
    pub pod_uid: Arc<str>,
    /// Name of the pod; empty as above.
    pub pod_name: Arc<str>,
    /// Node the pod runs on; empty as above.
    pub node: Arc<str>,
    /// Where that node takes traffic from its peers; `None` while the Node object is unknown.
    pub node_addr: Option<SocketAddr>,
    /// Address of the endpoint.
    pub ip: IpAddr,
    /// Port of the endpoint; 0 means "whatever port the caller asked for".
    pub port: u16,
    /// Passes its readiness probe and is not terminating.
    pub ready: bool,
    /// Would still answer, even if it is terminating.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// Runs on the node this table was built for.
    pub local: bool,
    /// Index of its pod in [`crate::Table::pods`]; shared by all ports and Services of the pod.
    pub slot: usize,
}

impl Endpoint {
    /// Whether it is an address outside the cluster instead of a pod.
    pub fn is_external(&self) -> bool {
        self.pod_uid.is_empty()
    }
}

/// The endpoints of a Service port, those on this node first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    all: Vec<Endpoint>,
    usable: Vec<u32>,
    usable_local: usize,
}

impl Endpoints {
    /// Sorts the endpoints (local first, then by pod and address) and applies the rule of Kubernetes: use those that are
    /// ready; if none is ready, those that are terminating but still serving.
    pub fn new(mut all: Vec<Endpoint>) -> Self {
        all.sort_by(|a, b| {
            (!a.local, &a.pod_uid, a.ip, a.port, !a.ready)
                .cmp(&(!b.local, &b.pod_uid, b.ip, b.port, !b.ready))
        });
        // A pod may be listed twice while it moves between slices.
        all.dedup_by(|a, b| a.pod_uid == b.pod_uid && a.ip == b.ip && a.port == b.port);
        let wanted = |e: &Endpoint| e.ready && !e.terminating;
        let fallback = |e: &Endpoint| e.serving && e.terminating;
        let any_ready = all.iter().any(wanted);
        let usable: Vec<u32> = (0u32..)
            .zip(&all)
            .filter(|(_, e)| if any_ready { wanted(e) } else { fallback(e) })
            .map(|(i, _)| i)
            .collect();
        let usable_local = usable.iter().filter(|&&i| all[i as usize].local).count();
        Self {
            all,
            usable,
            usable_local,
        }
    }

    /// Every endpoint, usable or not.
    pub fn all(&self) -> &[Endpoint] {
        &self.all
    }

    /// The endpoint at an index that [`crate::pick`] returned.
    pub fn get(&self, index: usize) -> Option<&Endpoint> {
        self.all.get(index)
    }

    /// Indexes of the endpoints that may be chosen; the first [`Endpoints::usable_local`] of them are on this node.
    pub fn usable(&self) -> &[u32] {
        &self.usable
    }

    /// How many of the usable endpoints are on this node.
    pub fn usable_local(&self) -> usize {
        self.usable_local
    }
}
