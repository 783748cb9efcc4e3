//! The row of a pod: its status in one word follows the rules that users know from `kubectl get pods`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NONE, age, int, or};

fn statuses<'a>(
    pod: &'a Value,
    field: &str,
) -> impl DoubleEndedIterator<Item = &'a Value> + use<'a> {
    pod["status"][field].as_array().into_iter().flatten()
}

fn specs<'a>(pod: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    pod["spec"][field].as_array().into_iter().flatten()
}

fn init_spec<'a>(pod: &'a Value, status: &Value) -> Option<&'a Value> {
    specs(pod, "initContainers").find(|c| c["name"] == status["name"])
}

/// A restartable init container: a sidecar that runs beside the others.
fn is_sidecar(pod: &Value, status: &Value) -> bool {
    init_spec(pod, status).is_some_and(|c| c["restartPolicy"] == "Always")
}

/// The pod's condition in one word: `Running`, `ContainerCreating`, `CrashLoopBackOff`, `Completed`, `Init:0/1`,
/// `Terminating`, `ErrImagePull`, ...
pub fn pod_status(pod: &Value) -> String {
    let status = &pod["status"];
    let phase = status["phase"]
        .as_str()
        .filter(|p| !p.is_empty())
        .unwrap_or("Pending");
    let mut word = status["reason"]
        .as_str()
        .filter(|r| !r.is_empty())
        .unwrap_or(phase)
        .to_string();
    let scheduled = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "PodScheduled");
    if scheduled.is_some_and(|c| c["reason"] == "SchedulingGated") {
        word = "SchedulingGated".into();
    }
    let initialising = initialising(pod);
    match &initialising {
        Some(state) => word = state.clone(),
        None => {
            let mut running = false;
            for c in statuses(pod, "containerStatuses").rev() {
                let state = &c["state"];
                if let Some(reason) = state["waiting"]["reason"]
                    .as_str()
                    .filter(|r| !r.is_empty())
                {
                    word = reason.into();
                } else if state["terminated"].is_object() {
                    word = ended(&state["terminated"]);
                } else if state["running"].is_object() && c["ready"] == true {
                    running = true;
                }
            }
            // One container has ended, another runs on.
            if word == "Completed" && running {
                let ready = status["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True");
                word = if ready {
                    "Running".into()
                } else {
                    "NotReady".into()
                };
            }
        }
    }
    let ended = matches!(phase, "Succeeded" | "Failed");
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if status["reason"] == "NodeLost" {
            word = "Unknown".into();
        } else if !ended {
            word = "Terminating".into();
        }
    }
    // A bound pod of which the node has not told anything yet is being made.
    if word == "Pending"
        && initialising.is_none()
        && !pod["spec"]["nodeName"]
            .as_str()
            .unwrap_or_default()
            .is_empty()
    {
        word = "ContainerCreating".into();
    }
    word
}

fn ended(terminated: &Value) -> String {
    match terminated["reason"].as_str().filter(|r| !r.is_empty()) {
        Some(reason) => reason.into(),
        None if int(&terminated["signal"]) != 0 => format!("Signal:{}", int(&terminated["signal"])),
        None => format!("ExitCode:{}", int(&terminated["exitCode"])),
    }
}

/// `Init:...` while init containers are at work.
fn initialising(pod: &Value) -> Option<String> {
    let total = specs(pod, "initContainers").count();
    for (i, c) in statuses(pod, "initContainerStatuses").enumerate() {
        let state = &c["state"];
        if state["terminated"].is_object() {
            if int(&state["terminated"]["exitCode"]) == 0 {
                continue;
            }
            return Some(format!("Init:{}", ended(&state["terminated"])));
        }
        if is_sidecar(pod, c) && c["started"] == true {
            continue;
        }
        let waiting = state["waiting"]["reason"]
            .as_str()
            .filter(|r| !r.is_empty() && *r != "PodInitializing");
        return Some(waiting.map_or_else(
            || format!("Init:{i}/{total}"),
            |reason| format!("Init:{reason}"),
        ));
    }
    None
}

/// Ready containers and all containers, sidecars included.
pub fn pod_ready(pod: &Value) -> (usize, usize) {
    let sidecars = specs(pod, "initContainers")
        .filter(|c| c["restartPolicy"] == "Always")
        .count();
    let total = specs(pod, "containers").count() + sidecars;
    let ready = statuses(pod, "containerStatuses")
        .filter(|c| c["ready"] == true && c["state"]["running"].is_object())
        .count();
    let sidecars_ready = statuses(pod, "initContainerStatuses")
        .filter(|c| is_sidecar(pod, c) && c["ready"] == true)
        .count();
    (ready + sidecars_ready, total)
}

/// How often containers were restarted, and when the last of them ended before that.
pub fn pod_restarts(pod: &Value) -> (i64, Option<Timestamp>) {
    let starting = initialising(pod).is_some();
    let counted: Vec<&Value> = if starting {
        statuses(pod, "initContainerStatuses").collect()
    } else {
        statuses(pod, "containerStatuses")
            .chain(statuses(pod, "initContainerStatuses").filter(|c| is_sidecar(pod, c)))
            .collect()
    };
    let count = counted.iter().map(|c| int(&c["restartCount"])).sum();
    let last = counted
        .iter()
        .filter_map(|c| {
            c["lastState"]["terminated"]["finishedAt"]
                .as_str()?
                .parse()
                .ok()
        })
        .max();
    (count, last)
}

pub(super) fn cells(pod: &Value, now: Timestamp, name: Value, created: Value) -> Vec<Value> {
    let (ready, total) = pod_ready(pod);
    let (restarts, last) = pod_restarts(pod);
    let restarts = match last {
        Some(at) if restarts > 0 => format!("{restarts} ({} ago)", age(now, at)),
        _ => restarts.to_string(),
    };
    let ip = pod["status"]["podIPs"][0]["ip"]
        .as_str()
        .or_else(|| pod["status"]["podIP"].as_str())
        .filter(|t| !t.is_empty())
        .unwrap_or(NONE);
    let gates: Vec<&str> = specs(pod, "readinessGates")
        .filter_map(|g| g["conditionType"].as_str())
        .collect();
    let passed = gates
        .iter()
        .filter(|gate| {
            pod["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == **gate && c["status"] == "True")
        })
        .count();
    let gates = if gates.is_empty() {
        NONE.to_string()
    } else {
        format!("{passed}/{}", gates.len())
    };
    vec![
        name,
        json!(format!("{ready}/{total}")),
        json!(pod_status(pod)),
        json!(restarts),
        created,
        json!(ip),
        or(&pod["spec"]["nodeName"], NONE),
        or(&pod["status"]["nominatedNodeName"], NONE),
        json!(gates),
    ]
}
