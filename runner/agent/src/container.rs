//! The life of one container: pull, prepare, link, run, end, perhaps again.
//!
//! A stage is what the container waits for. Transitions on results are here; when a stage may be left is decided in
//! [`crate::pod`], which knows the other containers.

use coracle_api::{Timestamp, meta};
use serde_json::{Value, json};

use crate::action::At;
use crate::backoff::Backoff;
use crate::config::{AgentConfig, TRAP_EVENT_MS};
use crate::input::{ContainerKind, Exit, Image, Problem, PullFailure, after, ms_between};
use crate::probe::Probes;
use crate::spec::{ContainerSpec, PodSpec, RestartPolicy, text};

/// What a container waits for.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// To be pulled.
    Fresh,
    Pulling,
    PullBackoff {
        failure: PullFailure,
        problem: Problem,
        failed_at: Timestamp,
        retry_at: Timestamp,
        pause_ms: u64,
    },
    /// To be prepared.
    Pulled,
    Preparing,
    PrepareBackoff {
        problem: Problem,
        /// `None`: these bytes will never do.
        retry_at: Option<Timestamp>,
    },
    /// To be linked.
    Prepared,
    ConfigError {
        message: String,
    },
    Linking,
    LinkBackoff {
        problem: Problem,
        retry_at: Timestamp,
    },
    Starting,
    Running {
        since: Timestamp,
    },
    Ended {
        /// `None`: for good.
        restart_at: Option<Timestamp>,
        pause_ms: u64,
    },
}

/// One container.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub spec: ContainerSpec,
    pub stage: Stage,
    /// Restarts so far; with the pod's uid and the name it identifies a run.
    pub run: u32,
    pub image: Option<Image>,
    pub known_digest: Option<String>,
    pub kind: Option<ContainerKind>,
    /// `state.terminated` of the run that ended last, if that is the current state.
    pub ended: Option<Value>,
    pub exit_code: Option<i32>,
    /// `lastState`.
    pub last: Value,
    pub probes: Probes,
    /// Whether it will run another image once it has ended.
    pub replace: bool,
    /// `KillContainer` was sent for this run.
    pub killing: bool,
    pulls: Backoff,
    prepares: Backoff,
    links: Backoff,
    restarts: Backoff,
    trap_event_at: Option<Timestamp>,
    traps_untold: u64,
}

impl Container {
    /// A container as this runner meets it: new, or left behind by an earlier life of the runner.
    pub fn meet(spec: &ContainerSpec, pod: &PodSpec, now: Timestamp) -> Self {
        let status = pod.container_status(&spec.name);
        let image_id = text(&status["imageID"]);
        let same_image = status["image"] == spec.image.as_str();
        let known_digest = image_id
            .rsplit_once('@')
            .map(|(_, digest)| digest.to_string());
        let mut c = Self {
            probes: Probes::parse(&spec.value),
            spec: spec.clone(),
            stage: Stage::Fresh,
            run: u32::try_from(status["restartCount"].as_u64().unwrap_or(0)).unwrap_or(u32::MAX),
            image: None,
            known_digest: known_digest.filter(|d| same_image && !d.is_empty()),
            kind: None,
            ended: None,
            exit_code: None,
            last: status["lastState"]["terminated"].clone(),
            replace: false,
            killing: false,
            pulls: Backoff::default(),
            prepares: Backoff::default(),
            links: Backoff::default(),
            restarts: Backoff::default(),
            trap_event_at: None,
            traps_untold: 0,
        };
        let (running, terminated) = (&status["state"]["running"], &status["state"]["terminated"]);
        let end = if !terminated.is_null() {
            Some(terminated.clone())
        } else if !running.is_null() {
            let exit = Exit {
                code: 137,
                reason: "ContainerStatusUnknown".into(),
                message: "the node's process ended while the container ran".into(),
            };
            let since = running["startedAt"].as_str().and_then(|t| t.parse().ok());
            Some(terminated_state(&c.at(&pod.uid), &exit, since, now))
        } else {
            None
        };
        if let Some(end) = end {
            let code = end["exitCode"]
                .as_i64()
                .and_then(|c| i32::try_from(c).ok())
                .unwrap_or(137);
            if c.restarts_after(code, pod.restart_policy) {
                c.last = end;
                c.run = c.run.saturating_add(1);
            } else {
                c.ended = Some(end);
                c.exit_code = Some(code);
                c.stage = Stage::Ended {
                    restart_at: None,
                    pause_ms: 0,
                };
            }
        } else if !c.last.is_null() {
            c.run = c.run.saturating_add(1);
        }
        c
    }

    /// Identity of the current run.
    pub fn at(&self, uid: &str) -> At {
        At {
            uid: uid.to_string(),
            container: self.spec.name.clone(),
            run: self.run,
        }
    }

    /// Whether it runs now.
    pub fn running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Whether it runs or is about to, so that something has to be ended.
    pub fn live(&self) -> bool {
        matches!(self.stage, Stage::Running { .. } | Stage::Starting)
    }

    /// Whether it has ended for good.
    pub fn finished(&self) -> bool {
        matches!(
            self.stage,
            Stage::Ended {
                restart_at: None,
                ..
            }
        )
    }

    /// Whether it ever ran.
    pub fn has_run(&self) -> bool {
        self.running() || self.ended.is_some() || !self.last.is_null()
    }

    /// Whether it is started in the sense of the API.
    pub fn started(&self) -> bool {
        self.running() && self.probes.started()
    }

    /// Whether it is ready in the sense of the API.
    pub fn ready(&self) -> bool {
        self.running() && !self.killing && self.probes.ready()
    }

