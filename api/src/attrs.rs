//! Attributes derived from an object when it is applied or loaded: what indexes and selectors need without decoding.
//! Never logged and never part of the state hash, so their derivation may change between versions.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Amounts, Claim, Kind, meta, quantity};

/// An owner of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `apiVersion` of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Uid of the owner.
    pub uid: String,
    /// The managing owner (at most one).
    pub controller: bool,
    /// Foreground deletion of the owner waits for this object.
    pub block_owner_deletion: bool,
}

/// What is kept beside the bytes of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.ownerReferences`.
    pub owners: Vec<Owner>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `spec.nodeName` of a pod, else empty.
    pub node_name: String,
    /// Allocatable of a node, else `None`.
    pub allocatable: Option<Amounts>,
    /// Values of the kind's selectable fields.
    pub fields: BTreeMap<&'static str, String>,
}

impl Attrs {
    /// Derives the attributes. `table` is the table's name; internal tables get the default.
    pub fn derive(table: &str, object: &Value) -> Self {
        let owners = object["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|o| Owner {
                api_version: o["apiVersion"].as_str().unwrap_or_default().into(),
                kind: o["kind"].as_str().unwrap_or_default().into(),
                name: o["name"].as_str().unwrap_or_default().into(),
                uid: o["uid"].as_str().unwrap_or_default().into(),
                controller: o["controller"].as_bool().unwrap_or(false),
                block_owner_deletion: o["blockOwnerDeletion"].as_bool().unwrap_or(false),
            })
            .collect();
        Self {
            uid: meta::uid(object).into(),
            labels: meta::labels(object),
            owners,
            deleting: !meta::text(object, "deletionTimestamp").is_empty(),
            node_name: if table == "pods" {
                object["spec"]["nodeName"]
                    .as_str()
                    .unwrap_or_default()
                    .into()
            } else {
                String::new()
            },
            allocatable: (table == "nodes").then(|| amounts(&object["status"]["allocatable"])),
            fields: selectable(table)
                .iter()
                .filter_map(|(name, path)| Some((*name, lookup(object, path)?)))
                .collect(),
        }
    }

    /// The controlling owner.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|o| o.controller)
    }

    /// The value of a selectable field.
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields.get(name).cloned()
    }
}

/// Selectable fields of a table: name in selectors and path in the object.
fn selectable(table: &str) -> &'static [(&'static str, &'static str)] {
    match table {
        "pods" => &[
            ("metadata.name", "metadata.name"),
            ("metadata.namespace", "metadata.namespace"),
            ("spec.nodeName", "spec.nodeName"),
            ("spec.restartPolicy", "spec.restartPolicy"),
            ("spec.schedulerName", "spec.schedulerName"),
            ("spec.serviceAccountName", "spec.serviceAccountName"),
            ("status.phase", "status.phase"),
            ("status.podIP", "status.podIP"),
        ],
        "events" => &[
            ("metadata.name", "metadata.name"),
            ("metadata.namespace", "metadata.namespace"),
            ("involvedObject.kind", "involvedObject.kind"),
            ("involvedObject.namespace", "involvedObject.namespace"),
            ("involvedObject.name", "involvedObject.name"),
            ("involvedObject.uid", "involvedObject.uid"),
            ("involvedObject.apiVersion", "involvedObject.apiVersion"),
            (
                "involvedObject.resourceVersion",
                "involvedObject.resourceVersion",
            ),
            ("involvedObject.fieldPath", "involvedObject.fieldPath"),
            ("reason", "reason"),
            ("reportingComponent", "reportingComponent"),
            ("source", "source.component"),
            ("type", "type"),
        ],
        "nodes" => &[
            ("metadata.name", "metadata.name"),
            ("spec.unschedulable", "spec.unschedulable"),
        ],
        "namespaces" => &[
            ("metadata.name", "metadata.name"),
            ("status.phase", "status.phase"),
        ],
        "secrets" => &[
            ("metadata.name", "metadata.name"),
            ("metadata.namespace", "metadata.namespace"),
            ("type", "type"),
        ],
        "replicasets.apps" | "replicationcontrollers" => &[
            ("metadata.name", "metadata.name"),
            ("metadata.namespace", "metadata.namespace"),
            ("status.replicas", "status.replicas"),
        ],
        _ => &[
            ("metadata.name", "metadata.name"),
            ("metadata.namespace", "metadata.namespace"),
        ],
    }
}

/// Whether a field selector may name this field on this kind.
pub fn field_supported(kind: &Kind, field: &str) -> bool {
    selectable(kind.table)
        .iter()
        .any(|(name, _)| *name == field)
}

fn lookup(object: &Value, path: &str) -> Option<String> {
    let mut at = object;
    for part in path.split('.') {
        at = at.get(part)?;
    }
    match at {
        Value::String(s) => Some(s.clone()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Reads `{cpu, memory, pods}` quantities; a missing or malformed one counts 0 (validation refuses malformed ones).
pub fn amounts(resources: &Value) -> Amounts {
    let text = |name: &str| match &resources[name] {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => "0".into(),
    };
    Amounts {
        cpu_millis: quantity::millis(&text("cpu")).unwrap_or(0),
        memory_bytes: quantity::units(&text("memory")).unwrap_or(0),
        pods: quantity::units(&text("pods")).unwrap_or(0),
    }
}

/// What a pod asks of a node: the sum over containers of requests (limits where a request is missing), one pod.
pub fn pod_amounts(pod: &Value) -> Amounts {
    let mut sum = Amounts {
        pods: 1,
        ..Amounts::default()
    };
    for c in pod["spec"]["containers"].as_array().into_iter().flatten() {
        let (requests, limits) = (
            amounts(&c["resources"]["requests"]),
            amounts(&c["resources"]["limits"]),
        );
        sum.cpu_millis += if c["resources"]["requests"]["cpu"].is_null() {
            limits.cpu_millis
        } else {
            requests.cpu_millis
        };
        sum.memory_bytes += if c["resources"]["requests"]["memory"].is_null() {
            limits.memory_bytes
        } else {
            requests.memory_bytes
        };
    }
    sum
}

/// Whether a pod has ended and holds nothing on its node any more.
pub fn pod_ended(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    )
}

/// Claims of a pod: its room on the node and its address, while it is bound and has not ended.
pub fn pod_claims(pod: &Value) -> Vec<Claim> {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() || pod_ended(pod) {
        return Vec::new();
    }
    let mut claims = vec![Claim::Node {
        node: node.into(),
        amounts: pod_amounts(pod),
    }];
    if let Some(ip) = pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty()) {
        claims.push(Claim::Unique {
            space: "podIP".into(),
            value: ip.into(),
        });
    }
    claims
}

/// Claims of a Service: its cluster address and node ports.
pub fn service_claims(service: &Value) -> Vec<Claim> {
    let mut claims = Vec::new();
    if let Some(ip) = service["spec"]["clusterIP"]
        .as_str()
        .filter(|ip| !ip.is_empty() && *ip != "None")
    {
        claims.push(Claim::Unique {
            space: "clusterIP".into(),
            value: ip.into(),
        });
    }
    for port in service["spec"]["ports"].as_array().into_iter().flatten() {
        if let Some(n) = port["nodePort"].as_u64().filter(|n| *n > 0) {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            claims.push(Claim::Unique {
                space: "nodePort".into(),
                value: format!("{protocol}/{n}"),
            });
        }
    }
    claims
}
