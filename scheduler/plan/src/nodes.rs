//! Node lifecycle: a lease that expires makes the node unreachable; what runs there is given up after a while and
//! replaced elsewhere. Losing contact alone deletes nothing: the lease has to expire on the leader, and every step is
//! a write through the log.

use std::sync::Arc;

use coracle_api::{Key, Timestamp, kinds};
use coracle_state::Obj;
use serde_json::{Value, json};

use crate::placement::tolerates;
use crate::volatile::Liveness;
use crate::writer::{Plan, later};
use crate::{Wait, pods};

pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const REASON: &str = "NodeStatusUnknown";
const MESSAGE: &str = "The runner stopped renewing its lease.";
/// Conditions that a runner reports.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(crate) fn reconcile(plan: &mut Plan, key: &Key) {
    let Some(obj) = plan.view.get("nodes", key).cloned() else {
        let stranded: Vec<_> = plan.view.on_node(&key.name).cloned().collect();
        for pod in stranded {
            plan.delete("pods", &pod, Some(0));
        }
        return;
    };
    let mut node = obj.value();
    match plan.volatile.liveness(&key.name, plan.settings, plan.now) {
        Liveness::Live { look_at } => plan.wake_at(look_at),
        Liveness::Expired => {
            for kind in REPORTED {
                if *kind == "Ready" || pods::condition(&node, kind).is_some() {
                    pods::set_condition(&mut node, kind, "Unknown", REASON, MESSAGE, plan.now);
                }
            }
        }
    }
    taint(plan, &mut node);
    let was = pods::condition(&obj.value(), "Ready").is_some_and(|c| c["status"] == "Unknown");
    let is = pods::condition(&node, "Ready").is_some_and(|c| c["status"] == "Unknown");
    if plan.update("nodes", &obj, node.clone(), "lifecycle")
        && is
        && !was
        && let Some(kind) = kinds::by_table("nodes")
    {
        plan.event(
            kind,
            &node,
            true,
            "NodeNotReady",
            &format!("Node {} status is now: NodeNotReady", key.name),
        );
    }
    evict(plan, &obj, &node);
}

/// Makes the taints follow from the Ready condition and `spec.unschedulable`; taints of others stay as they are.
fn taint(plan: &Plan, node: &mut Value) {
    let status = pods::condition(node, "Ready")
        .and_then(|c| c["status"].as_str())
        .unwrap_or("False")
        .to_string();
    let unschedulable = node["spec"]["unschedulable"] == true;
    let wanted = [
        (UNREACHABLE, "NoSchedule", status == "Unknown"),
        (UNREACHABLE, "NoExecute", status == "Unknown"),
        // A node that reports itself unready still answers for its pods: it gets no new ones, but keeps them.
        (NOT_READY, "NoSchedule", status == "False"),
        (UNSCHEDULABLE, "NoSchedule", unschedulable),
    ];
    let mut taints: Vec<Value> = node["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for (key, effect, on) in wanted {
        let at = taints
            .iter()
            .position(|t| t["key"] == key && t["effect"] == effect);
        match (at, on) {
            (None, true) => {
                taints.push(json!({"key": key, "effect": effect, "timeAdded": plan.time()}))
            }
            (Some(at), false) => {
                taints.remove(at);
            }
            _ => {}
        }
    }
    // A taint that evicts after a while needs to know since when.
    for t in taints
        .iter_mut()
        .filter(|t| t["effect"] == "NoExecute" && t["timeAdded"].as_str().is_none())
    {
        t["timeAdded"] = plan.time();
    }
    if !taints.is_empty() {
        node["spec"]["taints"] = json!(taints);
    } else if let Some(spec) = node["spec"].as_object_mut() {
        spec.remove("taints");
    }
}

/// Deletes pods that do not tolerate a NoExecute taint, when their time there is up.
fn evict(plan: &mut Plan, obj: &Arc<Obj>, node: &Value) {
    let taints: Vec<&Value> = node["spec"]["taints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|t| t["effect"] == "NoExecute")
        .collect();
    if taints.is_empty() {
        return;
    }
    let lost = taints.iter().any(|t| t["key"] == UNREACHABLE);
    let (mut waiting, mut next): (usize, Option<Timestamp>) = (0, None);
    let on_node: Vec<_> = plan.view.on_node(&obj.key.name).cloned().collect();
    for pod in on_node {
        let value = pod.value();
        let due = taints
            .iter()
            .filter_map(|t| due(&value, t, plan.settings.pod_eviction_ms, plan.now))
            .min();
        match due {
            Some(at) if at <= plan.now => {
                // Nobody is there to finish anything: a grace period would only delay the replacement.
                plan.delete("pods", &pod, lost.then_some(0));
            }
            Some(at) => {
                waiting += 1;
                next = Some(next.map_or(at, |n| n.min(at)));
            }
            None => {}
        }
    }
    if let Some(at) = next {
        plan.wake_at(at);
        plan.wait(Wait::Eviction {
            node: obj.key.name.clone(),
            pods: waiting,
            at,
        });
    }
}

/// When a taint evicts a pod; `None` if the pod tolerates it for good.
fn due(pod: &Value, taint: &Value, eviction_ms: i64, now: Timestamp) -> Option<Timestamp> {
    let since: Timestamp = taint["timeAdded"]
        .as_str()
        .and_then(|t| t.parse().ok())
        .unwrap_or(now);
    let tolerations = pod["spec"]["tolerations"].as_array().into_iter().flatten();
    let (mut tolerated, mut seconds) = (false, None::<i64>);
    for t in tolerations.filter(|t| tolerates(t, taint)) {
        tolerated = true;
        seconds = match (t["tolerationSeconds"].as_i64(), seconds) {
            (None, s) => s,
            (Some(s), None) => Some(s),
            (Some(a), Some(b)) => Some(a.min(b)),
        };
    }
    match (tolerated, seconds) {
        (true, None) => None,
        (true, Some(s)) => Some(later(since, s.max(0).saturating_mul(1000))),
        (false, _) if taint["key"] == UNREACHABLE => Some(later(since, eviction_ms)),
        (false, _) => Some(since.min(now)),
    }
}

/// Taints that a node has or is about to have, so that nothing is placed in between.
pub(crate) fn effective_taints(node: &Value) -> Vec<Value> {
    let mut taints: Vec<Value> = node["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ready = pods::condition(node, "Ready")
        .and_then(|c| c["status"].as_str())
        .unwrap_or("False");
    let implied = [
        (NOT_READY, ready == "False"),
        (UNREACHABLE, ready == "Unknown"),
        (UNSCHEDULABLE, node["spec"]["unschedulable"] == true),
    ];
    for (key, on) in implied {
        if on && !taints.iter().any(|t| t["key"] == key) {
            taints.push(json!({"key": key, "effect": "NoSchedule"}));
        }
    }
    taints
}

/// The address by which a node is known inside the cluster.
pub(crate) fn internal_ip(node: &Value) -> Option<&str> {
    node["status"]["addresses"]
        .as_array()?
        .iter()
        .find(|a| a["type"] == "InternalIP")?["address"]
        .as_str()
}
