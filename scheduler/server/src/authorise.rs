//! Who may do what, as one pure function. Rules of this version: administrators and members everything; a runner reads
//! everything and writes what belongs to its node; everybody may ask for the version, health, the CA and to join.
//!
//! Known wideness: a runner may read Secrets of pods on other nodes. Roles (RBAC) are not part of this version.

use crate::identity::{Identity, MASTERS, MEMBERS};

/// What is asked. Empty strings where a part does not apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural resource; empty for a path that is no resource.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Object name; empty when a create's body was not read yet.
    pub name: &'a str,
    /// For a pod: the node it is bound to.
    pub on_node: &'a str,
    /// For a path that is no resource: the path.
    pub path: &'a str,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// 403 (401 for the anonymous user) with this sentence.
    Deny(String),
}

/// Paths for everybody, with or without credentials.
const OPEN: &[&str] = &["/version", "/healthz", "/livez", "/readyz"];
/// Paths for everybody, but not what is below them.
const OPEN_EXACT: &[&str] = &["/coracle/v1/join", "/coracle/v1/ca"];
/// Paths (and everything below them) for every authenticated user.
const DISCOVERY: &[&str] = &["/", "/api", "/apis", "/openapi"];
/// The namespace that node heartbeats live in.
const NODE_LEASES: &str = "kube-node-lease";

/// Decides one request.
pub fn authorise(identity: &Identity, a: &Attributes<'_>) -> Decision {
    let allowed = if a.resource.is_empty() {
        path(identity, a)
    } else {
        trusted(identity)
            || reviews(identity, a)
            || identity.node().is_some_and(|node| runner(node, a))
    };
    if allowed {
        Decision::Allow
    } else {
        Decision::Deny(why(identity, a))
    }
}

fn trusted(identity: &Identity) -> bool {
    identity.in_group(MASTERS) || identity.in_group(MEMBERS)
}

fn path(identity: &Identity, a: &Attributes<'_>) -> bool {
    let below = |prefix: &str| {
        a.path == prefix
            || a.path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    if trusted(identity) || OPEN_EXACT.contains(&a.path) || OPEN.iter().any(|p| below(p)) {
        return true;
    }
    if identity.is_anonymous() {
        return false;
    }
    // A runner reports what its own proxy has swapped in.
    let own_proxy = identity
        .node()
        .is_some_and(|n| a.path.strip_prefix("/coracle/v1/proxies/") == Some(n));
    // What a renewal gives is for who asks.
    let renew = identity.node().is_some() && a.verb == "post" && a.path == "/coracle/v1/renew";
    let endpoints = identity.node().is_some() && a.path == "/coracle/v1/endpoints";
    own_proxy || renew || (a.verb == "get" && (endpoints || DISCOVERY.iter().any(|p| below(p))))
}

/// Asking about oneself is for everybody who is somebody.
fn reviews(identity: &Identity, a: &Attributes<'_>) -> bool {
    !identity.is_anonymous()
        && a.verb == "create"
        && matches!(
            (a.group, a.resource),
            ("authorization.k8s.io", "selfsubjectaccessreviews")
                | ("authentication.k8s.io", "selfsubjectreviews")
        )
}

fn runner(node: &str, a: &Attributes<'_>) -> bool {
    if matches!(a.verb, "get" | "list" | "watch") {
        return true;
    }
    // Before the body of a create is read its name is unknown; the handler asks again when it knows.
    let own_name = a.name == node || (a.verb == "create" && a.name.is_empty());
    let write = matches!(a.verb, "create" | "update" | "patch");
    match (a.group, a.resource, a.subresource) {
        ("", "nodes", "" | "status") => own_name && write,
        ("coordination.k8s.io", "leases", "") => own_name && write && a.namespace == NODE_LEASES,
        ("", "events", "") => write,
        ("", "pods", "status") => matches!(a.verb, "update" | "patch") && a.on_node == node,
        ("", "pods", "") => a.verb == "delete" && a.on_node == node,
        _ => false,
    }
}

fn why(identity: &Identity, a: &Attributes<'_>) -> String {
    if a.resource.is_empty() {
        return format!(
            "forbidden: User {:?} cannot {} path {:?}",
            identity.user, a.verb, a.path
        );
    }
    let resource = if a.subresource.is_empty() {
        a.resource.to_string()
    } else {
        format!("{}/{}", a.resource, a.subresource)
    };
    let scope = if a.namespace.is_empty() {
        "at the cluster scope".to_string()
    } else {
        format!("in the namespace {:?}", a.namespace)
    };
    let full = if a.group.is_empty() {
        a.resource.to_string()
    } else {
        format!("{}.{}", a.resource, a.group)
    };
    let object = if a.name.is_empty() {
        full
    } else {
        format!("{full} {:?}", a.name)
    };
    format!(
        "{object} is forbidden: User {:?} cannot {} resource {resource:?} in API group {:?} {scope}",
        identity.user, a.verb, a.group
    )
}
