//! Pod specs, in pods and in templates, and what may change in a pod.

use serde_json::Value;

use super::container::container;
use super::names::{dns_label, dns_subdomain};
use super::placement::{affinity, spread, tolerate};
use super::{Causes, empty, list, metadata, volumes};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
pub(super) fn spec(spec: &Value, path: &str, found: &mut Causes) {
    let at = |field: &str| format!("{path}.{field}");
    volumes::volumes(spec, path, found);
    containers(spec, path, found);
    found.one_of(
        &at("restartPolicy"),
        &spec["restartPolicy"],
        RESTART_POLICIES,
    );
    found.one_of(&at("dnsPolicy"), &spec["dnsPolicy"], DNS_POLICIES);
    found.at_least(
        &at("terminationGracePeriodSeconds"),
        &spec["terminationGracePeriodSeconds"],
        0,
    );
    found.at_least(
        &at("activeDeadlineSeconds"),
        &spec["activeDeadlineSeconds"],
        1,
    );
    metadata::labels(&spec["nodeSelector"], &at("nodeSelector"), found);
    for (field, check) in [
        ("nodeName", dns_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", dns_subdomain),
        ("hostname", dns_label),
        ("subdomain", dns_label),
        ("priorityClassName", dns_subdomain),
    ] {
        if !empty(&spec[field]) {
            found.text(&at(field), &spec[field], check);
        }
    }
    for (i, toleration) in list(&spec["tolerations"]).iter().enumerate() {
        tolerate(toleration, &format!("{path}.tolerations[{i}]"), found);
    }
    for (i, c) in list(&spec["topologySpreadConstraints"]).iter().enumerate() {
        spread(c, &format!("{path}.topologySpreadConstraints[{i}]"), found);
    }
    affinity(&spec["affinity"], &at("affinity"), found);
}

fn containers(spec: &Value, path: &str, found: &mut Causes) {
    let (regular, init) = (list(&spec["containers"]), list(&spec["initContainers"]));
    if regular.is_empty() {
        found.required(format!("{path}.containers"), "");
    }
    let mut seen: Vec<&Value> = Vec::new();
    for (field, all) in [("initContainers", init), ("containers", regular)] {
        for (i, c) in all.iter().enumerate() {
            let path = format!("{path}.{field}[{i}]");
            container(c, list(&spec["volumes"]), &path, found);
            if !empty(&c["name"]) && seen.contains(&&c["name"]) {
                found.duplicate(format!("{path}.name"), &c["name"]);
            }
            seen.push(&c["name"]);
            if field == "containers" {
                if !c["restartPolicy"].is_null() {
                    found.forbidden(
                        format!("{path}.restartPolicy"),
                        "may not be set for non-init containers",
                    );
                }
            } else {
                found.one_of(
                    &format!("{path}.restartPolicy"),
                    &c["restartPolicy"],
                    &["Always"],
                );
            }
        }
    }
}

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds`";

pub(super) fn update(new: &Value, old: &Value, found: &mut Causes) {
    let (a, b) = (&new["spec"], &old["spec"]);
    if !empty(&b["nodeName"]) && a["nodeName"] != b["nodeName"] {
        found.invalid("spec.nodeName", &a["nodeName"], "field is immutable");
    }
    for field in ["containers", "initContainers"] {
        if list(&a[field]).len() != list(&b[field]).len() {
            return found.forbidden(
                format!("spec.{field}"),
                "pod updates may not add or remove containers",
            );
        }
    }
    if let Some(old) = b["activeDeadlineSeconds"].as_i64() {
        let new = &a["activeDeadlineSeconds"];
        if new.as_i64().is_none_or(|n| n > old) {
            found.invalid(
                "spec.activeDeadlineSeconds",
                new,
                format!("must be less than or equal to previous value {old}"),
            );
        }
    }
    for toleration in list(&b["tolerations"]) {
        let kept = list(&a["tolerations"]).iter().any(|t| {
            ["key", "operator", "value", "effect"]
                .iter()
                .all(|f| t[*f] == toleration[*f] || (empty(&t[*f]) && empty(&toleration[*f])))
        });
        if !kept {
            return found.forbidden(
                "spec.tolerations",
                "existing toleration can not be modified except its tolerationSeconds",
            );
        }
    }
    let frozen = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(map) = spec.as_object_mut() {
            for field in [
                "nodeName",
                "activeDeadlineSeconds",
                "tolerations",
                "terminationGracePeriodSeconds",
                "schedulingGates",
                "ephemeralContainers",
            ] {
                map.remove(field);
            }
            for field in ["containers", "initContainers"] {
                for c in map
                    .get_mut(field)
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_object_mut)
                {
                    c.remove("image");
                }
            }
        }
        spec
    };
    if let Some(path) = difference(&frozen(a), &frozen(b), "spec") {
        found.forbidden("spec", format!("{MAY_CHANGE}; {path} differs"));
    }
}

/// The first path at which two values differ.
fn difference(a: &Value, b: &Value, path: &str) -> Option<String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => x
            .keys()
            .chain(y.keys().filter(|k| !x.contains_key(*k)))
            .find_map(|k| difference(&a[k], &b[k], &format!("{path}.{k}"))),
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => x
            .iter()
            .zip(y)
            .enumerate()
            .find_map(|(i, (x, y))| difference(x, y, &format!("{path}[{i}]"))),
        _ => (a != b).then(|| path.to_string()),
    }
}
