//! The one table of how lists and maps of core types merge: it feeds strategic merge patch, server-side apply and the
//! OpenAPI documents, so the three can never disagree.
//!
//! A list that is not in the table is replaced whole under a strategic merge patch and owned whole by server-side
//! apply; a map that is not in the table merges key by key in both.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// How a field merges under a strategic merge patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategic {
    /// Lists are replaced whole, maps merge per key.
    Plain,
    /// A list of objects, merged by this key.
    Merge(&'static str),
    /// As `Merge`, and an item's keys not named in `$retainKeys` are dropped (what an item may be is a union).
    MergeRetainKeys(&'static str),
    /// A list of scalars, merged as a union.
    Union,
    /// A map whose keys not named in `$retainKeys` are dropped.
    RetainKeys,
    /// A map that is replaced, not merged.
    Replace,
}

/// How a field merges and is owned under server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apply {
    /// Lists atomic, maps granular (but see [`atomic_struct`]).
    Plain,
    /// One owner for the whole value.
    Atomic,
    /// Owned field by field even though the type is atomic elsewhere.
    Granular,
    /// A list of scalars, each owned alone.
    Set,
    /// A list of objects told apart by these keys.
    Map(&'static [&'static str]),
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Under strategic merge patch.
    pub strategic: Strategic,
    /// Under server-side apply.
    pub apply: Apply,
}

const PLAIN: Rule = Rule {
    strategic: Strategic::Plain,
    apply: Apply::Plain,
};

use Apply::{Atomic, Granular, Map, Set};
use Strategic::{Merge, MergeRetainKeys, Plain, Replace, RetainKeys, Union};

/// (type, field, strategic, apply). Types are named by the last three parts of their OpenAPI name.
const TABLE: &[(&str, &str, Strategic, Apply)] = &[
    (
        "meta.v1.ObjectMeta",
        "ownerReferences",
        Merge("uid"),
        Map(&["uid"]),
    ),
    ("meta.v1.ObjectMeta", "finalizers", Union, Set),
    (
        "core.v1.PodSpec",
        "containers",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "core.v1.PodSpec",
        "initContainers",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "core.v1.PodSpec",
        "ephemeralContainers",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "core.v1.PodSpec",
        "volumes",
        MergeRetainKeys("name"),
        Map(&["name"]),
    ),
    (
        "core.v1.PodSpec",
        "imagePullSecrets",
        Merge("name"),
        Map(&["name"]),
    ),
    ("core.v1.PodSpec", "hostAliases", Merge("ip"), Map(&["ip"])),
    (
        "core.v1.PodSpec",
        "topologySpreadConstraints",
        Merge("topologyKey"),
        Map(&["topologyKey", "whenUnsatisfiable"]),
    ),
    (
        "core.v1.PodSpec",
        "schedulingGates",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "core.v1.PodSpec",
        "resourceClaims",
        MergeRetainKeys("name"),
        Map(&["name"]),
    ),
    ("core.v1.PodSpec", "nodeSelector", Plain, Atomic),
    (
        "core.v1.Container",
        "ports",
        Merge("containerPort"),
        Map(&["containerPort", "protocol"]),
    ),
    ("core.v1.Container", "env", Merge("name"), Map(&["name"])),
    (
        "core.v1.Container",
        "volumeMounts",
        Merge("mountPath"),
        Map(&["mountPath"]),
    ),
    (
        "core.v1.Container",
        "volumeDevices",
        Merge("devicePath"),
        Map(&["devicePath"]),
    ),
    (
        "core.v1.EphemeralContainer",
        "ports",
        Merge("containerPort"),
        Map(&["containerPort", "protocol"]),
    ),
    (
        "core.v1.EphemeralContainer",
        "env",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "core.v1.EphemeralContainer",
        "volumeMounts",
        Merge("mountPath"),
        Map(&["mountPath"]),
    ),
    (
        "core.v1.EphemeralContainer",
        "volumeDevices",
        Merge("devicePath"),
        Map(&["devicePath"]),
    ),
    (
        "core.v1.ResourceRequirements",
        "claims",
        Plain,
        Map(&["name"]),
    ),
    (
        "core.v1.PodStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    ("core.v1.PodStatus", "podIPs", Merge("ip"), Map(&["ip"])),
    ("core.v1.PodStatus", "hostIPs", Merge("ip"), Atomic),
    (
        "core.v1.PodStatus",
        "resourceClaimStatuses",
        MergeRetainKeys("name"),
        Map(&["name"]),
    ),
    (
        "core.v1.ServiceSpec",
        "ports",
        Merge("port"),
        Map(&["port", "protocol"]),
    ),
    ("core.v1.ServiceSpec", "selector", Plain, Atomic),
    (
        "core.v1.ServiceStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "core.v1.ServiceAccount",
        "secrets",
        Merge("name"),
        Map(&["name"]),
    ),
    ("core.v1.NodeSpec", "podCIDRs", Union, Set),
    (
        "core.v1.NodeStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "core.v1.NodeStatus",
        "addresses",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "core.v1.NamespaceStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "core.v1.ReplicationControllerSpec",
        "selector",
        Plain,
        Atomic,
    ),
    (
        "core.v1.ReplicationControllerStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "core.v1.PersistentVolumeClaimStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "core.v1.PersistentVolumeClaimStatus",
        "allocatedResourceStatuses",
        Plain,
        Granular,
    ),
    ("core.v1.PersistentVolumeSpec", "claimRef", Plain, Granular),
    (
        "core.v1.ComponentStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "apps.v1.ReplicaSetStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "apps.v1.DaemonSetStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "apps.v1.StatefulSetStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "apps.v1.DeploymentStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "apps.v1.DeploymentSpec",
        "strategy",
        RetainKeys,
        Apply::Plain,
    ),
    ("batch.v1.JobStatus", "conditions", Merge("type"), Atomic),
    (
        "autoscaling.v2.HorizontalPodAutoscalerStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "policy.v1.PodDisruptionBudgetStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "policy.v1.PodDisruptionBudgetSpec",
        "selector",
        Replace,
        Apply::Plain,
    ),
    ("discovery.v1.Endpoint", "addresses", Plain, Set),
    (
        "admissionregistration.v1.MutatingWebhookConfiguration",
        "webhooks",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "admissionregistration.v1.ValidatingWebhookConfiguration",
        "webhooks",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "admissionregistration.v1.MutatingWebhook",
        "matchConditions",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "admissionregistration.v1.ValidatingWebhook",
        "matchConditions",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicySpec",
        "matchConditions",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicySpec",
        "variables",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicyStatus",
        "conditions",
        Plain,
        Map(&["type"]),
    ),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec",
        "validationActions",
        Plain,
        Set,
    ),
    (
        "flowcontrol.v1.FlowSchemaStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "flowcontrol.v1.PriorityLevelConfigurationStatus",
        "conditions",
        Merge("type"),
        Map(&["type"]),
    ),
    (
        "resource.v1.ResourceClaimStatus",
        "reservedFor",
        Merge("uid"),
        Map(&["uid"]),
    ),
    (
        "storage.v1.CSINodeSpec",
        "drivers",
        Merge("name"),
        Map(&["name"]),
    ),
    (
        "certificates.v1.CertificateSigningRequestStatus",
        "conditions",
        Plain,
        Map(&["type"]),
    ),
    (
        "apiextensions.v1.CustomResourceDefinitionStatus",
        "conditions",
        Plain,
        Map(&["type"]),
    ),
    (
        "apiextensions.v1.JSONSchemaProps",
        "x-kubernetes-validations",
        Merge("rule"),
        Map(&["rule"]),
    ),
];

