//! The columns and cells that `kubectl get` shows: the server makes them, in Kubernetes' words.

mod pod;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{Kind, meta};

pub use pod::{pod_ready, pod_restarts, pod_status};

/// A column of a `Table`; serialises as TableColumnDefinition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: `string` or `integer`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `name` for the column that holds the object's name, else empty.
    pub format: &'static str,
    /// Help text.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// What stands for a value that is not there.
const NONE: &str = "<none>";
/// What stands for a value that cannot be known.
const UNKNOWN: &str = "<unknown>";

/// A kind's headings. `#` marks a number, `+` a column that only `-o wide` shows.
fn headings(kind: &Kind) -> &'static str {
    match kind.table {
        "pods" => "Name|Ready|Status|Restarts|Age|+IP|+Node|+Nominated Node|+Readiness Gates",
        "deployments.apps" => "Name|Ready|#Up-to-date|#Available|Age|+Containers|+Images|+Selector",
        "replicasets.apps" | "replicationcontrollers" => {
            "Name|#Desired|#Current|#Ready|Age|+Containers|+Images|+Selector"
        }
        "services" => "Name|Type|Cluster-IP|External-IP|Port(s)|Age|+Selector",
        "ingresses.networking.k8s.io" => "Name|Class|Hosts|Address|Ports|Age",
        "nodes" => {
            "Name|Status|Roles|Age|Version|+Internal-IP|+External-IP|+OS-Image|+Kernel-Version|+Container-Runtime"
        }
        "namespaces" => "Name|Status|Age",
        "events" => {
            "Last Seen|Type|Reason|Object|+Subobject|+Source|Message|+First Seen|+Count|+Name"
        }
        "configmaps" => "Name|#Data|Age",
        "secrets" => "Name|Type|#Data|Age",
        "serviceaccounts" => "Name|#Secrets|Age",
        "endpoints" => "Name|Endpoints|Age",
        "endpointslices.discovery.k8s.io" => "Name|AddressType|Ports|Endpoints|Age",
        "leases.coordination.k8s.io" => "Name|Holder|Age",
        _ => "Name|Age",
    }
}

/// What a heading means, shown by clients that ask.
fn description(name: &str) -> &'static str {
    match name {
        "Name" => "Name must be unique within a namespace.",
        "Age" => "Time since the object was made.",
        "Ready" => "How many are ready, of how many.",
        "Status" => "The state in one word.",
        "Restarts" => "How often containers were restarted, and when last.",
        "Up-to-date" => "Replicas of the newest template.",
        "Available" => "Replicas available to users.",
        "Desired" => "Replicas wanted.",
        "Current" => "Replicas that exist.",
        "Cluster-IP" => "The virtual address inside the cluster.",
        "External-IP" => "Addresses outside the cluster.",
        "Hosts" => "Host names that the rules match.",
        "Selector" => "Labels of the pods that are selected.",
        "Last Seen" => "Time since it happened last.",
        "Message" => "What happened, in a sentence.",
        _ => "",
    }
}

/// The columns of a kind, in order.
pub fn columns(kind: &Kind) -> Vec<Column> {
    headings(kind)
        .split('|')
        .map(|heading| {
            let name = heading.trim_start_matches(['#', '+']);
            Column {
                name,
                kind: if heading.starts_with('#') {
                    "integer"
                } else {
                    "string"
                },
                format: if name == "Name" { "name" } else { "" },
                description: description(name),
                priority: i32::from(heading.starts_with('+')),
            }
        })
        .collect()
}

