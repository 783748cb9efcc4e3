//! What the API shows of a pod, and when to write it.
//!
//! The whole status this node owns is rendered at each step and compared with what was last written; at most one write
//! per pod is under way, so changes between two writes are coalesced. Conditions of other owners (`PodScheduled`,
//! `coracle/Drained`) are carried along; since a merge patch replaces the list, each write names the revision it was
//! made from and is refused if somebody wrote in between.

use coracle_api::{Timestamp, meta};
use serde_json::{Map, Value, json};

use crate::action::Action;
use crate::config::{SETTLE_MS, WRITE_RETRY_MS};
use crate::container::{Container, Stage, container_id};
use crate::events::{Out, bounded};
use crate::input::{PullFailure, StatusFailure, after};
use crate::leaving::Life;
use crate::pod::{Mount, Pod};
use crate::spec::{RestartPolicy, condition, each};

/// Condition types this node writes.
const OWN: [&str; 3] = ["Initialized", "ContainersReady", "Ready"];

/// A write that has not been answered.
#[derive(Clone, Debug)]
struct Write {
    seq: u64,
    /// Revision it was made from.
    revision: u64,
    /// Our part of it.
    own: Value,
    /// All of it.
    full: Value,
    sent: Timestamp,
}

/// The writer of one pod's status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    seq: u64,
    /// What was last written, without conditions of others.
    written: Option<Value>,
    /// The write under way.
    under_way: Option<Write>,
    /// No write before this time, unless the pod has moved past the revision.
    hold: Option<(Timestamp, u64)>,
    /// The pod is not there (any more); nothing is written.
    pub frozen: bool,
}

impl Report {
    /// A writer that has written nothing; a frozen one never will.
    pub fn new(frozen: bool) -> Self {
        Self {
            frozen,
            ..Self::default()
        }
    }

    /// Nothing is left to be written.
    pub fn settled(&self) -> bool {
        self.frozen || (self.under_way.is_none() && self.hold.is_none() && self.written.is_some())
    }
}

impl Pod {
    /// Renders the status and writes it if it has changed.
    pub(crate) fn write_status(&mut self, now: Timestamp, out: &mut Out) {
        if self.report.frozen || self.gone {
            return;
        }
        let own = self.render(now);
        if let Some(write) = &self.report.under_way {
            let retry_at = after(write.sent, WRITE_RETRY_MS);
            if now < retry_at {
                self.wake_at(Some(retry_at));
                return;
            }
            self.report.under_way = None;
        }
        if self.report.written.as_ref() == Some(&own) {
            self.report.hold = None;
            return;
        }
        if let Some((until, revision)) = self.report.hold {
            if now < until && self.spec.revision <= revision {
                self.wake_at(Some(until));
                return;
            }
            self.report.hold = None;
        }
        self.report.seq += 1;
        let mut status = own.clone();
        status["conditions"] = merged(&self.spec.value["status"], &own["conditions"]);
        out.push(Action::WriteStatus {
            key: self.spec.key.clone(),
            uid: self.spec.uid.clone(),
            revision: self.spec.revision,
            seq: self.report.seq,
            status: status.clone(),
        });
        self.report.under_way = Some(Write {
            seq: self.report.seq,
            revision: self.spec.revision,
            own,
            full: status,
            sent: now,
        });
        self.wake_at(Some(after(now, WRITE_RETRY_MS)));
    }

    /// A write took effect: the pod here becomes what it is there.
    pub(crate) fn status_written(&mut self, seq: u64, revision: u64) {
        let Some(Write { own, full, .. }) = self.report.under_way.take_if(|w| w.seq == seq) else {
            return;
        };
        self.report.written = Some(own);
        if revision > self.spec.revision {
            self.spec.revision = revision;
            let value = std::sync::Arc::make_mut(&mut self.spec.value);
            value["metadata"]["resourceVersion"] = json!(revision.to_string());
            if let (Some(to), Some(from)) = (value["status"].as_object_mut(), full.as_object()) {
                for (k, v) in from {
                    if v.is_null() {
                        to.remove(k)
                    } else {
                        to.insert(k.clone(), v.clone())
                    };
                }
            } else {
                value["status"] = full;
            }
        }
    }

    /// A write did not take effect.
    pub(crate) fn status_failed(&mut self, seq: u64, why: StatusFailure, now: Timestamp) {
        let Some(write) = self.report.under_way.take_if(|w| w.seq == seq) else {
            return;
        };
        match why {
            StatusFailure::Gone => self.report.frozen = true,
            // A newer revision from the watch ends the wait after a conflict, and may have come before the answer;
            // after other errors only time does.
            StatusFailure::Conflict => {
                self.report.hold = Some((after(now, WRITE_RETRY_MS), write.revision))
            }
            StatusFailure::Retry => self.report.hold = Some((after(now, WRITE_RETRY_MS), u64::MAX)),
        }
    }

