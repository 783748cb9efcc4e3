//! What a write takes that only one object may hold (an address) or that a node has a limited amount of.
//!
//! Apply re-checks claims and resourceVersions and nothing else (DESIGN section 3, "Apply, exactly").

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kinds::Kind;

/// Node amounts that a pod uses or a node offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Amounts {
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Number of pods.
    pub pods: u64,
}

/// One thing an object holds while it is stored in this form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Claim {
    /// A value unique in its space, e.g. `("clusterIP", "10.43.0.1")`, `("nodePort", "TCP/30080")`, `("podIP", ..)`.
    Unique {
        /// The space: `clusterIP`, `nodePort` or `podIP`.
        space: String,
        /// The value.
        value: String,
    },
    /// Room on a node: the sum over a node may never exceed its allocatable.
    Node {
        /// Node name.
        node: String,
        /// What is used there.
        amounts: Amounts,
    },
}

/// The claims that an object of this kind holds in this form. Every writer of such an object sends exactly these.
pub fn of(kind: &Kind, object: &Value) -> Vec<Claim> {
    match kind.table {
        "services" => crate::attrs::service_claims(object),
        "pods" => crate::attrs::pod_claims(object),
        _ => Vec::new(),
    }
}
