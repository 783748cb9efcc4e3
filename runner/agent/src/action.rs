//! What the agent asks the runner to do. Closed on purpose: a new case breaks every `match` that must learn about it.

use std::collections::BTreeMap;

use coracle_api::{Key, Timestamp};
use serde_json::Value;

/// Which run of which container something is about. Results echo it, so that a late result of an earlier run is
/// recognised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Uid of the pod.
    pub uid: String,
    /// Name of the container.
    pub container: String,
    /// Restarts of the container before this run.
    pub run: u32,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry what the tag means now.
    Always,
    /// Use what is on the node if the reference was pulled before.
    IfNotPresent,
    /// Never ask a registry.
    Never,
}

/// Which kind of object a pod takes configuration from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl ConfigKind {
    /// The word in messages.
    pub fn word(self) -> &'static str {
        match self {
            ConfigKind::ConfigMap => "configmap",
            ConfigKind::Secret => "secret",
        }
    }
}

/// A ConfigMap or Secret that some pod of this node names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigRef {
    /// Which kind.
    pub kind: ConfigKind,
    /// Namespace and name.
    pub key: Key,
}

/// A volume of a pod, its content resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name in the pod.
    pub name: String,
    /// Content.
    pub source: VolumeSource,
}

/// Where a volume's content comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// An empty directory that lives as long as the pod.
    Empty {
        /// Bound in bytes, if the pod set one.
        size_limit_bytes: Option<u64>,
    },
    /// Files by relative path (no `..`, no leading `/`), replaced as a whole when they change.
    Files(BTreeMap<String, Vec<u8>>),
    /// A directory of the machine; the runner's policy may refuse it.
    Host {
        /// Absolute path.
        path: String,
        /// `hostPath.type`, empty if unset.
        kind: String,
    },
}

/// One mount of a volume in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountGrant {
    /// Volume name.
    pub volume: String,
    /// Path inside the volume, empty for all of it; relative and without `..`.
    pub sub_path: String,
    /// Where the guest sees it.
    pub path: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// Bounds of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `limits.memory` in bytes; `None` leaves the engine's own bound.
    pub memory_bytes: Option<u64>,
    /// `limits.cpu` in thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Annotation `coracle/request-timeout-ms`.
    pub request_timeout_ms: Option<u64>,
    /// Annotation `coracle/max-concurrency`: requests at once.
    pub max_concurrency: Option<u32>,
    /// Annotation `coracle/instance-reuse`: requests one instance may serve; 1 means a fresh one each time.
    pub instance_reuse: Option<u32>,
}

/// Everything a container may see and use, resolved from the pod's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Environment in order; a later entry wins over an earlier one and duplicates are gone already.
    pub env: Vec<(String, String)>,
    /// argv, the program's name first.
    pub args: Vec<String>,
    /// Mounted volumes.
    pub mounts: Vec<MountGrant>,
    /// Bounds.
    pub limits: Limits,
    /// `containerPort`s in order; a service container serves on the first, 80 if there is none.
    pub ports: Vec<u16>,
    /// Whether stdin is kept open.
    pub stdin: bool,
}

impl Grants {
    /// The port a service container serves on.
    pub fn serving_port(&self) -> u16 {
        self.ports
            .first()
            .copied()
            .unwrap_or(crate::config::DEFAULT_PORT)
    }
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// `startupProbe`.
    Startup,
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
}

/// How to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeCheck {
    /// `httpGet`; 200–399 is a success.
    Http {
        /// Path with query.
        path: String,
        /// Port inside the pod.
        port: u16,
        /// Headers to send.
        headers: Vec<(String, String)>,
    },
    /// Whether the container listens on the port.
    Tcp {
        /// Port inside the pod.
        port: u16,
    },
}

/// `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Expected.
    Normal,
    /// Worth a look.
    Warning,
}

