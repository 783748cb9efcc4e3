//! ReplicaSet and ReplicationController: as many pods as `spec.replicas` says, and a status that counts them.
//!
//! Pod names follow from the owner and the pods it has, so that a leader that decides on an old view asks for names
//! that are taken instead of adding to what its successor did; the owner's revision is part of the same atomic group.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use coracle_api::{Key, Timestamp, canonical, kinds, meta};
use coracle_state::Obj;
use serde_json::{Value, json};

use crate::Wait;
use crate::adopt::{let_go, owner_reference};
use crate::pods::{self, Counts};
use crate::wake::selector_of;
use crate::writer::{Plan, prefix, suffix};

pub(crate) const RS: &str = "replicasets.apps";
pub(crate) const RC: &str = "replicationcontrollers";

/// Pods created or deleted in one pass, as in Kubernetes: the next pass continues, and a mistake shows before it is large.
const BURST_MAX: usize = 500;
/// Bytes of pods created in one pass: they are one atomic group, and a log entry holds 8 MiB.
const BURST_BYTES_MAX: usize = 3 << 20;

pub(crate) fn reconcile(plan: &mut Plan, table: &'static str, key: &Key) {
    let Some(owner) = plan.view.get(table, key).cloned() else {
        return;
    };
    let set = owner.value();
    let Some(selector) = selector_of(table, &set) else {
        return;
    };
    let (mut mine, mut everyone) = (Vec::new(), Vec::new());
    for pod in plan.controlled("pods", &owner.attrs.uid) {
        if pods::active(&pod) && !selector.matches(&pod.attrs.labels) && !owner.attrs.deleting {
            let_go(plan, "pods", &pod, &owner.attrs.uid);
            continue;
        }
        everyone.push(pod.attrs.uid.clone());
        if pods::active(&pod) {
            let value = pod.value();
            mine.push((pod, value));
        }
    }
    let wanted = set["spec"]["replicas"].as_i64().unwrap_or(1).max(0) as usize;
    let mut failure = None;
    if !owner.attrs.deleting {
        if mine.len() < wanted {
            if orphans(plan, &key.namespace, &selector) {
                // They are adopted first; each adoption brings us back here.
            } else if plan.open(&key.namespace) {
                create(plan, table, &owner, &set, &everyone, wanted - mine.len());
            } else {
                failure = Some(format!(
                    "namespace {} is being terminated or does not exist",
                    key.namespace
                ));
            }
        } else if mine.len() > wanted {
            delete(plan, table, &set, &mine, mine.len() - wanted);
        }
    }
    status(plan, table, &owner, set, &mine, failure);
}

/// Whether there are pods that this owner is about to be given.
fn orphans(plan: &Plan, namespace: &str, selector: &LabelSelector) -> bool {
    let ownerless = |p: &&Arc<Obj>| pods::active(p) && p.attrs.controller().is_none();
    plan.view
        .list("pods", Some(namespace))
        .filter(ownerless)
        .any(|p| selector.matches(&p.attrs.labels))
}

fn create(
    plan: &mut Plan,
    table: &'static str,
    owner: &Arc<Obj>,
    set: &Value,
    everyone: &[String],
    count: usize,
) {
    let Some(kind) = kinds::by_table(table) else {
        return;
    };
    let each = canonical::encode(&pod_of(table, set, &owner.key.name)).len();
    let count = count.min(BURST_MAX).min((BURST_BYTES_MAX / each).max(1));
    let names = names(plan, owner, everyone, count);
    plan.group(|plan| {
        plan.require(table, owner);
        for name in &names {
            let pod = pod_of(table, set, name);
            if let Some(pods) = kinds::by_table("pods") {
                plan.create(pods, pod);
            }
        }
    });
    for name in names {
        plan.event(
            kind,
            set,
            true,
            "SuccessfulCreate",
            &format!("Created pod: {name}"),
        );
    }
}

/// Names for new pods that no object has.
fn names(plan: &Plan, owner: &Obj, everyone: &[String], count: usize) -> Vec<String> {
    let base = prefix(&owner.key.name, 57);
    let seen = everyone.join(",");
    let mut names = Vec::with_capacity(count);
    let mut n = 0u64;
    while names.len() < count {
        let name = format!(
            "{base}-{}",
            suffix(&[&owner.attrs.uid, &seen, &n.to_string()], 5)
        );
        n += 1;
        if plan
            .view
            .get("pods", &Key::new(&owner.key.namespace, &name))
            .is_none()
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// A new pod from the owner's template.
fn pod_of(table: &str, set: &Value, name: &str) -> Value {
    let template = &set["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": template["spec"], "status": {"phase": "Pending"}});
    for part in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][part].is_null() {
            pod["metadata"][part] = template["metadata"][part].clone();
        }
    }
    pod["metadata"]["generateName"] = json!(format!("{}-", meta::name(set)));
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!(meta::namespace(set));
    pod["metadata"]["ownerReferences"] = json!([owner_reference(table, set)]);
    if let Some(kind) = kinds::by_table("pods") {
        coracle_api::defaults::apply(kind, &mut pod);
    }
    pod
}

