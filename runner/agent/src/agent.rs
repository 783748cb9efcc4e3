//! The agent itself: all pods of the node, one `step`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use coracle_api::{Key, Timestamp};
use serde_json::Value;

use crate::action::{Action, At, ConfigRef, EventType};
use crate::config::{AgentConfig, BURIED_MAX};
use crate::container::Stage;
use crate::events::Out;
use crate::input::Input;
use crate::leaving::Life;
use crate::pod::{Mount, Pod};
use crate::spec::PodSpec;

/// A ConfigMap or Secret some pods use.
#[derive(Debug, Default)]
struct Config {
    /// Outer `None`: not told yet. Inner `None`: there is none.
    object: Option<Option<Arc<Value>>>,
    users: BTreeSet<String>,
}

/// Decides for one node. See the crate's text.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    /// By uid.
    pods: BTreeMap<String, Pod>,
    configs: BTreeMap<ConfigRef, Config>,
    /// Times pods want to be looked at.
    wakes: BTreeSet<(Timestamp, String)>,
    /// Uids that are gone for good: a late event about one must not bring it back.
    buried: BTreeSet<String>,
    burials: VecDeque<String>,
    /// The last `WakeAt` that has not come yet.
    asked: Option<Timestamp>,
}

impl Agent {
    /// An agent without pods.
    pub fn new(config: AgentConfig) -> Self {
        Self {
            config,
            pods: BTreeMap::new(),
            configs: BTreeMap::new(),
            wakes: BTreeSet::new(),
            buried: BTreeSet::new(),
            burials: VecDeque::new(),
            asked: None,
        }
    }

    /// Pods known, ended ones included.
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// Uids and keys of the pods known.
    pub fn uids(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.pods.iter().map(|(uid, p)| (uid.as_str(), &p.spec.key))
    }

