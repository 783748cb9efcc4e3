//! Why a node does not take a pod, and why no node does: data first, kubectl's words second.

use std::collections::{BTreeMap, BTreeSet};

/// One node's reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// Not enough of a resource is free: `cpu`, `memory`.
    #[error("Insufficient {0}")]
    Insufficient(&'static str),
    /// The node runs as many pods as it may.
    #[error("Too many pods")]
    TooManyPods,
    /// The node is cordoned.
    #[error("node(s) were unschedulable")]
    Unschedulable,
    /// A taint that the pod does not tolerate, as `{key: value}`.
    #[error("node(s) had untolerated taint {0}")]
    Taint(String),
    /// `nodeSelector` or required node affinity.
    #[error("node(s) didn't match Pod's node affinity/selector")]
    Affinity,
}

/// Why no node takes a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unplaceable {
    /// How many nodes there are.
    pub nodes: usize,
    /// Which nodes gave which reason; a node may give several.
    pub reasons: BTreeMap<Reason, BTreeSet<String>>,
}

impl std::fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return write!(f, "no nodes available to schedule pods");
        }
        let mut parts: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, nodes)| format!("{} {reason}", nodes.len()))
            .collect();
        parts.sort();
        write!(
            f,
            "0/{} nodes are available: {}.",
            self.nodes,
            parts.join(", ")
        )
    }
}
