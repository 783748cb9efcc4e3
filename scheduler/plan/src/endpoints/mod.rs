//! EndpointSlices (and the old Endpoints) of a Service: where its requests may go.
//!
//! A leaving pod stays listed as `terminating` until it is gone; it is never `ready`, not even with
//! `publishNotReadyAddresses`, because the drain handshake turns on that. It stays `serving` only while another
//! endpoint is ready: proxies fall back to serving endpoints when none is, and would send requests to a replica that
//! is about to stop. Our drain takes milliseconds, so there is nothing to gain from falling back.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use coracle_api::{Key, kinds, meta};
use coracle_state::Obj;
use serde_json::{Value, json};

use crate::pods;
use crate::volatile::unreachable;
use crate::writer::Plan;

mod mirror;
mod slices;

pub(crate) const SLICES: &str = "endpointslices.discovery.k8s.io";
/// Endpoints in one slice, as Kubernetes has it: a change rewrites and sends one slice, not all.
pub(crate) const PER_SLICE_MAX: usize = 100;
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// One place where requests may go.
#[derive(Clone, Debug)]
struct Endpoint {
    pod: Key,
    uid: String,
    address: String,
    node: String,
    ready: bool,
    serving: bool,
    terminating: bool,
    /// Ports as this pod names them.
    ports: Value,
}

pub(crate) fn reconcile(plan: &mut Plan, key: &Key) {
    let Some(obj) = plan
        .view
        .get("services", key)
        .cloned()
        .filter(|s| !s.attrs.deleting)
    else {
        return remove(plan, key);
    };
    let service = obj.value();
    let selector = meta::string_map(&service["spec"]["selector"]);
    if selector.is_empty() || service["spec"]["type"] == "ExternalName" {
        // Without a selector the endpoints are somebody else's.
        return;
    }
    let endpoints = endpoints(plan, key, &service, &LabelSelector::from_map(&selector));
    slices::write(plan, &obj, &service, &endpoints);
    mirror::write(plan, &service, &endpoints);
}

/// A Service that is gone takes what we made for it along. Owner references would do it too, a step later.
fn remove(plan: &mut Plan, key: &Key) {
    let ours: Vec<Arc<Obj>> = of_service(plan, key)
        .filter(|s| s.attrs.labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER))
        .cloned()
        .collect();
    for slice in ours {
        plan.remove(SLICES, &slice);
    }
    if let Some(old) = plan
        .view
        .get("endpoints", key)
        .cloned()
        .filter(|e| mirror::ours(e))
    {
        plan.remove("endpoints", &old);
    }
}

fn of_service<'a>(plan: &Plan<'a>, key: &'a Key) -> impl Iterator<Item = &'a Arc<Obj>> {
    let view = plan.view;
    view.list(SLICES, Some(&key.namespace))
        .filter(|s| s.attrs.labels.get("kubernetes.io/service-name") == Some(&key.name))
}

/// Pods that the Service selects and that have an address, in order of name.
fn endpoints(plan: &Plan, key: &Key, service: &Value, selector: &LabelSelector) -> Vec<Endpoint> {
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let mut lost: BTreeMap<String, bool> = BTreeMap::new();
    let mut all = Vec::new();
    for pod in plan
        .view
        .list("pods", Some(&key.namespace))
        .filter(|p| selector.matches(&p.attrs.labels) && !pods::ended(p))
    {
        let Some(address) = pod
            .attrs
            .fields
            .get("status.podIP")
            .filter(|ip| !ip.is_empty())
        else {
            continue;
        };
        let value = pod.value();
        let node = pod.attrs.node_name.clone();
        // What a node last said of its pods is worth nothing once it has stopped saying anything.
        let lost = *lost.entry(node.clone()).or_insert_with(|| {
            plan.view
                .get("nodes", &Key::new("", &node))
                .is_none_or(|n| unreachable(n))
        });
        let serving = pods::ready(&value) && !lost;
        let terminating = pod.attrs.deleting;
        all.push(Endpoint {
            pod: pod.key.clone(),
            uid: pod.attrs.uid.clone(),
            address: address.clone(),
            node,
            ready: (serving || publish) && !terminating,
            serving,
            terminating,
            ports: ports(service, &value),
        });
    }
    if !all.iter().any(|e| e.ready) {
        for e in all.iter_mut().filter(|e| e.terminating) {
            e.serving = false;
        }
    }
    all
}

/// The Service's ports on one pod; a port whose name the pod does not have is left out.
fn ports(service: &Value, pod: &Value) -> Value {
    let mut all = Vec::new();
    for p in service["spec"]["ports"].as_array().into_iter().flatten() {
        let protocol = p["protocol"].as_str().unwrap_or("TCP");
        let number = match &p["targetPort"] {
            Value::String(name) => match name.parse::<u64>() {
                Ok(n) => Some(n),
                Err(_) => named(pod, name, protocol),
            },
            Value::Number(n) if n.as_u64() != Some(0) => n.as_u64(),
            _ => p["port"].as_u64(),
        };
        if let Some(n) = number {
            let mut port = json!({"name": p["name"].as_str().unwrap_or_default(), "port": n, "protocol": protocol});
            if !p["appProtocol"].is_null() {
                port["appProtocol"] = p["appProtocol"].clone();
            }
            all.push(port);
        }
    }
    json!(all)
}

fn named(pod: &Value, name: &str, protocol: &str) -> Option<u64> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.find(|p| p["name"] == name && p["protocol"].as_str().unwrap_or("TCP") == protocol)?["containerPort"].as_u64()
}

/// The reference to a pod in an endpoint.
fn target(e: &Endpoint) -> Value {
    json!({"kind": "Pod", "name": e.pod.name, "namespace": e.pod.namespace, "uid": e.uid})
}

/// A reference to the Service as the owner.
fn owner(service: &Value) -> Value {
    crate::adopt::owner_reference(
        kinds::by_table("services").map_or("services", |k| k.table),
        service,
    )
}