    /// Whether a pod takes requests: it runs a service and has not been told to stop.
    pub fn accepts(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|p| {
            matches!(p.life, Life::Active | Life::AwaitDrained)
                && p.containers.iter().any(|c| c.serves())
        })
    }

    /// Whether nothing of a pod runs any more (or it is not known).
    pub fn ended(&self, uid: &str) -> bool {
        self.pods.get(uid).is_none_or(|p| p.life == Life::Done)
    }

    /// Takes one input at a time and says what to do about it.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Action> {
        let mut out = Out::default();
        let touched = self.take(now, input, &mut out);
        for uid in touched {
            self.advance(&uid, now, &mut out);
        }
        self.wake(now, &mut out);
        out.actions
    }

    /// Applies the input; returns the pods it concerns.
    fn take(&mut self, now: Timestamp, input: Input, out: &mut Out) -> Vec<String> {
        match input {
            Input::Pod(value) => self.take_pod(&value, now, out).into_iter().collect(),
            Input::Gone { uid } => self.take_gone(uid),
            Input::Relisted { uids } => {
                let gone: Vec<String> = self
                    .pods
                    .keys()
                    .filter(|u| !uids.contains(*u))
                    .cloned()
                    .collect();
                gone.into_iter()
                    .flat_map(|uid| self.take_gone(uid))
                    .collect()
            }
            Input::Config { config, object } => self.take_config(&config, object, out),
            Input::Mounted { uid } => self.on_pod(uid, |p, _| {
                if matches!(p.mount, Mount::Asked) {
                    p.mount = Mount::Done;
                }
            }),
            Input::MountFailed { uid, problem } => {
                self.on_pod(uid, |p, config| p.mount_failed(&problem, now, config, out))
            }
            Input::Pulled {
                at,
                image,
                transfer,
            } => self.on_run(at, |p, i, _| {
                let c = &mut p.containers[i];
                if matches!(c.stage, Stage::Pulling) {
                    let name = &c.spec.image;
                    let digest = if name.ends_with(&image.digest) {
                        String::new()
                    } else {
                        format!(" as {}", image.digest)
                    };
                    let text = match transfer {
                        Some(t) => format!(
                            "Successfully pulled image \"{name}\"{digest} in {}ms from {}. Image size: {} bytes.",
                            t.millis, t.from, t.bytes
                        ),
                        None => format!("Container image \"{name}\" is on the node{digest}"),
                    };
                    out.event(
                        p.spec.who(),
                        &c.spec.name,
                        EventType::Normal,
                        "Pulled",
                        text,
                    );
                    c.pulled(image);
                }
            }),
            Input::PullFailed {
                at,
                failure,
                problem,
            } => self.on_run(at, |p, i, config| {
                let c = &mut p.containers[i];
                if matches!(c.stage, Stage::Pulling) {
                    let text = format!("Failed to pull image \"{}\": {problem}", c.spec.image);
                    out.event(
                        p.spec.who(),
                        &c.spec.name,
                        EventType::Warning,
                        "Failed",
                        text,
                    );
                    c.pull_failed(failure, problem, now, config);
                }
            }),
            Input::Prepared { at, kind } => self.on_run(at, |p, i, config| {
                if matches!(p.containers[i].stage, Stage::Preparing) {
                    p.prepared(i, kind, now, config, out);
                }
            }),
            Input::PrepareFailed {
                at,
                problem,
                permanent,
            } => self.on_run(at, |p, i, config| {
                let c = &mut p.containers[i];
                if matches!(c.stage, Stage::Preparing) {
                    out.event(
                        p.spec.who(),
                        &c.spec.name,
                        EventType::Warning,
                        "Failed",
                        format!("Error: {problem}"),
                    );
                    c.prepare_failed(problem, permanent, now, config);
                }
            }),
            Input::Linked { at } => self.on_run(at, |p, i, _| {
                if matches!(p.containers[i].stage, Stage::Linking) && p.life == Life::Active {
                    p.linked(i, now, out);
                }
            }),
            Input::LinkFailed { at, problem } => self.on_run(at, |p, i, config| {
                let c = &mut p.containers[i];
                if matches!(c.stage, Stage::Linking) {
                    out.event(
                        p.spec.who(),
                        &c.spec.name,
                        EventType::Warning,
                        "Failed",
                        format!("Error: {problem}"),
                    );
                    c.link_failed(problem, now, config);
                }
            }),
            Input::Started { at } => self.on_run(at, |p, i, _| {
                if matches!(p.containers[i].stage, Stage::Starting) {
                    p.began(i, now, out);
                }
            }),
            Input::Exited { at, exit } => self.on_run(at, |p, i, config| {
                if p.containers[i].live() {
                    p.exited(i, &exit, now, config, out);
                }
            }),
            Input::Trapped { at, message } => self.on_run(at, |p, i, _| {
                let c = &mut p.containers[i];
                if let Some(count) = c.trapped(now) {
                    let text = match count {
                        1 => format!("A request trapped: {message}"),
                        n => format!("{n} requests trapped, the last one: {message}"),
                    };
                    out.event(p.spec.who(), &c.spec.name, EventType::Warning, "Trap", text);
                }
            }),
            Input::Probed { at, kind, outcome } => self.on_run(at, |p, i, _| {
                if p.containers[i].running() {
                    p.probed(i, kind, &outcome, now, out);
                }
            }),
            Input::Stopped { uid } => {
                self.on_pod(uid, |p, _| p.stopped |= p.life == Life::Stopping)
            }
            Input::Killed { uid } => self.on_pod(uid, |p, config| p.killed(now, config)),
            Input::StatusWritten { uid, seq, revision } => {
                self.on_pod(uid, |p, _| p.status_written(seq, revision))
            }
            Input::StatusFailed { uid, seq, why } => {
                self.on_pod(uid, |p, _| p.status_failed(seq, why, now))
            }
            Input::Tick => {
                let due = |(at, _): &&(Timestamp, String)| *at <= now;
                self.wakes
                    .iter()
                    .take_while(due)
                    .map(|(_, uid)| uid.clone())
                    .collect()
            }
        }
    }

    fn take_pod(&mut self, value: &Arc<Value>, now: Timestamp, out: &mut Out) -> Option<String> {
        let spec = PodSpec::parse(value)?;
        if spec.node != self.config.node || self.buried.contains(&spec.uid) {
            return None;
        }
        let uid = spec.uid.clone();
        match self.pods.get_mut(&uid) {
            Some(pod) if spec.revision > pod.spec.revision && !pod.gone => {
                pod.take(spec, out);
            }
            Some(_) => return None,
            None => {
                if !spec.ended {
                    for config in spec.configs() {
                        self.use_config(config, &uid, out);
                    }
                }
                self.pods
                    .insert(uid.clone(), Pod::meet(spec, now, &self.config));
            }
        }
        Some(uid)
    }

    fn use_config(&mut self, config: ConfigRef, uid: &str, out: &mut Out) {
        let entry = self.configs.entry(config.clone()).or_default();
        if entry.users.is_empty() {
            out.push(Action::WatchConfig(config));
        }
        entry.users.insert(uid.to_string());
    }

    fn take_gone(&mut self, uid: String) -> Vec<String> {
        if self.buried.insert(uid.clone()) {
            self.burials.push_back(uid.clone());
            if self.burials.len() > BURIED_MAX
                && let Some(oldest) = self.burials.pop_front()
            {
                self.buried.remove(&oldest);
            }
        }
        self.on_pod(uid, |p, _| p.gone = true)
    }

    fn take_config(
        &mut self,
        config: &ConfigRef,
        object: Option<Arc<Value>>,
        out: &mut Out,
    ) -> Vec<String> {
        let Some(entry) = self.configs.get_mut(config) else {
            return Vec::new();
        };
        entry.object = Some(object);
        let users: Vec<String> = entry.users.iter().cloned().collect();
        let (configs, settings) = (&self.configs, &self.config);
        for uid in &users {
            if let Some(pod) = self.pods.get_mut(uid) {
                pod.refresh_volumes(settings, &|c| lookup(configs, c), out);
            }
        }
        users
    }

    fn on_pod(&mut self, uid: String, f: impl FnOnce(&mut Pod, &AgentConfig)) -> Vec<String> {
        match self.pods.get_mut(&uid) {
            Some(pod) => {
                f(pod, &self.config);
                vec![uid]
            }
            None => Vec::new(),
        }
    }

    /// Applies a result to the container it names, unless that is at another run by now.
    fn on_run(&mut self, at: At, f: impl FnOnce(&mut Pod, usize, &AgentConfig)) -> Vec<String> {
        let Some(pod) = self.pods.get_mut(&at.uid) else {
            return Vec::new();
        };
        let Some(i) = pod
            .containers
            .iter()
            .position(|c| c.spec.name == at.container && c.run == at.run)
        else {
            return Vec::new();
        };
        f(pod, i, &self.config);
        vec![at.uid]
    }

    fn advance(&mut self, uid: &str, now: Timestamp, out: &mut Out) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if let Some(at) = pod.wake.take() {
            self.wakes.remove(&(at, uid.to_string()));
        }
        let configs = &self.configs;
        let known = pod
            .spec
            .configs()
            .iter()
            .all(|c| configs.get(c).is_some_and(|c| c.object.is_some()));
        pod.advance(now, &self.config, &|c| lookup(configs, c), known, out);
        if pod.gone && pod.life == Life::Done {
            self.forget(uid, out);
        } else if let Some(at) = pod.wake {
            self.wakes.insert((at, uid.to_string()));
        }
    }

    fn forget(&mut self, uid: &str, out: &mut Out) {
        let Some(pod) = self.pods.remove(uid) else {
            return;
        };
        out.push(Action::Forget {
            uid: uid.to_string(),
            pod: pod.spec.key.clone(),
        });
        self.configs.retain(|config, entry| {
            if entry.users.remove(uid) && entry.users.is_empty() {
                out.push(Action::UnwatchConfig(config.clone()));
                return false;
            }
            true
        });
    }

    fn wake(&mut self, now: Timestamp, out: &mut Out) {
        self.asked = self.asked.filter(|t| *t > now);
        if let Some((first, _)) = self.wakes.first()
            && self.asked != Some(*first)
        {
            self.asked = Some(*first);
            out.push(Action::WakeAt(*first));
        }
    }
}

fn lookup(configs: &BTreeMap<ConfigRef, Config>, config: &ConfigRef) -> Option<Arc<Value>> {
    configs.get(config)?.object.clone().flatten()
}
