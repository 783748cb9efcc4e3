//! What wakes what. Nothing here decides: a task that is not needed costs a look, one that is missing costs until the
//! next timer or resync.

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::selector::LabelSelector;
use coracle_api::{Key, Kind, kinds, meta};
use coracle_state::{Change, Event, Obj, View};
use serde::Deserialize;
use serde_json::Value;

use crate::endpoints::SLICES;
use crate::garbage::{FOREGROUND, owner_key};
use crate::volatile::{LEASES, NODE_LEASES, unreachable};
use crate::{Controller, Task, pods, replicas, tables};

/// What has to be looked at after one change. `view` is at or after the change.
pub fn tasks_for(table: &str, event: &Event, view: &View) -> Vec<Task> {
    let Some(kind) = kinds::by_table(table) else {
        return Vec::new();
    };
    let mut tasks = BTreeSet::new();
    let mut add = |controller, key: &Key| {
        tasks.insert(Task::new(controller, key.clone()));
    };
    let (obj, key) = (&event.obj, &event.obj.key);
    let gone = event.change == Change::Deleted;
    match table {
        "namespaces" => add(Controller::Namespace, key),
        "serviceaccounts" | "configmaps"
            if key.name == "default" || key.name == "kube-root-ca.crt" =>
        {
            add(Controller::Namespace, &Key::new("", &key.namespace));
        }
        "nodes" => {
            add(Controller::NodeLifecycle, key);
            add(Controller::Placement, &Key::default());
            if event
                .before
                .as_ref()
                .is_some_and(|b| unreachable(b) != unreachable(obj))
            {
                for pod in view.on_node(&key.name) {
                    for service in selecting(view, pod) {
                        add(Controller::Endpoints, &service);
                    }
                }
            }
        }
        LEASES if key.namespace == NODE_LEASES => {
            // A renewal of a node that is known to be alive changes nothing: its timer asks again at the old expiry.
            let node = Key::new("", &key.name);
            if event.change != Change::Modified
                || view.get("nodes", &node).is_some_and(|n| unreachable(n))
            {
                add(Controller::NodeLifecycle, &node);
            }
        }
        "pods" => {
            if let Some(owner) = obj.attrs.controller() {
                let owner_key = Key::new(&key.namespace, &owner.name);
                match owner.kind.as_str() {
                    "ReplicaSet" => {
                        add(Controller::ReplicaSet, &owner_key);
                        // Recreate waits until the last old pod has gone, which no status counts.
                        let set = gone
                            .then(|| view.get("replicasets.apps", &owner_key))
                            .flatten();
                        if let Some(deployment) = set.and_then(|s| s.attrs.controller()) {
                            add(
                                Controller::Deployment,
                                &Key::new(&key.namespace, &deployment.name),
                            );
                        }
                    }
                    "ReplicationController" => add(Controller::ReplicationController, &owner_key),
                    _ => {}
                }
            } else if !gone {
                add(Controller::Adoption("pods"), key);
            }
            if gone || obj.attrs.node_name.is_empty() || pods::ended(obj) {
                add(Controller::Placement, &Key::default());
            }
            if pods::ended(obj) {
                add(Controller::Retention, &Key::default());
            }
            if !obj.attrs.node_name.is_empty()
                && event
                    .before
                    .as_ref()
                    .is_none_or(|b| b.attrs.node_name.is_empty())
            {
                add(
                    Controller::NodeLifecycle,
                    &Key::new("", &obj.attrs.node_name),
                );
            }
            if obj.attrs.deleting && !gone {
                add(Controller::Drain, key);
            }
            for service in selecting(view, obj)
                .into_iter()
                .chain(event.before.iter().flat_map(|b| selecting(view, b)))
            {
                add(Controller::Endpoints, &service);
            }
        }
        "services" | "endpoints" => add(Controller::Endpoints, key),
        SLICES => {
            if let Some(service) = obj.attrs.labels.get("kubernetes.io/service-name") {
                add(Controller::Endpoints, &Key::new(&key.namespace, service));
            }
            for o in std::iter::once(obj).chain(&event.before) {
                for pod in targets(o) {
                    if view.get("pods", &pod).is_some_and(|p| p.attrs.deleting) {
                        add(Controller::Drain, &pod);
                    }
                }
            }
        }
        "replicasets.apps" | "replicationcontrollers" => {
            add(
                if table == "replicasets.apps" {
                    Controller::ReplicaSet
                } else {
                    Controller::ReplicationController
                },
                key,
            );
            match obj.attrs.controller() {
                Some(owner) if owner.kind == "Deployment" => add(
                    Controller::Deployment,
                    &Key::new(&key.namespace, &owner.name),
                ),
                Some(_) => {}
                None if table == "replicasets.apps" && !gone => {
                    add(Controller::Adoption("replicasets.apps"), key)
                }
                None => {}
            }
            if event.change == Change::Added {
                for pod in view
                    .list("pods", Some(&key.namespace))
                    .filter(|p| p.attrs.controller().is_none())
                {
                    add(Controller::Adoption("pods"), &pod.key);
                }
            }
        }
        "deployments.apps" => {
            add(Controller::Deployment, key);
            if event.change == Change::Added {
                for set in view
                    .list("replicasets.apps", Some(&key.namespace))
                    .filter(|s| s.attrs.controller().is_none())
                {
                    add(Controller::Adoption("replicasets.apps"), &set.key);
                }
            }
        }
        "ingresses.networking.k8s.io" => add(Controller::Ingress, key),
        _ => {}
    }
    if !key.namespace.is_empty()
        && view
            .get("namespaces", &Key::new("", &key.namespace))
            .is_none_or(|n| n.attrs.deleting)
    {
        add(Controller::Namespace, &Key::new("", &key.namespace));
    }
    ownership(kind, event, view, &mut tasks);
    tasks.into_iter().collect()
}

