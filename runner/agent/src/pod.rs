//! The life of one pod: what it waits for next, given all its containers.
//!
//! [`Pod::advance`] is level-triggered: it looks at the whole pod and asks for whatever can be asked for now. It runs
//! after every input about the pod and when a time it named has come.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use coracle_api::{Key, Timestamp, meta};

use crate::action::{Action, EventType, Grants, Limits, VolumeSource};
use crate::config::AgentConfig;
use crate::container::{Container, Stage};
use crate::env::{self, Configs};
use crate::events::Out;
use crate::input::{ContainerKind, Exit, Problem, after};
use crate::leaving::Life;
use crate::probe::Verdict;
use crate::spec::{PodSpec, each};
use crate::status::Report;
use crate::volumes;

/// Where the pod's volumes are.
#[derive(Clone, Debug)]
pub(crate) enum Mount {
    Waiting,
    Failed {
        message: String,
        retry_at: Option<Timestamp>,
    },
    Asked,
    Done,
}

/// A pod on this node.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub spec: PodSpec,
    pub containers: Vec<Container>,
    pub life: Life,
    /// The API has it no more.
    pub gone: bool,
    /// Nothing is in flight any more.
    pub stopped: bool,
    pub leaving_since: Option<Timestamp>,
    pub delete_sent_at: Option<Timestamp>,
    pub mount: Mount,
    mount_tries: crate::backoff::Backoff,
    /// Fingerprints of the volumes made of objects, to see when one has changed.
    volumes: BTreeMap<String, u64>,
    pub start_time: Timestamp,
    pub host_ip: String,
    /// `reason` and `message` of a pod that failed as a whole.
    pub failed: Option<(&'static str, String)>,
    /// Status and time of our conditions.
    pub conditions: BTreeMap<&'static str, (String, String)>,
    pub initialized: bool,
    pub report: Report,
    /// The next time this pod wants to be looked at; collected during a pass.
    pub wake: Option<Timestamp>,
}

impl PodSpec {
    /// Key and uid, as Events name the pod.
    pub fn who(&self) -> (&Key, &str) {
        (&self.key, &self.uid)
    }
}

impl Pod {
    /// A pod as this runner meets it.
    pub fn meet(spec: PodSpec, now: Timestamp, config: &AgentConfig) -> Self {
        let containers = spec
            .containers
            .iter()
            .map(|c| Container::meet(c, &spec, now))
            .collect();
        let mut conditions = BTreeMap::new();
        for kind in ["Initialized", "ContainersReady", "Ready"] {
            if let Some(c) = crate::spec::condition(&spec.value["status"], kind) {
                let text = |field: &str| c[field].as_str().unwrap_or_default().to_string();
                conditions.insert(kind, (text("status"), text("lastTransitionTime")));
            }
        }
        let mut pod = Self {
            containers,
            life: if spec.ended { Life::Done } else { Life::Active },
            gone: false,
            stopped: false,
            leaving_since: None,
            delete_sent_at: None,
            mount: Mount::Waiting,
            mount_tries: crate::backoff::Backoff::default(),
            volumes: BTreeMap::new(),
            start_time: spec.start_time().unwrap_or(now),
            host_ip: config.host_ip.clone(),
            failed: None,
            conditions,
            initialized: false,
            report: Report::new(spec.ended),
            wake: None,
            spec,
        };
        pod.initialized = pod
            .containers
            .iter()
            .filter(|c| c.spec.init && !c.spec.sidecar)
            .all(Container::init_done)
            && pod
                .conditions
                .get("Initialized")
                .is_some_and(|c| c.0 == "True");
        pod
    }

    /// A newer revision of the pod.
    pub fn take(&mut self, spec: PodSpec, out: &mut Out) {
        for (c, new) in self.containers.iter_mut().zip(&spec.containers) {
            if c.spec.name == new.name
                && c.spec.image != new.image
                && self.life == Life::Active
                && c.take_image(new)
            {
                let text = format!(
                    "Container {} definition changed, will be restarted",
                    new.name
                );
                out.event(spec.who(), &new.name, EventType::Normal, "Killing", text);
                out.push(Action::KillContainer {
                    at: c.at(&spec.uid),
                });
            }
        }
        self.spec = spec;
        if self.spec.ended && self.life == Life::Active {
            // Somebody declared it ended; its room on the node is free for others from now on.
            self.report.frozen = true;
            self.kill(out);
        }
        self.check_overwritten();
    }

