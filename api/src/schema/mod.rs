//! What the fields of every kind are: strict decoding, pruning and the OpenAPI documents, all from the schemas that
//! `k8s-openapi` carries, so that one Kubernetes release decides them.

mod check;
mod openapi;
mod types;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::{
    apps, authentication, authorization, autoscaling, coordination, core, discovery, networking,
    policy,
};
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::Value;

use crate::Kind;

pub use check::{Problems, check, normalise, prune};
pub use openapi::{openapi, openapi_index};
use types::{TYPES, Type};

/// Where references between schemas point.
const REFERENCE: &str = "#/components/schemas/";

/// Schemas by OpenAPI name, and the name of each (group, version, kind).
struct Registry {
    definitions: BTreeMap<String, Value>,
    kinds: BTreeMap<(&'static str, &'static str, &'static str), String>,
}

/// Immutable once made; making it walks every type once (a few milliseconds).
static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut settings = SchemaSettings::default();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut kinds = BTreeMap::new();
    macro_rules! register {
        ($($group:literal $version:literal $kind:literal $type:ty;)*) => {
            $(kinds.insert(($group, $version, $kind), name_of::<$type>(&mut generator));)*
        };
    }
    register! {
        "" "v1" "Namespace" core::v1::Namespace;
        "" "v1" "Node" core::v1::Node;
        "" "v1" "Pod" core::v1::Pod;
        "" "v1" "Binding" core::v1::Binding;
        "" "v1" "Service" core::v1::Service;
        "" "v1" "Endpoints" core::v1::Endpoints;
        "" "v1" "ConfigMap" core::v1::ConfigMap;
        "" "v1" "Secret" core::v1::Secret;
        "" "v1" "ServiceAccount" core::v1::ServiceAccount;
        "" "v1" "Event" core::v1::Event;
        "" "v1" "ReplicationController" core::v1::ReplicationController;
        "apps" "v1" "ReplicaSet" apps::v1::ReplicaSet;
        "apps" "v1" "Deployment" apps::v1::Deployment;
        "autoscaling" "v1" "Scale" autoscaling::v1::Scale;
        "coordination.k8s.io" "v1" "Lease" coordination::v1::Lease;
        "discovery.k8s.io" "v1" "EndpointSlice" discovery::v1::EndpointSlice;
        "networking.k8s.io" "v1" "Ingress" networking::v1::Ingress;
        "policy" "v1" "Eviction" policy::v1::Eviction;
        "authorization.k8s.io" "v1" "SelfSubjectAccessReview" authorization::v1::SelfSubjectAccessReview;
        "authentication.k8s.io" "v1" "SelfSubjectReview" authentication::v1::SelfSubjectReview;
        "meta.k8s.io" "v1" "DeleteOptions" meta::v1::DeleteOptions;
        "meta.k8s.io" "v1" "Status" meta::v1::Status;
        "meta.k8s.io" "v1" "ListMeta" meta::v1::ListMeta;
        "meta.k8s.io" "v1" "Patch" meta::v1::Patch;
    }
    let definitions = generator.take_definitions(false).into_iter().collect();
    Registry { definitions, kinds }
});

fn name_of<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> String {
    generator.subschema_for::<T>();
    T::schema_name().into_owned()
}

/// Every schema, by OpenAPI name (`io.k8s.api.core.v1.Pod`).
pub fn definitions() -> &'static BTreeMap<String, Value> {
    &REGISTRY.definitions
}

/// The OpenAPI name of a kind, e.g. `("apps", "v1", "Deployment")`; also of body kinds such as Scale and Eviction.
pub fn name(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    REGISTRY
        .kinds
        .iter()
        .find(|((g, v, k), _)| *g == group && *v == version && *k == kind)
        .map(|(_, name)| name.as_str())
}

/// A place in a schema: the type that values there have, and its name if it has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    /// OpenAPI name of the type, "" for an anonymous one.
    pub name: &'static str,
    of: &'static Type,
}

/// What a schema says a value is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// An object with known fields.
    Struct,
    /// An object with free keys.
    Map,
    /// A list.
    List,
    /// A string.
    Text,
    /// RFC 3339 time.
    Time,
    /// Base64 text.
    Bytes,
    /// A whole number; whether it is limited to 32 bits.
    Integer { short: bool },
    /// Any number.
    Number,
    /// true or false.
    Bool,
    /// A port or percentage: whole number or string.
    IntOrString,
    /// A quantity: string, or a number that becomes one.
    Quantity,
    /// Anything.
    Any,
}

impl Node {
    /// The root of a kind's objects.
    pub fn of(kind: &Kind) -> Option<Self> {
        let name = name(kind.group, kind.version, kind.kind)?;
        Some(Self::at(*TYPES.named.get(name)?))
    }

    fn at(index: usize) -> Self {
        let of = &TYPES.all[index];
        Self { name: of.name, of }
    }

    /// The type of a field of a struct or of the values of a map; `None` if a struct has no such field.
    pub fn field(self, name: &str) -> Option<Self> {
        match self.of.shape {
            Shape::Struct => {
                let at = self
                    .of
                    .fields
                    .binary_search_by(|(f, _)| (*f).cmp(name))
                    .ok()?;
                Some(Self::at(self.of.fields[at].1))
            }
            Shape::Map => self.of.values.map(Self::at),
            _ => None,
        }
    }

    /// The type of the items of a list.
    pub fn item(self) -> Option<Self> {
        self.of.items.map(Self::at)
    }

    /// Names of the fields of a struct.
    pub fn fields(self) -> impl Iterator<Item = &'static str> {
        self.of.fields.iter().map(|(name, _)| *name)
    }

    /// What values here are.
    pub fn shape(self) -> Shape {
        self.of.shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_served_and_every_body_kind_has_a_schema() {
        for kind in crate::kinds::KINDS {
            assert!(
                Node::of(kind).is_some_and(|n| matches!(n.shape(), Shape::Struct)),
                "{}",
                kind.kind
            );
            for s in kind.subresources {
                assert!(
                    name(s.group, s.version, s.kind).is_some(),
                    "{}/{}",
                    kind.plural,
                    s.name
                );
            }
        }
    }

    #[test]
    fn every_schema_has_a_shape_we_understand() {
        for (name, schema) in definitions() {
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                let node = TYPES.named.get(name.as_str()).map(|t| Node::at(*t));
                let node = node.and_then(|n| n.field(field)).expect("a known field");
                if matches!(node.shape(), Shape::Any) {
                    let known = ["FieldsV1", "RawExtension", "Patch"]
                        .iter()
                        .any(|n| node.name.ends_with(n));
                    assert!(known, "{name}.{field}: {property}");
                }
            }
        }
    }
}
