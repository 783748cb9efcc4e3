//! The types openraft is instantiated with. Log data stay encoded bytes: only apply looks inside.

use std::fmt;

use bytes::Bytes;
use coracle_state::Results;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// openraft's type parameters, see the aliases below.
    pub TypeConfig:
        D = Data,
        R = Reply,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// What openraft and the raft thread run on.
#[cfg(not(test))]
pub type Runtime = openraft::impls::TokioRuntime;
/// What openraft and the raft thread run on: tokio, and in a simulation tokio under simulated processes.
#[cfg(test)]
pub type Runtime = crate::sim::runtime::SimRuntime;

#[cfg(test)]
pub(crate) use crate::sim::watch;
/// The watch channel of the raft thread; in tests of this crate one whose order of wake-ups repeats.
#[cfg(not(test))]
pub(crate) use tokio::sync::watch;

/// A number nobody else draws (in a simulation: from its seed).
pub(crate) fn random() -> u64 {
    #[cfg(test)]
    if let Some(seed) = crate::sim::host::next_seed() {
        return seed;
    }
    rand::random()
}

/// Runs file work off the raft thread (in a simulation: in place, after a virtual delay).
pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    #[cfg(test)]
    if crate::sim::host::in_simulation() {
        crate::sim::host::file_work().await;
        return f();
    }
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|e| std::io::Error::other(e.to_string()))?
}

/// Makes a task that is started past [`Runtime`] part of the process that starts it: in a simulation it stops and dies
/// with it. Nothing otherwise.
#[cfg(not(test))]
pub(crate) fn hosted<F: Future>(task: F) -> F {
    task
}
#[cfg(test)]
pub(crate) use crate::sim::host::hosted;

/// A log position with the leader that wrote it.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// A membership with the log position that set it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What openraft knows of a snapshot.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// The raft handle.
pub type Raft = openraft::Raft<TypeConfig, crate::machine::Machine>;

/// One encoded [`coracle_state::Batch`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data(pub Bytes);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What apply answers: one result per command; empty for entries without commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply(pub Results);

/// A member of the raft group as the membership entry stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// HOST:PORT of its raft listener; empty for a single member without one.
    pub raft: String,
    /// Full URL of its API; empty if not announced yet.
    pub api: String,
}

/// A node id as it is written everywhere outside raft: 16 hex digits.
pub fn node_id_text(id: u64) -> String {
    format!("{id:016x}")
}

/// Reads [`node_id_text`] back; `None` unless it is exactly 16 hex digits.
pub fn parse_node_id(text: &str) -> Option<u64> {
    (text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u64::from_str_radix(text, 16).ok())?
}
