//! A machine: the production agent and routing table, with instances made of data around them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_agent::{
    Action, Agent, AgentConfig, At, ContainerKind, Exit, Image, Input, Problem, PullFailure,
    StatusFailure,
};
use coracle_api::{Key, Timestamp, meta};
use coracle_route::{Sources, Table};
use coracle_state::{Obj, Results};
use serde_json::{Value, json};

use crate::check::leaving::Stopped;
use crate::server::{self, Propagation, Refusal};
use crate::watch::{SLICES, Watch, watches};
use crate::world::{Event, Who, World};

/// A replica, as data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instance {
    /// Its present run.
    pub at: Option<At>,
    /// Takes requests.
    pub accepting: bool,
    /// Has taken requests in this life of the node.
    pub served: bool,
    /// Why it takes none any more.
    pub stopped: Option<Stopped>,
    pub in_flight: u32,
    /// The agent waits until nothing is in flight.
    pub finishing: bool,
}

/// What the node has been told of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub key: Key,
    pub drained: bool,
    /// When the deletion was first heard of, and the grace since.
    pub leaving: Option<(Timestamp, u64)>,
}

/// A machine with its runner and proxy.
pub(crate) struct Node {
    pub name: String,
    pub up: bool,
    /// Cut off from the control plane.
    pub cut: bool,
    /// Lives of the runner; what belongs to an earlier one is dropped.
    pub epoch: u32,
    pub agent: Agent,
    pub watches: Vec<Watch>,
    pub sources: Sources,
    pub table: Table,
    pub instances: BTreeMap<String, Instance>,
    pub pods: BTreeMap<String, Known>,
    /// Pods that served on this node in any of its lives.
    pub served: BTreeSet<String>,
    cpu_millis: u64,
    pods_max: u64,
}

impl Node {
    pub fn forget_pod(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    pub fn forget_pods_but(&mut self, uids: &BTreeSet<String>) {
        self.pods.retain(|uid, _| uids.contains(uid));
    }
}

fn agent(name: &str) -> Agent {
    let mut config = AgentConfig::new(name, "192.0.2.1");
    // Short enough that a run of a few virtual minutes sees many of them.
    (config.backoff_base_ms, config.backoff_max_ms) = (100, 2_000);
    Agent::new(config)
}

impl World {
    /// Adds a machine and starts it.
    pub fn add_node(&mut self, cpu_millis: u64, pods_max: u64) -> usize {
        let index = self.nodes.len();
        let name = format!("n{}", index + 1);
        self.nodes.push(Node {
            up: false,
            cut: false,
            epoch: 0,
            agent: agent(&name),
            watches: Vec::new(),
            sources: Sources::new(&name),
            table: Table::default(),
            instances: BTreeMap::new(),
            pods: BTreeMap::new(),
            served: BTreeSet::new(),
            cpu_millis,
            pods_max,
            name,
        });
        self.start_node(index);
        index
    }

    /// Starts a machine with nothing in its memory.
    pub fn start_node(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        let member = self.net.below(self.order.members.len() as u64) as usize;
        let n = &mut self.nodes[node];
        n.up = true;
        n.epoch += 1;
        n.agent = agent(&n.name);
        n.watches = watches(member);
        n.sources = Sources::new(&n.name);
        n.table = Table::build(&n.sources);
        n.instances.clear();
        n.pods.clear();
        let (epoch, name) = (n.epoch, n.name.clone());
        self.say(|| format!("{name} starts"));
        self.schedule(1, Event::Heartbeat { node, epoch });
        for watch in 0..self.nodes[node].watches.len() {
            self.wake_watch(node, watch);
        }
    }

    /// A machine loses power.
    pub fn stop_node(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        n.up = false;
        n.epoch += 1;
        n.instances.clear();
        n.pods.clear();
        let name = n.name.clone();
        self.say(|| format!("{name} is dead"));
    }

