//! Carries out what the agent asks for. Nothing is decided here: each action becomes work, and its result an input.
//!
//! Work is spawned, never awaited, so that the loop goes on; results come back over the one bounded channel the loop
//! reads. A pod has an entry here from its `Mount` to its `Forget`.

mod code;
mod run;
mod trust;
mod writes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_agent::{Action, At, EventType, Image, Input, Problem, PullPolicy, Volume};
use coracle_api::{Key, Timestamp};
use coracle_engine::{Artifact, Engine, Replica};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::config::Settings;
use crate::configs::Configs;
use crate::events::{Events, Note};
use crate::logs::{ContainerLog, Logs};
use crate::outbound::Net;
use crate::pull::{Images, Keyring, Pin};
use crate::volumes::Volumes;
use code::Known;
pub(crate) use code::prepare_ahead;
use trust::Trust;
pub(crate) use writes::WRITES_MAX;

/// What the work needs; shared by all tasks.
pub(crate) struct Tools {
    pub api: Api,
    pub engine: Engine,
    pub images: Images,
    pub volumes: Volumes,
    pub logs: Logs,
    pub net: Arc<Net>,
    pub events: Events,
    pub settings: Settings,
    /// Where commands run: apart from the threads that serve the API and the loop.
    pub guests: tokio::runtime::Handle,
    pub results: mpsc::Sender<Input>,
    pub known: Known,
    pub trust: Trust,
    pub writes: tokio::sync::Semaphore,
}

/// A container's run.
pub(crate) struct Linked {
    replica: Replica,
    log: Arc<ContainerLog>,
}

/// What is here of a pod.
#[derive(Default)]
pub(crate) struct PodEntry {
    volumes: Vec<Volume>,
    /// Keeps the containers' images on the node.
    pins: BTreeMap<String, Pin>,
    /// Compiled code by container.
    artifacts: BTreeMap<String, Artifact>,
    /// Runs that are linked, by container.
    runs: BTreeMap<String, (At, Linked)>,
    /// Ends tasks of this pod.
    stop: CancellationToken,
    /// Runs of commands that have not ended yet.
    commands: tokio_util::task::TaskTracker,
}

/// All pods.
pub(crate) type Pods = Arc<Mutex<BTreeMap<String, PodEntry>>>;

/// Takes actions.
pub(crate) struct Performer {
    tools: Arc<Tools>,
    pods: Pods,
    configs: Configs,
}

impl Performer {
    pub fn new(tools: Arc<Tools>) -> Self {
        let configs = Configs::new(tools.api.clone(), tools.results.clone());
        Self {
            tools,
            pods: Pods::default(),
            configs,
        }
    }

    /// Removes what pods left behind that are not on this node any more; called after the first list.
    pub fn sweep(&self, keep: std::collections::BTreeSet<String>) {
        let tools = self.tools.clone();
        tokio::task::spawn_blocking(move || {
            for swept in [tools.volumes.sweep(&keep), tools.logs.store().sweep(&keep)] {
                if let Err(error) = swept {
                    tracing::warn!(%error, "what earlier pods left behind could not be removed");
                }
            }
        });
    }

    /// Ends all pods' runs; the API keeps them as they are, and they start again with the runner.
    pub fn end_all(&self) {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        for pod in pods.values() {
            pod.stop.cancel();
            pod.runs.values().for_each(|(_, run)| {
                run.replica.kill();
                run.log.close();
            });
        }
    }