fn delete(plan: &mut Plan, table: &str, set: &Value, mine: &[(Arc<Obj>, Value)], count: usize) {
    let Some(kind) = kinds::by_table(table) else {
        return;
    };
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    for (pod, _) in mine {
        *on_node.entry(&pod.attrs.node_name).or_default() += 1;
    }
    let mut ranked: Vec<_> = mine
        .iter()
        .map(|(pod, value)| (rank(pod, value, on_node[pod.attrs.node_name.as_str()]), pod))
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, pod) in ranked.into_iter().take(count.min(BURST_MAX)) {
        if plan.delete("pods", pod, None) {
            plan.event(
                kind,
                set,
                true,
                "SuccessfulDelete",
                &format!("Deleted pod: {}", pod.key.name),
            );
        }
    }
}

/// Which pod goes first, lowest first: unbound, pending, not ready, cheap by annotation, crowded on its node, ready
/// for the shortest time, restarted most, youngest; the name settles ties, so that every leader picks the same.
type Rank = (
    bool,
    u8,
    bool,
    i64,
    std::cmp::Reverse<usize>,
    std::cmp::Reverse<Option<Timestamp>>,
    std::cmp::Reverse<i64>,
    std::cmp::Reverse<Option<Timestamp>>,
    Key,
);

fn rank(pod: &Obj, value: &Value, neighbours: usize) -> Rank {
    let phase = match value["status"]["phase"].as_str() {
        Some("Pending") | None => 0,
        Some("Unknown") => 1,
        Some(_) => 2,
    };
    let cost = meta::annotation(value, "controller.kubernetes.io/pod-deletion-cost")
        .and_then(|c| c.parse().ok())
        .unwrap_or(0);
    let ready_since = pods::condition(value, "Ready")
        .and_then(|c| c["lastTransitionTime"].as_str()?.parse().ok());
    let restarts = value["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten();
    let restarts = restarts
        .filter_map(|c| c["restartCount"].as_i64())
        .max()
        .unwrap_or(0);
    use std::cmp::Reverse;
    (
        !pod.attrs.node_name.is_empty(),
        phase,
        pods::ready(value),
        cost,
        Reverse(neighbours),
        Reverse(ready_since),
        Reverse(restarts),
        Reverse(meta::creation_timestamp(value)),
        pod.key.clone(),
    )
}

fn status(
    plan: &mut Plan,
    table: &'static str,
    owner: &Obj,
    mut set: Value,
    mine: &[(Arc<Obj>, Value)],
    failure: Option<String>,
) {
    let min_ready_seconds = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let labels = meta::labels(&set["spec"]["template"]);
    let (mut counts, mut fully) = (Counts::default(), 0);
    for (pod, value) in mine {
        counts.add(value, min_ready_seconds, plan.now);
        fully += i64::from(
            labels
                .iter()
                .all(|(k, v)| pod.attrs.labels.get(k) == Some(v)),
        );
    }
    if let Some(at) = counts.next {
        plan.wake_at(at);
        plan.wait(Wait::MinReady {
            count: (counts.ready - counts.available) as usize,
            at,
        });
    }
    let generation = meta::generation(&set);
    if !set["status"].is_object() {
        set["status"] = json!({});
    }
    set["status"]["replicas"] = json!(counts.replicas);
    if let Some(status) = set["status"].as_object_mut() {
        let fields = [
            ("fullyLabeledReplicas", fully),
            ("readyReplicas", counts.ready),
            ("availableReplicas", counts.available),
        ];
        for (field, n) in fields {
            // Zero is absent, as Kubernetes writes it.
            if n > 0 {
                status.insert(field.into(), json!(n));
            } else {
                status.remove(field);
            }
        }
    }
    if generation > 0 {
        set["status"]["observedGeneration"] = json!(generation);
    }
    match &failure {
        Some(why) => {
            pods::set_condition(
                &mut set,
                "ReplicaFailure",
                "True",
                "FailedCreate",
                why,
                plan.now,
            );
        }
        None => pods::drop_condition(&mut set, "ReplicaFailure"),
    }
    plan.update(table, owner, set, "status");
}