    /// A machine that was cut off hears of the cluster again.
    pub fn heal(&mut self, node: usize) {
        if !std::mem::take(&mut self.nodes[node].cut) {
            return;
        }
        // Connections may have outlived the cut, or not.
        let broken = self.net.chance(600);
        for watch in 0..self.nodes[node].watches.len() {
            if broken && self.nodes[node].watches[watch].at.take().is_some() {
                self.report.relists += 1;
            }
            self.wake_watch(node, watch);
        }
    }

    pub fn on_heartbeat(&mut self, node: usize, epoch: u32) {
        if !self.nodes[node].up || self.nodes[node].epoch != epoch {
            return;
        }
        self.schedule(self.knobs.lease_ms / 4, Event::Heartbeat { node, epoch });
        if self.nodes[node].cut {
            return;
        }
        let Some(view) = self.view() else { return };
        let name = self.nodes[node].name.clone();
        let lease = server::lease(
            &view,
            &name,
            (self.knobs.lease_ms / 1000).max(1),
            self.now,
            self.net.ids(),
        );
        self.propose(Who::Runner, vec![lease]);
        self.register(node);
        self.send_ack(node);
    }

    /// Makes the Node say that it is ready, if it does not: a runner reports again when it reads that it has been
    /// given up.
    fn register(&mut self, node: usize) {
        let Some(view) = self.view() else { return };
        let n = &self.nodes[node];
        let key = Key::new("", &n.name);
        let kind = server::kind("no");
        let ready = json!({"type": "Ready", "status": "True", "reason": "RunnerReady", "message": "the runner takes pods", "lastTransitionTime": meta::time_text(self.now)});
        let status = json!({
            "allocatable": {"cpu": format!("{}m", n.cpu_millis), "memory": "8Gi", "pods": n.pods_max.to_string()},
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "conditions": [ready],
        });
        let command = match view.get(kind.table, &key) {
            None => Ok(server::create(
                kind,
                json!({"metadata": {"name": key.name}, "spec": {}, "status": status}),
                self.now,
                self.net.ids(),
            )),
            Some(old) if holds(&old.value(), "Ready") => return,
            Some(_) => server::update(&view, kind, &key, |o| o["status"] = status),
        };
        if let Ok(command) = command {
            self.propose(Who::Runner, vec![command]);
        }
    }

    /// Tells the leader what the proxy has swapped in.
    pub fn send_ack(&mut self, node: usize) {
        let n = &self.nodes[node];
        // Nothing was listed yet: there is no table to speak of.
        let listed = n
            .watches
            .iter()
            .any(|w| w.table == SLICES && w.at.is_some())
            || n.table.revision() > 0;
        if !listed || n.cut || (self.faulty && self.net.chance(self.knobs.lost_ack)) {
            return;
        }
        let applied = n.table.revision();
        self.soon(self.knobs.propose_ms_max, Event::Ack { node, applied });
    }

    /// Sources have changed: the proxy builds a table and swaps it in whole.
    pub fn routes_changed(&mut self, node: usize, table: &str, revision: u64) {
        let n = &mut self.nodes[node];
        if table == SLICES {
            n.sources.revision = revision;
        }
        n.table = Table::build(&n.sources);
        self.check_table(node);
        if table == SLICES {
            self.send_ack(node);
        }
    }

    /// Tells the agent of a pod.
    pub fn tell_pod(&mut self, node: usize, obj: &Arc<Obj>) {
        let value = obj.value();
        let now = self.now;
        let grace = value["metadata"]["deletionGracePeriodSeconds"]
            .as_u64()
            .unwrap_or(30)
            * 1000;
        let known = self.nodes[node]
            .pods
            .entry(obj.attrs.uid.clone())
            .or_insert_with(|| Known {
                key: obj.key.clone(),
                drained: false,
                leaving: None,
            });
        known.drained |= holds(&value, coracle_api::DRAINED);
        if obj.attrs.deleting {
            let since = known.leaving.map_or(now, |(since, _)| since);
            known.leaving = Some((since, grace));
        }
        self.agent_step(node, Input::Pod(Arc::new(value)));
    }

    pub fn on_work(&mut self, node: usize, epoch: u32, input: Input) {
        if self.nodes[node].up && self.nodes[node].epoch == epoch {
            self.agent_step(node, input);
        }
    }

