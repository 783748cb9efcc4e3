//! Leaving without losing a request: the leader's half of the handshake (DESIGN section 4, "Leaving").
//!
//! When no EndpointSlice offers a leaving pod any more, the revision of the newest slice change is written on the pod
//! once. A proxy that has applied that revision, or any later one, cannot choose the pod; so the target does not move
//! however often the slices change afterwards, and removed slices and Services are covered too. When every proxy with
//! a live lease is there, the pod gets condition `coracle/Drained`, and its runner may stop it.

use coracle_api::{DRAINED, Key, meta};
use coracle_state::View;
use serde_json::Value;

use crate::endpoints::SLICES;
use crate::writer::Plan;
use crate::{Wait, pods};

/// Annotation on a leaving pod: the revision that every live proxy must have applied.
pub const DRAIN_REVISION: &str = "coracle/drain-revision";

pub(crate) fn reconcile(plan: &mut Plan, key: &Key) {
    let Some(obj) = plan.view.get("pods", key).cloned() else {
        return;
    };
    if !obj.attrs.deleting || obj.attrs.node_name.is_empty() || pods::ended(&obj) {
        return;
    }
    let mut pod = obj.value();
    if pods::holds(&pod, DRAINED) {
        return;
    }
    let noted = meta::annotation(&pod, DRAIN_REVISION).and_then(|r| r.parse().ok());
    let revision = match noted {
        Some(revision) => revision,
        None => {
            if let Some(slice) = offered(plan.view, key, &obj.attrs.uid) {
                plan.wait(Wait::StillOffered {
                    pod: key.clone(),
                    slice,
                });
                return;
            }
            let revision = newest(plan.view);
            meta::set_annotation(&mut pod, DRAIN_REVISION, &revision.to_string());
            revision
        }
    };
    let live = plan.volatile.live_proxies(plan.settings, plan.now);
    let behind = live.iter().filter(|(node, _)| {
        plan.volatile
            .acks
            .get(**node)
            .is_none_or(|applied| *applied < revision)
    });
    let behind: Vec<_> = behind
        .map(|(node, look_at)| (node.to_string(), *look_at))
        .collect();
    if behind.is_empty() {
        pods::set_condition(
            &mut pod,
            DRAINED,
            "True",
            "ProxiesApplied",
            "no live proxy chooses this pod any more",
            plan.now,
        );
        plan.update("pods", &obj, pod, "drained");
        return;
    }
    // A proxy whose lease runs out is no longer waited for.
    if let Some(at) = behind.iter().map(|(_, look_at)| *look_at).min() {
        plan.wake_at(at);
    }
    let nodes: Vec<String> = behind.into_iter().map(|(node, _)| node).collect();
    // The message names no nodes: it would be rewritten with each report. `explain` does.
    let message = format!("waiting until every live proxy has applied revision {revision}");
    pods::set_condition(
        &mut pod,
        DRAINED,
        "False",
        "WaitingForProxies",
        &message,
        plan.now,
    );
    plan.update("pods", &obj, pod, "leaving");
    plan.wait(Wait::Proxies {
        pod: key.clone(),
        revision,
        nodes,
    });
}

/// A slice that still offers the pod: as ready, or as `serving` where no other endpoint is ready (proxies fall back to
/// those then). A slice that should offer it but does not yet will never: its pod is leaving already.
fn offered(view: &View, pod: &Key, uid: &str) -> Option<Key> {
    for slice in view.list(SLICES, Some(&pod.namespace)) {
        // Most slices of a namespace do not name the pod at all; its uid is cheap to look for.
        if !contains(&slice.bytes, uid.as_bytes()) {
            continue;
        }
        let value = slice.value();
        let endpoints = || value["endpoints"].as_array().into_iter().flatten();
        let flag = |e: &Value, name: &str, default: bool| {
            e["conditions"][name].as_bool().unwrap_or(default)
        };
        for e in endpoints().filter(|e| e["targetRef"]["uid"] == uid) {
            if flag(e, "ready", true) || !flag(e, "terminating", false) {
                return Some(slice.key.clone());
            }
            if flag(e, "serving", true)
                && !others_ready(
                    view,
                    slice.attrs.labels.get("kubernetes.io/service-name"),
                    pod,
                )
            {
                return Some(slice.key.clone());
            }
        }
    }
    None
}

/// Whether a Service has a ready endpoint (one that is leaving never is).
fn others_ready(view: &View, service: Option<&String>, pod: &Key) -> bool {
    let Some(service) = service else { return false };
    view.list(SLICES, Some(&pod.namespace))
        .filter(|s| s.attrs.labels.get("kubernetes.io/service-name") == Some(service))
        .any(|s| {
            let value = s.value();
            value["endpoints"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|e| e["conditions"]["ready"] == true)
        })
}

/// Revision of the newest change of any slice.
fn newest(view: &View) -> u64 {
    view.tables
        .get(SLICES)
        .map_or(0, |t| t.ring.last().map_or(t.ring_floor, |e| e.revision))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && bytes.windows(needle.len()).any(|w| w == needle)
}
