//! Why a pod is where it is: the same reasons that conditions and Events carry, as data.

use coracle_api::{DRAINED, Ids, Key};

use crate::placement::{self, is_pending};
use crate::writer::Plan;
use crate::{Controller, Input, Task, Wait, pods, reconcile};

/// What is known about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The pod.
    pub pod: Key,
    /// `status.phase`, or `Terminating` if it is leaving.
    pub phase: String,
    /// Its node, empty if it has none.
    pub node: String,
    /// What it waits for; empty if it is where it should be.
    pub waits: Vec<Wait>,
}

/// Explains a pod; `None` if there is no such pod. Writes nothing and changes nothing.
pub fn explain(input: &Input, pod: &Key) -> Option<Explanation> {
    let obj = input.view.get("pods", pod)?;
    let value = obj.value();
    let mut ids = Ids::new(0);
    let mut waits = Vec::new();
    if is_pending(obj) {
        let plan = Plan::new(input, &mut ids);
        waits.extend(
            placement::why_not(&plan, &value).map(|why| Wait::NoNodeFits(pod.clone(), why)),
        );
    } else if obj.attrs.deleting && !pods::ended(obj) {
        waits = reconcile(input, &Task::new(Controller::Drain, pod.clone()), &mut ids).waits;
        if waits.is_empty() && pods::holds(&value, DRAINED) {
            waits.push(Wait::Finishing {
                pod: pod.clone(),
                node: obj.attrs.node_name.clone(),
            });
        }
    } else if !pods::ended(obj) && !pods::ready(&value) {
        let statuses = value["status"]["containerStatuses"]
            .as_array()
            .into_iter()
            .flatten();
        let mut said = statuses.filter_map(|c| {
            let w = &c["state"]["waiting"];
            let (reason, message) = (
                w["reason"].as_str()?,
                w["message"].as_str().unwrap_or_default(),
            );
            Some(if message.is_empty() {
                reason.to_string()
            } else {
                format!("{reason}: {message}")
            })
        });
        let condition = || {
            pods::condition(&value, "Ready")
                .and_then(|c| c["message"].as_str())
                .filter(|m| !m.is_empty())
                .map(str::to_string)
        };
        let why = said
            .next()
            .or_else(condition)
            .unwrap_or_else(|| "its runner has not reported on it yet".into());
        waits.push(Wait::NotReady {
            pod: pod.clone(),
            node: obj.attrs.node_name.clone(),
            why,
        });
    }
    let phase = if obj.attrs.deleting {
        "Terminating"
    } else {
        value["status"]["phase"].as_str().unwrap_or("Pending")
    };
    Some(Explanation {
        pod: pod.clone(),
        phase: phase.into(),
        node: obj.attrs.node_name.clone(),
        waits,
    })
}
