//! What the runner tells the agent. Closed on purpose.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::Timestamp;
use serde_json::Value;

use crate::action::{At, ConfigRef, ProbeKind};

/// An error as a user should read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable code such as `E_UNKNOWN_IMPORT`.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

impl Problem {
    /// Puts a problem together.
    pub fn new(
        code: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            fix: fix.into(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message.trim_end_matches('.'))?;
        if !self.fix.is_empty() {
            write!(f, ". {}", self.fix.trim_end_matches('.'))?;
        }
        f.write_str(".")
    }
}

/// Why an image is not on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFailure {
    /// Not found, refused or out of reach: `ErrImagePull`, then `ImagePullBackOff`.
    Pull,
    /// The reference cannot be parsed: `InvalidImageName`.
    InvalidName,
    /// It holds no Wasm (a Linux image, say): `ErrImageUnsupported`.
    Unsupported,
    /// `imagePullPolicy: Never` and it is not here: `ErrImageNeverPull`.
    NeverPull,
}

/// An image whose bytes are on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Digest of the manifest, `sha256:…`.
    pub digest: String,
    /// Digest of the Wasm layer, `sha256:…`.
    pub wasm: String,
    /// `imageID` as shown in status: `name@sha256:…`.
    pub id: String,
}

/// How an image came to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes of its Wasm layer.
    pub bytes: u64,
    /// Who sent them, as a user reads it.
    pub from: String,
    /// How long the pull took, in milliseconds, waiting for other pulls included.
    pub millis: u64,
}

/// What a container turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// Answers HTTP requests; runs until it is stopped.
    Service,
    /// Runs and exits.
    Command,
    /// Serves siblings through their imports; has no life of its own.
    Library,
}

/// How a container's run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 137 when killed, 134 after a trap.
    pub code: i32,
    /// `Completed`, `Error`, `Trap`, `OOMKilled`, `DeadlineExceeded`, …
    pub reason: String,
    /// What a user should read; empty after success.
    pub message: String,
}

impl Exit {
    /// The usual end of a run.
    pub fn code(code: i32) -> Self {
        let reason = if code == 0 { "Completed" } else { "Error" };
        Self {
            code,
            reason: reason.into(),
            message: String::new(),
        }
    }
}

/// Why a status write did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFailure {
    /// The pod has another revision by now (409); the watch will bring it.
    Conflict,
    /// There is no such pod, or another uid has its name.
    Gone,
    /// Anything that may pass.
    Retry,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A pod bound to this node, as the watch or a list showed it.
    Pod(Arc<Value>),
    /// The watch said that the pod is gone from the API.
    Gone {
        /// Uid of the pod.
        uid: String,
    },
    /// A fresh list was read in full (its pods came as `Pod`): whatever is not in it is gone.
    Relisted {
        /// Uids in the list.
        uids: BTreeSet<String>,
    },
    /// A ConfigMap or Secret asked for by `WatchConfig`, or its absence.
    Config {
        /// Which.
        config: ConfigRef,
        /// The object, `None` if there is none.
        object: Option<Arc<Value>>,
    },
    /// The volumes are there.
    Mounted {
        /// Uid of the pod.
        uid: String,
    },
    /// The volumes could not be made.
    MountFailed {
        /// Uid of the pod.
        uid: String,
        /// Why.
        problem: Problem,
    },
    /// The image is on the node.
    Pulled {
        /// Echo.
        at: At,
        /// What it is.
        image: Image,
        /// How it came; `None` if it was there already.
        transfer: Option<Transfer>,
    },
    /// The image is not on the node.
    PullFailed {
        /// Echo.
        at: At,
        /// Which kind of failure.
        failure: PullFailure,
        /// What to tell.
        problem: Problem,
    },
    /// Checked and compiled.
    Prepared {
        /// Echo.
        at: At,
        /// What it is.
        kind: ContainerKind,
    },
    /// Cannot be compiled.
    PrepareFailed {
        /// Echo.
        at: At,
        /// What to tell.
        problem: Problem,
        /// Whether the same bytes will never do.
        permanent: bool,
    },
    /// Ready to start or serve.
    Linked {
        /// Echo.
        at: At,
    },
    /// Cannot be joined to what it imports or is granted.
    LinkFailed {
        /// Echo.
        at: At,
        /// What to tell.
        problem: Problem,
    },
    /// A command runs.
    Started {
        /// Echo.
        at: At,
    },
    /// A run ended.
    Exited {
        /// Echo.
        at: At,
        /// How.
        exit: Exit,
    },
    /// A request to a service trapped; the container goes on.
    Trapped {
        /// Echo.
        at: At,
        /// What happened.
        message: String,
    },
    /// A probe's answer; the error says why it counts as failed.
    Probed {
        /// Echo.
        at: At,
        /// Echo.
        kind: ProbeKind,
        /// The outcome.
        outcome: Result<(), String>,
    },
    /// Nothing of the pod is in flight any more (after `StopAccepting`).
    Stopped {
        /// Uid of the pod.
        uid: String,
    },
    /// Everything of the pod has ended (after `Kill`).
    Killed {
        /// Uid of the pod.
        uid: String,
    },
    /// A status write took effect.
    StatusWritten {
        /// Uid of the pod.
        uid: String,
        /// Echo.
        seq: u64,
        /// resourceVersion of the pod since.
        revision: u64,
    },
    /// A status write did not take effect.
    StatusFailed {
        /// Uid of the pod.
        uid: String,
        /// Echo.
        seq: u64,
        /// Why.
        why: StatusFailure,
    },
    /// The time of a `WakeAt` has come (or any other time; a tick never harms).
    Tick,
}

/// Adds milliseconds to a time; saturates at the end of time.
pub(crate) fn after(at: Timestamp, ms: u64) -> Timestamp {
    at.checked_add(jiff::SignedDuration::from_millis(
        i64::try_from(ms).unwrap_or(i64::MAX),
    ))
    .unwrap_or(Timestamp::MAX)
}

/// Whole milliseconds from `from` to `to`; 0 if `to` is earlier.
pub(crate) fn ms_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}
