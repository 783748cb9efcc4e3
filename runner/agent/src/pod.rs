//! The life of one pod: what it waits for next, given all its containers.
//!
//! [`Pod::advance`] is level-triggered: it looks at the whole pod and asks for whatever can be asked for now. It runs
//! after every input about the pod and when a time it named has come.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use coracle_api::{Key, Timestamp};

use crate::action::{Action, EventType, VolumeSource};
use crate::config::AgentConfig;
use crate::container::{Container, Stage};
use crate::env::Configs;
use crate::events::Out;
use crate::input::{Problem, after};
use crate::leaving::Life;
use crate::spec::PodSpec;
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

    pub(crate) fn pull(&mut self, now: Timestamp, out: &mut Out) {
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
                    secrets: self.spec.pull_secrets(),
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
