//! Services, Ingresses and endpoints.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::names::{dns_label, dns_subdomain, port_name, service_name, wildcard_subdomain};
use super::{Causes, empty, list, metadata, shown};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const SERVICE_TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
/// Most addresses of one endpoint.
const ENDPOINT_ADDRESSES: usize = 100;
/// Most endpoints of one slice.
const SLICE_ENDPOINTS: usize = 1000;

fn is_ip(value: &Value) -> bool {
    value.as_str().is_some_and(|t| t.parse::<IpAddr>().is_ok())
}

pub(super) fn service(object: &Value, found: &mut Causes) {
    let spec = &object["spec"];
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    found.one_of("spec.type", &spec["type"], SERVICE_TYPES);
    found.one_of(
        "spec.sessionAffinity",
        &spec["sessionAffinity"],
        &["ClientIP", "None"],
    );
    found.one_of(
        "spec.internalTrafficPolicy",
        &spec["internalTrafficPolicy"],
        &["Cluster", "Local"],
    );
    found.one_of(
        "spec.externalTrafficPolicy",
        &spec["externalTrafficPolicy"],
        &["Cluster", "Local"],
    );
    metadata::labels(&spec["selector"], "spec.selector", found);
    let headless = spec["clusterIP"] == "None";
    if !empty(&spec["clusterIP"]) && !headless && !is_ip(&spec["clusterIP"]) {
        found.invalid(
            "spec.clusterIPs[0]",
            &spec["clusterIP"],
            "must be empty, 'None', or a valid IP address",
        );
    }
    for (i, ip) in list(&spec["externalIPs"])
        .iter()
        .enumerate()
        .filter(|(_, ip)| !is_ip(ip))
    {
        found.invalid(
            format!("spec.externalIPs[{i}]"),
            ip,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
    if kind == "ExternalName" {
        found.required_text("spec.externalName", &spec["externalName"], |text| {
            dns_subdomain(text.trim_end_matches('.'))
        });
        if !empty(&spec["clusterIP"]) {
            found.forbidden(
                "spec.clusterIPs[0]",
                "may not be set when `type` is 'ExternalName'",
            );
        }
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        found.invalid(
            "spec.clusterIPs[0]",
            &spec["clusterIP"],
            format!("may not be set to 'None' for {kind} services"),
        );
    }
    let ports = list(&spec["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        found.required("spec.ports", "");
    }
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        service_port(port, &path, ports.len() > 1, kind, found);
        let earlier = &ports[..i];
        if !empty(&port["name"]) && earlier.iter().any(|p| p["name"] == port["name"]) {
            found.duplicate(format!("{path}.name"), &port["name"]);
        }
        let protocol = |p: &Value| p["protocol"].as_str().unwrap_or("TCP").to_string();
        if earlier
            .iter()
            .any(|p| p["port"] == port["port"] && protocol(p) == protocol(port))
        {
            found.duplicate(
                &path,
                &json!({"port": port["port"], "protocol": protocol(port)}),
            );
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if node_port != 0
            && earlier
                .iter()
                .any(|p| p["nodePort"] == port["nodePort"] && protocol(p) == protocol(port))
        {
            found.duplicate(format!("{path}.nodePort"), &port["nodePort"]);
        }
    }
}

fn service_port(port: &Value, path: &str, named: bool, kind: &str, found: &mut Causes) {
    if empty(&port["name"]) {
        if named {
            found.required(format!("{path}.name"), "");
        }
    } else {
        found.text(&format!("{path}.name"), &port["name"], dns_label);
    }
    found.port(&format!("{path}.port"), &port["port"]);
    found.one_of(&format!("{path}.protocol"), &port["protocol"], PROTOCOLS);
    target(&port["targetPort"], &format!("{path}.targetPort"), found);
    if port["nodePort"].as_i64().unwrap_or(0) != 0 {
        match kind {
            "ClusterIP" | "ExternalName" => found.forbidden(
                format!("{path}.nodePort"),
                format!("may not be used when `type` is '{kind}'"),
            ),
            _ => found.port(&format!("{path}.nodePort"), &port["nodePort"]),
        }
    }
}

/// A port by number or by name.
pub(super) fn target(value: &Value, path: &str, found: &mut Causes) {
    match value {
        Value::Null => {}
        Value::String(_) => found.text(path, value, port_name),
        _ => found.port(path, value),
    }
}

pub(super) fn update_service(new: &Value, old: &Value, found: &mut Causes) {
    let (a, b) = (&new["spec"], &old["spec"]);
    let external = |s: &Value| s["type"] == "ExternalName";
    if !external(a) && !external(b) && !empty(&b["clusterIP"]) && a["clusterIP"] != b["clusterIP"] {
        let value = if a["clusterIPs"].is_array() {
            a["clusterIPs"].clone()
        } else {
            json!([a["clusterIP"].as_str().unwrap_or_default()])
        };
        found.invalid("spec.clusterIPs[0]", &value, "may not change once set");
    }
}

pub(super) fn ingress(object: &Value, found: &mut Causes) {
    let spec = &object["spec"];
    let rules = list(&spec["rules"]);
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        found.invalid(
            "spec",
            &json!(shown_rules(spec)),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if !empty(&spec["ingressClassName"]) {
        found.text(
            "spec.ingressClassName",
            &spec["ingressClassName"],
            dns_subdomain,
        );
    }
    if !spec["defaultBackend"].is_null() {
        backend(&spec["defaultBackend"], "spec.defaultBackend", found);
    }
    for (i, tls) in list(&spec["tls"]).iter().enumerate() {
        for (j, host) in list(&tls["hosts"]).iter().enumerate() {
            host_name(host, &format!("spec.tls[{i}].hosts[{j}]"), found);
        }
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        if !empty(&rule["host"]) {
            host_name(&rule["host"], &format!("{path}.host"), found);
        }
        if rule["http"].is_null() {
            continue;
        }
        let paths = list(&rule["http"]["paths"]);
        if paths.is_empty() {
            found.required(format!("{path}.http.paths"), "");
        }
        for (j, item) in paths.iter().enumerate() {
            ingress_path(item, &format!("{path}.http.paths[{j}]"), found);
        }
    }
}

fn shown_rules(spec: &Value) -> Value {
    if spec.is_null() {
        json!({})
    } else {
        spec.clone()
    }
}

fn host_name(host: &Value, path: &str, found: &mut Causes) {
    if is_ip(host) {
        found.invalid(path, host, "must be a DNS name, not an IP address");
    } else if host.as_str().is_some_and(|h| h.contains('*')) {
        found.text(path, host, wildcard_subdomain);
    } else {
        found.text(path, host, dns_subdomain);
    }
}

fn ingress_path(item: &Value, path: &str, found: &mut Causes) {
    let kind = &item["pathType"];
    if empty(kind) {
        found.required(format!("{path}.pathType"), "pathType must be specified");
    } else {
        found.one_of(&format!("{path}.pathType"), kind, PATH_TYPES);
    }
    let text = item["path"].as_str().unwrap_or_default();
    let exact = matches!(kind.as_str(), Some("Exact" | "Prefix"));
    let at = format!("{path}.path");
    if !text.starts_with('/') && (exact || !text.is_empty()) {
        found.invalid(&at, &item["path"], "must be an absolute path");
    }
    if exact {
        for bad in ["//", "/./", "/../", "%2f", "%2F"] {
            if text.contains(bad) {
                found.invalid(&at, &item["path"], format!("must not contain '{bad}'"));
            }
        }
        for bad in ["/..", "/."] {
            if text.ends_with(bad) {
                found.invalid(&at, &item["path"], format!("cannot end with '{bad}'"));
            }
        }
    }
    backend(&item["backend"], &format!("{path}.backend"), found);
}

fn backend(value: &Value, path: &str, found: &mut Causes) {
    let (service, resource) = (&value["service"], &value["resource"]);
    match (service.is_null(), resource.is_null()) {
        (true, true) => return found.required(path, "resource or service backend is required"),
        (false, false) => {
            return found.invalid(
                path,
                &json!(""),
                "cannot set both resource and service backends",
            );
        }
        (true, false) => return,
        (false, true) => {}
    }
    if empty(&service["name"]) {
        found.required(format!("{path}.service.name"), "");
    } else {
        found.text(
            &format!("{path}.service.name"),
            &service["name"],
            service_name,
        );
    }
    let (name, number) = (
        &service["port"]["name"],
        service["port"]["number"].as_i64().unwrap_or(0),
    );
    match (empty(name), number) {
        (true, 0) => found.required(
            format!("{path}.service.port"),
            "port name or number is required",
        ),
        (true, _) => found.port(
            &format!("{path}.service.port.number"),
            &service["port"]["number"],
        ),
        (false, 0) => found.text(&format!("{path}.service.port.name"), name, port_name),
        (false, _) => found.invalid(
            format!("{path}.service.port"),
            &service["port"],
            "cannot set both port name & port number",
        ),
    }
}

pub(super) fn endpoints(object: &Value, found: &mut Causes) {
    for (i, subset) in list(&object["subsets"]).iter().enumerate() {
        let path = format!("subsets[{i}]");
        if list(&subset["addresses"]).is_empty() && list(&subset["notReadyAddresses"]).is_empty() {
            found.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (j, address) in list(&subset[field])
                .iter()
                .enumerate()
                .filter(|(_, a)| !is_ip(&a["ip"]))
            {
                found.invalid(
                    format!("{path}.{field}[{j}].ip"),
                    &address["ip"],
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                );
            }
        }
        for (j, port) in list(&subset["ports"]).iter().enumerate() {
            found.port(&format!("{path}.ports[{j}].port"), &port["port"]);
            found.one_of(
                &format!("{path}.ports[{j}].protocol"),
                &port["protocol"],
                PROTOCOLS,
            );
        }
    }
}

pub(super) fn endpoint_slice(object: &Value, found: &mut Causes) {
    let kind = &object["addressType"];
    if empty(kind) {
        found.required("addressType", "");
    }
    found.one_of("addressType", kind, &["FQDN", "IPv4", "IPv6"]);
    let endpoints = list(&object["endpoints"]);
    if endpoints.len() > SLICE_ENDPOINTS {
        found.add(
            "endpoints",
            "FieldValueTooMany",
            format!(
                "Too many: {}: must have at most {SLICE_ENDPOINTS} items",
                endpoints.len()
            ),
        );
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = format!("endpoints[{i}].addresses");
        let addresses = list(&endpoint["addresses"]);
        if addresses.is_empty() {
            found.required(&path, "must contain at least 1 address");
        } else if addresses.len() > ENDPOINT_ADDRESSES {
            found.add(
                &path,
                "FieldValueTooMany",
                format!(
                    "Too many: {}: must have at most {ENDPOINT_ADDRESSES} items",
                    addresses.len()
                ),
            );
        }
        for (j, address) in addresses.iter().enumerate() {
            let fine = match kind.as_str() {
                Some("FQDN") => dns_subdomain(address.as_str().unwrap_or_default()).is_empty(),
                _ => is_ip(address),
            };
            if !fine {
                found.invalid(
                    format!("{path}[{j}]"),
                    address,
                    format!("must be a valid {} address", shown(kind).trim_matches('"')),
                );
            }
        }
    }
    for (i, port) in list(&object["ports"]).iter().enumerate() {
        found.one_of(
            &format!("ports[{i}].protocol"),
            &port["protocol"],
            PROTOCOLS,
        );
        if !port["port"].is_null() {
            found.port(&format!("ports[{i}].port"), &port["port"]);
        }
    }
}
