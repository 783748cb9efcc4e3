//! How to start a scheduler.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use coracle_raft::{Fatal, Limits};
use jiff::Timestamp;

use crate::access::RegistryListener;
use crate::backup::Schedule;
use crate::leases::LeaseDurability;
use crate::pki::Lives;
use crate::registry::Garbage;

/// What a scheduler is started with. [`SchedulerConfig::new`] has the defaults of DESIGN section 7.
#[derive(Clone)]
pub struct SchedulerConfig {
    /// The data directory; made if it is not there.
    pub data_dir: PathBuf,
    /// This node's name; `None`: the one kept in `DATA/identity`, at first the host name and four hex digits.
    pub name: Option<String>,
    /// Where the API listens (TLS). Port 0 takes a free one and keeps it.
    pub api_addr: SocketAddr,
    /// Where the registry listens beside the API, which also serves it; `None`: only there.
    pub registry_addr: Option<SocketAddr>,
    /// Credentials and TLS there.
    pub registry: RegistryListener,
    /// Registries outside, `HOST` or `HOST:PORT`, that the registry may pull through (`?ns=HOST`); none by default.
    pub registry_upstreams: Vec<String>,
    /// Bucket that holds the registry's blobs (`s3://`, `gs://`, `az://`), the same one on every member; `None` keeps
    /// them on the members' disks. Credentials come from the environment.
    pub registry_storage: Option<String>,
    /// What the registry's collector takes, and how often it looks.
    pub registry_garbage: Garbage,
    /// Where other members reach this one's log. Port 0 takes a free one and keeps it.
    pub raft_addr: SocketAddr,
    /// Host name or IP that others reach the API and the log at; `None`: the listening addresses. Needed if `raft_addr`
    /// is a wildcard. (The API on a wildcard alone is then announced as 127.0.0.1.)
    pub advertise: Option<String>,
    /// API address of a cluster, `HOST:PORT`, that an empty directory joins; `None`: it begins a cluster.
    pub join: Option<String>,
    /// The token that lets an empty directory in.
    pub token: Option<String>,
    /// Addresses shown in the status of Ingresses.
    pub ingress_addresses: Vec<String>,
    /// How long a node counts as alive after its Lease was renewed, in ms, where the Lease does not say.
    pub node_lease_ms: i64,
    /// How durable a node's heartbeat is when it is answered.
    pub lease_durability: LeaseDurability,
    /// How often this member saves a backup of its own, and how many it keeps.
    pub backups: Schedule,
    /// How long certificates live.
    pub lives: Lives,
    /// Product version for `/version`.
    pub version: String,
    /// The clock for everything stored.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Log and snapshot sizes.
    pub limits: Limits,
    /// What ends the process when consensus or its storage cannot go on.
    pub fatal: Fatal,
}

impl SchedulerConfig {
    /// Defaults: loopback, API 6443, registry 5000, raft 2380, system clock, abort on fatal errors.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            name: None,
            api_addr: (Ipv4Addr::LOCALHOST, 6443).into(),
            registry_addr: Some((Ipv4Addr::LOCALHOST, 5000).into()),
            registry: RegistryListener::default(),
            registry_upstreams: Vec::new(),
            registry_storage: None,
            registry_garbage: Garbage::default(),
            raft_addr: (Ipv4Addr::LOCALHOST, 2380).into(),
            advertise: None,
            join: None,
            token: None,
            ingress_addresses: Vec::new(),
            node_lease_ms: coracle_plan::Settings::default().node_lease_ms,
            lease_durability: LeaseDurability::default(),
            backups: Schedule::default(),
            lives: Lives::default(),
            version: env!("CARGO_PKG_VERSION").into(),
            clock: Arc::new(Timestamp::now),
            limits: Limits::default(),
            fatal: Fatal::abort(),
        }
    }
}
