//! `DELETE` of an object and of a collection: preconditions, finalizers, propagation and grace periods.

use std::sync::Arc;

use coracle_api::attrs::pod_ended;
use coracle_api::{ApiError, Key, Kind, Timestamp, meta};
use coracle_state::{Command, Expect, Obj, View};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{ATTEMPTS_MAX, Outcome, commit, put, stamp};
use crate::body::Decoded;
use crate::call::Call;
use crate::context::Context;
use crate::list;
use crate::read::Selection;
use crate::reply::{self, Answer};

/// Finalizer under which the garbage collector deletes dependents first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer under which the garbage collector takes the owner's name off its dependents.
pub const ORPHAN: &str = "orphan";
/// Grace of a pod that names none, as Kubernetes.
const GRACE_SECONDS_DEFAULT: u64 = 30;
/// Longest grace taken from a client: a year; anything longer is a mistake.
const GRACE_SECONDS_MAX: u64 = 365 * 24 * 3_600;
/// Namespaces that the cluster cannot be without.
const KEPT_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];
/// Deletions of one collection under way at once: enough to fill log batches, few enough to leave room for others.
const COLLECTION_PARALLEL: usize = 64;

/// What a client says about a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `gracePeriodSeconds`.
    pub grace_seconds: Option<u64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
    /// Only if the object has this uid.
    pub uid: Option<String>,
    /// Only if the object is at this revision.
    pub resource_version: Option<String>,
    /// Run everything, store nothing.
    pub dry_run: bool,
}

impl Options {
    /// Reads DeleteOptions from the body, then from the query.
    pub fn read(call: &Call, decoded: &Decoded) -> Result<Self, ApiError> {
        let body = &decoded.value;
        if !body.is_null() && !body.is_object() {
            return Err(ApiError::bad_request(
                "the request body must be DeleteOptions",
            ));
        }
        if !body["kind"].is_null() && body["kind"] != "DeleteOptions" {
            return Err(ApiError::bad_request(format!(
                "the request body must be DeleteOptions, it is {}",
                body["kind"]
            )));
        }
        let grace = match &body["gracePeriodSeconds"] {
            Value::Null => call.query.number("gracePeriodSeconds")?,
            v => Some(v.as_u64().ok_or_else(|| {
                ApiError::bad_request(format!(
                    "gracePeriodSeconds: {v} is not a non-negative whole number"
                ))
            })?),
        };
        if grace.is_some_and(|g| g > GRACE_SECONDS_MAX) {
            return Err(ApiError::bad_request(format!(
                "gracePeriodSeconds: must be at most {GRACE_SECONDS_MAX}"
            )));
        }
        let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_string);
        let orphan = match &body["orphanDependents"] {
            Value::Bool(b) => Some(*b),
            _ => call.query.get("orphanDependents").map(|v| v == "true"),
        };
        let legacy = orphan.map(|o| {
            if o {
                "Orphan".to_string()
            } else {
                "Background".to_string()
            }
        });
        let propagation = text(&body["propagationPolicy"])
            .or_else(|| call.query.get("propagationPolicy").map(str::to_string));
        if propagation.is_some() && legacy.is_some() {
            return Err(ApiError::bad_request(
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        let propagation = propagation.or(legacy);
        if let Some(p) = propagation
            .as_deref()
            .filter(|p| !matches!(*p, "Background" | "Foreground" | "Orphan"))
        {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy: {p:?} is not supported, use Background, Foreground or Orphan"
            )));
        }
        let dry = body["dryRun"]
            .as_array()
            .is_some_and(|d| d.iter().any(|v| v == "All"));
        Ok(Self {
            grace_seconds: grace,
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: dry || call.query.dry_run()?,
        })
    }
}

/// What became of the object.
pub enum Deleted {
    /// It is gone; this was its last form.
    Gone(Value),
    /// It is marked and waits for finalizers, a runner or a controller.
    Marked(Value),
}

enum Step {
    Remove,
    Mark(Value),
    Nothing,
}

/// Deletes one object.
pub async fn delete(
    ctx: &Context,
    kind: &Kind,
    key: &Key,
    options: &Options,
) -> Result<Deleted, ApiError> {
    let (mut view, mut fresh) = (ctx.view(), false);
    for _ in 0..ATTEMPTS_MAX {
        let looked = look(ctx, kind, key, &view, options);
        // What is refused, or done already, in the eyes of this member may look different to others.
        let final_here =
            options.dry_run || !matches!(&looked, Ok((.., Step::Remove | Step::Mark(_))));
        if final_here && !fresh {
            let newer = ctx.fresh().await?;
            fresh = true;
            if newer.revision != view.revision {
                view = newer;
                continue;
            }
        }
        let (obj, live, step) = looked?;
        if options.dry_run {
            return Ok(match step {
                Step::Remove => Deleted::Gone(live),
                Step::Mark(new) => Deleted::Marked(new),
                Step::Nothing => Deleted::Marked(live),
            });
        }
        let expect = Expect::Revision(obj.revision);
        match step {
            Step::Nothing => return Ok(Deleted::Marked(live)),
            Step::Remove => {
                if let Outcome::Done(applied) =
                    commit(ctx, Command::delete(kind.table, key.clone(), expect)).await?
                {
                    let mut last = live;
                    stamp(&mut last, applied.revision);
                    return Ok(Deleted::Gone(last));
                }
            }
            Step::Mark(mut new) => {
                if let Outcome::Done(applied) =
                    commit(ctx, put(kind, key.clone(), expect, &new)).await?
                {
                    stamp(&mut new, applied.revision);
                    return Ok(Deleted::Marked(new));
                }
            }
        }
        (view, fresh) = (ctx.view(), false);
    }
    Err(ApiError::conflict(
        kind.group,
        kind.plural,
        &key.name,
        "too many writers at once; try again",
    ))
}