    /// Whether the containers after it may start (init containers only).
    pub fn init_done(&self) -> bool {
        if self.spec.sidecar {
            self.started()
        } else {
            self.finished() && self.exit_code == Some(0)
        }
    }

    /// Whether it serves requests.
    pub fn serves(&self) -> bool {
        self.running() && self.kind == Some(ContainerKind::Service)
    }

    fn restarts_after(&self, code: i32, policy: RestartPolicy) -> bool {
        match (policy, self.spec.init, self.spec.sidecar) {
            (_, _, true) => true,
            (RestartPolicy::Never, ..) => false,
            (RestartPolicy::Always, false, _) => true,
            (RestartPolicy::Always, true, _) | (RestartPolicy::OnFailure, ..) => code != 0,
        }
    }

    /// A pull failed.
    pub fn pull_failed(
        &mut self,
        failure: PullFailure,
        problem: Problem,
        now: Timestamp,
        config: &AgentConfig,
    ) {
        let pause_ms = self.pulls.next_ms(config);
        self.stage = Stage::PullBackoff {
            failure,
            problem,
            failed_at: now,
            retry_at: after(now, pause_ms),
            pause_ms,
        };
    }

    /// The image is here.
    pub fn pulled(&mut self, image: Image) {
        self.pulls.reset();
        self.known_digest = Some(image.digest.clone());
        self.image = Some(image);
        self.stage = Stage::Pulled;
    }

    /// Preparing failed.
    pub fn prepare_failed(
        &mut self,
        problem: Problem,
        permanent: bool,
        now: Timestamp,
        config: &AgentConfig,
    ) {
        let pause = self.prepares.next_ms(config);
        self.stage = Stage::PrepareBackoff {
            problem,
            retry_at: (!permanent).then(|| after(now, pause)),
        };
    }

    /// Linking failed.
    pub fn link_failed(&mut self, problem: Problem, now: Timestamp, config: &AgentConfig) {
        let pause = self.links.next_ms(config);
        self.stage = Stage::LinkBackoff {
            problem,
            retry_at: after(now, pause),
        };
    }

    /// It runs.
    pub fn run_began(&mut self, now: Timestamp) {
        self.links.reset();
        self.prepares.reset();
        self.stage = Stage::Running { since: now };
        self.ended = None;
        self.exit_code = None;
        self.killing = false;
        self.probes.start(now);
    }

    /// A run ended; `going` says that the pod leaves, so nothing starts again.
    pub fn run_ended(
        &mut self,
        uid: &str,
        exit: &Exit,
        now: Timestamp,
        policy: RestartPolicy,
        going: bool,
        config: &AgentConfig,
    ) {
        let since = match self.stage {
            Stage::Running { since } => Some(since),
            _ => None,
        };
        self.ended = Some(terminated_state(&self.at(uid), exit, since, now));
        self.exit_code = Some(exit.code);
        self.probes.stop();
        if since.is_some_and(|s| ms_between(s, now) >= config.backoff_reset_ms) {
            self.restarts.reset();
        }
        if going || !(self.replace || self.restarts_after(exit.code, policy)) {
            self.stage = Stage::Ended {
                restart_at: None,
                pause_ms: 0,
            };
            return;
        }
        let pause_ms = if self.replace {
            0
        } else {
            self.restarts.next_restart_ms(config)
        };
        self.stage = Stage::Ended {
            restart_at: Some(after(now, pause_ms)),
            pause_ms,
        };
    }

    /// Begins another run: the compiled code is kept, grants are resolved anew.
    pub fn next_run(&mut self) {
        self.last = self.ended.take().unwrap_or(Value::Null);
        self.exit_code = None;
        self.run = self.run.saturating_add(1);
        self.killing = false;
        if self.replace {
            self.replace = false;
            self.forget_image();
        } else {
            self.stage = Stage::Prepared;
        }
    }

    /// The spec names another image now. True if the running one has to be ended first.
    pub fn take_image(&mut self, spec: &ContainerSpec) -> bool {
        self.spec = spec.clone();
        self.probes = Probes::parse(&spec.value);
        if self.live() {
            self.replace = true;
            return !std::mem::replace(&mut self.killing, true);
        }
        // Another run number, so that results of work on the old image are not believed.
        self.run = self.run.saturating_add(1);
        self.forget_image();
        false
    }

    fn forget_image(&mut self) {
        self.image = None;
        self.known_digest = None;
        self.kind = None;
        self.stage = Stage::Fresh;
    }

    /// A request trapped. How many traps an Event should tell of now, if it is time for one.
    pub fn trapped(&mut self, now: Timestamp) -> Option<u64> {
        self.traps_untold = self.traps_untold.saturating_add(1);
        if self
            .trap_event_at
            .is_some_and(|t| ms_between(t, now) < TRAP_EVENT_MS)
        {
            return None;
        }
        self.trap_event_at = Some(now);
        Some(std::mem::take(&mut self.traps_untold))
    }
}

/// `state.terminated` of a run.
fn terminated_state(at: &At, exit: &Exit, since: Option<Timestamp>, now: Timestamp) -> Value {
    let mut state = json!({
        "exitCode": exit.code,
        "reason": exit.reason,
        "startedAt": meta::time_text(since.unwrap_or(now)),
        "finishedAt": meta::time_text(now),
        "containerID": container_id(at),
    });
    if !exit.message.is_empty() {
        state["message"] = json!(crate::events::bounded(exit.message.clone()));
    }
    state
}

/// `containerID` of a run.
pub(crate) fn container_id(at: &At) -> String {
    format!("coracle://{}/{}/{}", at.uid, at.container, at.run)
}
