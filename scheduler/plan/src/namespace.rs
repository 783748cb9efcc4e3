//! A namespace's life: furnished while it is active, emptied and removed when it is deleted, with a status that names
//! what is in the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::{Key, kinds, meta};
use coracle_state::Obj;
use serde_json::{Value, json};

use crate::writer::Plan;
use crate::{Wait, pods, tables};

/// Namespaces that bootstrap makes and that are never taken for leftovers.
pub(crate) const BUILT_IN: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];
const FINALIZER: &str = "kubernetes";
/// Objects deleted in one pass; the next pass continues when they are gone.
const BURST_MAX: usize = 1_000;

pub(crate) fn reconcile(plan: &mut Plan, key: &Key) {
    let Some(obj) = plan.view.get("namespaces", key).cloned() else {
        // A create that raced with the removal of its namespace.
        if !BUILT_IN.contains(&key.name.as_str()) {
            empty(plan, &key.name);
        }
        return;
    };
    if obj.attrs.deleting {
        terminate(plan, &obj);
    } else {
        furnish(plan, &obj);
    }
}

fn furnish(plan: &mut Plan, obj: &Arc<Obj>) {
    let name = &obj.key.name;
    let (Some(accounts), Some(maps)) = (
        kinds::by_table("serviceaccounts"),
        kinds::by_table("configmaps"),
    ) else {
        return;
    };
    if plan
        .view
        .get(accounts.table, &Key::new(name, "default"))
        .is_none()
    {
        plan.create(
            accounts,
            json!({"metadata": {"name": "default", "namespace": name}}),
        );
    }
    if !plan.settings.ca_pem.is_empty() {
        let key = Key::new(name, "kube-root-ca.crt");
        let data = json!({"ca.crt": plan.settings.ca_pem});
        match plan.view.get(maps.table, &key).cloned() {
            None => {
                let note = "Contains a CA bundle that can be used to verify the API server.";
                let metadata = json!({"name": key.name, "namespace": name, "annotations": {"kubernetes.io/description": note}});
                plan.create(maps, json!({"metadata": metadata, "data": data}));
            }
            Some(old) => {
                let mut map = old.value();
                if map["data"] != data {
                    map["data"] = data;
                    plan.update(maps.table, &old, map, "CA bundle");
                }
            }
        }
    }
    let mut namespace = obj.value();
    if namespace["status"]["phase"] != "Active" {
        namespace["status"]["phase"] = json!("Active");
        plan.update("namespaces", obj, namespace, "phase");
    }
}

/// What is left in a namespace.
#[derive(Default)]
struct Left {
    /// Objects by table, in order of name.
    tables: BTreeMap<String, usize>,
    /// Objects that wait for a finalizer, by finalizer.
    finalizers: BTreeMap<String, usize>,
}

/// Deletes what is in a namespace, and counts it. Controllers go before what they would make again.
fn empty(plan: &mut Plan, namespace: &str) -> Left {
    let mut left = Left::default();
    let mut budget = BURST_MAX;
    let mut order: Vec<_> = tables().filter(|k| k.namespaced()).collect();
    order.sort_by_key(|k| {
        (
            k.table == "pods",
            !k.table.starts_with("deployments"),
            k.table,
        )
    });
    for kind in order {
        let all: Vec<_> = plan
            .view
            .list(kind.table, Some(namespace))
            .cloned()
            .collect();
        if all.is_empty() {
            continue;
        }
        left.tables.insert(kind.table.to_string(), all.len());
        for obj in all {
            if budget == 0 {
                return left;
            }
            if obj.attrs.deleting {
                for f in meta::finalizers(&obj.value()) {
                    *left.finalizers.entry(f).or_default() += 1;
                }
            }
            budget -= usize::from(plan.delete(kind.table, &obj, None));
        }
    }
    left
}

fn terminate(plan: &mut Plan, obj: &Arc<Obj>) {
    let left = empty(plan, &obj.key.name);
    let mut namespace = obj.value();
    let held = |v: &Value| -> Vec<String> {
        let all = v["spec"]["finalizers"].as_array().into_iter().flatten();
        all.filter_map(|f| Some(f.as_str()?.to_string())).collect()
    };
    if left.tables.is_empty() {
        let others: Vec<String> = held(&namespace)
            .into_iter()
            .filter(|f| f != FINALIZER)
            .collect();
        if others.is_empty() && meta::finalizers(&namespace).is_empty() {
            plan.remove("namespaces", obj);
            return;
        }
        namespace["spec"]["finalizers"] = json!(others);
    }
    namespace["status"]["phase"] = json!("Terminating");
    let now = plan.now;
    let count = |map: &BTreeMap<String, usize>, word: &str| {
        map.iter()
            .map(|(k, n)| format!("{k} {word} {n} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let content = count(&left.tables, "has");
    let finalizers = count(&left.finalizers, "in");
    let mut say = |kind: &str, text: &str, reason: &str, clear: &str, intro: &str| {
        if text.is_empty() {
            pods::set_condition(
                &mut namespace,
                kind,
                "False",
                clear,
                "All content successfully removed",
                now,
            );
        } else {
            pods::set_condition(
                &mut namespace,
                kind,
                "True",
                reason,
                &format!("{intro}: {text}"),
                now,
            );
        }
    };
    say(
        "NamespaceContentRemaining",
        &content,
        "SomeResourcesRemain",
        "ContentRemoved",
        "Some resources are remaining",
    );
    say(
        "NamespaceFinalizersRemaining",
        &finalizers,
        "SomeFinalizersRemain",
        "ContentHasNoFinalizers",
        "Some content in the namespace has finalizers remaining",
    );
    plan.update("namespaces", obj, namespace, "terminating");
    if !content.is_empty() {
        plan.wait(Wait::Content {
            namespace: obj.key.name.clone(),
            left: content,
        });
    }
}
