//! Without faults the cluster comes to where it should be, stays there, and plans nothing more.

use std::collections::BTreeSet;

use coracle_api::{Key, meta};
use coracle_plan::{Input, Wait, explain};
use coracle_state::{Obj, View};

use crate::node::holds;
use crate::world::World;

fn ended(pod: &Obj) -> bool {
    matches!(
        pod.attrs.fields.get("status.phase").map(String::as_str),
        Some("Succeeded" | "Failed")
    )
}

impl World {
    /// What is not as it should be; `None` if nothing is missing.
    pub fn unfinished(&self) -> Option<String> {
        let Some(view) = self.view() else {
            return Some("there is no leader".into());
        };
        for node in &self.nodes {
            let obj = view.get("nodes", &Key::new("", &node.name));
            if node.up && !node.cut && !obj.is_some_and(|o| holds(&o.value(), "Ready")) {
                return Some(format!("node {} is not ready", node.name));
            }
        }
        let mut crowded = false;
        for pod in view.list("pods", None).filter(|p| !ended(p)) {
            if pod.attrs.deleting {
                return Some(format!("pod {} is still leaving", pod.key));
            }
            if !holds(&pod.value(), "Ready") {
                let input = Input {
                    view: &view,
                    volatile: &self.control.volatile,
                    now: self.now,
                    settings: &self.control.settings,
                };
                let waits = explain(&input, &pod.key)
                    .map(|e| e.waits)
                    .unwrap_or_default();
                // There may really be no room; that is said, and nothing is wrong.
                if !waits.iter().any(|w| matches!(w, Wait::NoNodeFits(..))) {
                    return Some(format!("pod {} is not ready: {waits:?}", pod.key));
                }
                crowded = true;
            }
        }
        if crowded {
            return None;
        }
        self.unfinished_workloads(&view)
    }

    fn unfinished_workloads(&self, view: &View) -> Option<String> {
        for table in [
            "deployments.apps",
            "replicasets.apps",
            "replicationcontrollers",
        ] {
            for obj in view.list(table, None) {
                let value = obj.value();
                let (wanted, status) = (
                    value["spec"]["replicas"].as_i64().unwrap_or(1),
                    &value["status"],
                );
                let counts = |field: &str| status[field].as_i64().unwrap_or(0) == wanted;
                let updated = table != "deployments.apps" || counts("updatedReplicas");
                if obj.attrs.deleting {
                    return Some(format!("{table} {} is still being deleted", obj.key));
                }
                if !(counts("replicas") && counts("availableReplicas") && updated) {
                    return Some(format!(
                        "{table} {} wants {wanted} and has {status}",
                        obj.key
                    ));
                }
                if status["observedGeneration"] != value["metadata"]["generation"] {
                    return Some(format!(
                        "{table} {} has not been looked at since it changed",
                        obj.key
                    ));
                }
            }
        }
        view.list("namespaces", None)
            .find(|n| n.attrs.deleting)
            .map(|n| format!("namespace {} is still being deleted", n.key))
    }

    /// What must hold at the very end.
    pub fn final_checks(&mut self) {
        let Some(view) = self.view() else { return };
        self.check_state(&view);
        if let Err(what) = self.plans_nothing() {
            self.violated("a cluster at rest plans nothing", what);
        }
        for member in 0..self.order.members.len() {
            let result = self.order.follow(member, self.order.log.len());
            self.must(result);
        }
        self.check_orphans(&view);
        self.check_runners(&view);
        self.check_routes(&view);
    }

    /// A deleted owner leaves nothing behind, and every object is in a namespace.
    fn check_orphans(&mut self, view: &View) {
        let mut uids = BTreeSet::new();
        for table in view.tables.values() {
            uids.extend(table.objects.values().map(|o| o.attrs.uid.clone()));
        }
        for (name, table) in &view.tables {
            for obj in table.objects.values() {
                if let Some(owner) = obj.attrs.owners.iter().find(|o| !uids.contains(&o.uid)) {
                    let text = format!("{name} {} outlives {} {}", obj.key, owner.kind, owner.name);
                    self.violated("no orphans", text);
                }
                if !obj.key.namespace.is_empty()
                    && view
                        .get("namespaces", &Key::new("", &obj.key.namespace))
                        .is_none()
                {
                    let text = format!("{name} {} outlives its namespace", obj.key);
                    self.violated("no orphans", text);
                }
            }
        }
    }

    /// A runner runs the pods of its node and no others.
    fn check_runners(&mut self, view: &View) {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].up || self.nodes[node].cut {
                continue;
            }
            let n = &self.nodes[node];
            let here: BTreeSet<String> =
                view.on_node(&n.name).map(|p| p.attrs.uid.clone()).collect();
            let known: BTreeSet<String> = n.agent.uids().map(|(uid, _)| uid.to_string()).collect();
            let serving: Vec<String> = n
                .instances
                .iter()
                .filter(|(uid, i)| i.accepting && !here.contains(*uid))
                .map(|(uid, _)| uid.clone())
                .collect();
            if here != known || !serving.is_empty() {
                let text = format!(
                    "{} runs {known:?}, the API says {here:?}, and {serving:?} serve without being there",
                    n.name
                );
                self.violated("runners run what is bound to them", text);
            }
        }
    }

    /// Every node reaches every Service that has a ready pod, and nobody else's pods.
    fn check_routes(&mut self, view: &View) {
        for service in view.list("services", None) {
            let selector = meta::string_map(&service.value()["spec"]["selector"]);
            if selector.is_empty() {
                continue;
            }
            let selected = |p: &&std::sync::Arc<Obj>| {
                selector
                    .iter()
                    .all(|(k, v)| p.attrs.labels.get(k) == Some(v))
                    && holds(&p.value(), "Ready")
                    && !ended(p)
            };
            let ready: BTreeSet<String> = view
                .list("pods", Some(&service.key.namespace))
                .filter(selected)
                .map(|p| p.attrs.uid.clone())
                .collect();
            for node in 0..self.nodes.len() {
                let name = self.nodes[node].name.clone();
                if !self.nodes[node].up
                    || self.nodes[node].cut
                    || view.get("nodes", &Key::new("", &name)).is_none()
                {
                    continue;
                }
                let has_ingress = view
                    .get("ingresses.networking.k8s.io", &service.key)
                    .is_some();
                for _ in 0..4 {
                    match self.send(node, &service.key) {
                        Some(uid) if ready.contains(&uid) => {}
                        // From outside it is reached through its Ingress only.
                        None if ready.is_empty() || !has_ingress => {}
                        got => {
                            let text = format!(
                                "{name} sends requests to {} to {got:?}, ready are {ready:?}",
                                service.key
                            );
                            self.violated("requests reach ready replicas in the end", text);
                        }
                    }
                }
            }
        }
    }
}
