//! Kubernetes' protobuf bodies. kubectl's typed commands (`create deployment`, `auth can-i`, ...) send nothing else and
//! do not retry as JSON. The wire structs come from `k8s-pb`; they know no JSON, so the step from one to the other is
//! here: a list of field names per message, checked by the compiler.

mod core;
mod groups;
mod pod;
mod value;
mod volume;

use coracle_api::ApiError;
use k8s_pb::api;
use k8s_pb::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message as _;
use serde_json::Value;

use value::Message;

/// First bytes of every protobuf body of Kubernetes.
pub const MAGIC: &[u8] = b"k8s\0";

/// Decodes an enveloped object to JSON with `apiVersion` and `kind`. Values that protobuf cannot leave out (empty
/// strings, zero, an empty creationTimestamp) come out absent.
pub fn decode(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let bad = |e: &dyn std::fmt::Display| {
        ApiError::bad_request(format!(
            "the request body is not a Kubernetes protobuf object: {e}"
        ))
    };
    let raw = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| bad(&"it does not begin with \"k8s\\0\""))?;
    let unknown = Unknown::decode(raw).map_err(|e| bad(&e))?;
    let meta = unknown.type_meta.unwrap_or_default();
    let (api_version, kind) = (
        meta.api_version.unwrap_or_default(),
        meta.kind.unwrap_or_default(),
    );
    let raw = unknown.raw.unwrap_or_default();
    let decoded = match (api_version.as_str(), kind.as_str()) {
        ("v1", "Namespace") => message::<api::core::v1::Namespace>(&raw),
        ("v1", "ConfigMap") => message::<api::core::v1::ConfigMap>(&raw),
        ("v1", "Secret") => message::<api::core::v1::Secret>(&raw),
        ("v1", "ServiceAccount") => message::<api::core::v1::ServiceAccount>(&raw),
        ("v1", "Service") => message::<api::core::v1::Service>(&raw),
        ("v1", "Pod") => message::<api::core::v1::Pod>(&raw),
        ("v1", "Node") => message::<api::core::v1::Node>(&raw),
        ("v1", "Event") => message::<api::core::v1::Event>(&raw),
        ("v1", "Endpoints") => message::<api::core::v1::Endpoints>(&raw),
        ("v1", "Binding") => message::<api::core::v1::Binding>(&raw),
        ("v1", "ReplicationController") => message::<api::core::v1::ReplicationController>(&raw),
        ("apps/v1", "Deployment") => message::<api::apps::v1::Deployment>(&raw),
        ("apps/v1", "ReplicaSet") => message::<api::apps::v1::ReplicaSet>(&raw),
        ("networking.k8s.io/v1", "Ingress") => message::<api::networking::v1::Ingress>(&raw),
        ("coordination.k8s.io/v1", "Lease") => message::<api::coordination::v1::Lease>(&raw),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            message::<api::discovery::v1::EndpointSlice>(&raw)
        }
        ("policy/v1", "Eviction") => message::<api::policy::v1::Eviction>(&raw),
        ("autoscaling/v1", "Scale") => message::<api::autoscaling::v1::Scale>(&raw),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => {
            message::<api::authorization::v1::SelfSubjectAccessReview>(&raw)
        }
        ("authentication.k8s.io/v1", "SelfSubjectReview") => {
            message::<api::authentication::v1::SelfSubjectReview>(&raw)
        }
        // Options travel under `meta.k8s.io/v1` or under the version of the object they are for.
        (_, "DeleteOptions") => message::<DeleteOptions>(&raw),
        _ => {
            return Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "E_PROTOBUF_KIND: {api_version} {kind} cannot be sent as protobuf here; send it as JSON or YAML (`kubectl create -f`)"
                ),
            ));
        }
    };
    let mut object = decoded.map_err(|e| bad(&e))?;
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    Ok(object)
}

fn message<M: prost::Message + Default + Message>(raw: &[u8]) -> Result<Value, prost::DecodeError> {
    Ok(Value::Object(M::decode(raw)?.fields()))
}
