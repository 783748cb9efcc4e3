//! `metadata` of every kind.

use serde_json::Value;

use super::names::{dns_label, dns_subdomain, label_value, qualified_name, service_name};
use super::{Causes, empty, list};
use crate::Kind;

/// Most bytes of all annotations of an object, keys and values.
const ANNOTATIONS_BYTES: usize = 256 << 10;

pub(super) fn create(kind: &Kind, object: &Value, found: &mut Causes) {
    let meta = &object["metadata"];
    let check = match kind.table {
        "namespaces" => dns_label,
        "services" => service_name,
        _ => dns_subdomain,
    };
    if !empty(&meta["generateName"]) {
        // What is appended is valid, so the prefix may end in '-'.
        found.text("metadata.generateName", &meta["generateName"], |text| {
            check(&format!("{}a", text))
        });
    }
    if empty(&meta["name"]) {
        if empty(&meta["generateName"]) {
            found.required("metadata.name", "name or generateName is required");
        }
    } else {
        found.text("metadata.name", &meta["name"], check);
    }
    match (kind.namespaced(), empty(&meta["namespace"])) {
        (true, true) => found.required("metadata.namespace", ""),
        (true, false) => found.text("metadata.namespace", &meta["namespace"], dns_label),
        (false, false) => found.forbidden("metadata.namespace", "not allowed on this type"),
        (false, true) => {}
    }
    labels(&meta["labels"], "metadata.labels", found);
    annotations(&meta["annotations"], "metadata.annotations", found);
    for (i, finalizer) in list(&meta["finalizers"]).iter().enumerate() {
        found.text(
            &format!("metadata.finalizers[{i}]"),
            finalizer,
            qualified_name,
        );
    }
    owners(&meta["ownerReferences"], found);
}

/// Keys and values of a label map.
pub(super) fn labels(map: &Value, path: &str, found: &mut Causes) {
    for (key, value) in map.as_object().into_iter().flatten() {
        found.text(path, &Value::String(key.clone()), qualified_name);
        found.text(path, value, label_value);
    }
}

fn annotations(map: &Value, path: &str, found: &mut Causes) {
    let mut bytes = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        found.text(path, &Value::String(key.clone()), |text| {
            qualified_name(&text.to_lowercase())
        });
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES {
        found.too_long(path, ANNOTATIONS_BYTES);
    }
}

fn owners(owners: &Value, found: &mut Causes) {
    let mut controller: Option<&Value> = None;
    for (i, owner) in list(owners).iter().enumerate() {
        let path = format!("metadata.ownerReferences[{i}]");
        for field in ["apiVersion", "kind", "name", "uid"] {
            if empty(&owner[field]) {
                found.required(format!("{path}.{field}"), "must not be empty");
            }
        }
        if owner["controller"] == true {
            if let Some(first) = controller {
                let text = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                    text(&first["kind"]),
                    text(&first["name"]),
                    text(&owner["kind"]),
                    text(&owner["name"])
                );
                found.invalid("metadata.ownerReferences", owners, text);
            }
            controller = Some(owner);
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What the server decided once.
pub(super) fn update(new: &Value, old: &Value, found: &mut Causes) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (a, b) = (&new["metadata"][field], &old["metadata"][field]);
        if !empty(b) && a != b {
            found.invalid(format!("metadata.{field}"), a, "field is immutable");
        }
    }
}