    /// Wants to be looked at again at this time at the latest.
    pub fn wake_at(&mut self, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
        }
    }

    /// One pass: asks for everything that can be asked for now, then reports.
    pub fn advance(
        &mut self,
        now: Timestamp,
        config: &AgentConfig,
        configs: Configs<'_>,
        known: bool,
        out: &mut Out,
    ) {
        self.wake = None;
        self.leave(now, out);
        if self.life == Life::Active {
            self.pull(now, out);
            self.mount(now, config, configs, known, out);
            self.run(now, config, configs, out);
            self.probe(now, out);
        }
        self.write_status(now, out);
        self.delete(now, out);
        // What is due now has been done, or waits for an input that will bring another pass.
        self.wake = self.wake.filter(|t| *t > now);
    }

    fn pull(&mut self, now: Timestamp, out: &mut Out) {
        let mut wake = None;
        for c in &mut self.containers {
            if let Stage::PullBackoff { retry_at, .. } = c.stage {
                if retry_at <= now {
                    c.stage = Stage::Fresh;
                } else {
                    wake = Some(wake.map_or(retry_at, |w: Timestamp| w.min(retry_at)));
                }
            }
            if matches!(c.stage, Stage::Fresh) {
                c.stage = Stage::Pulling;
                out.push(Action::Pull {
                    at: c.at(&self.spec.uid),
                    pod: self.spec.key.clone(),
                    image: c.spec.image.clone(),
                    policy: c.spec.policy,
                    known_digest: c.known_digest.clone(),
                });
            }
        }
        self.wake_at(wake);
    }

    fn mount(
        &mut self,
        now: Timestamp,
        config: &AgentConfig,
        configs: Configs<'_>,
        known: bool,
        out: &mut Out,
    ) {
        let again = match &self.mount {
            Mount::Waiting => true,
            Mount::Failed { retry_at, .. } => retry_at.is_none_or(|t| t <= now),
            Mount::Asked | Mount::Done => false,
        };
        if again && known {
            match volumes::resolve(&self.spec, &config.host_ip, configs) {
                Ok(volumes) => {
                    self.volumes = volumes
                        .iter()
                        .map(|v| (v.name.clone(), fingerprint(&v.source)))
                        .collect();
                    self.mount = Mount::Asked;
                    out.push(Action::Mount {
                        uid: self.spec.uid.clone(),
                        pod: self.spec.key.clone(),
                        volumes,
                    });
                }
                // Only another object can change this, and that is an input.
                Err(message) => self.mount_error(message, None, out),
            }
        }
        if let Mount::Failed { retry_at, .. } = self.mount {
            self.wake_at(retry_at);
        }
    }

    fn mount_error(&mut self, message: String, retry_at: Option<Timestamp>, out: &mut Out) {
        let told =
            matches!(&self.mount, Mount::Failed { message: before, .. } if *before == message);
        if !told {
            out.event(
                self.spec.who(),
                "",
                EventType::Warning,
                "FailedMount",
                message.clone(),
            );
        }
        self.mount = Mount::Failed { message, retry_at };
    }

    /// The volumes could not be made.
    pub fn mount_failed(
        &mut self,
        problem: &Problem,
        now: Timestamp,
        config: &AgentConfig,
        out: &mut Out,
    ) {
        if matches!(self.mount, Mount::Asked) {
            let pause = self.mount_tries.next_ms(config);
            self.mount_error(problem.to_string(), Some(after(now, pause)), out);
        }
    }

    /// A ConfigMap or Secret changed: volumes made of it get their new content.
    pub fn refresh_volumes(&mut self, config: &AgentConfig, configs: Configs<'_>, out: &mut Out) {
        if !matches!(self.mount, Mount::Done | Mount::Asked) || self.life != Life::Active {
            return;
        }
        // An object that went away leaves the files as they were, as in Kubernetes.
        let Ok(volumes) = volumes::resolve(&self.spec, &config.host_ip, configs) else {
            return;
        };
        for volume in volumes {
            let print = fingerprint(&volume.source);
            if matches!(volume.source, VolumeSource::Files(_))
                && self.volumes.insert(volume.name.clone(), print) != Some(print)
            {
                out.push(Action::UpdateVolume {
                    uid: self.spec.uid.clone(),
                    volume,
                });
            }
        }
    }

    fn run(&mut self, now: Timestamp, config: &AgentConfig, configs: Configs<'_>, out: &mut Out) {
        if let Some(ms) = self.spec.active_deadline_ms {
            let deadline = after(self.start_time, ms);
            if now >= deadline {
                let text = "Pod was active on the node longer than the specified deadline";
                return self.fail("DeadlineExceeded", text.into(), out);
            }
            self.wake_at(Some(deadline));
        }
        // Init containers in order; the first that is not done holds back everything after it.
        let count = self.containers.len();
        for i in 0..count {
            if !self.containers[i].spec.init {
                break;
            }
            self.drive(i, now, config, configs, out);
            let c = &self.containers[i];
            if c.finished() && !c.init_done() {
                let text = format!(
                    "init container {} failed with exit code {}",
                    c.spec.name,
                    c.exit_code.unwrap_or(0)
                );
                return self.fail("InitContainerFailed", text, out);
            }
            if !c.init_done() {
                return;
            }
        }
        for i in (0..count)
            .filter(|i| !self.containers[*i].spec.init)
            .collect::<Vec<_>>()
        {
            self.drive(i, now, config, configs, out);
        }
        let library = |c: &&Container| c.kind == Some(ContainerKind::Library);
        let mut main = self
            .containers
            .iter()
            .filter(|c| !c.spec.init)
            .filter(|c| !library(c))
            .peekable();
        if self.may_end() && main.peek().is_some() && main.all(Container::finished) {
            self.kill(out);
        }
    }

    /// The pod fails as a whole.
    fn fail(&mut self, reason: &'static str, message: String, out: &mut Out) {
        out.event(
            self.spec.who(),
            "",
            EventType::Warning,
            reason,
            message.clone(),
        );
        self.failed = Some((reason, message));
        self.kill(out);
    }

    /// Takes one container as far as it can go without waiting.
    fn drive(
        &mut self,
        i: usize,
        now: Timestamp,
        config: &AgentConfig,
        configs: Configs<'_>,
        out: &mut Out,
    ) {
        match &self.containers[i].stage {
            Stage::Ended {
                restart_at: Some(t),
                ..
            } if *t <= now => {
                self.containers[i].next_run();
                // Another image is pulled first.
                self.pull(now, out);
            }
            Stage::PrepareBackoff {
                retry_at: Some(t), ..
            } if *t <= now => self.containers[i].stage = Stage::Pulled,
            Stage::LinkBackoff { retry_at, .. } if *retry_at <= now => {
                self.containers[i].stage = Stage::Prepared
            }
            Stage::Ended {
                restart_at: Some(t),
                ..
            }
            | Stage::PrepareBackoff {
                retry_at: Some(t), ..
            } => {
                let t = *t;
                return self.wake_at(Some(t));
            }
            Stage::LinkBackoff { retry_at, .. } => {
                let t = *retry_at;
                return self.wake_at(Some(t));
            }
            _ => {}
        }
        if matches!(self.containers[i].stage, Stage::Pulled) {
            self.prepare(i, out);
        }
        if matches!(
            self.containers[i].stage,
            Stage::Prepared | Stage::ConfigError { .. }
        ) {
            self.link(i, config, configs, out);
        }
    }

    /// Asks for the container to be compiled, once everything it may be composed with is here.
    fn prepare(&mut self, i: usize, out: &mut Out) {
        let mut siblings = Vec::new();
        if !self.containers[i].spec.init {
            for (_, c) in self
                .containers
                .iter()
                .enumerate()
                .filter(|(j, c)| *j != i && !c.spec.init)
            {
                let Some(image) = &c.image else { return };
                siblings.push((c.spec.name.clone(), image.clone()));
            }
        }
        let c = &mut self.containers[i];
        let Some(image) = c.image.clone() else { return };
        c.stage = Stage::Preparing;
        out.push(Action::Prepare {
            at: c.at(&self.spec.uid),
            image,
            siblings,
        });
    }

    fn link(&mut self, i: usize, config: &AgentConfig, configs: Configs<'_>, out: &mut Out) {
        if !matches!(self.mount, Mount::Done) {
            return;
        }
        if self.containers[i].kind == Some(ContainerKind::Library) {
            // Its code is inside its siblings; there is nothing to link or start.
            return;
        }
        match self.grants(&self.containers[i], config, configs) {
            Ok(grants) => {
                let c = &mut self.containers[i];
                c.stage = Stage::Linking;
                out.push(Action::Link {
                    at: c.at(&self.spec.uid),
                    pod: self.spec.key.clone(),
                    pod_ip: self.spec.pod_ip.clone(),
                    grants: Box::new(grants),
                });
            }
            Err(message) => {
                let c = &mut self.containers[i];
                let told = matches!(&c.stage, Stage::ConfigError { message: before } if *before == message);
                if !told {
                    let text = format!("Error: {message}");
                    out.event(
                        self.spec.who(),
                        &c.spec.name,
                        EventType::Warning,
                        "Failed",
                        text,
                    );
                }
                c.stage = Stage::ConfigError { message };
            }
        }
    }

    fn grants(
        &self,
        c: &Container,
        config: &AgentConfig,
        configs: Configs<'_>,
    ) -> Result<Grants, String> {
        let env = env::resolve(&self.spec, &c.spec, &config.host_ip, configs)?;
        let limits = coracle_api::attrs::amounts(&c.spec.value["resources"]["limits"]);
        let number = |name: &str| {
            meta::annotation(&self.spec.value, name).and_then(|v| v.parse::<u64>().ok())
        };
        let small = |name: &str| number(name).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Ok(Grants {
            args: env::args(&c.spec, &env),
            mounts: volumes::mounts(&self.spec, &c.spec, &env)?,
            limits: Limits {
                memory_bytes: Some(limits.memory_bytes).filter(|b| *b > 0),
                cpu_millis: Some(limits.cpu_millis).filter(|m| *m > 0),
                request_timeout_ms: number("coracle/request-timeout-ms"),
                max_concurrency: small("coracle/max-concurrency"),
                instance_reuse: small("coracle/instance-reuse"),
            },
            ports: each(&c.spec.value["ports"])
                .filter_map(|p| {
                    p["containerPort"]
                        .as_u64()
                        .and_then(|n| u16::try_from(n).ok())
                })
                .collect(),
            stdin: c.spec.value["stdin"].as_bool().unwrap_or(false),
            env,
        })
    }

    fn probe(&mut self, now: Timestamp, out: &mut Out) {
        let mut wake: Option<Timestamp> = None;
        for c in self
            .containers
            .iter_mut()
            .filter(|c| c.running() && !c.killing)
        {
            for p in c.probes.due(now) {
                out.push(Action::Probe {
                    at: c.at(&self.spec.uid),
                    kind: p.kind,
                    check: p.check,
                    timeout_ms: p.timeout_ms,
                });
            }
            wake = wake.into_iter().chain(c.probes.next_at()).min();
        }
        self.wake_at(wake);
    }

    /// A probe was answered.
    pub fn probed(
        &mut self,
        i: usize,
        kind: crate::action::ProbeKind,
        outcome: &Result<(), String>,
        now: Timestamp,
        out: &mut Out,
    ) {
        let c = &mut self.containers[i];
        let at = c.at(&self.spec.uid);
        match c.probes.answered(kind, outcome, now) {
            Verdict::Nothing => {}
            Verdict::Unhealthy(text) => {
                out.event(
                    self.spec.who(),
                    &at.container,
                    EventType::Warning,
                    "Unhealthy",
                    text,
                );
            }
            Verdict::Restart(text) => {
                out.event(
                    self.spec.who(),
                    &at.container,
                    EventType::Warning,
                    "Unhealthy",
                    text,
                );
                if !std::mem::replace(&mut c.killing, true) {
                    let text = format!(
                        "Container {} failed its probe, will be restarted",
                        at.container
                    );
                    out.event(
                        self.spec.who(),
                        &at.container,
                        EventType::Normal,
                        "Killing",
                        text,
                    );
                    out.push(Action::KillContainer { at });
                }
            }
        }
    }

    /// A container is compiled.
    pub fn prepared(
        &mut self,
        i: usize,
        kind: ContainerKind,
        now: Timestamp,
        config: &AgentConfig,
        out: &mut Out,
    ) {
        let c = &mut self.containers[i];
        c.kind = Some(kind);
        if c.spec.init && !c.spec.sidecar && kind == ContainerKind::Service {
            let problem = Problem::new(
                "E_INIT_NEVER_ENDS",
                "this init container answers HTTP requests and would never end",
                "Move it to spec.containers, or give it restartPolicy: Always to run it as a sidecar",
            );
            out.event(
                self.spec.who(),
                &c.spec.name,
                EventType::Warning,
                "Failed",
                format!("Error: {problem}"),
            );
            return c.prepare_failed(problem, true, now, config);
        }
        c.stage = Stage::Prepared;
        if kind == ContainerKind::Library {
            c.run_began(now);
        }
    }

    /// A container is linked: a service serves from now on, a command is started.
    pub fn linked(&mut self, i: usize, now: Timestamp, out: &mut Out) {
        let port = each(&self.containers[i].spec.value["ports"])
            .find_map(|p| u16::try_from(p["containerPort"].as_u64()?).ok())
            .unwrap_or(crate::config::DEFAULT_PORT);
        let c = &mut self.containers[i];
        let at = c.at(&self.spec.uid);
        for field in &c.probes.ignored {
            let text = format!(
                "{field} is not run: only httpGet and tcpSocket probes are; use one of these"
            );
            out.event(
                self.spec.who(),
                &c.spec.name,
                EventType::Warning,
                "ProbeIgnored",
                text,
            );
        }
        if c.kind == Some(ContainerKind::Service) {
            out.push(Action::Serve { at, port });
            self.began(i, now, out);
        } else {
            c.stage = Stage::Starting;
            out.push(Action::Start { at });
        }
    }

    /// A container runs.
    pub fn began(&mut self, i: usize, now: Timestamp, out: &mut Out) {
        let c = &mut self.containers[i];
        c.run_began(now);
        out.event(
            self.spec.who(),
            &c.spec.name,
            EventType::Normal,
            "Started",
            format!("Started container {}", c.spec.name),
        );
    }

    /// A container's run ended.
    pub fn exited(
        &mut self,
        i: usize,
        exit: &Exit,
        now: Timestamp,
        config: &AgentConfig,
        out: &mut Out,
    ) {
        let going = self.life != Life::Active;
        let policy = self.spec.restart_policy;
        let c = &mut self.containers[i];
        c.run_ended(&self.spec.uid, exit, now, policy, going, config);
        if exit.code != 0 && !exit.message.is_empty() && !going {
            let text = format!(
                "Container {} ended with exit code {}: {}",
                c.spec.name, exit.code, exit.message
            );
            out.event(
                self.spec.who(),
                &c.spec.name,
                EventType::Warning,
                "Failed",
                text,
            );
        }
        if let Stage::Ended {
            restart_at: Some(_),
            pause_ms: 1..,
        } = c.stage
        {
            let text = format!(
                "Back-off restarting failed container {} in pod {}",
                c.spec.name, self.spec.key
            );
            out.event(
                self.spec.who(),
                &c.spec.name,
                EventType::Warning,
                "BackOff",
                text,
            );
        }
    }
}

fn fingerprint(source: &VolumeSource) -> u64 {
    // Fixed keys: the same content gives the same number in every run.
    let mut hasher = std::hash::DefaultHasher::new();
    match source {
        VolumeSource::Files(files) => files.hash(&mut hasher),
        VolumeSource::Empty { .. } => 1u8.hash(&mut hasher),
        VolumeSource::Host { path, .. } => path.hash(&mut hasher),
    }
    hasher.finish()
}
