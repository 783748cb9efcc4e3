//! Deployments: one ReplicaSet for each template, sized so that a rollout never has more than `maxSurge` pods too many
//! nor fewer than `replicas - maxUnavailable` available.
//!
//! What is available is counted from pods in the same view, not from ReplicaSet status, and never as more than the
//! ReplicaSet is meant to have: a ReplicaSet that has been told to shrink is already counted as small. So two steps
//! taken on a status that lags behind cannot add up to one step too far.

use std::sync::Arc;

use coracle_api::{Key, Timestamp, kinds, meta};
use coracle_state::Obj;
use serde_json::{Value, json};

use crate::Wait;
use crate::adopt::let_go;
use crate::pods::{self, Counts};
use crate::replicas::RS;
use crate::wake::selector_of;
use crate::writer::Plan;

mod revision;
mod rolling;
mod scale;
mod status;

pub(crate) const TABLE: &str = "deployments.apps";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the ReplicaSet was last sized: tells a scaling from a rollout.
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// `replicas + maxSurge` at that time: what proportions are taken of.
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// A ReplicaSet of the Deployment, with the size it is to have.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub obj: Arc<Obj>,
    /// As it will be written.
    pub value: Value,
    /// Replicas in the view that are neither leaving nor ended.
    pub counts: Counts,
    /// Pods in the view that have not ended, leaving ones included.
    pub present: usize,
}

impl Set {
    /// The size asked for.
    pub fn size(&self) -> i64 {
        self.value["spec"]["replicas"].as_i64().unwrap_or(1)
    }

    /// Available replicas that will stay: the ReplicaSet takes unavailable ones first when it shrinks.
    pub fn available(&self) -> i64 {
        self.counts.available.min(self.size())
    }

    pub fn revision(&self) -> i64 {
        meta::annotation(&self.value, REVISION)
            .and_then(|r| r.parse().ok())
            .unwrap_or(0)
    }

    pub fn desired(&self) -> Option<i64> {
        meta::annotation(&self.value, DESIRED).and_then(|r| r.parse().ok())
    }

    fn order(&self) -> (Option<Timestamp>, Key) {
        (meta::creation_timestamp(&self.value), self.obj.key.clone())
    }
}

/// A Deployment and its ReplicaSets during a reconcile.
pub(crate) struct Rollout {
    pub obj: Arc<Obj>,
    /// As it will be written.
    pub value: Value,
    /// The ReplicaSet of the present template.
    pub new: Option<Set>,
    /// The others, oldest first.
    pub old: Vec<Set>,
    pub replicas: i64,
    pub max_surge: i64,
    pub max_unavailable: i64,
}

