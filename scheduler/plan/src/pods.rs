//! Reading and writing conditions, and what controllers ask of a pod.

use coracle_api::{Timestamp, meta};
use coracle_state::Obj;
use serde_json::{Value, json};

use crate::writer::later;

/// The condition of this type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)
}

/// Whether the condition is there and `True`.
pub(crate) fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| c["status"] == "True")
}

/// Sets a condition; its transition time moves only when its status does. Returns whether anything changed.
pub(crate) fn set_condition(
    object: &mut Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(all) = object["status"]["conditions"].as_array_mut() else {
        return false;
    };
    let at = match all.iter().position(|c| c["type"] == kind) {
        Some(at) => at,
        None => {
            all.push(json!({"type": kind}));
            all.len() - 1
        }
    };
    let c = &mut all[at];
    let before = c.clone();
    if c["status"] != status {
        c["lastTransitionTime"] = json!(meta::time_text(now));
    }
    c["status"] = json!(status);
    c["reason"] = json!(reason);
    c["message"] = json!(message);
    *c != before
}

/// Takes a condition away.
pub(crate) fn drop_condition(object: &mut Value, kind: &str) {
    if let Some(all) = object["status"]["conditions"].as_array_mut() {
        all.retain(|c| c["type"] != kind);
    }
}

/// Whether a pod answers requests.
pub(crate) fn ready(pod: &Value) -> bool {
    holds(pod, "Ready")
}

/// Whether a pod counts as a replica: not leaving and not ended.
pub(crate) fn active(pod: &Obj) -> bool {
    !pod.attrs.deleting && !ended(pod)
}

/// Whether a pod has ended, from its attributes alone.
pub(crate) fn ended(pod: &Obj) -> bool {
    matches!(
        pod.attrs.fields.get("status.phase").map(String::as_str),
        Some("Succeeded" | "Failed")
    )
}

/// How far a pod is on its way to being counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Not ready.
    NotReady,
    /// Ready, but not for long enough; available at that time.
    Settling(Timestamp),
    /// Ready for long enough.
    Available,
}

/// Whether a pod has been ready for `min_ready_seconds`.
pub(crate) fn availability(pod: &Value, min_ready_seconds: i64, now: Timestamp) -> Availability {
    let Some(c) = condition(pod, "Ready").filter(|c| c["status"] == "True") else {
        return Availability::NotReady;
    };
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let since: Timestamp = c["lastTransitionTime"]
        .as_str()
        .and_then(|t| t.parse().ok())
        .unwrap_or(now);
    let at = later(since, min_ready_seconds.saturating_mul(1000));
    if at <= now {
        Availability::Available
    } else {
        Availability::Settling(at)
    }
}

/// Counts over the replicas of one ReplicaSet or ReplicationController.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub replicas: i64,
    pub ready: i64,
    pub available: i64,
    /// When the next ready one becomes available.
    pub next: Option<Timestamp>,
}

impl Counts {
    pub fn add(&mut self, pod: &Value, min_ready_seconds: i64, now: Timestamp) {
        self.replicas += 1;
        match availability(pod, min_ready_seconds, now) {
            Availability::NotReady => {}
            Availability::Settling(at) => {
                self.ready += 1;
                self.next = Some(self.next.map_or(at, |n| n.min(at)));
            }
            Availability::Available => {
                self.ready += 1;
                self.available += 1;
            }
        }
    }
}
