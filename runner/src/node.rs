//! The Node object and its heartbeat: what the cluster knows about this machine.
//!
//! A heartbeat renews a Lease and looks at the Node: if it is gone, or somebody has declared it not ready while the
//! cluster could not hear it, it is put right at once.

use std::time::Duration;

use coracle_api::{Timestamp, meta, quantity};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Failure};
use crate::config::Settings;

/// Namespace of heartbeats.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// Pause after a heartbeat that did not arrive; far below the lease.
const RETRY: Duration = Duration::from_millis(500);
/// Part of the machine's memory offered to pods; the rest is for the system and for us.
const MEMORY_PARTS: (u64, u64) = (3, 4);

/// What this node offers and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub name: String,
    pub ip: std::net::IpAddr,
    pub runner_port: u16,
    /// Where the ingress takes HTTP; told to clients by an annotation.
    pub ingress: std::net::SocketAddr,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub pods: u64,
    pub labels: Vec<(String, String)>,
}

/// CPU in thousandths of a core and memory in bytes that this machine offers.
pub(crate) fn capacity(settings: &Settings) -> (u64, u64) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let memory = || {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = info.lines().find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<u64>()
                .ok()
        });
        kib.unwrap_or(4 << 20) * 1_024 / MEMORY_PARTS.1 * MEMORY_PARTS.0
    };
    (
        settings.cpu_millis.unwrap_or(cores * 1_000),
        settings.memory_bytes.unwrap_or_else(memory),
    )
}

impl Facts {
    fn node(&self) -> Value {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut labels = json!({
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": arch,
            "coracle/runtime": "wasmtime",
        });
        for (name, value) in &self.labels {
            labels[name] = json!(value);
        }
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels, "annotations": {coracle_api::INGRESS_ANNOTATION: self.ingress.to_string()}},
            "spec": {}, "status": self.status(None)})
    }

    /// The status; `before` is the Node as it is, for times of conditions.
    fn status(&self, before: Option<&Value>) -> Value {
        let now = meta::time_text(Timestamp::now());
        let amounts = json!({
            "cpu": if self.cpu_millis.is_multiple_of(1_000) { (self.cpu_millis / 1_000).to_string() } else { format!("{}m", self.cpu_millis) },
            "memory": format!("{}Ki", self.memory_bytes / 1_024),
            "pods": self.pods.to_string(),
        });
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            let old = before
                .and_then(|b| find(b, kind))
                .filter(|c| c["status"] == status);
            let since = old
                .and_then(|c| c["lastTransitionTime"].as_str())
                .unwrap_or(&now)
                .to_string();
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": since})
        };
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_string()
        };
        json!({
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [
                {"type": "InternalIP", "address": self.ip.to_string()},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.runner_port}},
            "conditions": [
                condition("MemoryPressure", "False", "RunnerHasSufficientMemory", "the runner has memory to give"),
                condition("DiskPressure", "False", "RunnerHasNoDiskPressure", "the runner has disk space"),
                condition("Ready", "True", "RunnerReady", "the runner takes pods"),
            ],
            "nodeInfo": {
                "machineID": read("/etc/machine-id"),
                "systemUUID": "",
                "bootID": read("/proc/sys/kernel/random/boot_id"),
                "kernelVersion": read("/proc/sys/kernel/osrelease"),
                "osImage": "Linux",
                "containerRuntimeVersion": "wasmtime://48",
                "kubeletVersion": format!("v1.{}.0+coracle.{}", coracle_api::KUBERNETES_MINOR, env!("CARGO_PKG_VERSION")),
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": std::env::consts::ARCH,
            },
        })
    }

    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.name)
    }
}

fn find<'a>(node: &'a Value, kind: &str) -> Option<&'a Value> {
    node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == kind)
}

/// Makes or corrects the Node. Fields of others (spec, labels, conditions of other types) stay as they are.
pub(crate) async fn register(api: &Api, facts: &Facts) -> Result<(), Failure> {
    let node = match api.get(&facts.path()).await {
        Ok(node) => {
            let wanted = facts.node();
            let differs = |field: &str| {
                let wanted = wanted["metadata"][field].as_object();
                let mut pairs = wanted.into_iter().flatten();
                pairs.any(|(k, v)| node["metadata"][field][k] != *v)
            };
            if differs("labels") || differs("annotations") {
                let metadata = json!({"labels": wanted["metadata"]["labels"], "annotations": wanted["metadata"]["annotations"]});
                api.merge(&facts.path(), &json!({"metadata": metadata}))
                    .await?
            } else {
                node
            }
        }
        Err(e) if e.code() == 404 => match api.create("/api/v1/nodes", &facts.node()).await {
            Err(e) if e.code() == 409 => api.get(&facts.path()).await?,
            made => made?,
        },
        Err(e) => return Err(e),
    };
    let mut status = facts.status(Some(&node));
    let ours = status["conditions"].as_array().cloned().unwrap_or_default();
    let others = node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut all: Vec<Value> = others
        .filter(|c| !ours.iter().any(|o| o["type"] == c["type"]))
        .cloned()
        .collect();
    all.extend(ours);
    status["conditions"] = Value::Array(all);
    api.merge(
        &format!("{}/status", facts.path()),
        &json!({"status": status}),
    )
    .await
    .map(drop)
}

/// Whether the Node says what it should.
fn is_right(node: &Value, facts: &Facts) -> bool {
    let status = &node["status"];
    let ip = facts.ip.to_string();
    find(node, "Ready").is_some_and(|c| c["status"] == "True")
        && status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == facts.runner_port
        && status["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|a| a["type"] == "InternalIP" && a["address"] == ip.as_str())
        && quantity::millis(status["allocatable"]["cpu"].as_str().unwrap_or_default())
            == Ok(facts.cpu_millis)
}

/// Renews the Lease until it is stopped.
pub(crate) async fn keep_alive(
    api: Api,
    facts: Facts,
    settings: Settings,
    stop: CancellationToken,
) {
    loop {
        let beat = async {
            let node = match api.get(&facts.path()).await {
                Ok(node) if is_right(&node, &facts) => node,
                Ok(_) => {
                    register(&api, &facts).await?;
                    api.get(&facts.path()).await?
                }
                Err(e) if e.code() == 404 => {
                    register(&api, &facts).await?;
                    api.get(&facts.path()).await?
                }
                Err(e) => return Err(e),
            };
            renew(&api, &facts, &settings, meta::uid(&node)).await
        };
        let pause = match beat.await {
            Ok(()) => Duration::from_millis(settings.lease_renew_ms),
            Err(error) => {
                tracing::warn!(%error, "the heartbeat did not arrive");
                RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn renew(
    api: &Api,
    facts: &Facts,
    settings: &Settings,
    node_uid: &str,
) -> Result<(), Failure> {
    let spec = json!({
        "holderIdentity": facts.name,
        "leaseDurationSeconds": settings.lease_duration_ms.div_ceil(1_000),
        "renewTime": format!("{:.6}", Timestamp::now()),
    });
    match api
        .merge(&format!("{LEASES}/{}", facts.name), &json!({"spec": spec}))
        .await
    {
        Err(e) if e.code() == 404 => {
            let owner =
                json!({"apiVersion": "v1", "kind": "Node", "name": facts.name, "uid": node_uid});
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": facts.name, "namespace": "kube-node-lease", "ownerReferences": [owner]},
                "spec": spec,
            });
            api.create(LEASES, &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