impl Rollout {
    fn read(plan: &mut Plan, obj: &Arc<Obj>) -> Option<Self> {
        let value = obj.value();
        let selector = selector_of(TABLE, &value)?;
        let min_ready_seconds = value["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
        // A ReplicaSet without a controller that this Deployment selects is about to be adopted: judge with it, not
        // without it.
        let ownerless = |s: &&Arc<Obj>| s.attrs.controller().is_none() && !s.attrs.deleting;
        if plan
            .view
            .list(RS, Some(&obj.key.namespace))
            .filter(ownerless)
            .any(|s| selector.matches(&s.attrs.labels))
        {
            return None;
        }
        let mut sets = Vec::new();
        for set in plan.controlled(RS, &obj.attrs.uid) {
            if !selector.matches(&set.attrs.labels) {
                if !obj.attrs.deleting {
                    let_go(plan, RS, &set, &obj.attrs.uid);
                }
                continue;
            }
            let (mut counts, mut present) = (Counts::default(), 0);
            for pod in plan
                .controlled("pods", &set.attrs.uid)
                .into_iter()
                .filter(|p| !pods::ended(p))
            {
                present += 1;
                if pods::active(&pod) {
                    counts.add(&pod.value(), min_ready_seconds, plan.now);
                }
            }
            sets.push(Set {
                value: set.value(),
                obj: set,
                counts,
                present,
            });
        }
        sets.sort_by_key(Set::order);
        let at = sets
            .iter()
            .position(|s| !s.obj.attrs.deleting && revision::same_template(&s.value, &value));
        let new = at.map(|at| sets.remove(at));
        let replicas = value["spec"]["replicas"].as_i64().unwrap_or(1).max(0);
        let (max_surge, max_unavailable) = rolling::bounds(&value["spec"]["strategy"], replicas);
        Some(Self {
            obj: obj.clone(),
            value,
            new,
            old: sets,
            replicas,
            max_surge,
            max_unavailable,
        })
    }

    pub fn recreates(&self) -> bool {
        self.value["spec"]["strategy"]["type"] == "Recreate"
    }

    pub fn paused(&self) -> bool {
        self.value["spec"]["paused"] == true
    }

    /// Every ReplicaSet, the new one last.
    pub fn sets(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    pub fn sets_mut(&mut self) -> impl Iterator<Item = &mut Set> {
        self.old.iter_mut().chain(&mut self.new)
    }

    /// Replicas asked for in all.
    pub fn total(&self) -> i64 {
        self.sets().map(Set::size).sum()
    }

    /// Replicas there are or may come at any moment. A ReplicaSet that was told to shrink counts with the pods it still
    /// has: a refused delete is tried again later, and must not be overtaken by a create.
    pub fn held(&self) -> i64 {
        self.sets().map(|s| s.size().max(s.counts.replicas)).sum()
    }

    /// Available replicas that will stay.
    pub fn available(&self) -> i64 {
        self.sets().map(Set::available).sum()
    }
}

pub(crate) fn reconcile(plan: &mut Plan, key: &Key) {
    let Some(obj) = plan.view.get(TABLE, key).cloned() else {
        return;
    };
    let Some(mut rollout) = Rollout::read(plan, &obj) else {
        return;
    };
    if obj.attrs.deleting {
        status::write(plan, rollout, false);
        return;
    }
    let mut created = false;
    // Recreate sizes every ReplicaSet itself; proportions would keep old ones that it has to take down.
    if rollout.paused() || (!rollout.recreates() && scale::due(&rollout)) {
        revision::sync(&mut rollout);
        scale::apply(&mut rollout);
    } else if rollout.recreates() {
        created = recreate(plan, &mut rollout);
    } else if rollout.new.is_none() {
        let size = rolling::new_size(&rollout);
        created = revision::create(plan, &mut rollout, size);
    } else {
        revision::sync(&mut rollout);
        // One direction at a time, as the next step has to be judged on what this one leads to.
        if !rolling::grow(&mut rollout) {
            rolling::shrink(&mut rollout);
        }
        waiting(plan, &rollout);
    }
    let changed = write_sets(plan, &rollout);
    if !created && !changed {
        revision::forget(plan, &rollout);
    }
    status::write(plan, rollout, created);
}

/// Recreate: the old pods go, all of them, before a new one comes. Returns whether a ReplicaSet is created.
fn recreate(plan: &mut Plan, rollout: &mut Rollout) -> bool {
    revision::sync(rollout);
    for set in &mut rollout.old {
        scale::resize(set, 0, rollout.replicas, 0);
    }
    let left: usize = rollout.old.iter().map(|s| s.present).sum();
    if left > 0 {
        plan.wait(Wait::OldPods { count: left });
        return false;
    }
    let replicas = rollout.replicas;
    match &mut rollout.new {
        Some(new) => {
            scale::resize(new, replicas, replicas, 0);
            false
        }
        None => revision::create(plan, rollout, replicas),
    }
}

fn waiting(plan: &mut Plan, rollout: &Rollout) {
    if let Some(new) = &rollout.new {
        let unavailable = new.size() - new.available();
        if unavailable > 0 {
            plan.wait(Wait::Rollout {
                unavailable,
                updated: new.size(),
            });
        }
    }
}

/// Writes the ReplicaSets that have changed. Returns whether any has.
///
/// The sizes belong together, and to the Deployment they were judged by: if the user has changed that meanwhile, or
/// one ReplicaSet, none of them is written.
fn write_sets(plan: &mut Plan, rollout: &Rollout) -> bool {
    let Some(kind) = kinds::by_table(TABLE) else {
        return false;
    };
    let changed = rollout
        .sets()
        .any(|s| coracle_api::canonical::encode(&s.value) != s.obj.bytes);
    if changed {
        plan.group(|plan| {
            plan.require(TABLE, &rollout.obj);
            for set in rollout.sets() {
                plan.update(RS, &set.obj, set.value.clone(), "rollout");
            }
        });
    }
    for set in rollout.sets() {
        let before = set.obj.value()["spec"]["replicas"].as_i64().unwrap_or(1);
        let (after, name) = (set.size(), &set.obj.key.name);
        if after != before {
            let way = if after > before { "up" } else { "down" };
            plan.event(
                kind,
                &rollout.value,
                true,
                "ScalingReplicaSet",
                &format!("Scaled {way} replica set {name} from {before} to {after}"),
            );
        }
    }
    changed
}

pub(crate) fn set_size(value: &mut Value, size: i64) {
    value["spec"]["replicas"] = json!(size);
}