    /// One step of the production agent, and everything it asks for.
    pub fn agent_step(&mut self, node: usize, input: Input) {
        let actions = self.nodes[node].agent.step(self.now, input);
        for action in actions {
            self.perform(node, action);
        }
    }

    /// Work that takes a while.
    fn work(&mut self, node: usize, input: Input) {
        let epoch = self.nodes[node].epoch;
        self.soon(
            self.knobs.start_ms_max,
            Event::Work {
                node,
                epoch,
                input: Box::new(input),
            },
        );
    }

    /// An answer that comes at once.
    fn answer(&mut self, node: usize, input: Input) {
        let epoch = self.nodes[node].epoch;
        self.schedule(
            1,
            Event::Work {
                node,
                epoch,
                input: Box::new(input),
            },
        );
    }

    fn perform(&mut self, node: usize, action: Action) {
        match action {
            Action::WatchConfig(config) => {
                let table = match config.kind {
                    coracle_agent::ConfigKind::ConfigMap => "configmaps",
                    coracle_agent::ConfigKind::Secret => "secrets",
                };
                let object = self
                    .view()
                    .and_then(|v| v.get(table, &config.key).map(|o| Arc::new(o.value())));
                self.work(node, Input::Config { config, object });
            }
            Action::Mount { uid, .. } => self.work(node, Input::Mounted { uid }),
            Action::Pull { at, image, .. } => self.pull(node, at, &image),
            Action::Prepare { at, image, .. } => {
                let kind = if image.id.starts_with("job") {
                    ContainerKind::Command
                } else {
                    ContainerKind::Service
                };
                self.work(node, Input::Prepared { at, kind });
            }
            Action::Link { at, .. } => self.work(node, Input::Linked { at }),
            Action::Start { at } => {
                self.answer(node, Input::Started { at: at.clone() });
                let epoch = self.nodes[node].epoch;
                let ms = 2 + self.net.below(self.knobs.start_ms_max * 4);
                self.schedule(
                    ms,
                    Event::Work {
                        node,
                        epoch,
                        input: Box::new(Input::Exited {
                            at,
                            exit: Exit::code(0),
                        }),
                    },
                );
            }
            Action::Serve { at, .. } => {
                let n = &mut self.nodes[node];
                n.served.insert(at.uid.clone());
                let instance = n.instances.entry(at.uid.clone()).or_default();
                (instance.accepting, instance.served, instance.stopped) = (true, true, None);
                instance.at = Some(at);
            }
            Action::Probe { at, kind, .. } => self.answer(
                node,
                Input::Probed {
                    at,
                    kind,
                    outcome: Ok(()),
                },
            ),
            Action::KillContainer { at } => self.crash_instance(node, &at.uid.clone(), 137),
            Action::StopAccepting { uid } => self.stop_accepting(node, &uid),
            Action::Kill { uid } => self.kill(node, &uid),
            Action::Forget { uid, .. } => {
                self.nodes[node].instances.remove(&uid);
            }
            Action::WriteStatus {
                key,
                uid,
                revision,
                seq,
                status,
            } => self.write_status(node, &key, uid, revision, seq, &status),
            Action::DeletePod { key, uid } => self.delete_pod(node, &key, &uid),
            Action::WakeAt(at) => {
                let epoch = self.nodes[node].epoch;
                self.schedule_at(
                    at,
                    Event::Work {
                        node,
                        epoch,
                        input: Box::new(Input::Tick),
                    },
                );
            }
            // Events are for people; the ones that plan writes are enough to see that they do no harm.
            Action::Event { .. } | Action::UnwatchConfig(_) | Action::UpdateVolume { .. } => {}
        }
    }

    fn pull(&mut self, node: usize, at: At, image: &str) {
        // Images that are missing turn up in the registry when everything else is put right.
        let fails =
            self.faulty && (image.starts_with("bad") || self.net.chance(self.knobs.failed_pull));
        let input = if fails {
            let problem = Problem::new("E_PULL", "the registry did not answer", "Try again");
            Input::PullFailed {
                at,
                failure: PullFailure::Pull,
                problem,
            }
        } else {
            let image = Image {
                digest: "sha256:00".into(),
                wasm: "sha256:01".into(),
                id: image.to_string(),
            };
            Input::Pulled {
                at,
                image,
                transfer: None,
            }
        };
        self.work(node, input);
    }

