//! `POST /pods/X/binding`: places a pod by hand. It makes the same single write as the scheduler: node, address and
//! condition together, with the claims that keep the node within its allocatable.

use std::sync::Arc;

use coracle_api::{ApiError, meta};
use serde_json::{Value, json};

use crate::body::Decoded;
use crate::call::Call;
use crate::context::Context;
use crate::reply::{self, Answer};
use crate::write::{ATTEMPTS_MAX, Outcome, commit, put, refused};
use coracle_state::{Expect, Obj, Refused, View};

/// Binds the pod to `target`.
pub async fn bind(ctx: &Context, call: &Call, decoded: &Decoded) -> Answer {
    let binding = &decoded.value;
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() || !matches!(binding["target"]["kind"].as_str(), None | Some("" | "Node")) {
        return Err(ApiError::bad_request("target: must name a Node"));
    }
    let (mut view, mut fresh) = (ctx.view(), false);
    for _ in 0..ATTEMPTS_MAX {
        let looked = unbound(call, &view, binding);
        if (looked.is_err() || call.query.dry_run()?) && !fresh {
            (view, fresh) = (ctx.fresh().await?, true);
            continue;
        }
        let (obj, live) = looked?;
        let ip = ctx
            .config
            .pod_range
            .pick(&view, "podIP", 1, ctx.ids(|ids| ids.next_u64()))
            .ok_or_else(|| {
                ApiError::new(
                    500,
                    "InternalError",
                    format!(
                        "E_POD_RANGE_FULL: no free address is left in {}",
                        ctx.config.pod_range
                    ),
                )
            })?;
        let mut new = live.clone();
        place(&mut new, node, &ip, &meta::time_text(ctx.now()));
        if call.query.dry_run()? {
            return Ok(reply::success(201, Value::Null));
        }
        match commit(
            ctx,
            put(call.kind, call.key(), Expect::Revision(obj.revision), &new),
        )
        .await?
        {
            Outcome::Done(_) => return Ok(reply::success(201, Value::Null)),
            Outcome::Refused(Refused::Precondition { .. } | Refused::Taken { .. }) => {}
            Outcome::Refused(r) => return Err(refused(call, &call.name, r)),
        }
        (view, fresh) = (ctx.view(), false);
    }
    Err(call.conflict(&call.name, "too many writers at once; try again"))
}

/// The pod, if it may be bound.
fn unbound(call: &Call, view: &View, binding: &Value) -> Result<(Arc<Obj>, Value), ApiError> {
    let obj = view
        .get("pods", &call.key())
        .ok_or_else(|| call.not_found())?;
    let live = obj.value();
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(&live) {
        return Err(call.conflict(
            &call.name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(&live)
            ),
        ));
    }
    if let Some(bound) = live["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return Err(call.conflict(
            &call.name,
            &format!("pod {} is already assigned to node {bound:?}", call.name),
        ));
    }
    if obj.attrs.deleting {
        return Err(call.conflict(
            &call.name,
            &format!(
                "pod {} is being deleted, cannot be assigned to a host",
                call.name
            ),
        ));
    }
    Ok((obj.clone(), live))
}

fn place(pod: &mut Value, node: &str, ip: &str, now: &str) {
    pod["spec"]["nodeName"] = json!(node);
    let generation = meta::generation(pod);
    if generation > 0 {
        meta::metadata(pod).insert("generation".into(), json!(generation + 1));
    }
    if !pod["status"].is_object() {
        pod["status"] = json!({"phase": "Pending"});
    }
    pod["status"]["podIP"] = json!(ip);
    pod["status"]["podIPs"] = json!([{"ip": ip}]);
    let mut conditions = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.retain(|c| c["type"] != "PodScheduled");
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}));
    pod["status"]["conditions"] = Value::Array(conditions);
}
