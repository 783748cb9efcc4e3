//! `POST` of a collection.

use coracle_api::{ApiError, Key, apply, canonical, meta, validate};
use coracle_state::{Command, Expect, Op, Refused, View};
use serde_json::{Value, json};

use super::{ATTEMPTS_MAX, Written, admission, prepare, put_bytes, refused, stamp};
use crate::body::{self, Decoded};
use crate::call::Call;
use crate::context::Context;
use crate::reply::unproposed;
use crate::service_alloc;

/// Longest base of a generated name: 63 minus the five characters that follow, as Kubernetes.
const GENERATE_BASE_MAX: usize = 58;

/// Creates the object of a request body.
pub async fn create(ctx: &Context, call: &Call, mut decoded: Decoded) -> Result<Written, ApiError> {
    if !call.name.is_empty() {
        return Err(crate::reply::not_allowed(
            "POST goes to the collection, not to an object",
        ));
    }
    let mut warnings = body::admit(call.kind, &mut decoded, call.query.field_validation()?)?;
    warnings.extend(validate::warnings(call.kind, &decoded.value));
    let mut written = store(ctx, call, decoded.value).await?;
    written.warnings.extend(warnings);
    Ok(written)
}

/// Stores an admitted object that must not exist yet.
pub async fn store(ctx: &Context, call: &Call, mut object: Value) -> Result<Written, ApiError> {
    place(call, &mut object)?;
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let base = meta::text(&object, "generateName").to_string();
    let generated = meta::name(&object).is_empty() && !base.is_empty();
    if generated {
        let base: String = base.chars().take(GENERATE_BASE_MAX).collect();
        meta::metadata(&mut object).insert(
            "name".into(),
            json!(format!("{base}{}", ctx.ids(|ids| ids.suffix()))),
        );
    }
    let manager = call.manager()?;
    let now = ctx.now();
    prepare::create(call.kind, &mut object, ctx.ids(|ids| ids.uid()), now)?;
    if tracked(call.kind.table) && object["metadata"]["managedFields"].is_null() {
        apply::track_update(call.kind, None, &mut object, &manager, None, now);
    }
    let given = match call.kind.table {
        "services" => object["spec"].clone(),
        _ => Value::Null,
    };
    let (mut view, mut fresh) = (ctx.view(), false);
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            if generated {
                let base: String = base.chars().take(GENERATE_BASE_MAX).collect();
                meta::metadata(&mut object).insert(
                    "name".into(),
                    json!(format!("{base}{}", ctx.ids(|ids| ids.suffix()))),
                );
            }
            (view, fresh) = (ctx.view(), false);
        }
        let name = meta::name(&object).to_string();
        let key = call.key_of(&name);
        // A refusal is answered only from a view that lacks nothing which any member has acknowledged.
        let namespace = loop {
            let looked = room(ctx, call, &view, &key, &given, &mut object);
            if fresh || matches!(looked, Ok(Room::Free(_))) && !call.query.dry_run()? {
                break looked?;
            }
            view = ctx.fresh().await?;
            fresh = true;
        };
        let namespace = match namespace {
            Room::Free(namespace) => namespace,
            Room::Taken if generated => continue,
            Room::Taken => return Err(already(call, &name)),
        };
        let warnings = admission::admit(ctx, call, &object, None, &view).await?;
        if call.query.dry_run()? {
            return Ok(Written {
                code: 201,
                object,
                stored: None,
                warnings,
            });
        }
        let mut commands = Vec::with_capacity(2);
        let group = ctx.ids(|ids| ids.next_u64()) as u32 | 1;
        // The object and the proof that its namespace is still the one that was looked at, all or none: no object may
        // appear in a namespace that has begun to go.
        if let Some((name, revision)) = namespace {
            commands.push(Command {
                table: "namespaces".into(),
                key: Key::new("", name),
                expect: Expect::Revision(revision),
                op: Op::Check,
                group,
            });
        }
        let alone = commands.is_empty();
        let bytes = canonical::encode(&object);
        commands.push(Command {
            group: if alone { 0 } else { group },
            ..put_bytes(call.kind, key, Expect::Absent, &object, bytes.clone())
        });
        let mut results = ctx
            .config
            .propose
            .propose(commands)
            .await
            .map_err(unproposed)?;
        match results.pop() {
            Some(Ok(applied)) => {
                stamp(&mut object, applied.revision);
                return Ok(Written {
                    code: 201,
                    object,
                    stored: Some((bytes, applied.revision)),
                    warnings,
                });
            }
            // Either the namespace moved, or an address that we chose was taken meanwhile: look again.
            Some(Err(Refused::Group)) => {}
            Some(Err(Refused::Precondition { .. })) if generated => {}
            Some(Err(Refused::Precondition { .. })) => return Err(already(call, &name)),
            Some(Err(Refused::Taken {
                space,
                value,
                holder,
            })) => {
                if service_alloc::explicit(&given, &space, &value) {
                    return Err(refused(
                        call,
                        &name,
                        Refused::Taken {
                            space,
                            value,
                            holder,
                        },
                    ));
                }
            }
            Some(Err(other)) => return Err(refused(call, &name, other)),
            None => {
                return Err(ApiError::new(
                    500,
                    "InternalError",
                    "the log answered a proposal without a result",
                ));
            }
        }
    }
    Err(call.conflict(meta::name(&object), "too many writers at once; try again"))
}

