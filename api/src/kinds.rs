//! The table of kinds. A new kind is one row here plus its defaults, validation and columns.

/// Object scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Lives in a namespace.
    Namespaced,
    /// Lives beside namespaces.
    Cluster,
}

/// A subresource and the kind its bodies have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Path segment: `status`, `scale`, `log`, ...
    pub name: &'static str,
    /// Group of the body kind.
    pub group: &'static str,
    /// Version of the body kind.
    pub version: &'static str,
    /// Kind of the body.
    pub kind: &'static str,
    /// Verbs it takes.
    pub verbs: &'static [&'static str],
}

/// One row: a resource that the API serves.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Name of its table in the replicated state: `pods`, `deployments.apps`. Never changes once released.
    pub table: &'static str,
    /// API group, empty for core.
    pub group: &'static str,
    /// Version served.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// `all` for what `kubectl get all` shows.
    pub categories: &'static [&'static str],
    /// Namespaced or cluster.
    pub scope: Scope,
    /// Stored, or answered by a handler (SelfSubjectAccessReview).
    pub stored: bool,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Subresources.
    pub subresources: &'static [Subresource],
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether objects live in a namespace.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether writes to `.status` go through the `/status` subresource only.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }
}

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const STATUS: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];

const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    Subresource {
        name: "status",
        group,
        version,
        kind,
        verbs: STATUS,
    }
}

const SCALE: Subresource = Subresource {
    name: "scale",
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    verbs: STATUS,
};

const fn core(plural: &'static str, singular: &'static str, kind: &'static str) -> Kind {
    Kind {
        table: plural,
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        stored: true,
        verbs: ALL,
        subresources: &[],
    }
}

/// Every kind served, in the order discovery lists them.
pub static KINDS: &[Kind] = &[
    Kind {
        short_names: &["ns"],
        scope: Scope::Cluster,
        subresources: &[
            status("", "v1", "Namespace"),
            Subresource {
                name: "finalize",
                group: "",
                version: "v1",
                kind: "Namespace",
                verbs: &["update"],
            },
        ],
        ..core("namespaces", "namespace", "Namespace")
    },
    Kind {
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[status("", "v1", "Node")],
        ..core("nodes", "node", "Node")
    },
    Kind {
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            status("", "v1", "Pod"),
            Subresource {
                name: "log",
                group: "",
                version: "v1",
                kind: "Pod",
                verbs: &["get"],
            },
            Subresource {
                name: "binding",
                group: "",
                version: "v1",
                kind: "Binding",
                verbs: CREATE,
            },
            Subresource {
                name: "eviction",
                group: "policy",
                version: "v1",
                kind: "Eviction",
                verbs: CREATE,
            },
        ],
        ..core("pods", "pod", "Pod")
    },
    Kind {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[status("", "v1", "Service")],
        ..core("services", "service", "Service")
    },
    Kind {
        short_names: &["ep"],
        ..core("endpoints", "endpoints", "Endpoints")
    },
    Kind {
        short_names: &["cm"],
        ..core("configmaps", "configmap", "ConfigMap")
    },
    core("secrets", "secret", "Secret"),
    Kind {
        short_names: &["sa"],
        ..core("serviceaccounts", "serviceaccount", "ServiceAccount")
    },
    Kind {
        short_names: &["ev"],
        ..core("events", "event", "Event")
    },
    Kind {
        short_names: &["rc"],
        categories: &["all"],
        subresources: &[SCALE, status("", "v1", "ReplicationController")],
        ..core(
            "replicationcontrollers",
            "replicationcontroller",
            "ReplicationController",
        )
    },
    Kind {
        table: "replicasets.apps",
        group: "apps",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, status("apps", "v1", "ReplicaSet")],
        ..core("replicasets", "replicaset", "ReplicaSet")
    },
    Kind {
        table: "deployments.apps",
        group: "apps",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, status("apps", "v1", "Deployment")],
        ..core("deployments", "deployment", "Deployment")
    },
    Kind {
        table: "leases.coordination.k8s.io",
        group: "coordination.k8s.io",
        ..core("leases", "lease", "Lease")
    },
    Kind {
        table: "endpointslices.discovery.k8s.io",
        group: "discovery.k8s.io",
        ..core("endpointslices", "endpointslice", "EndpointSlice")
    },
    Kind {
        table: "ingresses.networking.k8s.io",
        group: "networking.k8s.io",
        short_names: &["ing"],
        subresources: &[status("networking.k8s.io", "v1", "Ingress")],
        ..core("ingresses", "ingress", "Ingress")
    },
    Kind {
        table: "selfsubjectaccessreviews",
        group: "authorization.k8s.io",
        scope: Scope::Cluster,
        stored: false,
        verbs: CREATE,
        ..core(
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
            "SelfSubjectAccessReview",
        )
    },
    Kind {
        table: "selfsubjectreviews",
        group: "authentication.k8s.io",
        scope: Scope::Cluster,
        stored: false,
        verbs: CREATE,
        ..core(
            "selfsubjectreviews",
            "selfsubjectreview",
            "SelfSubjectReview",
        )
    },
];

/// The kind served under this group, version and plural.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind stored in this table.
pub fn by_table(table: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.stored && k.table == table)
}

/// The kind of an object, from its `apiVersion` and `kind`.
pub fn by_type(api_version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|k| k.kind == kind && k.api_version() == api_version)
}

/// The kind a user names on a command line: plural, singular, short name or `Kind`, any case.
pub fn by_word(word: &str) -> Option<&'static Kind> {
    let w = word.to_ascii_lowercase();
    let w = w.split_once('.').map_or(w.as_str(), |(head, _)| head);
    KINDS
        .iter()
        .find(|k| k.stored && (k.plural == w || k.singular == w || k.short_names.contains(&w)))
}
