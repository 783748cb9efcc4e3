//! How each protobuf value becomes JSON, and when it counts as absent.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Timestamp;
use jiff::SignedDuration;
use k8s_pb::api::{authentication, authorization};
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1::{FieldsV1, MicroTime, Time};
use k8s_pb::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};

/// Fields that are pointers in Kubernetes' Go types: there a zero was written on purpose. Any other zero is merely how
/// protobuf writes "unset".
const ZERO_MEANS_ZERO: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "controller",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "enableServiceLinks",
    "expirationSeconds",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "leaseTransitions",
    "minDomains",
    "mode",
    "optional",
    "orphanDependents",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seconds",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "started",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
];

/// A message with its fields.
pub trait Message {
    /// The fields that are set.
    fn fields(&self) -> Map<String, Value>;
}

/// A single value.
pub trait Json {
    /// As JSON.
    fn json(&self) -> Value;

    /// Whether protobuf writes this where Go has an unset, non-pointer field.
    fn zero(&self) -> bool {
        false
    }
}

impl<M: Message> Json for M {
    fn json(&self) -> Value {
        Value::Object(self.fields())
    }
}

impl Json for String {
    fn json(&self) -> Value {
        self.as_str().into()
    }
    fn zero(&self) -> bool {
        self.is_empty()
    }
}

impl Json for bool {
    fn json(&self) -> Value {
        (*self).into()
    }
    fn zero(&self) -> bool {
        !*self
    }
}

impl Json for i32 {
    fn json(&self) -> Value {
        (*self).into()
    }
    fn zero(&self) -> bool {
        *self == 0
    }
}

impl Json for i64 {
    fn json(&self) -> Value {
        (*self).into()
    }
    fn zero(&self) -> bool {
        *self == 0
    }
}

impl Json for Vec<u8> {
    fn json(&self) -> Value {
        STANDARD.encode(self).into()
    }
    fn zero(&self) -> bool {
        self.is_empty()
    }
}

fn timestamp(seconds: Option<i64>, nanos: Option<i32>) -> Timestamp {
    Timestamp::new(seconds.unwrap_or(0), nanos.unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Json for Time {
    fn json(&self) -> Value {
        coracle_api::meta::time_text(timestamp(self.seconds, None)).into()
    }
    fn zero(&self) -> bool {
        self.seconds.unwrap_or(0) == 0 && self.nanos.unwrap_or(0) == 0
    }
}

impl Json for MicroTime {
    fn json(&self) -> Value {
        let at = timestamp(self.seconds, self.nanos);
        let whole = at - SignedDuration::from_nanos(i64::from(at.subsec_nanosecond()) % 1000);
        format!("{whole:.6}").into()
    }
    fn zero(&self) -> bool {
        self.seconds.unwrap_or(0) == 0 && self.nanos.unwrap_or(0) == 0
    }
}

impl Json for IntOrString {
    fn json(&self) -> Value {
        match self.r#type {
            Some(1) => self.str_val.clone().unwrap_or_default().into(),
            _ => self.int_val.unwrap_or(0).into(),
        }
    }
}

impl Json for Quantity {
    fn json(&self) -> Value {
        self.string.clone().unwrap_or_default().into()
    }
}

impl Json for FieldsV1 {
    fn json(&self) -> Value {
        self.raw
            .as_deref()
            .and_then(|raw| serde_json::from_slice(raw).ok())
            .unwrap_or_else(|| json!({}))
    }
}

impl Json for authentication::v1::ExtraValue {
    fn json(&self) -> Value {
        json!(self.items)
    }
}

impl Json for authorization::v1::ExtraValue {
    fn json(&self) -> Value {
        json!(self.items)
    }
}

/// A field of a message: optional, repeated or a map.
pub trait Field {
    /// Its JSON, `None` if unset.
    fn value(&self, name: &str) -> Option<Value>;
}

impl<T: Json> Field for Option<T> {
    fn value(&self, name: &str) -> Option<Value> {
        let v = self.as_ref()?;
        (!v.zero() || ZERO_MEANS_ZERO.contains(&name)).then(|| v.json())
    }
}

impl<T: Json> Field for Vec<T> {
    fn value(&self, _: &str) -> Option<Value> {
        (!self.is_empty()).then(|| self.iter().map(Json::json).collect())
    }
}

impl<T: Json> Field for BTreeMap<String, T> {
    fn value(&self, _: &str) -> Option<Value> {
        (!self.is_empty())
            .then(|| Value::Object(self.iter().map(|(k, v)| (k.clone(), v.json())).collect()))
    }
}

/// Puts a field into an object; the name "" inlines a message's fields, as Go's embedded structs do.
pub fn put(into: &mut Map<String, Value>, name: &str, field: &impl Field) {
    let Some(value) = field.value(name) else {
        return;
    };
    match value {
        Value::Object(inner) if name.is_empty() => into.extend(inner),
        value => {
            into.insert(name.into(), value);
        }
    }
}

/// Implements [`Message`] for generated structs of one module.
macro_rules! messages {
    ($module:ident { $($name:ident { $($field:ident => $json:literal),* $(,)? })* }) => {
        $(impl super::value::Message for $module::$name {
            fn fields(&self) -> serde_json::Map<String, serde_json::Value> {
                let mut map = serde_json::Map::new();
                $(put(&mut map, $json, &self.$field);)*
                map
            }
        })*
    };
}
pub(super) use messages;