/// Whether there is room for an object.
enum Room {
    /// There is, in this namespace at this revision (`None` for a kind without one).
    Free(Option<(String, u64)>),
    /// An object of that name is there.
    Taken,
}

/// Looks whether the object may be created and fills in what depends on the view.
fn room(
    ctx: &Context,
    call: &Call,
    view: &View,
    key: &Key,
    given: &Value,
    object: &mut Value,
) -> Result<Room, ApiError> {
    call.authorise(view, &key.name)?;
    let namespace = namespace_of(call, view)?;
    if call.kind.table == "services" {
        object["spec"] = given.clone();
        service_alloc::allocate(ctx, view, None, object)?;
    }
    Ok(match view.get(call.kind.table, key) {
        Some(_) => Room::Taken,
        None => Room::Free(namespace),
    })
}

/// Whether writers of a kind are recorded in managedFields. Heartbeats and Events are not: nobody applies them, and
/// the record would be larger than the object.
pub fn tracked(table: &str) -> bool {
    !matches!(table, "leases.coordination.k8s.io" | "events")
}

/// Makes the namespace of the object that of the path, or refuses.
fn place(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    if !call.kind.namespaced() {
        meta::metadata(object).remove("namespace");
        return Ok(());
    }
    if call.namespace.is_empty() {
        return Err(crate::reply::not_allowed(
            "create in a namespace: POST /.../namespaces/NAMESPACE/...",
        ));
    }
    let given = meta::namespace(object);
    if !given.is_empty() && given != call.namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({given:?} and {:?})",
            call.namespace
        )));
    }
    meta::metadata(object).insert("namespace".into(), json!(call.namespace));
    Ok(())
}

/// The namespace that must exist and not be on its way out, with its revision.
fn namespace_of(call: &Call, view: &View) -> Result<Option<(String, u64)>, ApiError> {
    if !call.kind.namespaced() {
        return Ok(None);
    }
    let namespace = view
        .get("namespaces", &Key::new("", call.namespace.clone()))
        .ok_or_else(|| ApiError::not_found("", "namespaces", &call.namespace))?;
    if namespace.attrs.deleting {
        let message = format!(
            "unable to create new content in namespace {} because it is being terminated",
            call.namespace
        );
        let mut e =
            ApiError::new(403, "Forbidden", message).about(call.kind.group, call.kind.plural, "");
        e.causes.push(coracle_api::error::Cause {
            field: "metadata.namespace".into(),
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {} is being terminated", call.namespace),
        });
        return Err(e);
    }
    Ok(Some((call.namespace.clone(), namespace.revision)))
}

fn already(call: &Call, name: &str) -> ApiError {
    ApiError::already_exists(call.kind.group, call.kind.plural, name)
}