/// Tasks of garbage collection after a change.
fn ownership(kind: &'static Kind, event: &Event, view: &View, tasks: &mut BTreeSet<Task>) {
    let obj = &event.obj;
    if event.change == Change::Deleted || obj.attrs.deleting {
        for dependents in tables() {
            for d in view.owned_by(dependents.table, &obj.attrs.uid) {
                tasks.insert(Task::new(
                    Controller::Garbage(dependents.table),
                    d.key.clone(),
                ));
            }
        }
    }
    if obj.attrs.deleting && event.change != Change::Deleted {
        tasks.insert(Task::new(Controller::Garbage(kind.table), obj.key.clone()));
    }
    for owner in obj
        .attrs
        .owners
        .iter()
        .chain(event.before.iter().flat_map(|b| &b.attrs.owners))
    {
        let Some((table, key)) = owner_key(owner, &obj.key.namespace) else {
            continue;
        };
        match view.get(table, &key).filter(|o| o.attrs.uid == owner.uid) {
            // An owner that waits for its dependents hears of each of them.
            Some(o) if o.attrs.deleting => {
                tasks.insert(Task::new(Controller::Garbage(table), key));
                if event.change != Change::Deleted {
                    tasks.insert(Task::new(Controller::Garbage(kind.table), obj.key.clone()));
                }
            }
            Some(_) => {}
            None if event.change != Change::Deleted => {
                tasks.insert(Task::new(Controller::Garbage(kind.table), obj.key.clone()));
            }
            None => {}
        }
    }
}

