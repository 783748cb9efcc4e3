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
);

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
