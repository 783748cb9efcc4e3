//! Why something has not happened yet, as data.

use coracle_api::{Key, Timestamp};

use crate::placement::Unplaceable;

/// A reason why an object is not where it should be. `Display` is the sentence shown to users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// No node takes the pod.
    #[error("{1}")]
    NoNodeFits(Key, Unplaceable),
    /// The pod's address range is used up.
    #[error("pod {pod}: every address of the pod range is in use")]
    NoAddress {
        /// The pod.
        pod: Key,
    },
    /// Live proxies may still choose a leaving pod.
    #[error("pod {pod} is leaving: waiting until the proxies on {} have applied revision {revision}", nodes.join(", "))]
    Proxies {
        /// The pod.
        pod: Key,
        /// What they must have applied.
        revision: u64,
        /// Nodes whose proxies have not.
        nodes: Vec<String>,
    },
    /// A leaving pod is still offered by an EndpointSlice.
    #[error("pod {pod} is leaving: waiting until EndpointSlice {slice} says so")]
    StillOffered {
        /// The pod.
        pod: Key,
        /// The slice.
        slice: Key,
    },
    /// A bound pod that its node's runner has not made ready.
    #[error("pod {pod} on node {node} is not ready: {why}")]
    NotReady {
        /// The pod.
        pod: Key,
        /// Its node.
        node: String,
        /// What the runner says about it.
        why: String,
    },
    /// The pod is stopping.
    #[error("pod {pod} on node {node} is finishing its requests")]
    Finishing {
        /// The pod.
        pod: Key,
        /// Its node.
        node: String,
    },
    /// A replica that has to stay ready for a while before it counts.
    #[error("{count} replicas become available at {at} (minReadySeconds)")]
    MinReady {
        /// How many.
        count: usize,
        /// When the next one counts.
        at: Timestamp,
    },
    /// Strategy Recreate: the old pods have to be gone first.
    #[error("{count} pods of older revisions are still there (strategy Recreate)")]
    OldPods {
        /// How many.
        count: usize,
    },
    /// A rolling update may not take more down, or put more up, for now.
    #[error("{unavailable} of {updated} new replicas are not available yet")]
    Rollout {
        /// New replicas that are not available.
        unavailable: i64,
        /// New replicas wanted so far.
        updated: i64,
    },
    /// Pods of an unreachable node, until they are given up.
    #[error("{pods} pods of unreachable node {node} are given up at {at}")]
    Eviction {
        /// The node.
        node: String,
        /// How many pods.
        pods: usize,
        /// When the next ones go.
        at: Timestamp,
    },
    /// A namespace that is being removed still holds objects.
    #[error("namespace {namespace} still holds {left}")]
    Content {
        /// The namespace.
        namespace: String,
        /// What is left, as `pods.: 2 resource instances`.
        left: String,
    },
    /// Dependents have to go first (foreground deletion).
    #[error("{count} dependents have to be deleted first")]
    Dependents {
        /// How many block.
        count: usize,
    },
    /// The name that an object needs is taken by something else.
    #[error("{what} is in the way")]
    NameTaken {
        /// Kind and key.
        what: String,
    },
}