/// What a deletion comes to in the eyes of `view`.
fn look(
    ctx: &Context,
    kind: &Kind,
    key: &Key,
    view: &View,
    options: &Options,
) -> Result<(Arc<Obj>, Value, Step), ApiError> {
    let obj = view
        .get(kind.table, key)
        .ok_or_else(|| ApiError::not_found(kind.group, kind.plural, &key.name))?;
    check(kind, obj, options)?;
    let live = obj.value();
    let step = step(kind, &live, options, ctx.now());
    Ok((obj.clone(), live, step))
}

fn check(kind: &Kind, obj: &Arc<Obj>, options: &Options) -> Result<(), ApiError> {
    let conflict = |what: &str, wanted: &str, found: &str| {
        let why = format!(
            "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
        );
        Err(ApiError::conflict(
            kind.group,
            kind.plural,
            &obj.key.name,
            &why,
        ))
    };
    match (&options.uid, &options.resource_version) {
        (Some(uid), _) if *uid != obj.attrs.uid => conflict("UID", uid, &obj.attrs.uid),
        (_, Some(rv)) if *rv != obj.revision.to_string() => {
            conflict("ResourceVersion", rv, &obj.revision.to_string())
        }
        _ if kind.table == "namespaces" && KEPT_NAMESPACES.contains(&obj.key.name.as_str()) => {
            Err(ApiError::new(
                403,
                "Forbidden",
                format!(
                    "namespaces {:?} is forbidden: this namespace may not be deleted",
                    obj.key.name
                ),
            )
            .about("", "namespaces", &obj.key.name))
        }
        _ => Ok(()),
    }
}

/// What a deletion does to the object as it is now.
fn step(kind: &Kind, live: &Value, options: &Options, now: Timestamp) -> Step {
    let mut new = live.clone();
    let before = meta::finalizers(live);
    let mut finalizers = before.clone();
    if let Some(policy) = options.propagation.as_deref() {
        finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
        match policy {
            "Foreground" => finalizers.push(FOREGROUND.into()),
            "Orphan" => finalizers.push(ORPHAN.into()),
            _ => {}
        }
    }
    if finalizers != before {
        meta::metadata(&mut new).insert("finalizers".into(), json!(finalizers));
    }
    let grace = grace(kind, live, options);
    let running = live["metadata"]["deletionGracePeriodSeconds"].as_u64();
    let marked = meta::deletion_timestamp(live).is_some();
    let held = kind.table == "namespaces"
        && live["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
    if finalizers.is_empty() && grace == 0 && !held {
        return Step::Remove;
    }
    // A second deletion may shorten the grace, never lengthen it.
    let shorter = marked && running.is_some_and(|r| grace < r);
    if marked && !shorter {
        return if finalizers == before {
            Step::Nothing
        } else {
            Step::Mark(new)
        };
    }
    let at = now + SignedDuration::from_secs(grace as i64);
    let metadata = meta::metadata(&mut new);
    metadata.insert("deletionTimestamp".into(), json!(meta::time_text(at)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    let generation = metadata
        .get("generation")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if generation > 0 && !marked {
        metadata.insert("generation".into(), json!(generation + 1));
    }
    if kind.table == "namespaces" {
        new["status"]["phase"] = json!("Terminating");
    }
    Step::Mark(new)
}

/// Only a pod that may be running somewhere needs time.
fn grace(kind: &Kind, live: &Value, options: &Options) -> u64 {
    let bound = live["spec"]["nodeName"]
        .as_str()
        .is_some_and(|n| !n.is_empty());
    if kind.table != "pods" || !bound || pod_ended(live) {
        return 0;
    }
    options
        .grace_seconds
        .or_else(|| live["spec"]["terminationGracePeriodSeconds"].as_u64())
        .unwrap_or(GRACE_SECONDS_DEFAULT)
}

/// Answers `DELETE` of one object.
pub async fn one(ctx: &Context, call: &Call, decoded: &Decoded) -> Answer {
    let options = Options::read(call, decoded)?;
    match delete(ctx, call.kind, &call.key(), &options).await? {
        // Kubernetes answers the deletion of a pod with the pod.
        Deleted::Gone(last) if call.kind.table == "pods" => Ok(reply::value(200, &last)),
        Deleted::Gone(last) => Ok(reply::success(200, details(call, &last))),
        Deleted::Marked(object) => Ok(reply::value(200, &object)),
    }
}

fn details(call: &Call, last: &Value) -> Value {
    let mut details =
        json!({"name": meta::name(last), "kind": call.kind.plural, "uid": meta::uid(last)});
    if !call.kind.group.is_empty() {
        details["group"] = json!(call.kind.group);
    }
    details
}

/// Answers `DELETE` of a collection, restricted by selectors.
pub async fn collection(ctx: &Context, call: &Call, decoded: &Decoded) -> Answer {
    let options = Options::read(call, decoded)?;
    let view = ctx.fresh().await?;
    let objects: Vec<Arc<Obj>> = Selection::of(call)?
        .objects(&view, call.kind.table)
        .cloned()
        .collect();
    let revision = view.revision;
    drop(view);
    let (kind, options) = (call.kind, &options);
    stream::iter(objects.clone())
        .map(|obj| async move {
            match delete(ctx, kind, &obj.key, options).await {
                // Somebody else was faster: gone is what was asked for.
                Ok(_) => Ok(()),
                Err(e) if e.code == 404 => Ok(()),
                Err(e) => Err(e),
            }
        })
        .buffer_unordered(COLLECTION_PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(list::of(call, revision, objects))
}
