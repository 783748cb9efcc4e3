//! Waiting for workloads, and saying why they do not come.

use std::time::{Duration, Instant};

use coracle_api::{Kind, kinds, meta};
use serde_json::Value;

use crate::client::{self, Client, query};
use crate::error::{CliError, EXIT_CRASH, EXIT_PLACEMENT, EXIT_TIMEOUT, Result};
use crate::progress::Progress;

/// Between two looks; a look is one or two small reads.
const LOOK_MS: u64 = 50;
/// A pod that cannot be placed or started is given this long to get better (a node may just be joining).
const PATIENCE: Duration = Duration::from_secs(10);

fn kind(table: &str) -> Result<&'static Kind> {
    kinds::by_table(table).ok_or_else(|| CliError::new("E_KIND", format!("no {table}")))
}

/// Waits until a Deployment has all its replicas updated and available.
pub async fn deployment(
    client: &Client,
    name: &str,
    limit: Duration,
    progress: &Progress,
) -> Result<()> {
    let (deployments, pods) = (kind("deployments.apps")?, kind("pods")?);
    let path = client::path(deployments, Some(&client.namespace), Some(name));
    let start = Instant::now();
    let mut trouble_since: Option<Instant> = None;
    loop {
        let d = client.get(&path).await?;
        let n = |f: &str| d["status"][f].as_i64().unwrap_or(0);
        let want = d["spec"]["replicas"].as_i64().unwrap_or(1);
        let seen = n("observedGeneration") >= meta::generation(&d);
        if seen
            && n("updatedReplicas") == want
            && n("availableReplicas") == want
            && n("replicas") == want
        {
            return Ok(());
        }
        progress.step(&format!(
            "waiting for {name}: {} of {want} replicas available",
            n("availableReplicas").min(n("updatedReplicas"))
        ));
        let selector = coracle_api::selector::LabelSelector::from_object(&d["spec"]["selector"])
            .map_err(|e| CliError::new("E_SELECTOR", e))?;
        let list = client
            .get(&format!(
                "{}?labelSelector={}",
                client::path(pods, Some(&client.namespace), None),
                query(&selector.to_string())
            ))
            .await?;
        let trouble = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(trouble);
        match trouble {
            None => trouble_since = None,
            Some(t) => {
                let since = *trouble_since.get_or_insert_with(Instant::now);
                if t.final_ || since.elapsed() > PATIENCE {
                    return Err(t.error);
                }
                progress.step(&format!("waiting for {name}: {}", t.error.message));
            }
        }
        if start.elapsed() > limit {
            return Err(CliError::new(
                "E_TIMEOUT",
                format!(
                    "{name} has {} of {want} replicas after {} s",
                    n("availableReplicas"),
                    limit.as_secs()
                ),
            )
            .fix(format!(
                "`coracle describe deployment/{name}` and `coracle get pods` say why"
            ))
            .exit(EXIT_TIMEOUT));
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

/// Why a pod does not run.
pub struct Trouble {
    /// In the user's words.
    pub error: CliError,
    /// It will not get better by itself.
    pub final_: bool,
}

/// Reads a pod's status for what keeps it from running.
pub fn trouble(pod: &Value) -> Option<Trouble> {
    let name = meta::name(pod);
    for c in pod["status"]["conditions"].as_array().into_iter().flatten() {
        if c["type"] == "PodScheduled" && c["status"] == "False" {
            let message = c["message"].as_str().unwrap_or("no node takes it");
            let error = CliError::new(
                "E_UNSCHEDULABLE",
                format!("pod {name} cannot be placed: {message}"),
            )
            .fix("lower its requests, add a node, or lift the taint or selector named above")
            .exit(EXIT_PLACEMENT);
            return Some(Trouble {
                error,
                final_: false,
            });
        }
    }
    let statuses = ["initContainerStatuses", "containerStatuses"];
    for c in statuses
        .iter()
        .flat_map(|s| pod["status"][*s].as_array().into_iter().flatten())
    {
        let waiting = &c["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().unwrap_or_default();
        let container = c["name"].as_str().unwrap_or_default();
        if matches!(
            reason,
            "ErrImagePull"
                | "ImagePullBackOff"
                | "ErrImageUnsupported"
                | "InvalidImageName"
                | "CreateContainerError"
                | "CreateContainerConfigError"
                | "RunContainerError"
                | "CrashLoopBackOff"
        ) {
            let error = CliError::new(
                reason,
                format!("pod {name}, container {container}: {message}"),
            )
            .fix(format!(
                "`coracle describe pod/{name}` and `coracle logs {name} -c {container}` tell more"
            ))
            .exit(EXIT_CRASH);
            return Some(Trouble {
                error,
                final_: matches!(reason, "ErrImageUnsupported" | "InvalidImageName"),
            });
        }
    }
    None
}

/// Waits until a pod runs or has ended.
pub async fn pod_started(
    client: &Client,
    name: &str,
    limit: Duration,
    progress: &Progress,
) -> Result<Value> {
    let path = client::path(kind("pods")?, Some(&client.namespace), Some(name));
    let start = Instant::now();
    let mut trouble_since: Option<Instant> = None;
    loop {
        let pod = client.get(&path).await?;
        if matches!(
            pod["status"]["phase"].as_str(),
            Some("Running" | "Succeeded" | "Failed")
        ) {
            return Ok(pod);
        }
        progress.step(&format!("waiting for pod {name}"));
        match trouble(&pod) {
            None => trouble_since = None,
            Some(t) => {
                let since = *trouble_since.get_or_insert_with(Instant::now);
                if t.final_ || since.elapsed() > PATIENCE || t.error.exit == EXIT_CRASH {
                    return Err(t.error);
                }
            }
        }
        if start.elapsed() > limit {
            return Err(CliError::new(
                "E_TIMEOUT",
                format!("pod {name} has not started after {} s", limit.as_secs()),
            )
            .fix(format!(
                "`coracle describe pod/{name}` says what it waits for"
            ))
            .exit(EXIT_TIMEOUT));
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

/// Waits until a pod has ended; answers it.
pub async fn pod_ended(client: &Client, name: &str) -> Result<Value> {
    let path = client::path(kind("pods")?, Some(&client.namespace), Some(name));
    loop {
        let pod = client.get(&path).await?;
        if matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        ) {
            return Ok(pod);
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}
