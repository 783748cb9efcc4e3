//! Adoption: a pod or ReplicaSet without a controller goes to the controller in its namespace that selects it.
//! The other direction, letting go of what no longer matches, is part of each controller's own reconcile.

use coracle_api::{Key, kinds, meta};
use coracle_state::Obj;
use serde_json::{Value, json};

use crate::wake::selector_of;
use crate::writer::Plan;
use crate::{pods, replicas};

pub(crate) fn reconcile(plan: &mut Plan, table: &'static str, key: &Key) {
    let Some(orphan) = plan.view.get(table, key) else {
        return;
    };
    if orphan.attrs.controller().is_some()
        || orphan.attrs.deleting
        || (table == "pods" && pods::ended(orphan))
    {
        return;
    }
    let owners: &[&str] = if table == "pods" {
        &[replicas::RS, replicas::RC]
    } else {
        &["deployments.apps"]
    };
    for owner_table in owners {
        // Names order owners, so that every leader gives it to the same one.
        for owner in plan
            .view
            .list(owner_table, Some(&key.namespace))
            .filter(|o| !o.attrs.deleting)
        {
            let value = owner.value();
            if selector_of(owner_table, &value).is_some_and(|s| s.matches(&orphan.attrs.labels)) {
                let mut object = orphan.value();
                let reference = owner_reference(owner_table, &value);
                match object["metadata"]["ownerReferences"].as_array_mut() {
                    Some(all) => all.push(reference),
                    None => object["metadata"]["ownerReferences"] = json!([reference]),
                }
                plan.group(|plan| {
                    plan.require(owner_table, owner);
                    plan.update(table, orphan, object, "adopt");
                });
                return;
            }
        }
    }
}

/// A reference to a controlling owner.
pub(crate) fn owner_reference(table: &str, owner: &Value) -> Value {
    let (api_version, kind) =
        kinds::by_table(table).map_or((String::new(), ""), |k| (k.api_version(), k.kind));
    json!({"apiVersion": api_version, "kind": kind, "name": meta::name(owner), "uid": meta::uid(owner),
        "controller": true, "blockOwnerDeletion": true})
}

/// Takes this owner off an object that it no longer selects.
pub(crate) fn let_go(plan: &mut Plan, table: &'static str, obj: &Obj, owner_uid: &str) {
    let mut object = obj.value();
    remove_owners(&mut object, |uid| uid == owner_uid);
    plan.update(table, obj, object, "no longer selected");
}

/// Removes the owner references whose uid `drop` names.
pub(crate) fn remove_owners(object: &mut Value, drop: impl Fn(&str) -> bool) {
    if let Some(all) = object["metadata"]["ownerReferences"].as_array_mut() {
        all.retain(|o| !drop(o["uid"].as_str().unwrap_or_default()));
        if all.is_empty() {
            meta::metadata(object).remove("ownerReferences");
        }
    }
}
