//! `PATCH`: the four kinds, on objects and on their status.

use coracle_api::{ApiError, Kind, apply, meta, patch, schema, validate};
use serde_json::{Value, json};

use super::prepare::Part;
use super::update::{Change, modify, names_revision};
use super::{Written, create};
use crate::body;
use crate::call::Call;
use crate::context::Context;

/// A patch that was decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' strategic merge.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// The media types, as a 415 lists them.
const TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

impl Patch {
    /// Decodes a patch by its content type.
    pub fn decode(content_type: &str, bytes: &[u8]) -> Result<(Self, Vec<String>), ApiError> {
        let (wrap, decoded): (fn(Value) -> Self, _) = match content_type {
            "application/json-patch+json" => (Self::Json, body::json(bytes)?),
            "application/merge-patch+json" => (Self::Merge, body::json(bytes)?),
            "application/strategic-merge-patch+json" => (Self::Strategic, body::json(bytes)?),
            "application/apply-patch+yaml" | "application/apply-patch+json" => {
                (Self::Apply, body::yaml(bytes)?)
            }
            other => return Err(body::unsupported(other, TYPES)),
        };
        let fits = match content_type {
            "application/json-patch+json" => decoded.value.is_array(),
            _ => decoded.value.is_object(),
        };
        if !fits {
            let want = if content_type == "application/json-patch+json" {
                "a list of operations"
            } else {
                "an object"
            };
            return Err(ApiError::bad_request(format!(
                "a body of {content_type} must be {want}"
            )));
        }
        Ok((wrap(decoded.value), decoded.duplicates))
    }

    /// Whether the client named a resourceVersion, which is a precondition in every kind of patch.
    pub fn names_revision(&self) -> bool {
        match self {
            Self::Json(ops) => ops
                .as_array()
                .into_iter()
                .flatten()
                .any(|op| op["path"] == "/metadata/resourceVersion"),
            Self::Merge(p) | Self::Strategic(p) | Self::Apply(p) => names_revision(p),
        }
    }

    /// The patched object (not for server-side apply).
    pub fn onto(&self, kind: &Kind, live: &Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(ops) => patch::json(live, ops),
            Self::Merge(p) => {
                let mut object = live.clone();
                patch::merge(&mut object, p);
                Ok(object)
            }
            Self::Strategic(p) => patch::strategic(kind, live, p),
            Self::Apply(p) => Ok(p.clone()),
        }
    }
}

/// Patches the object of a request.
pub async fn patch(ctx: &Context, call: &Call, bytes: &[u8]) -> Result<Written, ApiError> {
    let (patch, duplicates) = Patch::decode(&call.content_type, bytes)?;
    match patch {
        Patch::Apply(applied) => self::apply(ctx, call, applied, &duplicates).await,
        patch => {
            let validation = call.query.field_validation()?;
            let (part, pinned) = (Part::of(&call.subresource), patch.names_revision());
            modify(ctx, call, &call.key(), |live, _| {
                let mut object = patch.onto(call.kind, live)?;
                // A merge patch may say {"metadata": null}; the object it was applied to keeps its identity.
                if !object.is_object() {
                    return Err(ApiError::bad_request(
                        "the patch turns the object into something else",
                    ));
                }
                body::typed(call.kind, &mut object)?;
                schema::normalise(call.kind, &mut object);
                let mut warnings = body::fields(call.kind, &mut object, &duplicates, validation)?;
                if part == Part::Main {
                    warnings.extend(validate::warnings(call.kind, &object));
                }
                Ok(Change {
                    object,
                    part,
                    pinned,
                    owned: false,
                    warnings,
                })
            })
            .await
        }
    }
}

/// Server-side apply: makes the object if it is not there.
async fn apply(
    ctx: &Context,
    call: &Call,
    applied: Value,
    duplicates: &[String],
) -> Result<Written, ApiError> {
    let Some(manager) = call.query.get("fieldManager") else {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    };
    let force = call.query.flag("force")?;
    let kind = call.kind;
    let mut decoded = body::Decoded {
        value: applied,
        duplicates: duplicates.to_vec(),
    };
    let mut warnings = body::admit(kind, &mut decoded, call.query.field_validation()?)?;
    warnings.extend(validate::warnings(kind, &decoded.value));
    let mut applied = decoded.value;
    for (field, want) in [
        ("name", call.name.as_str()),
        ("namespace", call.namespace.as_str()),
    ] {
        let given = meta::text(&applied, field);
        if !given.is_empty() && given != want {
            return Err(ApiError::bad_request(format!(
                "the {field} of the object ({given}) does not match the {field} on the URL ({want})"
            )));
        }
        if !want.is_empty() {
            meta::metadata(&mut applied).insert(field.into(), json!(want));
        }
    }
    if !applied["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let subresource = (!call.subresource.is_empty()).then_some(call.subresource.as_str());
    let (part, pinned) = (Part::of(&call.subresource), names_revision(&applied));
    // Around again when the object appears or goes between the look and the write.
    for _ in 0..super::ATTEMPTS_MAX {
        if ctx.view().get(kind.table, &call.key()).is_some() {
            let done = modify(ctx, call, &call.key(), |live, _| {
                let object = apply::server_side(
                    kind,
                    Some(live),
                    &applied,
                    manager,
                    force,
                    subresource,
                    ctx.now(),
                )?;
                Ok(Change {
                    object,
                    part,
                    pinned,
                    owned: true,
                    warnings: warnings.clone(),
                })
            })
            .await;
            match done {
                Err(e) if e.code == 404 && subresource.is_none() => continue,
                done => return done,
            }
        }
        let refusable = subresource.is_some() || !meta::uid(&applied).is_empty();
        if refusable && ctx.fresh().await?.get(kind.table, &call.key()).is_some() {
            continue;
        }
        if subresource.is_some() {
            return Err(call.not_found());
        }
        if !meta::uid(&applied).is_empty() {
            return Err(call.conflict(&call.name, "uid mismatch: the provided object specified a uid, and no existing object was found"));
        }
        let object = apply::server_side(kind, None, &applied, manager, force, None, ctx.now())?;
        match create::store(ctx, call, object).await {
            Err(e) if e.reason == "AlreadyExists" => continue,
            Err(e) => return Err(e),
            Ok(mut written) => {
                written.warnings.extend(warnings);
                return Ok(written);
            }
        }
    }
    Err(call.conflict(&call.name, "too many writers at once; try again"))
}
