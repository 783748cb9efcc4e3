//! Invariants that hold in every view, whatever is planned or fails. The simulator checks them after each change.

use std::collections::BTreeMap;

use coracle_api::{Amounts, claims, kinds};
use coracle_state::{Obj, View};

use crate::endpoints::{PER_SLICE_MAX, SLICES};
use crate::{pods, tables};

/// Sentences about what is broken; empty if nothing is.
pub fn check(view: &View) -> Vec<String> {
    let mut broken = Vec::new();
    capacity(view, &mut broken);
    identity(view, &mut broken);
    slices(view, &mut broken);
    broken
}

/// No node over its allocatable, no address twice, and what is counted is what is stored.
fn capacity(view: &View, broken: &mut Vec<String>) {
    let (mut used, mut addresses): (BTreeMap<&str, Amounts>, BTreeMap<String, &Obj>) =
        (BTreeMap::new(), BTreeMap::new());
    let Some(kind) = kinds::by_table("pods") else {
        return;
    };
    for pod in view.list("pods", None) {
        let value = pod.value();
        if claims::of(kind, &value) != pod.claims {
            broken.push(format!("pod {} holds other claims than it should", pod.key));
        }
        if pod.attrs.node_name.is_empty() || pods::ended(pod) {
            continue;
        }
        let sum = used.entry(&pod.attrs.node_name).or_default();
        let needs = coracle_api::attrs::pod_amounts(&value);
        sum.cpu_millis += needs.cpu_millis;
        sum.memory_bytes += needs.memory_bytes;
        sum.pods += needs.pods;
        let ip = value["status"]["podIP"]
            .as_str()
            .unwrap_or_default()
            .to_string();
        if ip.is_empty() {
            broken.push(format!("pod {} is bound without an address", pod.key));
        } else if let Some(other) = addresses.insert(ip.clone(), pod) {
            broken.push(format!(
                "pods {} and {} share address {ip}",
                other.key, pod.key
            ));
        }
    }
    for (node, sum) in &used {
        if view.used(node) != *sum {
            broken.push(format!(
                "node {node} is counted as {:?} but its pods use {sum:?}",
                view.used(node)
            ));
        }
    }
    for node in view.list("nodes", None) {
        let room = node.attrs.allocatable.unwrap_or_default();
        let sum = used
            .get(node.key.name.as_str())
            .copied()
            .unwrap_or_default();
        if sum.cpu_millis > room.cpu_millis
            || sum.memory_bytes > room.memory_bytes
            || sum.pods > room.pods
        {
            broken.push(format!(
                "node {} is over its allocatable: {sum:?} of {room:?}",
                node.key.name
            ));
        }
    }
}

/// Every object has a uid of its own, and at most one controller.
fn identity(view: &View, broken: &mut Vec<String>) {
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    for kind in tables() {
        for obj in view.list(kind.table, None) {
            let name = format!("{} {}", kind.plural, obj.key);
            if obj.attrs.uid.is_empty() {
                broken.push(format!("{name} has no uid"));
            } else if let Some(other) = seen.insert(&obj.attrs.uid, name.clone()) {
                broken.push(format!("{name} has the uid of {other}"));
            }
            if obj.attrs.owners.iter().filter(|o| o.controller).count() > 1 {
                broken.push(format!("{name} has two controllers"));
            }
        }
    }
}

/// Slices are within bounds and name a pod once for each Service and port set.
fn slices(view: &View, broken: &mut Vec<String>) {
    let mut seen: BTreeMap<(String, String, String), String> = BTreeMap::new();
    for slice in view.list(SLICES, None) {
        let value = slice.value();
        let endpoints = value["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
        if endpoints.len() > PER_SLICE_MAX {
            broken.push(format!(
                "endpoint slice {} has {} endpoints",
                slice.key,
                endpoints.len()
            ));
        }
        let service = slice
            .attrs
            .labels
            .get("kubernetes.io/service-name")
            .cloned()
            .unwrap_or_default();
        for e in endpoints {
            let Some(uid) = e["targetRef"]["uid"].as_str() else {
                continue;
            };
            let at = (
                format!("{}/{service}", slice.key.namespace),
                uid.to_string(),
                value["ports"].to_string(),
            );
            if let Some(other) = seen.insert(at, slice.key.to_string()) {
                broken.push(format!(
                    "pod {uid} is in endpoint slices {other} and {} of one Service",
                    slice.key
                ));
            }
            if e["conditions"]["ready"] == true && e["conditions"]["terminating"] == true {
                broken.push(format!(
                    "endpoint slice {} calls a leaving pod ready",
                    slice.key
                ));
            }
        }
    }
}