/// Everything there is to look at: for a new leader, or after history was lost.
pub fn tasks_all(view: &View) -> Vec<Task> {
    let mut tasks = BTreeSet::from([
        Task::whole(Controller::Placement),
        Task::whole(Controller::Retention),
    ]);
    let mut each = |table: &str, controller: Controller| {
        tasks.extend(
            view.list(table, None)
                .map(|o| Task::new(controller, o.key.clone())),
        );
    };
    each("namespaces", Controller::Namespace);
    each("nodes", Controller::NodeLifecycle);
    each("services", Controller::Endpoints);
    each("endpoints", Controller::Endpoints);
    each("deployments.apps", Controller::Deployment);
    each("replicasets.apps", Controller::ReplicaSet);
    each("replicationcontrollers", Controller::ReplicationController);
    each("ingresses.networking.k8s.io", Controller::Ingress);
    for slice in view.list(SLICES, None) {
        if let Some(service) = slice.attrs.labels.get("kubernetes.io/service-name") {
            tasks.insert(Task::new(
                Controller::Endpoints,
                Key::new(&slice.key.namespace, service),
            ));
        }
    }
    for table in ["pods", "replicasets.apps"] {
        let ownerless = view
            .list(table, None)
            .filter(|o| o.attrs.controller().is_none());
        tasks.extend(ownerless.map(|o| {
            Task::new(
                Controller::Adoption(if table == "pods" {
                    "pods"
                } else {
                    "replicasets.apps"
                }),
                o.key.clone(),
            )
        }));
    }
    // Pods may name a node that no longer exists, objects a namespace.
    if let Some(t) = view.tables.get("pods") {
        tasks.extend(
            t.by_node
                .keys()
                .map(|n| Task::new(Controller::NodeLifecycle, Key::new("", n))),
        );
    }
    for kind in tables() {
        for o in view.list(kind.table, None) {
            if !o.key.namespace.is_empty()
                && view
                    .get("namespaces", &Key::new("", &o.key.namespace))
                    .is_none()
            {
                tasks.insert(Task::new(
                    Controller::Namespace,
                    Key::new("", &o.key.namespace),
                ));
            }
            if o.attrs.deleting || !o.attrs.owners.is_empty() {
                tasks.insert(Task::new(Controller::Garbage(kind.table), o.key.clone()));
            }
        }
    }
    tasks.extend(tasks_after_ack(view));
    tasks.into_iter().collect()
}

/// What has to be looked at after a proxy has reported a new revision: every leaving pod that is not drained yet.
pub fn tasks_after_ack(view: &View) -> Vec<Task> {
    view.list("pods", None)
        .filter(|p| p.attrs.deleting)
        .map(|p| Task::new(Controller::Drain, p.key.clone()))
        .collect()
}

/// A Service as far as its selector, decoded without the rest.
#[derive(Deserialize)]
struct Selecting {
    spec: SelectingSpec,
}

#[derive(Deserialize)]
struct SelectingSpec {
    #[serde(default)]
    selector: Option<BTreeMap<String, String>>,
}

/// Services of the pod's namespace that select it.
pub(crate) fn selecting(view: &View, pod: &Obj) -> Vec<Key> {
    let mut found = Vec::new();
    for service in view.list("services", Some(&pod.key.namespace)) {
        let Ok(Selecting {
            spec: SelectingSpec {
                selector: Some(selector),
            },
        }) = service.decode()
        else {
            continue;
        };
        if !selector.is_empty() && LabelSelector::from_map(&selector).matches(&pod.attrs.labels) {
            found.push(service.key.clone());
        }
    }
    found
}

/// Pods that a slice lists.
fn targets(slice: &Obj) -> Vec<Key> {
    let value = slice.value();
    let endpoints = value["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter_map(|e| {
            Some(Key::new(
                &slice.key.namespace,
                e["targetRef"]["name"].as_str()?,
            ))
        })
        .collect()
}

/// The selector of a controller; `None` if it selects nothing or cannot be read.
pub(crate) fn selector_of(table: &str, object: &Value) -> Option<LabelSelector> {
    let selector = if table == replicas::RC {
        let map = meta::string_map(&object["spec"]["selector"]);
        LabelSelector::from_map(&if map.is_empty() {
            meta::labels(&object["spec"]["template"])
        } else {
            map
        })
    } else {
        LabelSelector::from_object(&object["spec"]["selector"]).ok()?
    };
    (!selector.is_empty()).then_some(selector)
}

/// Whether an object waits for its dependents.
pub(crate) fn foreground(obj: &Obj) -> bool {
    obj.attrs.deleting
        && meta::finalizers(&obj.value())
            .iter()
            .any(|f| f == FOREGROUND)
}
