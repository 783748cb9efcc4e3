//! Changing an object that exists: the loop under `PUT`, every `PATCH`, and the subresources that change one field.

use std::sync::Arc;

use coracle_api::{ApiError, Key, apply, canonical, meta, validate};
use coracle_state::{Command, Expect, Obj, Refused, View};
use serde_json::Value;

use super::prepare::{self, Part};
use super::renewal;
use super::{
    ATTEMPTS_MAX, Outcome, Written, admission, commit, create::tracked, put_bytes, refused, stamp,
};
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

/// What follows from one look at an object.
enum Decision {
    /// It is as wanted already.
    Same,
    /// It was only waiting for this: it goes.
    Remove(Value),
    /// It is to have this form.
    Store {
        /// The form.
        new: Value,
        /// The wanted `spec`, which tells addresses that the client chose from those that we did.
        asked: Value,
    },
}

/// A decision with what it was made from.
struct Look {
    obj: Arc<Obj>,
    decision: Decision,
    pinned: bool,
    owned: bool,
    warnings: Vec<String>,
}

/// Decides on what `view` shows.
fn look(
    ctx: &Context,
    call: &Call,
    key: &Key,
    view: &View,
    change: &mut impl FnMut(&Value, &View) -> Result<Change, ApiError>,
) -> Result<(Look, Value), ApiError> {
    let kind = call.kind;
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
    } = change(&live, view)?;
    agrees(ctx, call, view, &live, &wanted)?;
    let services = kind.table == "services" && part == Part::Main;
    let asked = match services {
        true => wanted["spec"].clone(),
        false => Value::Null,
    };
    let mut new = prepare::merge(kind, part, &live, wanted);
    if services {
        service_alloc::allocate(ctx, view, Some(&live), &mut new)?;
    }
    prepare::finish(kind, &live, &mut new)?;
    // A write that changes nothing is not written: controllers that repeat themselves must not storm the log.
    // Under server-side apply a change of ownership is a change.
    let same = |new: &Value| match owned {
        true => equal(new, &live),
        false => prepare::same(new, &live),
    };
    let decision = if prepare::released(kind, &new) {
        Decision::Remove(new)
    } else if same(&new) {
        Decision::Same
    } else {
        Decision::Store { new, asked }
    };
    let look = Look {
        obj,
        decision,
        pinned,
        owned,
        warnings,
    };
    Ok((look, live))
}

/// Reads, changes and stores an object until nobody was faster. `change` gets the live object and may be called again.
/// If its result names a resourceVersion other than the live one, that is a conflict and the end.
///
/// The first look is at this member's own view. A refusal or a change of nothing is only answered from a view that
/// lacks nothing which any member has acknowledged.
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
    let (mut view, mut fresh) = (ctx.view(), false);
    for _ in 0..ATTEMPTS_MAX {
        let looked = look(ctx, call, key, &view, &mut change);
        let final_here =
            dry_run || !matches!(&looked, Ok((l, _)) if !matches!(l.decision, Decision::Same));
        if final_here && !fresh {
            let newer = ctx.fresh().await?;
            fresh = true;
            if newer.revision != view.revision {
                view = newer;
                continue;
            }
        }
        let (looked, live) = looked?;
        let Look {
            obj,
            decision,
            pinned,
            owned,
            mut warnings,
        } = looked;
        if let Decision::Store { new, .. } = &decision {
            warnings.extend(admission::admit(ctx, call, new, Some(&live), &view).await?);
        }
        let written = |object| Written {
            code: 200,
            object,
            stored: None,
            warnings,
        };
        match decision {
            Decision::Same => return Ok(written(live)),
            Decision::Remove(new) if dry_run => return Ok(written(new)),
            Decision::Remove(mut new) => {
                let command =
                    Command::delete(kind.table, key.clone(), Expect::Revision(obj.revision));
                match commit(ctx, command).await? {
                    Outcome::Done(applied) => {
                        stamp(&mut new, applied.revision);
                        return Ok(written(new));
                    }
                    Outcome::Refused(_) if !pinned => {}
                    Outcome::Refused(r) => return Err(refused(call, &key.name, r)),
                }
            }
            Decision::Store { mut new, asked } => {
                if !owned && tracked(kind.table) {
                    let now = ctx.now();
                    apply::track_update(kind, Some(&live), &mut new, &manager, subresource, now);
                }
                if dry_run {
                    return Ok(written(new));
                }
                if let Some(renewals) = &ctx.config.renewals
                    && renewal::only(kind, &live, &new)
                {
                    renewal::take(renewals.as_ref(), &obj, &mut new).await?;
                    return Ok(written(new));
                }
                let bytes = canonical::encode(&new);
                let command = put_bytes(
                    kind,
                    key.clone(),
                    Expect::Revision(obj.revision),
                    &new,
                    bytes.clone(),
                );
                let refusal = match commit(ctx, command).await? {
                    Outcome::Done(applied) => {
                        stamp(&mut new, applied.revision);
                        return Ok(Written {
                            stored: Some((bytes, applied.revision)),
                            ..written(new)
                        });
                    }
                    Outcome::Refused(refusal) => refusal,
                };
                match refusal {
                    Refused::Precondition { .. } if !pinned => {}
                    // An address that we chose was taken meanwhile; one that the client chose stays taken.
                    Refused::Taken {
                        space,
                        value,
                        holder,
                    } if service_alloc::explicit(&asked, &space, &value) => {
                        let taken = Refused::Taken {
                            space,
                            value,
                            holder,
                        };
                        return Err(refused(call, &key.name, taken));
                    }
                    Refused::Taken { .. } if view.revision != ctx.view().revision => {}
                    other => return Err(refused(call, &key.name, other)),
                }
            }
        }
        (view, fresh) = (ctx.view(), false);
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

fn equal(a: &Value, b: &Value) -> bool {
    coracle_api::canonical::encode(a) == coracle_api::canonical::encode(b)
}

/// Checks name, namespace, uid and resourceVersion of the wanted object against the live one.
fn agrees(
    ctx: &Context,
    call: &Call,
    view: &View,
    live: &Value,
    wanted: &Value,
) -> Result<(), ApiError> {
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
        // Renewals are logged in batches: the client's own last one may have moved the revision since.
        given
            if ctx.config.renewals.is_some()
                && renewal::only_renewed_since(call, view, live, given) =>
        {
            Ok(())
        }
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
