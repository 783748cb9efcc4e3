//! The old `Endpoints` object: a read-only mirror for clients that still look at it.

use std::collections::BTreeMap;

use coracle_api::{kinds, meta};
use coracle_state::Obj;
use serde_json::{Value, json};

use super::{Endpoint, target};
use crate::writer::Plan;

const LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Addresses in one Endpoints object, as Kubernetes cuts it off.
const ADDRESSES_MAX: usize = 1_000;
const TRUNCATED: &str = "endpoints.kubernetes.io/over-capacity";

/// Whether an Endpoints object is a mirror that we keep.
pub(super) fn ours(obj: &Obj) -> bool {
    obj.attrs.labels.get(LABEL).is_some_and(|m| m == MANAGER)
}

pub(super) fn write(plan: &mut Plan, service: &Value, endpoints: &[Endpoint]) {
    let Some(kind) = kinds::by_table("endpoints") else {
        return;
    };
    // Leaving pods have no place in the old form: whoever reads it would take them for ready or unready.
    let listed: Vec<&Endpoint> = endpoints.iter().filter(|e| !e.terminating).collect();
    let mut subsets: BTreeMap<String, Value> = BTreeMap::new();
    for e in listed.iter().take(ADDRESSES_MAX) {
        let subset = subsets
            .entry(e.ports.to_string())
            .or_insert_with(|| json!({"ports": e.ports}));
        let list = if e.ready {
            "addresses"
        } else {
            "notReadyAddresses"
        };
        let address = json!({"ip": e.address, "nodeName": e.node, "targetRef": target(e)});
        match subset[list].as_array_mut() {
            Some(all) => all.push(address),
            None => subset[list] = json!([address]),
        }
    }
    let mut labels = json!(meta::labels(service));
    labels[LABEL] = json!(MANAGER);
    let key = meta::key(service);
    let subsets: Vec<Value> = subsets.into_values().map(named).collect();
    let old = plan.view.get("endpoints", &key).cloned();
    let mut object = match &old {
        // Somebody made one by hand before the Service had a selector: theirs stays until they remove it.
        Some(old) if !ours(old) => return,
        Some(old) => old.value(),
        None => json!({"metadata": {"name": key.name, "namespace": key.namespace}}),
    };
    object["metadata"]["labels"] = labels;
    if listed.len() > ADDRESSES_MAX {
        meta::set_annotation(&mut object, TRUNCATED, "truncated");
    } else if meta::annotation(&object, TRUNCATED).is_some() {
        meta::metadata(&mut object).remove("annotations");
    }
    if subsets.is_empty() {
        if let Some(map) = object.as_object_mut() {
            map.remove("subsets");
        }
    } else {
        object["subsets"] = json!(subsets);
    }
    match old {
        Some(old) => {
            plan.update("endpoints", &old, object, "mirror");
        }
        None => plan.create(kind, object),
    }
}

/// Endpoints leave the name out where the only port has none.
fn named(mut subset: Value) -> Value {
    for port in subset["ports"].as_array_mut().into_iter().flatten() {
        if port["name"] == ""
            && let Some(port) = port.as_object_mut()
        {
            port.remove("name");
        }
    }
    subset
}
