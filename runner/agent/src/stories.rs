//! Stories about one node: pods come, things happen, and the story says what the agent asked for and what the API
//! shows. A small fake of the runner answers what the story does not hold back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::{Key, Timestamp, meta};
use serde_json::{Value, json};

use crate::input::after;
use crate::*;

mod configuration;
mod leaving;
mod restarts;
mod running;

/// A node, the API as it sees it, and a runner that answers.
struct Story {
    agent: Agent,
    now: Timestamp,
    /// Pods in the API by uid.
    api: BTreeMap<String, Value>,
    configs: BTreeMap<ConfigRef, Arc<Value>>,
    revision: u64,
    /// Words of actions that are not answered.
    hold: BTreeSet<&'static str>,
    /// What was asked for, in short words, since it was last looked at.
    asked: Vec<String>,
    grants: BTreeMap<String, Grants>,
    volumes: BTreeMap<String, VolumeSource>,
    wake: Option<Timestamp>,
    writes: usize,
}

impl Story {
    fn new() -> Self {
        Self {
            agent: Agent::new(AgentConfig::new("n1", "127.0.0.1")),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            api: BTreeMap::new(),
            configs: BTreeMap::new(),
            revision: 100,
            hold: BTreeSet::new(),
            asked: Vec::new(),
            grants: BTreeMap::new(),
            volumes: BTreeMap::new(),
            wake: None,
            writes: 0,
        }
    }

    fn hold(mut self, word: &'static str) -> Self {
        self.hold.insert(word);
        self
    }

