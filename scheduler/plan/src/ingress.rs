//! The address of an Ingress: every node's ingress serves every Ingress of our class, so all show the same.

use std::net::IpAddr; // pure: an address is a value

use coracle_api::{Key, meta};
use serde_json::{Value, json};

use crate::writer::Plan;

/// The class we serve; an Ingress that names no class is ours too.
const CLASS: &str = "coracle";

pub(crate) fn reconcile(plan: &mut Plan, key: &Key) {
    const TABLE: &str = "ingresses.networking.k8s.io";
    let Some(obj) = plan.view.get(TABLE, key).cloned() else {
        return;
    };
    let mut ingress = obj.value();
    let annotated = meta::annotation(&ingress, "kubernetes.io/ingress.class").map(str::to_string);
    let class = ingress["spec"]["ingressClassName"]
        .as_str()
        .map(str::to_string)
        .or(annotated);
    if obj.attrs.deleting || class.is_some_and(|c| c != CLASS) {
        return;
    }
    let addresses = plan.settings.ingress_addresses.iter();
    let list: Vec<Value> = addresses
        .map(|a| {
            if a.parse::<IpAddr>().is_ok() {
                json!({"ip": a})
            } else {
                json!({"hostname": a})
            }
        })
        .collect();
    if !list.is_empty() {
        ingress["status"]["loadBalancer"]["ingress"] = json!(list);
        plan.update(TABLE, &obj, ingress, "address");
    }
}
