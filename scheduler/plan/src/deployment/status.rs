//! A Deployment's status: counts, and the conditions `Available`, `Progressing` that `kubectl rollout status` and
//! `kubectl wait` go by.

use coracle_api::{Timestamp, meta};
use serde_json::{Value, json};

use super::{Rollout, Set, TABLE};
use crate::pods::{condition, drop_condition, set_condition};
use crate::writer::{Plan, later};

/// A deadline of this many seconds means none, as in Kubernetes.
const NO_DEADLINE: i64 = i32::MAX as i64;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Numbers {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

pub(super) fn write(plan: &mut Plan, mut rollout: Rollout, created: bool) {
    let sum = |of: fn(&Set) -> i64| rollout.sets().map(of).sum::<i64>();
    let numbers = Numbers {
        replicas: sum(|s| s.counts.replicas),
        updated: rollout.new.as_ref().map_or(0, |n| n.counts.replicas),
        ready: sum(|s| s.counts.ready),
        available: sum(|s| s.counts.available),
    };
    let field = |name: &str| rollout.value["status"][name].as_i64().unwrap_or(0);
    let before = Numbers {
        replicas: field("replicas"),
        updated: field("updatedReplicas"),
        ready: field("readyReplicas"),
        available: field("availableReplicas"),
    };
    // Pods that become available by waiting change what may be done, not just what is shown.
    if let Some(at) = rollout.sets().filter_map(|s| s.counts.next).min() {
        plan.wake_at(at);
    }
    let generation = meta::generation(&rollout.value);
    let total = rollout.total();
    let value = &mut rollout.value;
    if !value["status"].is_object() {
        value["status"] = json!({});
    }
    if let Some(status) = value["status"].as_object_mut() {
        let fields = [
            ("replicas", numbers.replicas),
            ("updatedReplicas", numbers.updated),
            ("readyReplicas", numbers.ready),
            ("availableReplicas", numbers.available),
            ("unavailableReplicas", (total - numbers.available).max(0)),
        ];
        for (name, n) in fields {
            // Zero is absent, as Kubernetes writes it.
            if n > 0 {
                status.insert(name.into(), json!(n));
            } else {
                status.remove(name);
            }
        }
        if generation > 0 {
            status.insert("observedGeneration".into(), json!(generation));
        }
    }
    if numbers.available >= rollout.replicas - rollout.max_unavailable {
        say(
            value,
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
            plan.now,
        );
    } else {
        say(
            value,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
            plan.now,
        );
    }
    progress(plan, &mut rollout, &numbers, &before, created);
    plan.update(TABLE, &rollout.obj.clone(), rollout.value, "status");
}

fn progress(
    plan: &mut Plan,
    rollout: &mut Rollout,
    numbers: &Numbers,
    before: &Numbers,
    created: bool,
) {
    let deadline = rollout.value["spec"]["progressDeadlineSeconds"]
        .as_i64()
        .unwrap_or(600);
    let replicas = rollout.replicas;
    let paused = rollout.paused();
    let name = rollout.new.as_ref().map(|n| n.obj.key.name.clone());
    let value = &mut rollout.value;
    if deadline >= NO_DEADLINE {
        drop_condition(value, "Progressing");
        return;
    }
    let reason = |v: &Value| {
        condition(v, "Progressing")
            .and_then(|c| c["reason"].as_str())
            .unwrap_or_default()
            .to_string()
    };
    let was = reason(value);
    let of = name.as_ref().map_or_else(
        || format!("Deployment {:?}", rollout.obj.key.name),
        |n| format!("ReplicaSet {n:?}"),
    );
    if paused {
        if was != "NewReplicaSetAvailable" || numbers.updated != numbers.replicas {
            say(
                value,
                "Progressing",
                "Unknown",
                "DeploymentPaused",
                "Deployment is paused",
                plan.now,
            );
        }
        return;
    }
    let complete = numbers.updated == replicas
        && numbers.replicas == replicas
        && numbers.available == replicas
        && name.is_some();
    let moved = numbers.updated > before.updated
        || numbers.replicas - numbers.updated < before.replicas - before.updated
        || numbers.ready > before.ready
        || numbers.available > before.available;
    if complete {
        say(
            value,
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            &format!("{of} has successfully progressed."),
            plan.now,
        );
    } else if created {
        say(
            value,
            "Progressing",
            "True",
            "NewReplicaSetCreated",
            "Created new replica set",
            plan.now,
        );
        touch(value, "Progressing", plan.now);
    } else if was == "NewReplicaSetAvailable" && numbers.updated == numbers.replicas {
        // Through already: a replica lost since then is not a rollout that hangs.
    } else if was == "DeploymentPaused" {
        say(
            value,
            "Progressing",
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed",
            plan.now,
        );
        touch(value, "Progressing", plan.now);
    } else if moved || was.is_empty() || was == "NewReplicaSetAvailable" {
        say(
            value,
            "Progressing",
            "True",
            "ReplicaSetUpdated",
            &format!("{of} is progressing."),
            plan.now,
        );
        touch(value, "Progressing", plan.now);
    }
    let now = reason(value);
    if !complete && now != "ProgressDeadlineExceeded" && now != "NewReplicaSetAvailable" {
        let since: Timestamp = condition(value, "Progressing")
            .and_then(|c| c["lastUpdateTime"].as_str()?.parse().ok())
            .unwrap_or(plan.now);
        let at = later(since, deadline.saturating_mul(1000));
        if at <= plan.now {
            say(
                value,
                "Progressing",
                "False",
                "ProgressDeadlineExceeded",
                &format!("{of} has timed out progressing."),
                plan.now,
            );
            touch(value, "Progressing", plan.now);
        } else {
            plan.wake_at(at);
        }
    }
}

/// Sets a condition, unless it says the same for the same reason already; times move only when it does.
fn say(value: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    if condition(value, kind).is_some_and(|c| c["status"] == status && c["reason"] == reason) {
        return;
    }
    set_condition(value, kind, status, reason, message, now);
    touch(value, kind, now);
}

/// Says that something has moved.
fn touch(value: &mut Value, kind: &str, now: Timestamp) {
    let conditions = value["status"]["conditions"]
        .as_array_mut()
        .into_iter()
        .flatten();
    for c in conditions.filter(|c| c["type"] == kind) {
        c["lastUpdateTime"] = json!(meta::time_text(now));
    }
}