    /// Somebody else wrote over what is ours: write it again.
    pub(crate) fn check_overwritten(&mut self) {
        let status = &self.spec.value["status"];
        let Some(written) = &self.report.written else {
            return;
        };
        let same = status["phase"] == written["phase"]
            && each(&written["conditions"]).all(|c| {
                condition(status, c["type"].as_str().unwrap_or_default())
                    .is_some_and(|s| s["status"] == c["status"])
            });
        if !same && self.report.under_way.is_none() {
            self.report.written = None;
        }
    }

    fn render(&mut self, now: Timestamp) -> Value {
        let (mut init, mut main) = (Vec::new(), Vec::new());
        let mut settle: Option<Timestamp> = None;
        for c in &self.containers {
            if let Stage::PullBackoff { failed_at, .. } = &c.stage {
                let at = after(*failed_at, SETTLE_MS);
                settle = if at > now {
                    Some(settle.map_or(at, |s| s.min(at)))
                } else {
                    settle
                };
            }
            if c.spec.init {
                init.push(self.container_status(c, now))
            } else {
                main.push(self.container_status(c, now))
            }
        }
        self.wake_at(settle);
        let phase = self.phase();
        let mut status = json!({
            "phase": phase,
            "startTime": meta::time_text(self.start_time),
            "containerStatuses": main,
            "reason": self.failed.as_ref().map(|f| f.0),
            "message": self.failed.as_ref().map(|f| bounded(f.1.clone())),
        });
        if !init.is_empty() {
            status["initContainerStatuses"] = Value::Array(init);
        }
        if !self.host_ip.is_empty() {
            status["hostIP"] = json!(self.host_ip);
            status["hostIPs"] = json!([{"ip": self.host_ip}]);
        }
        status["conditions"] = Value::Array(self.conditions(phase, now));
        status
    }