    /// Does one thing.
    pub fn perform(&mut self, action: Action) {
        let (tools, pods) = (self.tools.clone(), self.pods.clone());
        match action {
            Action::WatchConfig(config) => self.configs.watch(config),
            Action::UnwatchConfig(config) => self.configs.unwatch(&config),
            Action::Mount { uid, volumes, .. } => {
                entry(&pods, &uid, |pod| pod.volumes.clone_from(&volumes));
                self.answer(uid.clone(), async move { mount(tools, uid, volumes).await });
            }
            Action::UpdateVolume { uid, volume } => {
                existing(&pods, &uid, |pod| {
                    pod.volumes
                        .iter_mut()
                        .filter(|v| v.name == volume.name)
                        .for_each(|v| *v = volume.clone())
                });
                tokio::task::spawn_blocking(move || {
                    if let Err(problem) = tools.volumes.update(&uid, &volume) {
                        tracing::warn!(uid, volume = volume.name, %problem, "a volume could not be brought up to date");
                    }
                });
            }
            Action::Pull {
                at,
                pod,
                image,
                policy,
                known_digest,
                secrets,
            } => self.answer(at.uid.clone(), async move {
                let keyring = Keyring::new(tools.api.clone(), &pod.namespace, secrets);
                let wanted = (image, policy, known_digest);
                pull(&tools, &pods, at, pod, wanted, keyring).await
            }),
            Action::Prepare {
                at,
                image,
                siblings,
            } => {
                self.answer(at.uid.clone(), async move {
                    prepare(tools, pods, at, image, siblings).await
                });
            }
            Action::Link {
                at,
                pod,
                pod_ip,
                grants,
            } => {
                self.answer(at.uid.clone(), async move {
                    run::link(tools, pods, at, pod, pod_ip, *grants).await
                });
            }
            Action::Start { at } => run::start(&tools, &pods, at),
            Action::Serve { at, port } => run::serve(&tools, &pods, &at, port),
            Action::Probe {
                at,
                kind,
                check,
                timeout_ms,
            } => self.answer(at.uid.clone(), async move {
                let outcome = run::probe(&tools, &at, &check, timeout_ms).await;
                Input::Probed { at, kind, outcome }
            }),
            Action::KillContainer { at } => run::kill_container(&tools, &pods, at),
            Action::StopAccepting { uid } => {
                let pod = uid.clone();
                self.answer(pod, async move {
                    tools.net.replicas.drain(&uid).await;
                    Input::Stopped { uid }
                });
            }
            Action::Kill { uid } => run::kill(&tools, &pods, uid),
            Action::Forget { uid, pod } => self.forget(uid, pod),
            Action::WriteStatus {
                key,
                uid,
                revision,
                seq,
                status,
            } => {
                tokio::spawn(writes::status(tools, key, uid, revision, seq, status));
            }
            Action::DeletePod { key, uid } => {
                tokio::spawn(writes::delete(tools, key, uid));
            }
            Action::Event {
                key,
                uid,
                container,
                kind,
                reason,
                message,
            } => {
                tracing::debug!(pod = %key, container, reason, message, "event");
                tools.events.note(Note {
                    key,
                    uid,
                    container,
                    kind,
                    reason,
                    message,
                    at: Timestamp::now(),
                });
            }
            // The loop keeps the time.
            Action::WakeAt(_) => {}
        }
    }

    /// Spawns work that ends with its pod, and sends its result.
    fn answer(&self, uid: String, work: impl Future<Output = Input> + Send + 'static) {
        let stop = entry(&self.pods, &uid, |pod| pod.stop.clone());
        let results = self.tools.results.clone();
        tokio::spawn(async move {
            let input = tokio::select! {
                input = work => input,
                () = stop.cancelled() => return,
            };
            // Closed only when the runner ends.
            drop(results.send(input).await);
        });
    }

    fn forget(&self, uid: String, pod: Key) {
        let removed = self
            .pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&uid);
        if let Some(entry) = removed {
            entry.stop.cancel();
        }
        self.tools.net.replicas.remove(&uid);
        let tools = self.tools.clone();
        tokio::task::spawn_blocking(move || {
            for removed in [tools.volumes.remove(&uid), tools.logs.forget(&pod, &uid)] {
                if let Err(error) = removed {
                    tracing::warn!(%pod, uid, %error, "what a pod left behind could not be removed");
                }
            }
        });
    }
}