/// The cells of an object, one for each of [`columns`].
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = json!(meta::name(object));
    let age = json!(age_of(now, meta::text(object, "creationTimestamp")));
    let (spec, status) = (&object["spec"], &object["status"]);
    match kind.table {
        "pods" => pod::cells(object, now, name, age),
        "deployments.apps" => {
            let mut row = vec![
                name,
                json!(format!(
                    "{}/{}",
                    int(&status["readyReplicas"]),
                    int(&spec["replicas"])
                )),
                json!(int(&status["updatedReplicas"])),
                json!(int(&status["availableReplicas"])),
                age,
            ];
            row.extend(template_cells(object));
            row
        }
        "replicasets.apps" | "replicationcontrollers" => {
            let mut row = vec![
                name,
                json!(int(&spec["replicas"])),
                json!(int(&status["replicas"])),
                json!(int(&status["readyReplicas"])),
                age,
            ];
            row.extend(template_cells(object));
            row
        }
        "services" => vec![
            name,
            or(&spec["type"], "ClusterIP"),
            or(
                &spec["clusterIP"],
                if spec["type"] == "ExternalName" {
                    NONE
                } else {
                    "<pending>"
                },
            ),
            json!(external_addresses(object)),
            json!(service_ports(spec)),
            age,
            json!(pairs(&spec["selector"])),
        ],
        "ingresses.networking.k8s.io" => {
            let hosts = joined(
                spec["rules"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|r| r["host"].as_str())
                    .filter(|h| !h.is_empty()),
                "*",
            );
            let ports = if spec["tls"].as_array().is_some_and(|t| !t.is_empty()) {
                "80, 443"
            } else {
                "80"
            };
            vec![
                name,
                or(&spec["ingressClassName"], NONE),
                json!(hosts),
                json!(balancer_addresses(status)),
                json!(ports),
                age,
            ]
        }
        "nodes" => node_cells(object, name, age),
        "namespaces" => vec![name, or(&status["phase"], "Active"), age],
        "events" => event_cells(object, now),
        "configmaps" => vec![
            name,
            json!(size(&object["data"]) + size(&object["binaryData"])),
            age,
        ],
        "secrets" => vec![
            name,
            or(&object["type"], "Opaque"),
            json!(size(&object["data"])),
            age,
        ],
        "serviceaccounts" => vec![
            name,
            json!(object["secrets"].as_array().map_or(0, Vec::len)),
            age,
        ],
        "endpoints" => vec![name, json!(endpoints(object)), age],
        "endpointslices.discovery.k8s.io" => {
            let ports = object["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|p| int(&p["port"]).to_string());
            let addresses = object["endpoints"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|e| e["addresses"][0].as_str().map(str::to_string));
            vec![
                name,
                or(&object["addressType"], "IPv4"),
                json!(few(ports.collect(), "<unset>")),
                json!(few(addresses.collect(), "<unset>")),
                age,
            ]
        }
        "leases.coordination.k8s.io" => vec![name, or(&spec["holderIdentity"], ""), age],
        _ => vec![name, age],
    }
}

