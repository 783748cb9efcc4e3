//! What a runner is started with.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Everything a runner needs to know. Addresses may have port 0; [`crate::Runner`] tells which was taken.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Name of the node.
    pub name: String,
    /// Directory for images, compiled code, volumes and logs; made if it is missing.
    pub data_dir: PathBuf,
    /// Where the API is served, `https://HOST:PORT` each, the preferred one first; more are learnt from the cluster and
    /// kept in `data_dir`.
    pub api_urls: Vec<String>,
    /// The cluster's roots (PEM, one or more certificates).
    pub ca_pem: String,
    /// This node's certificate chain (PEM); CN `system:node:NAME`, O `system:nodes`.
    pub cert_pem: String,
    /// Its key (PEM).
    pub key_pem: String,
    /// Directory whose `pki` holds the three above (see [`crate::join::save`]), for renewed ones; `None` if they are
    /// issued anew at each start.
    pub identity_dir: Option<PathBuf>,
    /// Where logs are asked for and peers send requests (TLS).
    pub runner_addr: SocketAddr,
    /// Where HTTP from outside is taken.
    pub ingress_addr: SocketAddr,
    /// Address other nodes reach this one at; `None` takes the one of `runner_addr`, or 127.0.0.1 if that is a wildcard.
    pub advertise_ip: Option<IpAddr>,
    /// Program and leading arguments that run the compile child.
    pub compiler: (PathBuf, Vec<String>),
    /// `HOST:PORT` prefixes in image names that mean the embedded registry, besides `localhost:5000`,
    /// `127.0.0.1:5000` and those the cluster tells of.
    pub registry_hosts: Vec<String>,
    /// Knobs.
    pub settings: Settings,
}

/// Knobs with defaults that are right for most nodes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long the cluster waits for a heartbeat before it gives the node up, in milliseconds.
    pub lease_duration_ms: u64,
    /// Time between heartbeats in milliseconds; a quarter of the duration survives two lost ones.
    pub lease_renew_ms: u64,
    /// Time between two looks at the cluster's members and roots, in milliseconds; less if the certificate lives shorter.
    pub refresh_ms: u64,
    /// First back-off of restarts and pulls, in milliseconds.
    pub backoff_base_ms: u64,
    /// Longest back-off, in milliseconds.
    pub backoff_max_ms: u64,
    /// Directories that `hostPath` volumes may lie in; none by default.
    pub host_paths: Vec<PathBuf>,
    /// Bytes of one log file; each container run has at most two.
    pub log_file_bytes: u64,
    /// Images kept on disk, in bytes; beyond it the longest unused go first.
    pub image_bytes_max: u64,
    /// Pods the node takes; an idle one costs less than 100 KB.
    pub pods_max: u64,
    /// CPU offered, in thousandths of a core; `None` offers all cores.
    pub cpu_millis: Option<u64>,
    /// Memory offered and given to guests at most, in bytes; `None` offers three quarters of the machine's.
    pub memory_bytes: Option<u64>,
    /// Linear memories that may live at once.
    pub max_memories: u32,
    /// Whether guests may open sockets. Off: HTTP through the proxy is their only way out.
    pub allow_sockets: bool,
    /// Whether guests' requests may go to private addresses outside the cluster.
    pub allow_private_egress: bool,
    /// Data-plane threads; `None` takes one per core.
    pub proxy_cores: Option<usize>,
    /// How long [`crate::Runner::shutdown`] waits for requests in flight, in milliseconds.
    pub shutdown_grace_ms: u64,
    /// More labels for the Node.
    pub labels: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_duration_ms: 40_000,
            lease_renew_ms: 10_000,
            refresh_ms: 30_000,
            backoff_base_ms: 10_000,
            backoff_max_ms: 300_000,
            host_paths: Vec::new(),
            log_file_bytes: 5 << 20,
            image_bytes_max: 10 << 30,
            pods_max: 10_000,
            cpu_millis: None,
            memory_bytes: None,
            max_memories: 1_000,
            allow_sockets: false,
            allow_private_egress: true,
            proxy_cores: None,
            shutdown_grace_ms: 10_000,
            labels: Vec::new(),
        }
    }
}

impl RunnerConfig {
    /// The address told to others.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> IpAddr {
        match self.advertise_ip {
            Some(ip) => ip,
            None if bound.ip().is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            None => bound.ip(),
        }
    }
}
