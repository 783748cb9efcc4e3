//! The knobs of planning, each with a default that is right for most clusters.

use std::net::Ipv4Addr; // pure: an address is a value

/// What an operator may choose about planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a node counts as alive after its Lease was last renewed, in ms, where the Lease does not say
    /// (`spec.leaseDurationSeconds`). Default 40 s, as in Kubernetes.
    pub node_lease_ms: i64,
    /// How long pods stay on a node after it was found unreachable, in ms. Default 1 s: the lease has been the wait
    /// already, and this much lets a burst of expiries be seen whole. A pod's own `tolerationSeconds` wins.
    pub pod_eviction_ms: i64,
    /// How long an Event is kept after it was last seen, in ms. Default 1 h, as in Kubernetes.
    pub event_ttl_ms: i64,
    /// How many Events are kept, oldest removed first. Default 20,000: an hour at five per second, which is more than
    /// anybody reads.
    pub events_max: usize,
    /// How many bytes of Events are kept, oldest removed first. Default 16 MiB, so that no flood of Events grows the state.
    pub event_bytes_max: usize,
    /// How many ended pods are kept for their logs and exit codes, oldest removed first. Default 12,500.
    pub ended_pods_max: usize,
    /// Addresses shown in the status of an Ingress: IP addresses or host names.
    pub ingress_addresses: Vec<String>,
    /// The cluster's CA bundle in PEM, published to every namespace as ConfigMap `kube-root-ca.crt`.
    pub ca_pem: String,
    /// First address of the pod range. Default 10.42.0.0.
    pub pod_range: Ipv4Addr,
    /// Prefix length of the pod range, 8 to 30. Default 16: 65,534 pods.
    pub pod_range_bits: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_lease_ms: 40_000,
            pod_eviction_ms: 1_000,
            event_ttl_ms: 3_600_000,
            events_max: 20_000,
            event_bytes_max: 16 << 20,
            ended_pods_max: 12_500,
            ingress_addresses: Vec::new(),
            ca_pem: String::new(),
            pod_range: Ipv4Addr::new(10, 42, 0, 0),
            pod_range_bits: 16,
        }
    }
}
