//! No replica receives a request before it is ready, none is stopped before every live proxy has let go of it, and
//! none is ended with requests in flight while it still has time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::DRAINED;
use coracle_state::{Change, Event as Changed};

use crate::node::holds;
use crate::request::Request;
use crate::world::{Who, World};

/// Why a replica takes no requests any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Every live proxy has let go of it.
    Drained,
    /// It was given no more time.
    OutOfTime,
    /// The API has no such pod any more.
    Gone,
    /// It died by itself.
    Crashed,
}

/// What is remembered about leaving pods.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Drained pods, and the nodes whose lease had run out by then: those were not waited for.
    drained: BTreeMap<String, BTreeSet<String>>,
}

impl World {
    /// Why a replica is stopped now, from what its node knows.
    pub fn why_stopped(&self, node: usize, uid: &str) -> Stopped {
        match self.nodes[node].pods.get(uid) {
            None => Stopped::Gone,
            Some(known) if known.drained => Stopped::Drained,
            Some(_) => Stopped::OutOfTime,
        }
    }

    /// Milliseconds a leaving pod still has; `None` if it is not leaving.
    fn time_left(&self, node: usize, uid: &str) -> Option<i128> {
        let (since, grace_ms) = self.nodes[node].pods.get(uid)?.leaving?;
        Some(i128::from(grace_ms) - self.now.duration_since(since).as_millis())
    }

    /// A runner stops taking requests for a pod.
    pub fn check_stop(&mut self, node: usize, uid: &str) {
        if self.why_stopped(node, uid) == Stopped::OutOfTime
            && self.time_left(node, uid).is_none_or(|ms| ms > 0)
        {
            let key = self.nodes[node].pods[uid].key.clone();
            self.violated(
                "no replica stops before it is drained",
                format!(
                    "pod {key} stops with {:?} ms left",
                    self.time_left(node, uid)
                ),
            );
        }
    }

    /// A runner ends a pod.
    pub fn check_kill(&mut self, node: usize, uid: &str) {
        let in_flight = self.nodes[node]
            .instances
            .get(uid)
            .map_or(0, |i| i.in_flight);
        if in_flight > 0
            && self.nodes[node].pods.contains_key(uid)
            && self.time_left(node, uid).is_none_or(|ms| ms > 0)
        {
            let text = format!(
                "pod {} is killed with {in_flight} requests in flight and {:?} ms left",
                self.nodes[node].pods[uid].key,
                self.time_left(node, uid)
            );
            self.violated("no replica ends with requests in flight", text);
        }
    }

    /// A request came to a replica that does not take it.
    pub fn check_refused(&mut self, request: &Request) {
        let target = &self.nodes[request.to];
        let from = self.nodes[request.from].name.clone();
        let why = target.instances.get(&request.uid).and_then(|i| i.stopped);
        // A machine that lost its memory, a replica that died, time that ran out: nobody promised more.
        let lost = !target.up || !target.instances.get(&request.uid).is_some_and(|i| i.served);
        if lost && target.served.contains(&request.uid) {
            return;
        }
        let message = match why {
            None => format!(
                "from {from} to pod {} on {}, which does not serve yet",
                request.pod, target.name
            ),
            Some(Stopped::Drained) => {
                let excused = self
                    .checks
                    .leaving
                    .drained
                    .get(&request.uid)
                    .is_some_and(|nodes| nodes.contains(&from));
                if excused {
                    return;
                }
                format!(
                    "from {from} to pod {} on {}, which has been drained and stopped",
                    request.pod, target.name
                )
            }
            Some(Stopped::OutOfTime | Stopped::Gone | Stopped::Crashed) => return,
        };
        self.violated("every request reaches a ready replica", message);
    }

    /// Pods that the leader has just called drained: no live proxy may choose them.
    pub(super) fn check_drained(&mut self, who: &Who, pods: &[Arc<Changed>]) {
        for event in pods {
            let uid = &event.obj.attrs.uid;
            if event.change == Change::Deleted {
                continue;
            }
            let now = holds(&event.obj.value(), DRAINED);
            if !now
                || event
                    .before
                    .as_ref()
                    .is_some_and(|b| holds(&b.value(), DRAINED))
            {
                continue;
            }
            self.report.drains += 1;
            let current = matches!(who, Who::Control { term, .. } if *term == self.order.term);
            let live = self
                .control
                .volatile
                .live_proxies(&self.control.settings, self.now);
            // A decision of an earlier term went by what that leader knew, which is gone with it.
            let excused: BTreeSet<String> = self
                .nodes
                .iter()
                .filter(|n| !current || !live.contains_key(n.name.as_str()))
                .map(|n| n.name.clone())
                .collect();
            self.checks.leaving.drained.insert(uid.clone(), excused);
        }
        for node in 0..self.nodes.len() {
            self.check_table(node);
        }
    }

    /// A live proxy's table never offers a drained pod.
    pub fn check_table(&mut self, node: usize) {
        let n = &self.nodes[node];
        if !n.up || self.checks.leaving.drained.is_empty() {
            return;
        }
        for service in n.table.services() {
            for port in &service.ports {
                for i in port.endpoints.usable() {
                    let Some(e) = port.endpoints.get(*i as usize) else {
                        continue;
                    };
                    let excused = self.checks.leaving.drained.get(e.pod_uid.as_ref());
                    if excused.is_some_and(|nodes| !nodes.contains(&n.name)) {
                        let text = format!(
                            "{} still chooses pod {} for {}",
                            n.name, e.pod_name, service.label
                        );
                        return self.violated("no live proxy chooses a drained pod", text);
                    }
                }
            }
        }
    }
}