    fn kill(&mut self, node: usize, uid: &str) {
        self.check_kill(node, uid);
        let why = self.why_stopped(node, uid);
        if let Some(i) = self.nodes[node].instances.get_mut(uid) {
            (i.accepting, i.in_flight, i.finishing) = (false, 0, false);
            i.stopped.get_or_insert(why);
        }
        self.answer(
            node,
            Input::Killed {
                uid: uid.to_string(),
            },
        );
    }

    fn stop_accepting(&mut self, node: usize, uid: &str) {
        self.check_stop(node, uid);
        let why = self.why_stopped(node, uid);
        let Some(i) = self.nodes[node].instances.get_mut(uid) else {
            return self.answer(node, Input::Stopped { uid: uid.into() });
        };
        (i.accepting, i.stopped) = (false, Some(why));
        if i.in_flight == 0 {
            self.answer(node, Input::Stopped { uid: uid.into() });
        } else {
            i.finishing = true;
        }
    }

    /// A replica dies by itself.
    pub fn crash_instance(&mut self, node: usize, uid: &str, code: i32) {
        let Some(i) = self.nodes[node].instances.get_mut(uid) else {
            return;
        };
        (i.accepting, i.in_flight, i.stopped) = (false, 0, Some(Stopped::Crashed));
        let finishing = std::mem::take(&mut i.finishing);
        if let Some(at) = i.at.clone() {
            self.answer(
                node,
                Input::Exited {
                    at,
                    exit: Exit::code(code),
                },
            );
        }
        if finishing {
            self.answer(node, Input::Stopped { uid: uid.into() });
        }
    }

    fn write_status(
        &mut self,
        node: usize,
        key: &Key,
        uid: String,
        revision: u64,
        seq: u64,
        status: &Value,
    ) {
        let epoch = self.nodes[node].epoch;
        let failed = |why| Input::StatusFailed {
            uid: uid.clone(),
            seq,
            why,
        };
        let view = if self.nodes[node].cut {
            None
        } else {
            self.view()
        };
        let Some(view) = view else {
            return self.work(node, failed(StatusFailure::Retry));
        };
        match server::pod_status(&view, key, &uid, revision, status) {
            Ok(command) => {
                self.propose(
                    Who::Status {
                        node,
                        epoch,
                        uid,
                        seq,
                    },
                    vec![command],
                );
            }
            Err(Refusal::NotFound) => self.answer(node, failed(StatusFailure::Gone)),
            Err(Refusal::Conflict) => self.answer(node, failed(StatusFailure::Conflict)),
        }
    }

    pub fn status_settled(
        &mut self,
        node: usize,
        epoch: u32,
        uid: String,
        seq: u64,
        results: Option<&Results>,
    ) {
        let input = match results.and_then(|r| r.first()) {
            Some(Ok(applied)) => Input::StatusWritten {
                uid,
                seq,
                revision: applied.revision,
            },
            Some(Err(_)) => Input::StatusFailed {
                uid,
                seq,
                why: StatusFailure::Conflict,
            },
            None => Input::StatusFailed {
                uid,
                seq,
                why: StatusFailure::Retry,
            },
        };
        self.on_work(node, epoch, input);
    }

    fn delete_pod(&mut self, node: usize, key: &Key, uid: &str) {
        if self.nodes[node].cut {
            return;
        }
        let Some(view) = self.view() else { return };
        if let Ok(command) = server::delete(
            &view,
            server::kind("po"),
            key,
            Some(uid),
            Some(0),
            Propagation::Background,
            self.now,
        ) {
            self.propose(Who::Runner, vec![command]);
        }
    }
}

/// Whether a condition holds.
pub(crate) fn holds(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    conditions
        .filter(|c| c["type"] == kind)
        .any(|c| c["status"] == "True")
}