/// A duration as people read it: `45s`, `5m12s`, `3h20m`, `2d`, `1y20d`; never negative.
pub fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |a: i64, unit: &str, b: i64, small: &str| {
        if b == 0 {
            format!("{a}{unit}")
        } else {
            format!("{a}{unit}{b}{small}")
        }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if years < 2 => format!("{days}d"),
        () if years < 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

fn age_of(now: Timestamp, text: &str) -> String {
    text.parse()
        .map_or_else(|_| UNKNOWN.into(), |then| age(now, then))
}

fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn or(value: &Value, otherwise: &str) -> Value {
    json!(
        value
            .as_str()
            .filter(|t| !t.is_empty())
            .unwrap_or(otherwise)
    )
}

fn size(map: &Value) -> usize {
    map.as_object().map_or(0, Map::len)
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    let all: Vec<&str> = texts.collect();
    if all.is_empty() {
        otherwise.into()
    } else {
        all.join(",")
    }
}

/// The first three of a list, and how many more.
fn few(all: Vec<String>, otherwise: &str) -> String {
    /// Kubernetes shows as many.
    const SHOWN: usize = 3;
    if all.is_empty() {
        return otherwise.into();
    }
    let more = all.len().saturating_sub(SHOWN);
    let text = all
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(",");
    if more == 0 {
        text
    } else {
        format!("{text} + {more} more...")
    }
}

/// `a=b,c=d` of a map, sorted.
fn pairs(map: &Value) -> String {
    let map = meta::string_map(map);
    if map.is_empty() {
        NONE.into()
    } else {
        map.iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// Containers, images and selector of something with a pod template.
fn template_cells(object: &Value) -> [Value; 3] {
    let spec = &object["spec"];
    let containers = || {
        spec["template"]["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
    };
    let selector = if spec["selector"]["matchLabels"].is_object()
        || spec["selector"]["matchExpressions"].is_array()
    {
        crate::selector::LabelSelector::from_object(&spec["selector"])
            .map_or_else(|_| NONE.into(), |s| s.to_string())
    } else {
        pairs(&spec["selector"])
    };
    [
        json!(joined(containers().filter_map(|c| c["name"].as_str()), "")),
        json!(joined(containers().filter_map(|c| c["image"].as_str()), "")),
        json!(selector),
    ]
}

fn balancer_addresses(status: &Value) -> String {
    let list = status["loadBalancer"]["ingress"]
        .as_array()
        .into_iter()
        .flatten();
    joined(
        list.filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str())),
        "",
    )
}

fn external_addresses(service: &Value) -> String {
    let spec = &service["spec"];
    let listed = joined(
        spec["externalIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str),
        "",
    );
    match spec["type"].as_str() {
        Some("ExternalName") => spec["externalName"].as_str().unwrap_or_default().into(),
        Some("LoadBalancer") => {
            let all = [balancer_addresses(&service["status"]), listed]
                .into_iter()
                .filter(|t| !t.is_empty())
                .collect::<Vec<_>>()
                .join(",");
            if all.is_empty() {
                "<pending>".into()
            } else {
                all
            }
        }
        _ if listed.is_empty() => NONE.into(),
        _ => listed,
    }
}

fn service_ports(spec: &Value) -> String {
    let ports: Vec<String> = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| {
            let protocol = p["protocol"].as_str().unwrap_or("TCP");
            match int(&p["nodePort"]) {
                0 => format!("{}/{protocol}", int(&p["port"])),
                node => format!("{}:{node}/{protocol}", int(&p["port"])),
            }
        })
        .collect();
    if ports.is_empty() {
        NONE.into()
    } else {
        ports.join(",")
    }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in object["subsets"].as_array().into_iter().flatten() {
        let ports: Vec<i64> = subset["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| int(&p["port"]))
            .collect();
        for address in subset["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| a["ip"].as_str())
        {
            if ports.is_empty() {
                all.push(address.to_string());
            }
            all.extend(ports.iter().map(|port| format!("{address}:{port}")));
        }
    }
    few(all, NONE)
}

fn node_cells(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let status = &object["status"];
    let ready = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "Ready");
    let mut words = match ready.map(|c| c["status"] == "True") {
        Some(true) => "Ready".to_string(),
        Some(false) => "NotReady".to_string(),
        None => "Unknown".to_string(),
    };
    if object["spec"]["unschedulable"] == true {
        words.push_str(",SchedulingDisabled");
    }
    let labels = meta::labels(object);
    let roles = joined(
        labels
            .keys()
            .filter_map(|k| k.strip_prefix("node-role.kubernetes.io/"))
            .filter(|r| !r.is_empty()),
        NONE,
    );
    let address = |kind: &str| {
        let found = status["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|a| a["type"] == kind);
        json!(found.and_then(|a| a["address"].as_str()).unwrap_or(NONE))
    };
    let info = &status["nodeInfo"];
    vec![
        name,
        json!(words),
        json!(roles),
        age,
        or(&info["kubeletVersion"], ""),
        address("InternalIP"),
        address("ExternalIP"),
        or(&info["osImage"], UNKNOWN),
        or(&info["kernelVersion"], UNKNOWN),
        or(&info["containerRuntimeVersion"], UNKNOWN),
    ]
}

fn event_cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let time = |fields: &[&Value]| {
        fields
            .iter()
            .find_map(|v| v.as_str())
            .map_or_else(|| UNKNOWN.to_string(), |t| age_of(now, t))
    };
    let first = time(&[&event["firstTimestamp"], &event["eventTime"]]);
    let mut last = time(&[
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["firstTimestamp"],
    ]);
    let count = event["series"]["count"]
        .as_i64()
        .or_else(|| event["count"].as_i64())
        .unwrap_or(1)
        .max(1);
    if count > 1 {
        last = format!("{last} (x{count} over {first})");
    }
    let involved = &event["involvedObject"];
    let object = format!(
        "{}/{}",
        involved["kind"].as_str().unwrap_or_default().to_lowercase(),
        involved["name"].as_str().unwrap_or_default()
    );
    let source = [&event["source"]["component"], &event["source"]["host"]]
        .into_iter()
        .filter_map(Value::as_str)
        .filter(|t| !t.is_empty());
    let source = joined(
        source,
        event["reportingComponent"].as_str().unwrap_or_default(),
    );
    vec![
        json!(last),
        or(&event["type"], "Normal"),
        or(&event["reason"], ""),
        json!(object),
        or(&involved["fieldPath"], ""),
        json!(source),
        json!(event["message"].as_str().unwrap_or_default().trim()),
        json!(first),
        json!(count.to_string()),
        json!(meta::name(event)),
    ]
}

#[cfg(test)]
mod tests;