/// Types that server-side apply treats as one value wherever they appear.
const ATOMIC_STRUCTS: &[&str] = &[
    "meta.v1.LabelSelector",
    "meta.v1.OwnerReference",
    "core.v1.ObjectReference",
    "core.v1.LocalObjectReference",
    "core.v1.TypedLocalObjectReference",
    "core.v1.SecretReference",
    "core.v1.SecretKeySelector",
    "core.v1.ConfigMapKeySelector",
    "core.v1.ObjectFieldSelector",
    "core.v1.ResourceFieldSelector",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.TopologySelectorTerm",
    "core.v1.ScopeSelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "discovery.v1.EndpointPort",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
    "networking.v1.ServiceBackendPort",
    "autoscaling.v1.CrossVersionObjectReference",
    "autoscaling.v2.CrossVersionObjectReference",
];

static RULES: LazyLock<BTreeMap<(&'static str, &'static str), Rule>> = LazyLock::new(|| {
    TABLE
        .iter()
        .map(|&(owner, field, strategic, apply)| ((owner, field), Rule { strategic, apply }))
        .collect()
});

/// `io.k8s.api.core.v1.PodSpec` -> `core.v1.PodSpec`.
fn short(definition: &str) -> &str {
    definition
        .rmatch_indices('.')
        .nth(2)
        .map_or(definition, |(i, _)| &definition[i + 1..])
}

/// How `field` of the type with this OpenAPI name merges.
pub fn rule(definition: &str, field: &str) -> Rule {
    RULES
        .get(&(short(definition), field))
        .copied()
        .unwrap_or(PLAIN)
}

/// Whether server-side apply owns values of this type whole.
pub fn atomic_struct(definition: &str) -> bool {
    ATOMIC_STRUCTS.contains(&short(definition))
}

/// The value of a list key that an item may leave out: ports are TCP.
pub fn key_default(key: &str) -> Option<&'static str> {
    (key == "protocol").then_some("TCP")
}

/// Every (type, field) of the table, for tests and documents.
pub fn rows() -> impl Iterator<Item = (&'static str, &'static str, Rule)> {
    TABLE
        .iter()
        .map(|&(owner, field, strategic, apply)| (owner, field, Rule { strategic, apply }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_by_openapi_name() {
        assert_eq!(
            rule("io.k8s.api.core.v1.PodSpec", "containers").strategic,
            Merge("name")
        );
        assert_eq!(
            rule(
                "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
                "finalizers"
            )
            .apply,
            Set
        );
        assert_eq!(rule("io.k8s.api.core.v1.PodSpec", "tolerations"), PLAIN);
        assert!(atomic_struct(
            "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"
        ));
        assert!(!atomic_struct("io.k8s.api.core.v1.PodSpec"));
    }

    #[test]
    fn every_row_of_a_served_type_names_a_field_that_exists() {
        let definitions = crate::schema::definitions();
        for (owner, field, rule) in rows() {
            let Some((_, schema)) = definitions.iter().find(|(name, _)| short(name) == owner)
            else {
                continue;
            };
            let property = &schema["properties"][field];
            assert!(property.is_object(), "{owner}.{field}");
            let is_list = property["type"] == "array";
            assert_eq!(
                is_list,
                matches!(rule.apply, Set | Map(_)) || owner == "core.v1.PodStatus",
                "{owner}.{field}"
            );
        }
    }
}