    /// A pod bound to the node; the image's name says what it is: `web`, `job` or `lib`.
    fn pod(&mut self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let uid = format!("u-{name}");
        self.revision += 1;
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": uid, "resourceVersion": self.revision.to_string(),
                "labels": {"app": name}},
            "spec": spec,
            "status": {"phase": "Pending", "podIP": "10.42.0.9",
                "conditions": [{"type": "PodScheduled", "status": "True"}]},
        });
        self.api.insert(uid.clone(), pod);
        self.show(name);
    }

    /// Changes a pod in the API and shows it to the agent.
    fn edit(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let pod = self.api.get_mut(&format!("u-{name}")).unwrap();
        change(pod);
        self.revision += 1;
        pod["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.show(name);
    }

    fn show(&mut self, name: &str) {
        let pod = Arc::new(self.api[&format!("u-{name}")].clone());
        self.tell(Input::Pod(pod));
    }

    fn tell(&mut self, input: Input) {
        let mut todo = vec![input];
        let mut steps = 0;
        while let Some(input) = todo.pop() {
            steps += 1;
            assert!(
                steps < 500,
                "the agent does not come to rest: {:?}",
                self.asked
            );
            let actions = self.agent.step(self.now, input);
            let mut answers: Vec<Input> = actions
                .into_iter()
                .filter_map(|a| self.perform(a))
                .collect();
            answers.reverse();
            todo.extend(answers);
        }
    }

    fn perform(&mut self, action: Action) -> Option<Input> {
        let (word, text, answer) = match action {
            Action::WakeAt(at) => {
                self.wake = Some(at);
                return None;
            }
            Action::WatchConfig(config) => {
                let object = self.configs.get(&config).cloned();
                (
                    "watch",
                    format!("watch {} {}", config.kind.word(), config.key),
                    Some(Input::Config { config, object }),
                )
            }
            Action::UnwatchConfig(c) => (
                "unwatch",
                format!("unwatch {} {}", c.kind.word(), c.key),
                None,
            ),
            Action::Mount { uid, volumes, .. } => {
                self.volumes
                    .extend(volumes.into_iter().map(|v| (v.name, v.source)));
                (
                    "mount",
                    format!("mount {uid}"),
                    Some(Input::Mounted { uid }),
                )
            }
            Action::UpdateVolume { volume, .. } => {
                let text = format!("update volume {}", volume.name);
                self.volumes.insert(volume.name, volume.source);
                ("update", text, None)
            }
            Action::Pull {
                at,
                image,
                known_digest,
                secrets,
                ..
            } => {
                let known = known_digest
                    .map(|d| format!(" known {d}"))
                    .unwrap_or_default();
                let with: String = secrets.iter().map(|s| format!(" with {s}")).collect();
                let text = format!("pull {} {image}{known}{with}", at.container);
                let digest = "sha256:1".to_string();
                let image = Image {
                    id: format!("{image}@{digest}"),
                    wasm: image,
                    digest,
                };
                (
                    "pull",
                    text,
                    Some(Input::Pulled {
                        at,
                        image,
                        transfer: None,
                    }),
                )
            }
            Action::Prepare {
                at,
                image,
                siblings,
            } => {
                let kind = match image.wasm.as_str() {
                    w if w.starts_with("web") => ContainerKind::Service,
                    w if w.starts_with("lib") => ContainerKind::Library,
                    _ => ContainerKind::Command,
                };
                let with: Vec<_> = siblings.iter().map(|s| s.0.as_str()).collect();
                let text = format!(
                    "prepare {}{}",
                    at.container,
                    if with.is_empty() {
                        String::new()
                    } else {
                        format!(" with {}", with.join(","))
                    }
                );
                ("prepare", text, Some(Input::Prepared { at, kind }))
            }
            Action::Link { at, grants, .. } => {
                self.grants.insert(at.container.clone(), *grants);
                (
                    "link",
                    format!("link {}", at.container),
                    Some(Input::Linked { at }),
                )
            }
            Action::Start { at } => (
                "start",
                format!("start {} run {}", at.container, at.run),
                Some(Input::Started { at }),
            ),
            Action::Serve { at, port } => {
                ("serve", format!("serve {} on {port}", at.container), None)
            }
            Action::Probe {
                at, kind, check, ..
            } => (
                "probe",
                format!("probe {} {check:?}", at.container),
                Some(Input::Probed {
                    at,
                    kind,
                    outcome: Ok(()),
                }),
            ),
            Action::KillContainer { at } => {
                let text = format!("kill container {}", at.container);
                (
                    "kill container",
                    text,
                    Some(Input::Exited {
                        at,
                        exit: Exit {
                            reason: "Killed".into(),
                            ..Exit::code(137)
                        },
                    }),
                )
            }
            Action::StopAccepting { uid } => (
                "stop",
                format!("stop accepting {uid}"),
                Some(Input::Stopped { uid }),
            ),
            Action::Kill { uid } => ("kill", format!("kill {uid}"), Some(Input::Killed { uid })),
            Action::Forget { uid, .. } => ("forget", format!("forget {uid}"), None),
            Action::WriteStatus {
                uid,
                revision,
                seq,
                status,
                ..
            } => {
                self.writes += 1;
                if self.hold.contains("status") {
                    return None;
                }
                return Some(self.write(&uid, revision, seq, &status));
            }
            Action::DeletePod { uid, .. } => {
                let answer = (!self.hold.contains("delete")).then(|| {
                    self.api.remove(&uid);
                    Input::Gone { uid: uid.clone() }
                });
                ("delete", format!("delete {uid}"), answer)
            }
            Action::Event {
                reason,
                message,
                kind,
                ..
            } => {
                let text = format!("{} {reason}: {message}", kind.word());
                if kind == EventType::Warning {
                    self.asked.push(text);
                }
                return None;
            }
        };
        self.asked.push(text);
        answer.filter(|_| !self.hold.contains(word))
    }

    /// The API server: preconditions, then a merge.
    fn write(&mut self, uid: &str, revision: u64, seq: u64, status: &Value) -> Input {
        let uid = uid.to_string();
        let Some(pod) = self.api.get_mut(&uid) else {
            return Input::StatusFailed {
                uid,
                seq,
                why: StatusFailure::Gone,
            };
        };
        if meta::revision(pod) != Some(revision) {
            return Input::StatusFailed {
                uid,
                seq,
                why: StatusFailure::Conflict,
            };
        }
        for (k, v) in status.as_object().unwrap() {
            if v.is_null() {
                pod["status"].as_object_mut().unwrap().remove(k);
            } else {
                pod["status"][k] = v.clone();
            }
        }
        self.revision += 1;
        pod["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        Input::StatusWritten {
            uid,
            seq,
            revision: self.revision,
        }
    }

    /// Lets time pass, ticking when the agent asked for it.
    fn pass(&mut self, seconds: u64) {
        let end = after(self.now, seconds * 1_000);
        while let Some(at) = self.wake.filter(|t| *t <= end) {
            self.wake = None;
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = end;
    }

    fn asked(&mut self) -> Vec<String> {
        std::mem::take(&mut self.asked)
    }

    fn status(&self, name: &str) -> &Value {
        &self.api[&format!("u-{name}")]["status"]
    }

    fn container(&self, name: &str, container: &str) -> &Value {
        let status = self.status(name);
        let lists = [
            &status["containerStatuses"],
            &status["initContainerStatuses"],
        ];
        lists
            .into_iter()
            .flat_map(|l| l.as_array().into_iter().flatten())
            .find(|c| c["name"] == container)
            .unwrap()
    }

    fn waiting(&self, name: &str, container: &str) -> (&str, &str) {
        let w = &self.container(name, container)["state"]["waiting"];
        (
            w["reason"].as_str().unwrap_or(""),
            w["message"].as_str().unwrap_or(""),
        )
    }

    fn condition(&self, name: &str, kind: &str) -> &str {
        let all = self.status(name)["conditions"].as_array().unwrap();
        all.iter()
            .find(|c| c["type"] == kind)
            .map_or("", |c| c["status"].as_str().unwrap())
    }

    fn at(&self, name: &str, container: &str, run: u32) -> At {
        At {
            uid: format!("u-{name}"),
            container: container.into(),
            run,
        }
    }

    fn exits(&mut self, name: &str, container: &str, run: u32, code: i32) {
        self.tell(Input::Exited {
            at: self.at(name, container, run),
            exit: Exit::code(code),
        });
    }

    fn config(&mut self, kind: ConfigKind, name: &str, object: Value) {
        let config = ConfigRef {
            kind,
            key: Key::new("default", name),
        };
        let object = Arc::new(object);
        self.configs.insert(config.clone(), object.clone());
        self.tell(Input::Config {
            config,
            object: Some(object),
        });
    }

    fn delete(&mut self, name: &str, grace_s: u64) {
        let now = self.now;
        self.edit(name, |p| {
            p["metadata"]["deletionTimestamp"] = json!(meta::time_text(now));
            p["metadata"]["deletionGracePeriodSeconds"] = json!(grace_s);
        });
    }

    fn drained(&mut self, name: &str) {
        self.edit(name, |p| {
            let all = p["status"]["conditions"].as_array_mut().unwrap();
            all.push(json!({"type": coracle_api::DRAINED, "status": "True"}));
        });
    }
}

fn web() -> Value {
    json!({"containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 8080}]}]})
}

fn job(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "job", "image": "job:1"}]})
}
