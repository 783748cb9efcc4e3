//! ConfigMaps and Secrets, and the small kinds: Node, Lease, Event.

use base64::Engine as _;
use serde_json::Value;

use super::names::{config_key, label_value, qualified_name};
use super::{Causes, empty, list};
use crate::{Kind, meta, quantity};

/// Most bytes of all values of a ConfigMap or Secret.
const DATA_BYTES: usize = 1 << 20;

fn keys(map: &Value, path: &str, found: &mut Causes) {
    for key in map.as_object().into_iter().flatten().map(|(k, _)| k) {
        found.text(
            &format!("{path}[{key}]"),
            &Value::String(key.clone()),
            config_key,
        );
    }
}

/// Bytes that base64 text stands for.
fn decoded(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3
        - text
            .bytes()
            .rev()
            .take_while(|b| *b == b'=')
            .count()
            .min(text.len() / 4 * 3)
}

pub(super) fn config_map(object: &Value, found: &mut Causes) {
    keys(&object["data"], "data", found);
    keys(&object["binaryData"], "binaryData", found);
    let mut bytes = 0;
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        bytes += value.as_str().map_or(0, str::len);
        if object["binaryData"].get(key).is_some() {
            found.invalid(
                format!("data[{key}]"),
                &Value::String(key.clone()),
                "duplicate of key present in binaryData",
            );
        }
    }
    bytes += object["binaryData"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_, v)| decoded(v))
        .sum::<usize>();
    if bytes > DATA_BYTES {
        found.too_long("data", DATA_BYTES);
    }
}

pub(super) fn secret(object: &Value, found: &mut Causes) {
    keys(&object["data"], "data", found);
    let data = object["data"].as_object();
    if data
        .into_iter()
        .flatten()
        .map(|(_, v)| decoded(v))
        .sum::<usize>()
        > DATA_BYTES
    {
        found.too_long("data", DATA_BYTES);
    }
    let has = |key: &str| data.is_some_and(|d| d.contains_key(key));
    let mut need = |key: &str| {
        if !has(key) {
            found.required(format!("data[{key}]"), "");
        }
    };
    match object["type"].as_str() {
        Some("kubernetes.io/tls") => ["tls.crt", "tls.key"].into_iter().for_each(need),
        Some("kubernetes.io/ssh-auth") => need("ssh-privatekey"),
        Some("kubernetes.io/basic-auth") if !has("username") && !has("password") => {
            ["username", "password"].into_iter().for_each(need)
        }
        Some("kubernetes.io/dockerconfigjson") => {
            need(".dockerconfigjson");
            if let Some(text) = object["data"][".dockerconfigjson"].as_str() {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .unwrap_or_default();
                if let Err(why) = serde_json::from_slice::<Value>(&bytes) {
                    found.invalid(
                        "data[.dockerconfigjson]",
                        &Value::String("<secret contents redacted>".into()),
                        why,
                    );
                }
            }
        }
        Some("kubernetes.io/service-account-token")
            if meta::annotation(object, "kubernetes.io/service-account.name")
                .is_none_or(str::is_empty) =>
        {
            found.required(
                "metadata.annotations[kubernetes.io/service-account.name]",
                "",
            );
        }
        _ => {}
    }
}

pub(super) fn update(kind: &Kind, new: &Value, old: &Value, found: &mut Causes) {
    if kind.table == "secrets" && !empty(&old["type"]) && new["type"] != old["type"] {
        found.invalid("type", &new["type"], "field is immutable");
    }
    if old["immutable"] == true {
        if new["immutable"] != true {
            found.forbidden("immutable", "field is immutable when `immutable` is set");
        }
        for field in ["data", "binaryData"] {
            let entries = |o: &Value| o[field].as_object().filter(|m| !m.is_empty()).cloned();
            if entries(new) != entries(old) {
                found.forbidden(field, "field is immutable when `immutable` is set");
            }
        }
    }
}

pub(super) fn node(object: &Value, found: &mut Causes) {
    for (i, taint) in list(&object["spec"]["taints"]).iter().enumerate() {
        let path = format!("spec.taints[{i}]");
        found.required_text(&format!("{path}.key"), &taint["key"], qualified_name);
        found.text(&format!("{path}.value"), &taint["value"], label_value);
        if empty(&taint["effect"]) {
            found.required(format!("{path}.effect"), "");
        }
        found.one_of(
            &format!("{path}.effect"),
            &taint["effect"],
            super::placement::EFFECTS,
        );
    }
    for field in ["capacity", "allocatable"] {
        for (name, amount) in object["status"][field].as_object().into_iter().flatten() {
            if let Err(why) = quantity::units(amount.as_str().unwrap_or_default()) {
                found.invalid(format!("status.{field}[{name}]"), amount, why);
            }
        }
    }
}

pub(super) fn lease(object: &Value, found: &mut Causes) {
    let spec = &object["spec"];
    found.at_least(
        "spec.leaseDurationSeconds",
        &spec["leaseDurationSeconds"],
        1,
    );
    found.at_least("spec.leaseTransitions", &spec["leaseTransitions"], 0);
}

pub(super) fn event(object: &Value, found: &mut Causes) {
    let namespace = meta::namespace(object);
    let involved = &object["involvedObject"]["namespace"];
    // Events about cluster-scoped objects live in `default`.
    let matches = match involved.as_str() {
        None | Some("") => namespace.is_empty() || namespace == "default",
        Some(other) => other == namespace,
    };
    if !matches {
        found.invalid(
            "involvedObject.namespace",
            involved,
            "does not match event.namespace",
        );
    }
    found.one_of("type", &object["type"], &["Normal", "Warning"]);
}
