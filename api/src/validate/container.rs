//! Containers of a pod: image, ports, environment, resources, probes and hooks.

use serde_json::{Value, json};

use super::names::{config_key, dns_label, env_name, port_name, qualified_name};
use super::{Causes, empty, list, network, volumes};
use crate::quantity;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];

pub(super) fn container(c: &Value, volumes: &[Value], path: &str, found: &mut Causes) {
    found.required_text(&format!("{path}.name"), &c["name"], dns_label);
    match c["image"].as_str() {
        None | Some("") => found.required(format!("{path}.image"), ""),
        Some(image) if image != image.trim() => found.invalid(
            format!("{path}.image"),
            &c["image"],
            "must not have leading or trailing whitespace",
        ),
        Some(_) => {}
    }
    found.one_of(
        &format!("{path}.imagePullPolicy"),
        &c["imagePullPolicy"],
        PULL_POLICIES,
    );
    found.one_of(
        &format!("{path}.terminationMessagePolicy"),
        &c["terminationMessagePolicy"],
        &["FallbackToLogsOnError", "File"],
    );
    ports(c, path, found);
    environment(c, path, found);
    volumes::mounts(c, volumes, path, found);
    resources(&c["resources"], &format!("{path}.resources"), found);
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !c[field].is_null() {
            probe(
                &c[field],
                &format!("{path}.{field}"),
                field == "readinessProbe",
                found,
            );
        }
    }
    for hook in ["postStart", "preStop"] {
        if !c["lifecycle"][hook].is_null() {
            handler(
                &c["lifecycle"][hook],
                &format!("{path}.lifecycle.{hook}"),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                found,
            );
        }
    }
}

fn ports(c: &Value, path: &str, found: &mut Causes) {
    let all = list(&c["ports"]);
    for (i, port) in all.iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        if !empty(&port["name"]) {
            found.text(&format!("{path}.name"), &port["name"], port_name);
            if all[..i].iter().any(|p| p["name"] == port["name"]) {
                found.duplicate(format!("{path}.name"), &port["name"]);
            }
        }
        if port["containerPort"].as_i64().unwrap_or(0) == 0 {
            found.required(format!("{path}.containerPort"), "");
        } else {
            found.port(&format!("{path}.containerPort"), &port["containerPort"]);
        }
        if port["hostPort"].as_i64().unwrap_or(0) != 0 {
            found.port(&format!("{path}.hostPort"), &port["hostPort"]);
        }
        found.one_of(&format!("{path}.protocol"), &port["protocol"], PROTOCOLS);
        let protocol = |p: &Value| p["protocol"].as_str().unwrap_or("TCP").to_string();
        if all[..i]
            .iter()
            .any(|p| p["containerPort"] == port["containerPort"] && protocol(p) == protocol(port))
        {
            found.duplicate(
                &path,
                &json!({"containerPort": port["containerPort"], "protocol": protocol(port)}),
            );
        }
    }
}

fn environment(c: &Value, path: &str, found: &mut Causes) {
    for (i, env) in list(&c["env"]).iter().enumerate() {
        let path = format!("{path}.env[{i}]");
        found.required_text(&format!("{path}.name"), &env["name"], env_name);
        let from = &env["valueFrom"];
        if from.is_null() {
            continue;
        }
        let path = format!("{path}.valueFrom");
        if !empty(&env["value"]) {
            found.invalid(
                &path,
                &json!(""),
                "may not be specified when `value` is not empty",
            );
        }
        let set: Vec<&String> = from
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, _)| k)
            .collect();
        match set.as_slice() {
            [] => found.invalid(&path, &json!(""), "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"),
            [_] => {}
            _ => found.invalid(&path, &json!(""), "may not have more than one field specified at a time"),
        }
        for field in ["configMapKeyRef", "secretKeyRef"] {
            if !from[field].is_null() {
                if empty(&from[field]["name"]) {
                    found.required(format!("{path}.{field}.name"), "");
                }
                found.required_text(
                    &format!("{path}.{field}.key"),
                    &from[field]["key"],
                    config_key,
                );
            }
        }
        if !from["fieldRef"].is_null() && empty(&from["fieldRef"]["fieldPath"]) {
            found.required(format!("{path}.fieldRef.fieldPath"), "");
        }
        if !from["resourceFieldRef"].is_null() && empty(&from["resourceFieldRef"]["resource"]) {
            found.required(format!("{path}.resourceFieldRef.resource"), "");
        }
    }
    for (i, from) in list(&c["envFrom"]).iter().enumerate() {
        let path = format!("{path}.envFrom[{i}]");
        if from["configMapRef"].is_null() == from["secretRef"].is_null() {
            found.invalid(
                &path,
                &json!(""),
                "must specify one of: `configMapRef` or `secretRef`",
            );
        }
        for field in ["configMapRef", "secretRef"] {
            if !from[field].is_null() && empty(&from[field]["name"]) {
                found.required(format!("{path}.{field}.name"), "");
            }
        }
        if !empty(&from["prefix"]) {
            found.text(&format!("{path}.prefix"), &from["prefix"], env_name);
        }
    }
}