/// Looks at a pod's entry if there is one: results that come after a pod was forgotten must not bring it back.
pub(crate) fn existing<T>(
    pods: &Pods,
    uid: &str,
    look: impl FnOnce(&mut PodEntry) -> T,
) -> Option<T> {
    pods.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_mut(uid)
        .map(look)
}

/// Looks at a pod's entry, made if it is not there.
pub(crate) fn entry<T>(pods: &Pods, uid: &str, look: impl FnOnce(&mut PodEntry) -> T) -> T {
    let mut pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
    if !pods.contains_key(uid) {
        pods.insert(uid.to_string(), PodEntry::default());
    }
    look(pods.get_mut(uid).expect("the entry was just made"))
}

async fn mount(tools: Arc<Tools>, uid: String, volumes: Vec<Volume>) -> Input {
    let pod = uid.clone();
    let made = tokio::task::spawn_blocking(move || tools.volumes.make(&pod, &volumes)).await;
    match made.unwrap_or_else(|e| Err(host(&e))) {
        Ok(()) => Input::Mounted { uid },
        Err(problem) => Input::MountFailed { uid, problem },
    }
}

async fn pull(
    tools: &Tools,
    pods: &Pods,
    at: At,
    pod: Key,
    (image, policy, known_digest): (String, PullPolicy, Option<String>),
    keyring: Keyring,
) -> Input {
    let note = |kind, reason, message| {
        tools.events.note(Note {
            key: pod.clone(),
            uid: at.uid.clone(),
            container: at.container.clone(),
            kind,
            reason,
            message,
            at: Timestamp::now(),
        });
    };
    let asking = || {
        let message = format!("Pulling image \"{image}\"");
        note(EventType::Normal, "Pulling", message);
    };
    let pulled = tools
        .images
        .pull(&image, policy, known_digest.as_deref(), &keyring, asking);
    let pulled = pulled.await;
    for trouble in keyring.troubles() {
        let reason = "FailedToRetrieveImagePullSecret";
        note(EventType::Warning, reason, trouble);
    }
    let pulled = match pulled {
        // Before anything is compiled, and on the digest that is here.
        Ok(pulled) => tools
            .trust
            .check(
                (&tools.api, &tools.images, &keyring),
                &pod.namespace,
                (&image, &pulled.image),
            )
            .await
            .map(|()| pulled),
        Err(e) => Err(e),
    };
    match pulled {
        Ok(pulled) => {
            // The one of an earlier run goes when the new one is there.
            let old = existing(pods, &at.uid, |entry| {
                entry.pins.insert(at.container.clone(), pulled.pin)
            });
            drop(old);
            Input::Pulled {
                at,
                image: pulled.image,
                transfer: pulled.transfer,
            }
        }
        Err((failure, problem)) => Input::PullFailed {
            at,
            failure,
            problem,
        },
    }
}

async fn prepare(
    tools: Arc<Tools>,
    pods: Pods,
    at: At,
    image: Image,
    siblings: Vec<(String, Image)>,
) -> Input {
    match code::prepare(&tools, &at, &image, &siblings).await {
        Ok((kind, artifact)) => {
            if let Some(artifact) = artifact {
                existing(&pods, &at.uid, |pod| {
                    pod.artifacts.insert(at.container.clone(), artifact)
                });
            }
            Input::Prepared { at, kind }
        }
        Err(error) => {
            let problem =
                Problem::new(error.problem.code, error.problem.message, error.problem.fix);
            Input::PrepareFailed {
                at,
                problem,
                permanent: error.permanent,
            }
        }
    }
}

/// A task of ours ended badly: that is a bug, and the pod says so.
fn host(error: &tokio::task::JoinError) -> Problem {
    Problem::new(
        "E_HOST",
        format!("the node failed: {error}"),
        "Look at the node's log and report this",
    )
}
