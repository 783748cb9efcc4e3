//! What a pod may read about itself: `fieldRef` and `resourceFieldRef`.

use coracle_api::{meta, quantity};
use serde_json::Value;

use crate::spec::{ContainerSpec, PodSpec, each, text};

/// A field of the pod, as `fieldRef.fieldPath` names it. The error says which path is unknown.
pub(crate) fn field(pod: &PodSpec, host_ip: &str, path: &str) -> Result<String, String> {
    let v = &*pod.value;
    if let Some((map, key)) = keyed(path) {
        return Ok(meta::strings(v, map).remove(key).unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.key.name.clone(),
        "metadata.namespace" => pod.key.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "metadata.labels" => lines(v, "labels"),
        "metadata.annotations" => lines(v, "annotations"),
        "spec.nodeName" => pod.node.clone(),
        "spec.serviceAccountName" => text(&v["spec"]["serviceAccountName"]),
        "spec.restartPolicy" => text(&v["spec"]["restartPolicy"]),
        "status.podIP" => pod.pod_ip.clone(),
        "status.podIPs" => pod_ips(v, &pod.pod_ip),
        "status.hostIP" | "status.hostIPs" => host_ip.to_string(),
        _ => {
            return Err(format!(
                "field path {path:?} is not known; use metadata.name, metadata.labels['KEY'], status.podIP, spec.nodeName or another field the API documents"
            ));
        }
    })
}

/// `metadata.labels['a/b']` → (`labels`, `a/b`).
fn keyed(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.strip_prefix("metadata.")?.split_once("['")?;
    matches!(map, "labels" | "annotations").then_some((map, rest.strip_suffix("']")?))
}

/// A map as a downward volume shows it: `key="value"` lines, escaped.
fn lines(pod: &Value, map: &str) -> String {
    meta::strings(pod, map)
        .iter()
        .map(|(k, v)| format!("{k}={v:?}\n"))
        .collect()
}

fn pod_ips(pod: &Value, first: &str) -> String {
    let all: Vec<String> = each(&pod["status"]["podIPs"])
        .map(|p| text(&p["ip"]))
        .collect();
    if all.is_empty() {
        first.to_string()
    } else {
        all.join(",")
    }
}

/// A resource of a container, as `resourceFieldRef` names it; what is unset counts as 0.
pub(crate) fn resource(
    pod: &PodSpec,
    own: &ContainerSpec,
    reference: &Value,
) -> Result<String, String> {
    let name = text(&reference["containerName"]);
    let container = if name.is_empty() {
        Some(own)
    } else {
        pod.containers.iter().find(|c| c.name == name)
    };
    let container = container.ok_or_else(|| {
        format!("resourceFieldRef names container {name:?}, which the pod has not")
    })?;
    let path = text(&reference["resource"]);
    let (part, what) = path.split_once('.').unwrap_or((&path, ""));
    if !matches!(part, "limits" | "requests") || what.is_empty() {
        return Err(format!(
            "resource {path:?} is not known; use limits.cpu, limits.memory, requests.cpu or requests.memory"
        ));
    }
    let amount = match &container.value["resources"][part][what] {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => "0".into(),
    };
    let divisor = reference["divisor"]
        .as_str()
        .filter(|d| !d.is_empty() && *d != "0")
        .unwrap_or("1");
    let bad = |e: quantity::BadQuantity| e.to_string();
    let (amount, divisor) = (
        quantity::millis(&amount).map_err(bad)?,
        quantity::millis(divisor).map_err(bad)?.max(1),
    );
    Ok(amount.div_ceil(divisor).to_string())
}
