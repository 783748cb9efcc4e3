//! Changing an object that exists: the loop under `PUT`, every `PATCH`, and the subresources that change one field.

use std::sync::Arc;

use coracle_api::{ApiError, Key, Kind, apply, meta, validate};
use coracle_state::{Command, Expect, Obj, Refused, View};
use serde_json::Value;

use super::prepare::{self, Part};
use super::{ATTEMPTS_MAX, Outcome, Written, commit, create::tracked, put, refused, stamp};
use crate::body::{self, Decoded};
use crate::call::Call;
use crate::context::Context;
use crate::service_alloc;

/// What a change asks for.
pub struct Change {
    /// The wanted object.
    pub object: Value,
    /// Which part of it counts.
    pub part: Part,
    /// Whether the client named a resourceVersion: losing a race is final then.
    pub pinned: bool,
    /// Whether `object` holds its managedFields already (server-side apply).
    pub owned: bool,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// Reads, changes and stores an object until nobody was faster. `change` gets the live object and may be called again.
/// If its result names a resourceVersion other than the live one, that is a conflict and the end.
pub async fn modify(
    ctx: &Context,
    call: &Call,
    key: &Key,
    mut change: impl FnMut(&Value, &View) -> Result<Change, ApiError>,
) -> Result<Written, ApiError> {
    let kind = call.kind;
    let manager = call.manager()?;
    let dry_run = call.query.dry_run()?;
    let subresource = (!call.subresource.is_empty()).then_some(call.subresource.as_str());
    for _ in 0..ATTEMPTS_MAX {
        let view = ctx.view();
        let obj = view
            .get(kind.table, key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(kind.group, kind.plural, &key.name))?;
        let live = obj.value();
        let Change {
            object: wanted,
            part,
            pinned,
            owned,
            warnings,
        } = change(&live, &view)?;
        agrees(call, &live, &wanted)?;
        let asked = wanted["spec"].clone();
        let now = ctx.now();
        let mut new = prepare::merge(kind, part, &live, wanted);
        if kind.table == "services" && part == Part::Main {
            service_alloc::allocate(ctx, &view, Some(&live), &mut new)?;
        }
        prepare::finish(kind, &live, &mut new)?;
        if prepare::released(kind, &new) {
            if !dry_run {
                match commit(
                    ctx,
                    Command::delete(kind.table, key.clone(), Expect::Revision(obj.revision)),
                )
                .await?
                {
                    Outcome::Done(applied) => stamp(&mut new, applied.revision),
                    Outcome::Refused(_) if !pinned => continue,
                    Outcome::Refused(r) => return Err(refused(call, &key.name, r)),
                }
            }
            return Ok(Written {
                code: 200,
                object: new,
                warnings,
            });
        }
        // A write that changes nothing is not written: controllers that repeat themselves must not storm the log.
        // Under server-side apply a change of ownership is a change.
        let unchanged = if owned {
            equal(&new, &live)
        } else {
            prepare::same(&new, &live)
        };
        if unchanged {
            return Ok(Written {
                code: 200,
                object: live,
                warnings,
            });
        }
        if !owned && tracked(kind.table) {
            apply::track_update(kind, Some(&live), &mut new, &manager, subresource, now);
        }
        if dry_run {
            return Ok(Written {
                code: 200,
                object: new,
                warnings,
            });
        }
        match store(ctx, kind, &obj, &mut new).await? {
            None => {
                return Ok(Written {
                    code: 200,
                    object: new,
                    warnings,
                });
            }
            Some(Refused::Precondition { .. }) if !pinned => {}
            // An address that we chose was taken meanwhile; one that the client chose stays taken.
            Some(Refused::Taken {
                space,
                value,
                holder,
            }) if service_alloc::explicit(&asked, &space, &value) => {
                return Err(refused(
                    call,
                    &key.name,
                    Refused::Taken {
                        space,
                        value,
                        holder,
                    },
                ));
            }
            Some(Refused::Taken { .. }) if view.revision != ctx.view().revision => {}
            Some(other) => return Err(refused(call, &key.name, other)),
        }
    }
    Err(call.conflict(
        &key.name,
        "too many writers at once; please apply your changes to the latest version and try again",
    ))
}

/// Whether an object (or a merge patch) names a resourceVersion.
pub fn names_revision(object: &Value) -> bool {
    !matches!(meta::text(object, "resourceVersion"), "" | "0")
}

/// Proposes the new form; `None` if it holds.
async fn store(
    ctx: &Context,
    kind: &Kind,
    obj: &Arc<Obj>,
    new: &mut Value,
) -> Result<Option<Refused>, ApiError> {
    match commit(
        ctx,
        put(kind, obj.key.clone(), Expect::Revision(obj.revision), new),
    )
    .await?
    {
        Outcome::Done(applied) => {
            stamp(new, applied.revision);
            Ok(None)
        }
        Outcome::Refused(r) => Ok(Some(r)),
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    coracle_api::canonical::encode(a) == coracle_api::canonical::encode(b)
}

/// Checks name, namespace, uid and resourceVersion of the wanted object against the live one.
fn agrees(call: &Call, live: &Value, wanted: &Value) -> Result<(), ApiError> {
    let name = meta::name(live);
    for (what, given, have) in [
        ("name", meta::name(wanted), name),
        ("namespace", meta::namespace(wanted), meta::namespace(live)),
    ] {
        if !given.is_empty() && given != have {
            return Err(ApiError::bad_request(format!(
                "the {what} of the object ({given}) does not match the {what} on the URL ({have})"
            )));
        }
    }
    let uid = meta::uid(wanted);
    if !uid.is_empty() && uid != meta::uid(live) {
        return Err(call.conflict(
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(live)
            ),
        ));
    }
    match meta::text(wanted, "resourceVersion") {
        "" | "0" => Ok(()),
        given if given == meta::text(live, "resourceVersion") => Ok(()),
        _ => Err(call.conflict(name, "the object has been modified; please apply your changes to the latest version and try again")),
    }
}

/// `PUT` of an object or of its status or finalizers.
pub async fn replace(
    ctx: &Context,
    call: &Call,
    mut decoded: Decoded,
) -> Result<Written, ApiError> {
    let mut warnings = body::admit(call.kind, &mut decoded, call.query.field_validation()?)?;
    warnings.extend(validate::warnings(call.kind, &decoded.value));
    let wanted = decoded.value;
    if meta::name(&wanted).is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object (metadata.name) must be {:?}, as on the URL",
            call.name
        )));
    }
    let part = Part::of(&call.subresource);
    let pinned = names_revision(&wanted);
    modify(ctx, call, &call.key(), |_, _| {
        Ok(Change {
            object: wanted.clone(),
            part,
            pinned,
            owned: false,
            warnings: warnings.clone(),
        })
    })
    .await
}