/// Thousandths, so that requests and limits of any resource compare.
fn amount(value: &Value, path: &str, found: &mut Causes) -> Option<u64> {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_string);
    match quantity::millis(&text) {
        Ok(amount) => Some(amount),
        Err(_) if text.starts_with('-') => {
            found.invalid(path, value, "must be greater than or equal to 0");
            None
        }
        Err(why) => {
            found.invalid(path, value, why);
            None
        }
    }
}

fn resources(resources: &Value, path: &str, found: &mut Causes) {
    let limits = resources["limits"].as_object();
    for (name, limit) in limits.into_iter().flatten() {
        found.text(&format!("{path}.limits"), &json!(name), qualified_name);
        amount(limit, &format!("{path}.limits[{name}]"), found);
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let at = format!("{path}.requests[{name}]");
        found.text(&format!("{path}.requests"), &json!(name), qualified_name);
        let asked = amount(request, &at, found);
        let most = limits.and_then(|l| l.get(name)).and_then(|l| {
            quantity::millis(&l.as_str().map_or_else(|| l.to_string(), str::to_string)).ok()
        });
        if let (Some(asked), Some(most)) = (asked, most)
            && asked > most
        {
            found.invalid(
                &at,
                request,
                format!(
                    "must be less than or equal to {name} limit of {}",
                    limit_text(limits, name)
                ),
            );
        }
    }
}

fn limit_text(limits: Option<&serde_json::Map<String, Value>>, name: &str) -> String {
    let limit = limits
        .and_then(|l| l.get(name))
        .cloned()
        .unwrap_or_default();
    limit
        .as_str()
        .map_or_else(|| limit.to_string(), str::to_string)
}

fn probe(probe: &Value, path: &str, readiness: bool, found: &mut Causes) {
    handler(
        probe,
        path,
        &["exec", "httpGet", "tcpSocket", "grpc"],
        found,
    );
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        found.at_least(&format!("{path}.{field}"), &probe[field], 0);
    }
    if !readiness && probe["successThreshold"].as_i64().is_some_and(|n| n > 1) {
        found.invalid(
            format!("{path}.successThreshold"),
            &probe["successThreshold"],
            "must be 1",
        );
    }
    if readiness && !probe["terminationGracePeriodSeconds"].is_null() {
        found.invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            &probe["terminationGracePeriodSeconds"],
            "must not be set for readinessProbes",
        );
    }
}

fn handler(handler: &Value, path: &str, kinds: &[&str], found: &mut Causes) {
    let set: Vec<&&str> = kinds.iter().filter(|k| !handler[**k].is_null()).collect();
    match set.as_slice() {
        [] => found.required(path, "must specify a handler type"),
        [_] => {}
        [_, more @ ..] => more.iter().for_each(|k| {
            found.forbidden(
                format!("{path}.{k}"),
                "may not specify more than 1 handler type",
            )
        }),
    }
    if !handler["exec"].is_null() && list(&handler["exec"]["command"]).is_empty() {
        found.required(format!("{path}.exec.command"), "");
    }
    for field in ["httpGet", "tcpSocket", "grpc"] {
        if !handler[field].is_null() {
            let at = format!("{path}.{field}.port");
            if handler[field]["port"].is_null() {
                found.required(at, "")
            } else {
                network::target(&handler[field]["port"], &at, found)
            }
        }
    }
    found.one_of(
        &format!("{path}.httpGet.scheme"),
        &handler["httpGet"]["scheme"],
        &["HTTP", "HTTPS"],
    );
}
