//! The pure part of a write: from the live object and the wanted one to the one that is stored. What the system owns
//! (uid, timestamps, generation, the other half of a spec/status split) is taken from the live object, whatever the
//! client sent.

use coracle_api::error::Cause;
use coracle_api::{ApiError, Kind, Timestamp, defaults, meta, validate};
use serde_json::{Value, json};

/// The finalizer in `spec.finalizers` that keeps a namespace until the namespace controller has emptied it.
pub const NAMESPACE_FINALIZER: &str = "kubernetes";

/// Metadata that only the system writes.
const SYSTEM_METADATA: &[&str] = &[
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "resourceVersion",
];

/// Kinds whose metadata.generation Kubernetes counts.
fn counted(kind: &Kind) -> bool {
    kind.has_status() && !matches!(kind.table, "namespaces" | "nodes" | "services")
}

/// Makes a new object ready to be stored: defaults, system metadata, no status, validated. The name must be final.
pub fn create(
    kind: &Kind,
    object: &mut Value,
    uid: String,
    now: Timestamp,
) -> Result<(), ApiError> {
    let metadata = meta::metadata(object);
    for field in SYSTEM_METADATA {
        metadata.remove(*field);
    }
    metadata.insert("uid".into(), json!(uid));
    metadata.insert("creationTimestamp".into(), json!(meta::time_text(now)));
    if counted(kind) {
        metadata.insert("generation".into(), json!(1));
    }
    // A Node is registered by its runner together with its status; everything else gets a status from a controller.
    if kind.has_status()
        && kind.table != "nodes"
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    if kind.table == "namespaces" {
        object["spec"] = json!({"finalizers": [NAMESPACE_FINALIZER]});
        object["status"] = json!({"phase": "Active"});
        let name = meta::name(object).to_string();
        meta::metadata(object)
            .entry("labels")
            .or_insert_with(|| json!({}))["kubernetes.io/metadata.name"] = json!(name);
    }
    defaults::apply(kind, object);
    invalid(kind, object, validate::create(kind, object))
}

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Main,
    /// The status only.
    Status,
    /// A namespace's `spec.finalizers` only.
    Finalize,
}

impl Part {
    /// By subresource name.
    pub fn of(subresource: &str) -> Self {
        match subresource {
            "status" => Self::Status,
            "finalize" => Self::Finalize,
            _ => Self::Main,
        }
    }
}

/// Makes the form to store from the live object and the wanted one; [`finish`] judges it.
pub fn merge(kind: &Kind, part: Part, live: &Value, mut wanted: Value) -> Value {
    let mut new = match part {
        Part::Main => {
            let old = meta_of(live);
            let metadata = meta::metadata(&mut wanted);
            for field in SYSTEM_METADATA {
                match old.get(*field) {
                    Some(v) => metadata.insert((*field).into(), v.clone()),
                    None => metadata.remove(*field),
                };
            }
            // A body may leave out what the URL says.
            for field in ["name", "namespace"] {
                if let Some(v) = old.get(field) {
                    metadata.insert(field.into(), v.clone());
                }
            }
            if !metadata.contains_key("managedFields")
                && let Some(fields) = old.get("managedFields")
            {
                metadata.insert("managedFields".into(), fields.clone());
            }
            if kind.has_status() {
                replace(&mut wanted, live, "status");
            }
            if kind.table == "namespaces" {
                replace(&mut wanted, live, "spec");
            }
            wanted
        }
        Part::Status => {
            let mut new = live.clone();
            replace(&mut new, &wanted, "status");
            if let Some(fields) = meta_of(&wanted).get("managedFields") {
                meta::metadata(&mut new).insert("managedFields".into(), fields.clone());
            }
            new
        }
        Part::Finalize => {
            let mut new = live.clone();
            new["spec"]["finalizers"] = match &wanted["spec"]["finalizers"] {
                Value::Array(list) => Value::Array(list.clone()),
                _ => json!([]),
            };
            new
        }
    };
    defaults::apply(kind, &mut new);
    new
}

/// Validates the form to store and counts its generation.
pub fn finish(kind: &Kind, live: &Value, new: &mut Value) -> Result<(), ApiError> {
    invalid(kind, new, validate::update(kind, new, live))?;
    if counted(kind) && new["spec"] != live["spec"] {
        let generation = meta::generation(live) + 1;
        meta::metadata(new).insert("generation".into(), json!(generation));
    }
    Ok(())
}

/// Whether an object that is being deleted has nothing left to wait for.
pub fn released(kind: &Kind, object: &Value) -> bool {
    let waits_for_runner = kind.table == "pods"
        && object["metadata"]["deletionGracePeriodSeconds"]
            .as_u64()
            .unwrap_or(0)
            > 0;
    let waits_for_controller = kind.table == "namespaces"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
    meta::deletion_timestamp(object).is_some()
        && meta::finalizers(object).is_empty()
        && !waits_for_runner
        && !waits_for_controller
}

/// Whether two forms differ in nothing but who wrote them.
pub fn same(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return a == b;
    };
    let ignoring = |m: &Value| {
        let mut m = m.as_object().cloned().unwrap_or_default();
        m.remove("managedFields");
        m.remove("resourceVersion");
        m
    };
    a.len() == b.len()
        && a.iter().all(|(k, v)| match k.as_str() {
            "metadata" => b.get(k).is_some_and(|other| ignoring(v) == ignoring(other)),
            _ => b.get(k) == Some(v),
        })
}

fn meta_of(object: &Value) -> serde_json::Map<String, Value> {
    object["metadata"].as_object().cloned().unwrap_or_default()
}

fn replace(into: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(v) => into[field] = v.clone(),
        None => {
            into.as_object_mut().map(|m| m.remove(field));
        }
    }
}

/// 422 with all causes, if there are any.
pub fn invalid(kind: &Kind, object: &Value, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(
            kind.kind,
            kind.group,
            meta::name(object),
            causes,
        ))
    }
}
