//! What must hold, one file per property. Replicas agreeing and revisions rising is checked where entries are applied
//! ([`crate::order`]), because that is where it can be seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_plan::Controller;
use coracle_state::{Event as Changed, View};

use crate::world::{Who, World};

mod binding;
mod converged;
pub(crate) mod leaving;
mod rollout;

/// Entries between two full checks of the state: they decode every object.
const FULL_CHECK_EVERY: u64 = 24;

/// What the checkers remember.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    rollouts: BTreeMap<String, rollout::Seen>,
    leaving: leaving::Seen,
}

/// The changes of one table in one commit.
fn changes(before: &View, after: &View, table: &str) -> Vec<Arc<Changed>> {
    after
        .events_after(table, before.revision)
        .unwrap_or_default()
}

/// The controller that a command for this pod came from, if plan wrote it.
fn controller(who: &Who, changed: &Changed) -> Option<Controller> {
    let Who::Control { proposal, .. } = who else {
        return None;
    };
    let at = proposal
        .commands
        .iter()
        .position(|c| c.table == "pods" && c.key == changed.obj.key)?;
    Some(proposal.tasks[at].controller)
}

impl World {
    /// Runs after every commit.
    pub fn check_commit(&mut self, before: &View, after: &View, who: &Who) {
        let pods = changes(before, after, "pods");
        let deployments = changes(before, after, "deployments.apps");
        let sets = changes(before, after, "replicasets.apps");
        let unknown = |n: &coracle_state::Obj| {
            n.value()["spec"]["taints"]
                .as_array()
                .is_some_and(|t| t.iter().any(|t| t["effect"] == "NoExecute"))
        };
        for node in changes(before, after, "nodes") {
            self.report.lost_nodes +=
                u64::from(unknown(&node.obj) && !node.before.as_ref().is_some_and(|b| unknown(b)));
        }
        if !pods.is_empty() {
            self.check_bindings(after, &pods);
            self.check_drained(who, &pods);
        }
        if !(pods.is_empty() && deployments.is_empty() && sets.is_empty()) {
            self.check_rollouts(before, after, who, &pods, &deployments, &sets);
        }
        if self.report.entries.is_multiple_of(FULL_CHECK_EVERY) {
            self.check_state(after);
        }
    }

    /// The invariants that plan itself names.
    pub fn check_state(&mut self, view: &View) {
        for sentence in coracle_plan::check(view) {
            self.violated("state invariants", sentence);
        }
    }
}
