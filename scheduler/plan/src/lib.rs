//! Every decision about the cluster: controllers, placement, draining, and why something has not happened yet.
//!
//! [`reconcile`] looks at one immutable [`View`] and says what should be written next; `scheduler::control` proposes
//! it. A write carries the revision it was decided on, so a lost race is a refusal and a fresh look, never a merge.
//! Decisions are level-triggered: a [`Task`] names an object and nothing else, and running it twice, late or for no
//! reason does no harm. What is not done yet is a [`Wait`], a value that tests, conditions and `explain` share.
//!
//! Invariant: nothing here can fail, or differ, for reasons outside its arguments. No clock, no randomness but the
//! seeded ids handed in, no I/O, no iteration over hashed maps. Names of created objects follow from what they are
//! created for, so that two leaders deciding on the same view collide instead of doubling.

use coracle_api::{Ids, Key, Timestamp, kinds};
use coracle_state::{Command, View};

pub mod bootstrap;
pub mod check;
pub mod explain;
pub mod holders;
pub mod queue;
pub mod settings;
pub mod volatile;
pub mod wait;
pub mod wake;

mod adopt;
mod deployment;
mod drain;
mod endpoints;
mod garbage;
mod ingress;
mod namespace;
mod nodes;
mod placement;
mod pods;
mod replicas;
mod retention;
#[cfg(test)]
mod tests;
mod writer;

pub use bootstrap::bootstrap;
pub use check::check;
pub use drain::DRAIN_REVISION;
pub use explain::{Explanation, explain};
pub use placement::{Reason, Unplaceable};
pub use queue::{Proposal, Queue};
pub use settings::Settings;
pub use volatile::Volatile;
pub use wait::Wait;
pub use wake::{tasks_after_ack, tasks_all, tasks_for};

use writer::Plan;

/// All that a decision may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The cluster as this leader has applied it.
    pub view: &'a View,
    /// What only this leader knows and never logs.
    pub volatile: &'a Volatile,
    /// The leader's clock.
    pub now: Timestamp,
    /// The knobs.
    pub settings: &'a Settings,
}

/// Which decision procedure a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Furnishes a namespace, or empties and removes it. Key: the namespace.
    Namespace,
    /// Follows a node's lease, taints it and evicts from it. Key: the node.
    NodeLifecycle,
    /// Removes what has lost its owners, and lets owners go once their dependents have. Key: an object of this table.
    Garbage(&'static str),
    /// Gives an ownerless pod or ReplicaSet to the controller that selects it. Key: an object of this table.
    Adoption(&'static str),
    /// Rolls a Deployment. Key: the Deployment.
    Deployment,
    /// Keeps a ReplicaSet's pods. Key: the ReplicaSet.
    ReplicaSet,
    /// Keeps a ReplicationController's pods. Key: the ReplicationController.
    ReplicationController,
    /// Binds every pending pod it can, in one pass. Key: empty.
    Placement,
    /// Keeps EndpointSlices and Endpoints of a Service. Key: the Service.
    Endpoints,
    /// Says when a leaving pod has left every live proxy's table. Key: the pod.
    Drain,
    /// Fills in an Ingress's address. Key: the Ingress.
    Ingress,
    /// Forgets old Events and surplus ended pods. Key: empty.
    Retention,
}

/// One object to look at. Ordered and equal by value, so that a set of tasks holds each once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    /// What to run.
    pub controller: Controller,
    /// What to run it on.
    pub key: Key,
}

impl Task {
    /// A task on an object.
    pub fn new(controller: Controller, key: Key) -> Self {
        Self { controller, key }
    }

    /// A task that concerns the whole cluster.
    pub fn whole(controller: Controller) -> Self {
        Self {
            controller,
            key: Key::default(),
        }
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.controller, self.key)
    }
}

/// A change that should be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Ready to propose: canonical bytes, claims and precondition. Neighbours with the same non-zero `group` must
    /// be proposed in the same batch (see [`Queue`], which keeps them together).
    pub command: Command,
    /// What it does, for logs and tests: `create pods default/web-x`.
    pub note: String,
}

/// What one look at one object came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Changes, in order.
    pub writes: Vec<Write>,
    /// What keeps the object from where it should be.
    pub waits: Vec<Wait>,
    /// When to look again even if nothing changes until then.
    pub wake_at: Option<Timestamp>,
}

/// Decides what to do about one object. An object that is gone needs nothing, so any task is safe to run.
pub fn reconcile(input: &Input, task: &Task, ids: &mut Ids) -> Outcome {
    let mut plan = Plan::new(input, ids);
    let key = &task.key;
    match task.controller {
        Controller::Namespace => namespace::reconcile(&mut plan, key),
        Controller::NodeLifecycle => nodes::reconcile(&mut plan, key),
        Controller::Garbage(table) => garbage::reconcile(&mut plan, table, key),
        Controller::Adoption(table) => adopt::reconcile(&mut plan, table, key),
        Controller::Deployment => deployment::reconcile(&mut plan, key),
        Controller::ReplicaSet => replicas::reconcile(&mut plan, "replicasets.apps", key),
        Controller::ReplicationController => {
            replicas::reconcile(&mut plan, "replicationcontrollers", key)
        }
        Controller::Placement => placement::reconcile(&mut plan),
        Controller::Endpoints => endpoints::reconcile(&mut plan, key),
        Controller::Drain => drain::reconcile(&mut plan, key),
        Controller::Ingress => ingress::reconcile(&mut plan, key),
        Controller::Retention => retention::reconcile(&mut plan),
    }
    plan.finish()
}

/// Tables of API objects, in the order of the table of kinds.
fn tables() -> impl Iterator<Item = &'static kinds::Kind> {
    kinds::KINDS.iter().filter(|k| k.stored)
}