    fn phase(&self) -> &'static str {
        let mut main = self.containers.iter().filter(|c| !c.spec.init);
        if self.failed.is_some() {
            return "Failed";
        }
        match self.life {
            Life::Done if main.all(|c| c.exit_code == Some(0)) => "Succeeded",
            Life::Done => "Failed",
            _ if main.all(Container::has_run) => "Running",
            _ => "Pending",
        }
    }

    /// Our conditions; the time of the last transition moves only when the status does.
    fn conditions(&mut self, phase: &str, now: Timestamp) -> Vec<Value> {
        let unready = |init: bool| -> Vec<&str> {
            let wanted = self.containers.iter().filter(|c| c.spec.init == init);
            wanted
                .filter(|c| if init { !c.init_done() } else { !c.ready() })
                .map(|c| c.spec.name.as_str())
                .collect()
        };
        let ended = matches!(phase, "Succeeded" | "Failed");
        let incomplete = unready(true);
        let not_ready = unready(false);
        let (init_reason, init_text) =
            if phase == "Succeeded" || incomplete.is_empty() || self.initialized {
                self.initialized = true;
                (None, None)
            } else {
                let text = format!(
                    "containers with incomplete status: [{}]",
                    incomplete.join(" ")
                );
                (Some("ContainersNotInitialized"), Some(text))
            };
        let (ready_reason, ready_text) = match phase {
            "Succeeded" => (Some("PodCompleted"), None),
            "Failed" => (Some("PodFailed"), None),
            _ if not_ready.is_empty() => (None, None),
            _ => (
                Some("ContainersNotReady"),
                Some(format!(
                    "containers with unready status: [{}]",
                    not_ready.join(" ")
                )),
            ),
        };
        let mut gate = None;
        if ready_reason.is_none() {
            let status = &self.spec.value["status"];
            gate = each(&self.spec.value["spec"]["readinessGates"])
                .filter_map(|g| g["conditionType"].as_str())
                .find(|t| condition(status, t).is_none_or(|c| c["status"] != "True"))
                .map(|t| format!("the status of pod readiness gate \"{t}\" is not \"True\""));
        }
        debug_assert!(!ended || ready_reason.is_some());
        let ready = match gate {
            Some(text) => (Some("ReadinessGatesNotReady"), Some(text)),
            None => (ready_reason, ready_text.clone()),
        };
        let wanted = [(init_reason, init_text), (ready_reason, ready_text), ready];
        let mut all = Vec::new();
        for (kind, (reason, text)) in OWN.iter().zip(wanted) {
            let value = if reason.is_none() { "True" } else { "False" };
            let before = self.conditions.get(*kind).cloned();
            let since = match &before {
                Some((old, since)) if old == value => since.clone(),
                _ => meta::time_text(now),
            };
            self.conditions
                .insert(kind, (value.to_string(), since.clone()));
            let mut c = Map::new();
            c.insert("type".into(), json!(kind));
            c.insert("status".into(), json!(value));
            c.insert("lastTransitionTime".into(), json!(since));
            if let Some(reason) = reason {
                c.insert("reason".into(), json!(reason));
            }
            if let Some(text) = text {
                c.insert("message".into(), json!(text));
            }
            all.push(Value::Object(c));
        }
        all
    }

    fn container_status(&self, c: &Container, now: Timestamp) -> Value {
        let at = c.at(&self.spec.uid);
        let (state, last) = self.state(c, now);
        let mut status = json!({
            "name": c.spec.name,
            "image": c.spec.image,
            "imageID": c.image.as_ref().map_or("", |i| i.id.as_str()),
            "ready": if c.spec.init && !c.spec.sidecar { c.init_done() } else { c.ready() },
            "started": c.started(),
            "restartCount": c.run,
            "state": state,
            "lastState": if last.is_null() { json!({}) } else { json!({"terminated": last}) },
        });
        if c.running() || c.ended.is_some() {
            status["containerID"] = json!(container_id(&at));
        }
        status
    }

    /// `state` and what belongs into `lastState.terminated`.
    fn state(&self, c: &Container, now: Timestamp) -> (Value, Value) {
        let waiting = |reason: &str, message: Option<String>| match message {
            Some(m) => json!({"waiting": {"reason": reason, "message": bounded(m)}}),
            None => json!({"waiting": {"reason": reason}}),
        };
        let state = match &c.stage {
            Stage::Running { since } => json!({"running": {"startedAt": meta::time_text(*since)}}),
            Stage::Ended {
                restart_at: None, ..
            } => match &c.ended {
                Some(ended) => json!({"terminated": ended}),
                None => waiting("ContainerCreating", None),
            },
            Stage::Ended { pause_ms, .. } => {
                let text = format!(
                    "back-off {}s restarting failed container={} pod={}_{}({})",
                    pause_ms / 1_000,
                    c.spec.name,
                    self.spec.key.name,
                    self.spec.key.namespace,
                    self.spec.uid
                );
                return (
                    waiting("CrashLoopBackOff", Some(text)),
                    c.ended.clone().unwrap_or_default(),
                );
            }
            Stage::PullBackoff {
                failure,
                problem,
                failed_at,
                pause_ms,
                ..
            } => {
                let reason = match failure {
                    PullFailure::InvalidName => "InvalidImageName",
                    PullFailure::Unsupported => "ErrImageUnsupported",
                    PullFailure::NeverPull => "ErrImageNeverPull",
                    PullFailure::Pull if now < after(*failed_at, SETTLE_MS) => "ErrImagePull",
                    PullFailure::Pull => {
                        let text = format!(
                            "Back-off {}s pulling image \"{}\": {problem}",
                            pause_ms / 1_000,
                            c.spec.image
                        );
                        return (waiting("ImagePullBackOff", Some(text)), c.last.clone());
                    }
                };
                waiting(reason, Some(problem.to_string()))
            }
            Stage::PrepareBackoff { problem, .. } | Stage::LinkBackoff { problem, .. } => {
                waiting("CreateContainerError", Some(problem.to_string()))
            }
            Stage::ConfigError { message } => {
                waiting("CreateContainerConfigError", Some(message.clone()))
            }
            _ => match &self.mount {
                Mount::Failed { message, .. } => {
                    waiting("ContainerCreating", Some(message.clone()))
                }
                _ if !c.spec.init
                    && self
                        .containers
                        .iter()
                        .any(|i| i.spec.init && !i.init_done()) =>
                {
                    waiting("PodInitializing", None)
                }
                _ => waiting("ContainerCreating", None),
            },
        };
        (state, c.last.clone())
    }

    /// Whether the pod's policy lets it end by itself.
    pub(crate) fn may_end(&self) -> bool {
        self.spec.restart_policy != RestartPolicy::Always
    }
}

/// The conditions there are, with ours replaced or added.
fn merged(status: &Value, own: &Value) -> Value {
    let mut all: Vec<Value> = Vec::new();
    for c in each(&status["conditions"]) {
        let ours = each(own).find(|o| o["type"] == c["type"]);
        all.push(ours.unwrap_or(c).clone());
    }
    for c in each(own) {
        if !all.iter().any(|a| a["type"] == c["type"]) {
            all.push(c.clone());
        }
    }
    Value::Array(all)
}
