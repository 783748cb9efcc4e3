//! A rolling update keeps `replicas - maxUnavailable` ready and has `replicas + maxSurge` pods at most.
//!
//! Crashes, lost nodes and users who delete pods or change sizes take a Deployment out of these bounds without anybody
//! being wrong; it is held to them again from the moment it was back inside. The bounds are computed here anew, so that
//! a mistake in the planner's arithmetic is not made twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::Key;
use coracle_plan::Controller;
use coracle_state::{Change, Event as Changed, Obj, View};
use serde_json::Value;

use super::controller;
use crate::node::holds;
use crate::world::{Who, World};

/// Which bounds a Deployment is held to at present.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    below: bool,
    above: bool,
    /// Revision at which a ready replica was last lost through nobody's plan, or the last one missing came. What was
    /// decided before that could not know, and may still arrive.
    known_at: u64,
}

/// `maxSurge` and `maxUnavailable` of a rolling Deployment; `None` for others.
fn bounds(deployment: &Value) -> Option<(i64, i64)> {
    let strategy = &deployment["spec"]["strategy"];
    if strategy["type"] != "RollingUpdate" {
        return None;
    }
    let replicas = deployment["spec"]["replicas"].as_f64()?;
    let count = |v: &Value, round: fn(f64) -> f64| match v {
        Value::String(s) => {
            round(s.trim_end_matches('%').parse::<f64>().unwrap_or(0.0) * replicas / 100.0) as i64
        }
        other => other.as_i64().unwrap_or(0),
    };
    let (surge, unavailable) = (
        count(&strategy["rollingUpdate"]["maxSurge"], f64::ceil),
        count(&strategy["rollingUpdate"]["maxUnavailable"], f64::floor),
    );
    Some(if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    })
}

fn counts(pod: &Obj) -> bool {
    !pod.attrs.deleting
        && !matches!(
            pod.attrs.fields.get("status.phase").map(String::as_str),
            Some("Succeeded" | "Failed")
        )
}

fn ready(pod: &Obj) -> bool {
    counts(pod) && holds(&pod.value(), "Ready")
}

/// Uid of the Deployment that a pod belongs to through its ReplicaSet.
fn deployment_of(view: &View, pod: &Obj) -> Option<String> {
    let set = pod.attrs.controller().filter(|o| o.kind == "ReplicaSet")?;
    let set = view
        .get("replicasets.apps", &Key::new(&pod.key.namespace, &set.name))
        .filter(|o| o.attrs.uid == set.uid)?;
    set.attrs.controller().map(|d| d.uid.clone())
}

impl World {
    pub(super) fn check_rollouts(
        &mut self,
        before: &View,
        after: &View,
        who: &Who,
        pods: &[Arc<Changed>],
        deployments: &[Arc<Changed>],
        sets: &[Arc<Changed>],
    ) {
        let mut touched: BTreeSet<String> = BTreeSet::new();
        for event in deployments {
            let uid = &event.obj.attrs.uid;
            touched.insert(uid.clone());
            let shape = |o: &Obj| {
                let v = o.value();
                (v["spec"]["replicas"].clone(), v["spec"]["strategy"].clone())
            };
            if event
                .before
                .as_ref()
                .is_none_or(|b| shape(b) != shape(&event.obj))
            {
                self.checks.rollouts.insert(uid.clone(), Seen::default());
            }
            if event.change == Change::Deleted {
                self.checks.rollouts.remove(uid);
            }
        }
        // A ReplicaSet that changes hands brings its pods along.
        for event in sets {
            let owner = |o: &Obj| o.attrs.controller().map(|c| c.uid.clone());
            let (was, is) = (event.before.as_deref().and_then(owner), owner(&event.obj));
            if was != is {
                for uid in was.into_iter().chain(is) {
                    if event.change != Change::Added {
                        self.checks.rollouts.insert(uid.clone(), Seen::default());
                    }
                    touched.insert(uid);
                }
            }
        }
        for event in pods {
            let uid =
                deployment_of(after, &event.obj).or_else(|| deployment_of(before, &event.obj));
            let Some(uid) = uid else { continue };
            touched.insert(uid.clone());
            let was = event.before.as_ref().is_some_and(|b| ready(b));
            let is = event.change != Change::Deleted && ready(&event.obj);
            let voluntary = matches!(controller(who, event), Some(Controller::ReplicaSet));
            if was && !is && !voluntary {
                let seen = self.checks.rollouts.entry(uid).or_default();
                (seen.below, seen.known_at) = (false, after.revision);
            }
        }
        if touched.is_empty() {
            return;
        }
        for d in after
            .list("deployments.apps", None)
            .filter(|d| touched.contains(&d.attrs.uid) && !d.attrs.deleting)
        {
            let value = d.value();
            let replicas = value["spec"]["replicas"].as_i64().unwrap_or(1);
            let Some((surge, unavailable)) = bounds(&value) else {
                continue;
            };
            // What is there, and what will be there when every ReplicaSet has done what it was told last.
            let (mut all, mut good, mut told, mut kept) = (0, 0, 0, 0);
            for set in after.owned_by("replicasets.apps", &d.attrs.uid) {
                let size = set.value()["spec"]["replicas"].as_i64().unwrap_or(1);
                let pods: Vec<_> = after
                    .owned_by("pods", &set.attrs.uid)
                    .filter(|p| counts(p))
                    .collect();
                let ready = pods.iter().filter(|p| ready(p)).count() as i64;
                all += pods.len() as i64;
                good += ready;
                told += size.max(pods.len() as i64);
                kept += ready.min(size);
            }
            let seen = self.checks.rollouts.entry(d.attrs.uid.clone()).or_default();
            if matches!(who, Who::Control { planned_at, .. } if *planned_at < seen.known_at) {
                seen.below = false;
                continue;
            }
            let held = *seen;
            if kept >= replicas && !seen.below {
                (seen.below, seen.known_at) = (true, after.revision);
            }
            seen.above |= told <= replicas + surge;
            if held.below && good < replicas - unavailable {
                let text = format!(
                    "deployment {} has {good} ready pods of {replicas}, at most {unavailable} may be missing",
                    d.key
                );
                self.violated("a rollout keeps enough replicas ready", text);
            }
            if held.above && all > replicas + surge {
                let text = format!(
                    "deployment {} has {all} pods for {replicas} replicas, at most {surge} may be too many",
                    d.key
                );
                self.violated("a rollout has few pods too many", text);
            }
        }
    }
}