impl EventType {
    /// The word in the API.
    pub fn word(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// One piece of work for the runner. The comment says which [`crate::Input`] answers it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read this object and keep telling about it (`Config`, also when it is absent).
    WatchConfig(ConfigRef),
    /// No pod needs it any more.
    UnwatchConfig(ConfigRef),
    /// Make the pod's volumes (`Mounted` or `MountFailed`).
    Mount {
        /// Uid of the pod.
        uid: String,
        /// Its namespace and name.
        pod: Key,
        /// Every volume of the pod.
        volumes: Vec<Volume>,
    },
    /// A configMap, secret or projected volume changed: swap its files in. Not answered.
    UpdateVolume {
        /// Uid of the pod.
        uid: String,
        /// The volume with its new content.
        volume: Volume,
    },
    /// Get the image's bytes onto the node (`Pulled` or `PullFailed`).
    Pull {
        /// For whom.
        at: At,
        /// Namespace and name of the pod.
        pod: Key,
        /// Reference as in the spec.
        image: String,
        /// When to ask the registry.
        policy: PullPolicy,
        /// Digest the reference was resolved to for this pod before (`sha256:…`): a tag is resolved once per pod.
        known_digest: Option<String>,
        /// Names of the Secrets in the pod's namespace that have logins for registries outside.
        secrets: Vec<String>,
    },
    /// Check and compile (`Prepared` or `PrepareFailed`).
    Prepare {
        /// For whom.
        at: At,
        /// What was pulled for it.
        image: Image,
        /// The other containers of the pod that run beside it, whose exports it may import.
        siblings: Vec<(String, Image)>,
    },
    /// Join the compiled code to what it is granted (`Linked` or `LinkFailed`).
    Link {
        /// For whom.
        at: At,
        /// Namespace and name of the pod.
        pod: Key,
        /// The pod's address.
        pod_ip: String,
        /// What it may see and use.
        grants: Box<Grants>,
    },
    /// Run a linked command (`Started`, later `Exited`).
    Start {
        /// What to run.
        at: At,
    },
    /// Let a linked service take requests. Not answered.
    Serve {
        /// Which.
        at: At,
        /// Port it serves on.
        port: u16,
    },
    /// Ask a running container how it is (`Probed`).
    Probe {
        /// Which.
        at: At,
        /// Which probe.
        kind: ProbeKind,
        /// What to do.
        check: ProbeCheck,
        /// Bound on the answer, in milliseconds.
        timeout_ms: u64,
    },
    /// End one container at once (`Exited`).
    KillContainer {
        /// Which.
        at: At,
    },
    /// Take no new requests; tell when nothing is in flight (`Stopped`).
    StopAccepting {
        /// Uid of the pod.
        uid: String,
    },
    /// End everything of the pod at once (`Killed`, after every `Exited` it caused).
    Kill {
        /// Uid of the pod.
        uid: String,
    },
    /// The pod is gone from the API: remove its volumes and logs. Not answered.
    Forget {
        /// Uid of the pod.
        uid: String,
        /// Its namespace and name.
        pod: Key,
    },
    /// Write the pod's status (`StatusWritten` or `StatusFailed`), with uid and revision as preconditions.
    WriteStatus {
        /// Namespace and name.
        key: Key,
        /// Uid it must have.
        uid: String,
        /// resourceVersion it must have.
        revision: u64,
        /// Number of the write, echoed by the answer.
        seq: u64,
        /// A JSON merge patch of `.status`.
        status: Value,
    },
    /// The last act: delete with grace 0 and uid precondition. Repeated until the pod is gone.
    DeletePod {
        /// Namespace and name.
        key: Key,
        /// Uid it must have.
        uid: String,
    },
    /// Record an Event about the pod. Not answered.
    Event {
        /// Namespace and name of the pod.
        key: Key,
        /// Uid of the pod.
        uid: String,
        /// Container it is about, empty for the pod.
        container: String,
        /// Normal or Warning.
        kind: EventType,
        /// One word.
        reason: &'static str,
        /// A sentence, with the fix if something is wrong.
        message: String,
    },
    /// Send `Tick` at this time, not later; replaces an earlier wish.
    WakeAt(Timestamp),
}

use crate::input::Image;
