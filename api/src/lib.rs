//! The object model every other crate speaks: which kinds exist, what their fields mean, and the pure rules on them.
//!
//! Objects travel as canonical JSON ([`canonical`]) and are decoded to the typed structs of `k8s-openapi` (named only
//! here, so that one Kubernetes version is chosen in one place) where a decision is made.
//!
//! Invariant: nothing here does I/O, reads a clock or draws randomness; time, seeds and ids are arguments.

pub use jiff::Timestamp;
pub use k8s_openapi;
pub use k8s_openapi::api as k8s;
pub use k8s_openapi::apimachinery;

pub mod apply;
pub mod attrs;
pub mod canonical;
pub mod claims;
pub mod defaults;
pub mod discovery;
pub mod doc;
pub mod error;
pub mod ids;
pub mod key;
pub mod kinds;
pub mod mergekeys;
pub mod meta;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod suggest;
pub mod table;
pub mod validate;

pub use attrs::Attrs;
pub use claims::{Amounts, Claim};
pub use error::ApiError;
pub use ids::Ids;
pub use key::Key;
pub use kinds::Kind;

/// The Kubernetes release whose API we speak, as `/version` shows it.
pub const KUBERNETES_MINOR: u32 = 34;
/// The label that names the Deployment revision hash on ReplicaSets and Pods.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// The pod condition that says every live proxy has stopped choosing the pod (DESIGN section 4, "Leaving").
pub const DRAINED: &str = "coracle/Drained";
/// Node annotation: HOST:PORT where the node's ingress takes HTTP.
pub const INGRESS_ANNOTATION: &str = "coracle/ingress-addr";
