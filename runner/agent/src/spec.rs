//! A pod, parsed once at the door: what the rest of the agent decides on.
//!
//! Fields that are only passed on (env, volumes) stay JSON until they are resolved, because they are resolved at each
//! start against the configuration of that moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::{Key, Timestamp, meta};
use serde_json::Value;

use crate::action::{ConfigKind, ConfigRef, PullPolicy};
use crate::config::DEFAULT_GRACE_MS;

/// `restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// One container of a pod.
#[derive(Clone, Debug)]
pub(crate) struct ContainerSpec {
    pub name: String,
    pub image: String,
    pub policy: PullPolicy,
    /// An init container.
    pub init: bool,
    /// An init container with `restartPolicy: Always`: starts in its turn and runs beside the others.
    pub sidecar: bool,
    /// The container as in the spec.
    pub value: Value,
}

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct PodSpec {
    pub key: Key,
    pub uid: String,
    pub revision: u64,
    pub node: String,
    pub restart_policy: RestartPolicy,
    /// Init containers in order, then the others in order.
    pub containers: Vec<ContainerSpec>,
    pub active_deadline_ms: Option<u64>,
    /// Grace in milliseconds once the pod is being deleted.
    pub deleting: Option<u64>,
    pub drained: bool,
    pub ended: bool,
    pub pod_ip: String,
    /// The object as it came.
    pub value: Arc<Value>,
}

impl PodSpec {
    /// Parses a pod; `None` if it has no uid, name or revision (nothing an API server would send).
    pub fn parse(value: &Arc<Value>) -> Option<Self> {
        let (uid, key) = (meta::uid(value), meta::key(value));
        let revision = meta::revision(value)?;
        if uid.is_empty() || key.name.is_empty() {
            return None;
        }
        let spec = &value["spec"];
        let mut containers = Vec::new();
        for (list, init) in [("initContainers", true), ("containers", false)] {
            containers.extend(
                spec[list]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|c| container(c, init)),
            );
        }
        let status = &value["status"];
        Some(Self {
            key,
            uid: uid.into(),
            revision,
            node: text(&spec["nodeName"]),
            restart_policy: match spec["restartPolicy"].as_str() {
                Some("Never") => RestartPolicy::Never,
                Some("OnFailure") => RestartPolicy::OnFailure,
                _ => RestartPolicy::Always,
            },
            containers,
            active_deadline_ms: spec["activeDeadlineSeconds"]
                .as_u64()
                .map(|s| s.saturating_mul(1_000)),
            deleting: (!meta::text(value, "deletionTimestamp").is_empty()).then(|| {
                let seconds = value["metadata"]["deletionGracePeriodSeconds"].as_u64();
                seconds.map_or(DEFAULT_GRACE_MS, |s| s.saturating_mul(1_000))
            }),
            drained: condition(status, coracle_api::DRAINED).is_some_and(|c| c["status"] == "True"),
            ended: coracle_api::attrs::pod_ended(value),
            pod_ip: text(&status["podIP"]),
            value: value.clone(),
        })
    }

    /// Every ConfigMap and Secret the pod names, in env and volumes.
    pub fn configs(&self) -> BTreeSet<ConfigRef> {
        let mut found = BTreeSet::new();
        let mut add = |kind, name: &Value| {
            if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
                found.insert(ConfigRef {
                    kind,
                    key: Key::new(self.key.namespace.clone(), name),
                });
            }
        };
        for c in &self.containers {
            for from in each(&c.value["envFrom"]) {
                add(ConfigKind::ConfigMap, &from["configMapRef"]["name"]);
                add(ConfigKind::Secret, &from["secretRef"]["name"]);
            }
            for from in each(&c.value["env"]).map(|e| &e["valueFrom"]) {
                add(ConfigKind::ConfigMap, &from["configMapKeyRef"]["name"]);
                add(ConfigKind::Secret, &from["secretKeyRef"]["name"]);
            }
        }
        for v in each(&self.value["spec"]["volumes"]) {
            add(ConfigKind::ConfigMap, &v["configMap"]["name"]);
            add(ConfigKind::Secret, &v["secret"]["secretName"]);
            for s in each(&v["projected"]["sources"]) {
                add(ConfigKind::ConfigMap, &s["configMap"]["name"]);
                add(ConfigKind::Secret, &s["secret"]["name"]);
            }
        }
        found
    }

    /// Names in `imagePullSecrets`, each once, in their order.
    pub fn pull_secrets(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in each(&self.value["spec"]["imagePullSecrets"]).map(|s| text(&s["name"])) {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// When the pod was first started here, from its status.
    pub fn start_time(&self) -> Option<Timestamp> {
        self.value["status"]["startTime"].as_str()?.parse().ok()
    }

    /// What an earlier life of this runner said about a container.
    pub fn container_status(&self, name: &str) -> &Value {
        let status = &self.value["status"];
        each(&status["containerStatuses"])
            .chain(each(&status["initContainerStatuses"]))
            .find(|s| s["name"] == name)
            .unwrap_or(&Value::Null)
    }
}

fn container(c: &Value, init: bool) -> ContainerSpec {
    let image = text(&c["image"]);
    ContainerSpec {
        name: text(&c["name"]),
        policy: match c["imagePullPolicy"].as_str() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            Some(_) => PullPolicy::IfNotPresent,
            None if tag_floats(&image) => PullPolicy::Always,
            None => PullPolicy::IfNotPresent,
        },
        image,
        init,
        sidecar: init && c["restartPolicy"] == "Always",
        value: c.clone(),
    }
}

/// Whether Kubernetes would default the policy to Always: no digest, and the tag is `latest` or missing.
fn tag_floats(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// The elements of an array, none if it is something else.
pub(crate) fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string, or "".
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

/// A condition of a status, by type.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    each(&status["conditions"]).find(|c| c["type"] == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_floating_tag_is_asked_for_each_time() {
        for (image, floats) in [
            ("hello", true),
            ("hello:latest", true),
            ("hello:v1", false),
            ("localhost:5000/hello", true),
            ("localhost:5000/hello:v1", false),
            ("hello@sha256:00", false),
        ] {
            assert_eq!(tag_floats(image), floats, "{image}");
        }
    }
}
