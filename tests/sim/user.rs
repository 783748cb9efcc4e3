//! The user: creates, changes and deletes things without a thought for what is going on.

use coracle_api::{Ids, Key, Timestamp};
use coracle_state::{Command, Refused, Results, View};
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::server::{self, Propagation, Refusal};
use crate::world::{Event, Who, World};

/// Deployments there may be.
const DEPLOYMENTS_MAX: usize = 4;
/// Replicas of one at most.
const REPLICAS_MAX: u64 = 6;
/// A conflict is tried again this often.
const TRIES_MAX: u32 = 20;

/// A change of one object.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Image(String),
    Replicas(u64),
    Paused(bool),
    Unschedulable(bool),
    Bounds(Value),
    Cpu(String),
}

/// What the user asks of the API.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create(&'static str, Box<Value>),
    Change(&'static str, Key, Change),
    Delete(&'static str, Key, Propagation),
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Op::Create(word, object) => {
                write!(f, "create {word} {}", coracle_api::meta::key(object))
            }
            Op::Change(word, key, change) => write!(f, "change {word} {key}: {change:?}"),
            Op::Delete(word, key, propagation) => {
                write!(f, "delete {word} {key} ({propagation:?})")
            }
        }
    }
}

impl Op {
    /// What the API would propose for it.
    fn command(&self, view: &View, now: Timestamp, ids: &mut Ids) -> Result<Command, Refusal> {
        match self {
            Op::Create(word, object) => Ok(server::create(
                server::kind(word),
                object.as_ref().clone(),
                now,
                ids,
            )),
            Op::Delete(word, key, propagation) => {
                server::delete(view, server::kind(word), key, None, None, *propagation, now)
            }
            Op::Change(word, key, change) => {
                server::update(view, server::kind(word), key, |o| match change {
                    Change::Image(image) => {
                        o["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image)
                    }
                    Change::Replicas(n) => o["spec"]["replicas"] = json!(n),
                    Change::Paused(paused) => o["spec"]["paused"] = json!(paused),
                    Change::Unschedulable(on) => o["spec"]["unschedulable"] = json!(on),
                    Change::Cpu(cpu) => {
                        o["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] =
                            json!(cpu)
                    }
                    Change::Bounds(strategy) => o["spec"]["strategy"] = strategy.clone(),
                })
            }
        }
    }
}

/// The user's mind.
pub(crate) struct User {
    dice: Dice,
    /// Images so far.
    images: u64,
    /// Cluster addresses given out.
    addresses: u64,
}

impl User {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, "user"),
            images: 0,
            addresses: 10,
        }
    }

    fn strategy(&mut self) -> Value {
        match self.dice.below(6) {
            0 => json!({"type": "Recreate"}),
            1 => {
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
            }
            _ => {
                let surge = self.dice.below(3);
                let unavailable = if surge == 0 {
                    1 + self.dice.below(2)
                } else {
                    self.dice.below(3)
                };
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
            }
        }
    }

    /// A Deployment, the Service in front of it and the Ingress in front of that.
    pub fn application(
        &mut self,
        key: &Key,
        replicas: u64,
        strategy: Option<Value>,
        grace_seconds: u64,
    ) -> Vec<Op> {
        self.addresses += 1;
        let labels = json!({"app": key.name});
        let metadata = json!({"name": key.name, "namespace": key.namespace});
        let container = json!({"name": "c", "image": "v0:1", "ports": [{"containerPort": 8080}], "resources": {"requests": {"cpu": "100m"}}});
        let strategy = strategy.unwrap_or_else(|| self.strategy());
        let deployment = json!({"metadata": metadata, "spec": {"replicas": replicas, "strategy": strategy, "revisionHistoryLimit": 3, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": grace_seconds, "containers": [container]}}}});
        let address = format!(
            "10.43.{}.{}",
            self.addresses / 250,
            self.addresses % 250 + 1
        );
        let service = json!({"metadata": metadata, "spec": {"clusterIP": address, "selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}});
        let backend = json!({"service": {"name": key.name, "port": {"number": 80}}});
        let rule = json!({"host": format!("{}.{}.localhost", key.name, key.namespace), "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}});
        let ingress = json!({"metadata": metadata, "spec": {"rules": [rule]}});
        vec![
            Op::Create("svc", Box::new(service)),
            Op::Create("ing", Box::new(ingress)),
            Op::Create("deploy", Box::new(deployment)),
        ]
    }

    fn image(&mut self) -> String {
        self.images += 1;
        let n = self.images;
        // Some images cannot be pulled, some are old ones again.
        match self.dice.below(10) {
            0 => format!("bad{n}:1"),
            1 | 2 => format!("v{}:1", self.dice.below(n)),
            _ => format!("v{n}:1"),
        }
    }

    fn propagation(&mut self) -> Propagation {
        match self.dice.below(6) {
            0 => Propagation::Orphan,
            1 | 2 => Propagation::Foreground,
            _ => Propagation::Background,
        }
    }

    fn act(&mut self, view: &View, grace_seconds: u64) -> Vec<Op> {
        let keys = |table: &str| -> Vec<Key> {
            view.list(table, None)
                .filter(|o| !o.attrs.deleting)
                .map(|o| o.key.clone())
                .collect()
        };
        let deployments = keys("deployments.apps");
        if deployments.len() < DEPLOYMENTS_MAX && (deployments.is_empty() || self.dice.chance(150))
        {
            let namespace = if self.dice.chance(200)
                && view
                    .get("namespaces", &Key::new("", "team"))
                    .is_some_and(|n| !n.attrs.deleting)
            {
                "team"
            } else {
                "default"
            };
            let key = Key::new(
                namespace,
                format!("d{}", self.dice.below(DEPLOYMENTS_MAX as u64)),
            );
            let replicas = self.dice.between(1, REPLICAS_MAX);
            return self.application(&key, replicas, None, grace_seconds);
        }
        let deployment = self.dice.pick(&deployments).cloned();
        match (self.dice.below(20), deployment) {
            (0..=7, Some(key)) => vec![Op::Change("deploy", key, Change::Image(self.image()))],
            (8..=10, Some(key)) => vec![Op::Change(
                "deploy",
                key,
                Change::Replicas(self.dice.below(REPLICAS_MAX + 1)),
            )],
            (11, Some(key)) => vec![Op::Change(
                "deploy",
                key,
                Change::Paused(self.dice.chance(300)),
            )],
            (12, Some(key)) => vec![Op::Change("deploy", key, Change::Bounds(self.strategy()))],
            (13, Some(key)) => {
                let mut ops = vec![Op::Delete("deploy", key.clone(), self.propagation())];
                if self.dice.chance(500) {
                    ops.push(Op::Delete("svc", key.clone(), Propagation::Background));
                    ops.push(Op::Delete("ing", key, Propagation::Background));
                }
                ops
            }
            (14, _) => self
                .dice
                .pick(&keys("pods"))
                .map(|k| Op::Delete("po", k.clone(), Propagation::Background))
                .into_iter()
                .collect(),
            (15, _) => {
                let on = self.dice.chance(400);
                self.dice
                    .pick(&keys("nodes"))
                    .map(|k| Op::Change("no", k.clone(), Change::Unschedulable(on)))
                    .into_iter()
                    .collect()
            }
            (16, _) => {
                let key = Key::new("", "team");
                match view.get("namespaces", &key) {
                    None => vec![Op::Create(
                        "ns",
                        Box::new(json!({"metadata": {"name": "team"}})),
                    )],
                    Some(_) if self.dice.chance(300) => {
                        vec![Op::Delete("ns", key, Propagation::Background)]
                    }
                    Some(_) => Vec::new(),
                }
            }
            (17, _) => {
                let labels = json!({"rc": "r"});
                let template = json!({"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": grace_seconds, "containers": [{"name": "c", "image": "v0:1"}]}});
                let key = Key::new("default", "r");
                match view.get("replicationcontrollers", &key) {
                    None => vec![Op::Create(
                        "rc",
                        Box::new(
                            json!({"metadata": {"name": "r", "namespace": "default"}, "spec": {"replicas": 2, "selector": labels, "template": template}}),
                        ),
                    )],
                    Some(_) if self.dice.chance(300) => {
                        vec![Op::Delete("rc", key, self.propagation())]
                    }
                    Some(_) => vec![Op::Change("rc", key, Change::Replicas(self.dice.below(4)))],
                }
            }
            (18, _) => {
                let name = format!("job-{}", self.dice.below(1000));
                let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": grace_seconds, "containers": [{"name": "c", "image": "job:1"}]});
                vec![Op::Create(
                    "po",
                    Box::new(
                        json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}),
                    ),
                )]
            }
            _ => Vec::new(),
        }
    }
}

impl World {
    pub fn on_user(&mut self) {
        if !self.faulty {
            return;
        }
        let wait = self.knobs.user_ms_max;
        self.soon(wait, Event::User);
        let Some(view) = self.view() else { return };
        for op in self.user.act(&view, self.knobs.grace_seconds) {
            self.ask(op, 0);
        }
    }

    /// Sends a request to the API; conflicts are tried again on a newer view, as `server::write` does.
    pub fn ask(&mut self, op: Op, tries: u32) {
        let Some(view) = self.view() else {
            return self.try_again(op, tries);
        };
        // The API takes nothing new into a namespace that is not there or is on its way out.
        if let Op::Create(_, object) = &op {
            let namespace = coracle_api::meta::namespace(object);
            if !namespace.is_empty()
                && view
                    .get("namespaces", &Key::new("", namespace))
                    .is_none_or(|n| n.attrs.deleting)
            {
                return;
            }
        }
        if let Ok(command) = op.command(&view, self.now, self.user.dice.ids()) {
            self.propose(Who::User { op, tries }, vec![command]);
        }
    }

    fn try_again(&mut self, op: Op, tries: u32) {
        if tries < TRIES_MAX {
            self.schedule(
                100,
                Event::Ask {
                    op: Box::new(op),
                    tries: tries + 1,
                },
            );
        }
    }

    pub fn user_settled(&mut self, op: Op, tries: u32, results: Option<&Results>) {
        match results.and_then(|r| r.first()) {
            Some(Ok(applied)) => {
                if let Op::Change(_, _, Change::Image(_)) = op
                    && applied.changed
                {
                    self.report.rollouts += 1;
                }
            }
            Some(Err(Refused::Precondition { .. }))
                if !matches!(op, Op::Create(..)) && tries < TRIES_MAX =>
            {
                self.ask(op, tries + 1)
            }
            Some(Err(_)) => {}
            // Not proposed yet, or of unknown fate: a user who insists.
            None if tries < TRIES_MAX => self.ask(op, tries + 1),
            None => {}
        }
    }

    /// What the user puts right before the cluster has to come to rest.
    pub fn tidy_up(&mut self) {
        let Some(view) = self.view() else { return };
        for node in view.list("nodes", None) {
            self.ask(
                Op::Change("no", node.key.clone(), Change::Unschedulable(false)),
                0,
            );
        }
        for d in view
            .list("deployments.apps", None)
            .filter(|d| !d.attrs.deleting)
        {
            let value = d.value();
            if value["spec"]["paused"] == true {
                self.ask(
                    Op::Change("deploy", d.key.clone(), Change::Paused(false)),
                    0,
                );
            }
        }
    }
}
