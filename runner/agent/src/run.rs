//! Containers of a pod on their way: which may go on, what each is asked for next, and what its results mean.

use coracle_api::{Timestamp, meta};

use crate::action::{Action, EventType, Grants, Limits};
use crate::config::AgentConfig;
use crate::container::{Container, Stage};
use crate::env::{self, Configs};
use crate::events::Out;
use crate::input::{ContainerKind, Exit, Problem, after};
use crate::leaving::Life;
use crate::pod::{Mount, Pod};
use crate::probe::Verdict;
use crate::spec::each;
use crate::volumes;

impl Pod {
    /// Takes every container as far as it can go without waiting.
    pub(crate) fn run(
        &mut self,
        now: Timestamp,
        config: &AgentConfig,
        configs: Configs<'_>,
        out: &mut Out,
    ) {
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

    /// Sends the probes that are due.
    pub(crate) fn probe(&mut self, now: Timestamp, out: &mut Out) {
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
