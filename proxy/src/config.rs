//! What a proxy is started with. Every bound is here with its number and the reason for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;

use crate::replica::LocalReplicas;

/// Names the certificate a peer must show, from the name of its node.
pub type PeerName = Arc<dyn Fn(&str) -> Option<ServerName<'static>> + Send + Sync>;

/// How to reach replicas on other nodes.
#[derive(Clone)]
pub struct PeerConfig {
    /// TLS with this node's client certificate and a verifier of the cluster's roots. ALPN is set to `h2` by the proxy.
    pub tls: Arc<rustls::ClientConfig>,
    /// The name in a node's certificate; [`PeerConfig::new`] takes the node's name itself.
    pub name: PeerName,
}

impl PeerConfig {
    /// Peers whose certificates carry the node's name as a DNS name.
    pub fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        Self {
            tls,
            name: Arc::new(|node| ServerName::try_from(node.to_string()).ok()),
        }
    }
}

impl std::fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerConfig").finish_non_exhaustive()
    }
}

/// Decides whether a connection to the outside world may go to an address its name resolved to.
pub type AddressPolicy = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Settings of a proxy; [`Config::new`] has the defaults.
#[derive(Clone)]
pub struct Config {
    /// Where HTTP from outside is taken; port 0 takes a free one.
    pub ingress_addr: SocketAddr,
    /// Data-plane threads, each with its own listener and runtime; at least 1.
    pub cores: usize,
    /// Who has the replicas of this node.
    pub replicas: Arc<dyn LocalReplicas>,
    /// How to reach other nodes; `None` on a cluster of one.
    pub peers: Option<PeerConfig>,
    /// Which addresses outside the cluster [`crate::Proxy::outside`] may connect to.
    pub outside: AddressPolicy,
    /// Time for a request's head to arrive, from its first byte.
    pub head_timeout: Duration,
    /// Time a connection may be silent: between requests, inside a request body, or not taking what is sent.
    pub idle_timeout: Duration,
    /// Age at which a connection is closed after its current request, so that load spreads again. Varied by ±10 %.
    pub connection_age_max: Duration,
    /// Connections of one core; one more is answered 503. 10,000 of them hold about 100 MB.
    pub connections_per_core_max: usize,
    /// Requests of one Service in flight on one core; one more is answered 503 with `Retry-After`.
    pub in_flight_per_core_max: u32,
    /// Time until the response head must be there; `None` leaves it to the replica.
    pub request_timeout: Option<Duration>,
    /// Time to connect to a peer or an outside server, TLS included.
    pub connect_timeout: Duration,
    /// Whether to write an access log (tracing target `access`).
    pub access_log: bool,
}

impl Config {
    /// The defaults: one core per CPU this process may use, no peers, the whole outside world reachable.
    pub fn new(ingress_addr: SocketAddr, replicas: Arc<dyn LocalReplicas>) -> Self {
        Self {
            ingress_addr,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            replicas,
            peers: None,
            outside: Arc::new(|_| true),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            connection_age_max: Duration::from_secs(3600),
            connections_per_core_max: 10_000,
            in_flight_per_core_max: 1_000,
            request_timeout: None,
            connect_timeout: Duration::from_secs(1),
            access_log: true,
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("ingress_addr", &self.ingress_addr)
            .field("cores", &self.cores)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}
