//! Revisions: one ReplicaSet for each template the Deployment has had, numbered, and forgotten beyond a limit.
//! Going back is setting an old template again: the ReplicaSet with an equal template becomes the newest revision.

use coracle_api::{Key, POD_TEMPLATE_HASH, canonical, kinds, meta};
use serde_json::{Value, json};

use super::{DESIRED, MAX_REPLICAS, REVISION, REVISION_HISTORY, Rollout, TABLE, set_size};
use crate::adopt::owner_reference;
use crate::replicas::RS;
use crate::writer::{Plan, prefix, suffix};

/// Annotations of a Deployment that are its own business.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Old revisions kept where the Deployment does not say, as in Kubernetes.
const HISTORY_DEFAULT: i64 = 10;
/// Revisions remembered in the history annotation of one ReplicaSet.
const HISTORY_ENTRIES_MAX: usize = 20;
/// Names tried when one is taken by something else.
const COLLISIONS_MAX: i64 = 100;

/// Whether a ReplicaSet is of the Deployment's present template.
pub(super) fn same_template(set: &Value, deployment: &Value) -> bool {
    bare(&set["spec"]["template"]) == bare(&deployment["spec"]["template"])
}

/// A template's bytes without what we add to it and what says nothing.
fn bare(template: &Value) -> Vec<u8> {
    let mut template = template.clone();
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(POD_TEMPLATE_HASH);
        }
    }
    canonical::encode(&template).to_vec()
}

/// Brings the new ReplicaSet's revision, annotations and `minReadySeconds` up to date, and the Deployment's revision.
pub(super) fn sync(rollout: &mut Rollout) {
    let next = rollout.old.iter().map(|s| s.revision()).max().unwrap_or(0) + 1;
    let carried = carried(&rollout.value);
    let min_ready_seconds = rollout.value["spec"]["minReadySeconds"].clone();
    let Some(new) = &mut rollout.new else { return };
    for (k, v) in carried {
        meta::set_annotation(&mut new.value, &k, &v);
    }
    let now = new.revision();
    if now < next {
        if now > 0 {
            let before = meta::annotation(&new.value, REVISION_HISTORY).unwrap_or_default();
            let mut history: Vec<String> = before
                .split(',')
                .filter(|h| !h.is_empty())
                .map(str::to_string)
                .collect();
            history.push(now.to_string());
            let skip = history.len().saturating_sub(HISTORY_ENTRIES_MAX);
            meta::set_annotation(&mut new.value, REVISION_HISTORY, &history[skip..].join(","));
        }
        meta::set_annotation(&mut new.value, REVISION, &next.to_string());
    }
    if min_ready_seconds.is_null() {
        if let Some(spec) = new.value["spec"].as_object_mut() {
            spec.remove("minReadySeconds");
        }
    } else {
        new.value["spec"]["minReadySeconds"] = min_ready_seconds;
    }
    let revision = new.revision().to_string();
    meta::set_annotation(&mut rollout.value, REVISION, &revision);
}

/// Annotations that go from a Deployment to its ReplicaSet, `kubernetes.io/change-cause` among them.
fn carried(deployment: &Value) -> Vec<(String, String)> {
    meta::strings(deployment, "annotations")
        .into_iter()
        .filter(|(k, _)| !OWN.contains(&k.as_str()))
        .collect()
}

/// Creates the ReplicaSet of the present template, if the namespace takes it. Returns whether it does.
pub(super) fn create(plan: &mut Plan, rollout: &mut Rollout, size: i64) -> bool {
    let namespace = rollout.obj.key.namespace.clone();
    let (Some(kind), Some(deployments)) = (kinds::by_table(RS), kinds::by_table(TABLE)) else {
        return false;
    };
    if !plan.open(&namespace) {
        return false;
    }
    let (name, hash, collisions) = name(plan, rollout);
    if collisions > 0 {
        rollout.value["status"]["collisionCount"] = json!(collisions);
    }
    let revision = rollout.old.iter().map(|s| s.revision()).max().unwrap_or(0) + 1;
    let spec = &rollout.value["spec"];
    let mut template = spec["template"].clone();
    template["metadata"]["labels"][POD_TEMPLATE_HASH] = json!(hash);
    let mut selector = spec["selector"].clone();
    selector["matchLabels"][POD_TEMPLATE_HASH] = json!(hash);
    let mut set = json!({
        "metadata": {"name": name, "namespace": namespace, "labels": template["metadata"]["labels"], "generation": 1,
            "ownerReferences": [owner_reference(TABLE, &rollout.value)], "annotations": {}},
        "spec": {"replicas": size, "selector": selector, "template": template},
        "status": {"replicas": 0},
    });
    for (k, v) in carried(&rollout.value) {
        meta::set_annotation(&mut set, &k, &v);
    }
    meta::set_annotation(&mut set, REVISION, &revision.to_string());
    meta::set_annotation(&mut set, DESIRED, &rollout.replicas.to_string());
    meta::set_annotation(
        &mut set,
        MAX_REPLICAS,
        &(rollout.replicas + rollout.max_surge).to_string(),
    );
    if !spec["minReadySeconds"].is_null() {
        set["spec"]["minReadySeconds"] = spec["minReadySeconds"].clone();
    }
    set_size(&mut set, size);
    meta::set_annotation(&mut rollout.value, REVISION, &revision.to_string());
    let obj = rollout.obj.clone();
    plan.group(|plan| {
        plan.require(TABLE, &obj);
        plan.create(kind, set);
    });
    let scaled = format!("Scaled up replica set {name} from 0 to {size}");
    plan.event(
        deployments,
        &rollout.value,
        true,
        "ScalingReplicaSet",
        &scaled,
    );
    true
}

/// Name and hash of the new ReplicaSet, past names that something else has.
fn name(plan: &Plan, rollout: &Rollout) -> (String, String, i64) {
    let template = hex::encode(crate::writer::digest(&[&String::from_utf8_lossy(&bare(
        &rollout.value["spec"]["template"],
    ))]));
    let first = rollout.value["status"]["collisionCount"]
        .as_i64()
        .unwrap_or(0);
    let mut collisions = first;
    loop {
        let hash = suffix(&[&template, &collisions.to_string()], 10);
        let name = format!("{}-{hash}", prefix(&rollout.obj.key.name, 242));
        if plan
            .view
            .get(RS, &Key::new(&rollout.obj.key.namespace, &name))
            .is_none()
            || collisions - first >= COLLISIONS_MAX
        {
            return (name, hash, collisions);
        }
        collisions += 1;
    }
}

/// Removes old ReplicaSets beyond `revisionHistoryLimit`, once the rollout is through.
pub(super) fn forget(plan: &mut Plan, rollout: &Rollout) {
    let done = rollout
        .new
        .as_ref()
        .is_some_and(|n| n.available() == rollout.replicas && n.size() == rollout.replicas);
    if !done {
        return;
    }
    let limit = rollout.value["spec"]["revisionHistoryLimit"]
        .as_i64()
        .unwrap_or(HISTORY_DEFAULT)
        .max(0) as usize;
    let idle = |s: &&super::Set| {
        s.size() == 0
            && s.present == 0
            && s.obj.value()["status"]["replicas"].as_i64().unwrap_or(0) == 0
            && !s.obj.attrs.deleting
    };
    let mut idle: Vec<_> = rollout.old.iter().filter(idle).collect();
    idle.sort_by_key(|s| s.revision());
    let surplus = idle.len().saturating_sub(limit);
    for set in idle.into_iter().take(surplus) {
        plan.remove(RS, &set.obj);
    }
}
