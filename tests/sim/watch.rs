//! Watches: what a node hears of the cluster, late, and after a break from a fresh list.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_agent::Input;
use coracle_state::{Change, Event as Changed};

use crate::world::{Event, World};

/// One watch of a node.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// Table watched.
    pub table: &'static str,
    /// The resource as `route` names it.
    pub plural: &'static str,
    /// The member it is connected to.
    pub member: usize,
    /// Everything up to this revision has been seen; `None` before the list.
    pub at: Option<u64>,
    /// Whether it is going to deliver.
    pub scheduled: bool,
}

pub(crate) const PODS: &str = "pods";
pub(crate) const SLICES: &str = "endpointslices.discovery.k8s.io";

/// The watches of a node, all to list first.
pub(crate) fn watches(member: usize) -> Vec<Watch> {
    [
        (PODS, "pods"),
        ("services", "services"),
        (SLICES, "endpointslices"),
        ("ingresses.networking.k8s.io", "ingresses"),
    ]
    .map(|(table, plural)| Watch {
        table,
        plural,
        member,
        at: None,
        scheduled: false,
    })
    .into()
}

impl World {
    /// Something has changed on a member: those who watch there hear of it.
    pub fn wake_watches(&mut self, member: usize) {
        for node in 0..self.nodes.len() {
            for watch in 0..self.nodes[node].watches.len() {
                if self.nodes[node].watches[watch].member == member {
                    self.wake_watch(node, watch);
                }
            }
        }
    }

    /// Makes a watch deliver soon, if it has news.
    pub fn wake_watch(&mut self, node: usize, watch: usize) {
        let n = &self.nodes[node];
        let w = &n.watches[watch];
        if !n.up || n.cut || w.scheduled {
            return;
        }
        let view = self.order.members[w.member].state.view();
        let news =
            w.at.is_none_or(|at| view.events_after(w.table, at).is_none_or(|e| !e.is_empty()));
        if news {
            let epoch = n.epoch;
            self.nodes[node].watches[watch].scheduled = true;
            self.soon(
                self.knobs.watch_ms_max,
                Event::Deliver { node, epoch, watch },
            );
        }
    }

    pub fn on_deliver(&mut self, node: usize, epoch: u32, watch: usize) {
        if self.nodes[node].epoch != epoch {
            return;
        }
        self.nodes[node].watches[watch].scheduled = false;
        if !self.nodes[node].up || self.nodes[node].cut {
            return;
        }
        let w = self.nodes[node].watches[watch].clone();
        if !self.order.members[w.member].up {
            return self.reconnect(node, watch);
        }
        let Some(at) = w.at else {
            return self.list(node, watch);
        };
        if self.faulty && self.net.chance(self.knobs.broken_watch) {
            // What was on the way is lost; the client lists again.
            self.nodes[node].watches[watch].at = None;
            self.report.relists += 1;
            return self.reconnect(node, watch);
        }
        match self.order.members[w.member]
            .state
            .view()
            .events_after(w.table, at)
        {
            None => {
                self.nodes[node].watches[watch].at = None;
                self.report.relists += 1;
                self.list(node, watch);
            }
            Some(events) => {
                if let Some(last) = events.last() {
                    self.nodes[node].watches[watch].at = Some(last.revision);
                    self.deliver(node, &w, &events);
                }
            }
        }
    }

    /// Connects to a member that is up; waits if none is.
    fn reconnect(&mut self, node: usize, watch: usize) {
        let up: Vec<usize> = (0..self.order.members.len())
            .filter(|m| self.order.members[*m].up)
            .collect();
        let epoch = self.nodes[node].epoch;
        if let Some(member) = self.net.pick(&up).copied() {
            self.nodes[node].watches[watch].member = member;
        }
        self.nodes[node].watches[watch].scheduled = true;
        self.soon(
            self.knobs.watch_ms_max * 3,
            Event::Deliver { node, epoch, watch },
        );
    }

    /// A list without a resourceVersion: of everything that is committed, or not at all.
    fn list(&mut self, node: usize, watch: usize) {
        let Some(view) = self.view() else {
            return self.reconnect(node, watch);
        };
        let w = self.nodes[node].watches[watch].clone();
        self.nodes[node].watches[watch].at = Some(view.revision);
        if w.table == PODS {
            let pods: Vec<_> = view.on_node(&self.nodes[node].name).cloned().collect();
            let uids: BTreeSet<String> = pods.iter().map(|p| p.attrs.uid.clone()).collect();
            for pod in pods {
                self.tell_pod(node, &pod);
            }
            self.nodes[node].forget_pods_but(&uids);
            self.agent_step(node, Input::Relisted { uids });
        } else {
            let n = &mut self.nodes[node];
            n.sources.clear(w.plural);
            for obj in view.list(w.table, None) {
                if let Err(e) = n.sources.put(w.plural, &obj.value()) {
                    let text = e.to_string();
                    return self.violated("routes can be built", text);
                }
            }
            self.routes_changed(node, w.table, view.revision);
        }
        // Its member may be ahead of the list already, or behind it; both is fine.
        self.wake_watch(node, watch);
    }

    fn deliver(&mut self, node: usize, watch: &Watch, events: &[Arc<Changed>]) {
        if watch.table == PODS {
            let name = self.nodes[node].name.clone();
            for event in events.iter().filter(|e| e.obj.attrs.node_name == name) {
                if event.change == Change::Deleted {
                    let uid = event.obj.attrs.uid.clone();
                    self.nodes[node].forget_pod(&uid);
                    self.agent_step(node, Input::Gone { uid });
                } else {
                    self.tell_pod(node, &event.obj);
                }
            }
            return;
        }
        let n = &mut self.nodes[node];
        let mut newest = 0;
        for event in events {
            newest = event.revision;
            if event.change == Change::Deleted {
                n.sources.remove(watch.plural, &event.obj.key);
            } else if let Err(e) = n.sources.put(watch.plural, &event.obj.value()) {
                let text = e.to_string();
                return self.violated("routes can be built", text);
            }
        }
        self.routes_changed(node, watch.table, newest);
    }
}
