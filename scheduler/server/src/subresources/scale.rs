//! `/scale`: one number of an object under the kind autoscaling/v1 Scale, which every client that scales knows.

use coracle_api::error::Cause;
use coracle_api::selector::LabelSelector;
use coracle_api::{ApiError, Kind, meta, patch};
use serde_json::{Value, json};

use crate::body::{self, Decoded};
use crate::call::Call;
use crate::context::Context;
use crate::read;
use crate::reply::{self, Answer};
use crate::write::patch::Patch;
use crate::write::prepare::Part;
use crate::write::update::{Change, modify, names_revision};

/// The Scale of an object.
pub fn of(kind: &Kind, object: &Value) -> Value {
    let selector = match kind.table {
        "replicationcontrollers" => {
            LabelSelector::from_map(&meta::string_map(&object["spec"]["selector"])).to_string()
        }
        _ => LabelSelector::from_object(&object["spec"]["selector"])
            .map(|s| s.to_string())
            .unwrap_or_default(),
    };
    let mut metadata = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if !object["metadata"][field].is_null() {
            metadata[field] = object["metadata"][field].clone();
        }
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"].as_u64().unwrap_or(0)},
        "status": {"replicas": object["status"]["replicas"].as_u64().unwrap_or(0), "selector": selector},
    })
}

/// `GET /scale`.
pub async fn get(ctx: &Context, call: &Call) -> Answer {
    let view = read::snapshot(ctx, call.query.resource_version()?).await?;
    let obj = view
        .get(call.kind.table, &call.key())
        .ok_or_else(|| call.not_found())?;
    Ok(reply::value(200, &of(call.kind, &obj.value())))
}

/// `PUT /scale`.
pub async fn replace(ctx: &Context, call: &Call, decoded: Decoded) -> Answer {
    let pinned = names_revision(&decoded.value);
    change(ctx, call, pinned, |_| Ok(decoded.value.clone())).await
}

/// `PATCH /scale`.
pub async fn patch(ctx: &Context, call: &Call, bytes: &[u8]) -> Answer {
    let (patch, _) = Patch::decode(&call.content_type, bytes)?;
    change(ctx, call, patch.names_revision(), |scale| match &patch {
        Patch::Json(ops) => patch::json(scale, ops),
        // A Scale has no lists, so the three other kinds mean the same.
        Patch::Merge(p) | Patch::Strategic(p) | Patch::Apply(p) => {
            let mut new = scale.clone();
            patch::merge(&mut new, p);
            Ok(new)
        }
    })
    .await
}

async fn change(
    ctx: &Context,
    call: &Call,
    pinned: bool,
    make: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Answer {
    let written = modify(ctx, call, &call.key(), |live, _| {
        let scale = make(&of(call.kind, live))?;
        if !scale.is_object() || (!scale["kind"].is_null() && scale["kind"] != "Scale") {
            return Err(ApiError::bad_request(
                "the request body must be a Scale of autoscaling/v1",
            ));
        }
        let replicas = match &scale["spec"]["replicas"] {
            Value::Null => 0,
            v => v
                .as_u64()
                .filter(|n| *n <= i32::MAX as u64)
                .ok_or_else(|| {
                    let message = format!(
                        "Invalid value: {v}: must be a whole number greater than or equal to 0"
                    );
                    let cause = Cause {
                        field: "spec.replicas".into(),
                        reason: "FieldValueInvalid".into(),
                        message,
                    };
                    ApiError::invalid("Scale", "autoscaling", &call.name, vec![cause])
                })?,
        };
        let mut object = live.clone();
        // A resourceVersion or uid in the Scale is a precondition on the object.
        for field in ["name", "namespace", "uid", "resourceVersion"] {
            match &scale["metadata"][field] {
                Value::String(s) if !s.is_empty() => object["metadata"][field] = json!(s),
                _ if field == "resourceVersion" => {
                    meta::metadata(&mut object).remove(field);
                }
                _ => {}
            }
        }
        object["spec"]["replicas"] = json!(replicas);
        Ok(Change {
            object,
            part: Part::Main,
            pinned,
            owned: false,
            warnings: Vec::new(),
        })
    })
    .await?;
    let mut response = reply::value(200, &of(call.kind, &written.object));
    reply::warn(&mut response, &written.warnings);
    Ok(response)
}

/// Decodes a Scale body.
pub fn decode(content_type: &str, bytes: &[u8]) -> Result<Decoded, ApiError> {
    body::decode(content_type, bytes)
}
