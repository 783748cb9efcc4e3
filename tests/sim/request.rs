//! Virtual requests: from some node's table to the replica it picks, and back.

use coracle_api::{Key, meta};
use coracle_route::{Parts, find, find_service, pick};

use crate::world::{Event, World};

/// A request on its way to a replica.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Node whose proxy picked.
    pub from: usize,
    /// The replica's node and its life then.
    pub to: usize,
    pub uid: String,
    /// Pod picked, for messages.
    pub pod: String,
}

/// Time on the wire between two nodes, in ms: shorter than the way of a report to the leader and a condition back.
const WIRE_MS: u64 = 1;

impl World {
    pub fn on_request(&mut self) {
        if !self.requests {
            return;
        }
        let wait = self.knobs.between_requests_ms_max;
        self.soon(if self.faulty { wait } else { wait * 10 }, Event::Request);
        let Some(view) = self.view() else { return };
        let services: Vec<Key> = view
            .list("services", None)
            .filter(|s| !meta::string_map(&s.value()["spec"]["selector"]).is_empty())
            .map(|s| s.key.clone())
            .collect();
        let up: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].up)
            .collect();
        let (Some(service), Some(from)) = (
            self.net.pick(&services).cloned(),
            self.net.pick(&up).copied(),
        ) else {
            return;
        };
        if self.send(from, &service).is_none() {
            self.report.misses += 1;
        }
    }

    /// Routes a request from a node to a Service. `None` if its table has no replica.
    pub fn send(&mut self, from: usize, service: &Key) -> Option<String> {
        let outside = self.net.chance(500);
        let seed = self.net.next();
        let table = &self.nodes[from].table;
        let host = format!("{}.{}.localhost", service.name, service.namespace);
        let found = if outside {
            find(
                table,
                &Parts {
                    host: &host,
                    path: b"/",
                    method: "GET",
                },
            )
        } else {
            find_service(
                table,
                &format!("{}.{}", service.name, service.namespace),
                "default",
                80,
            )
        };
        let endpoints = found.ok()?.endpoints;
        // What is in flight is known to every proxy only for itself; here it is as good as none.
        let endpoint = endpoints.get(pick(endpoints, &|_: &_| 0, seed)?)?;
        let (uid, pod, target) = (
            endpoint.pod_uid.to_string(),
            endpoint.pod_name.to_string(),
            endpoint.node.to_string(),
        );
        let to = self.nodes.iter().position(|n| n.name == target)?;
        let request = Request {
            from,
            to,
            uid: uid.clone(),
            pod,
        };
        if to == from {
            self.on_arrive(request);
        } else {
            self.schedule(WIRE_MS, Event::Arrive(request));
        }
        Some(uid)
    }

    pub fn on_arrive(&mut self, request: Request) {
        let target = &mut self.nodes[request.to];
        let accepted = target.up
            && target
                .instances
                .get(&request.uid)
                .is_some_and(|i| i.accepting);
        if !accepted {
            self.report.misses += 1;
            return self.check_refused(&request);
        }
        if let Some(i) = target.instances.get_mut(&request.uid) {
            i.in_flight += 1;
        }
        self.report.requests += 1;
        let epoch = target.epoch;
        let ms = self.net.between(1, self.knobs.request_ms_max);
        self.schedule(
            ms,
            Event::Finish {
                node: request.to,
                epoch,
                uid: request.uid,
            },
        );
    }

    pub fn on_finish(&mut self, node: usize, epoch: u32, uid: &str) {
        let n = &mut self.nodes[node];
        if !n.up || n.epoch != epoch {
            return;
        }
        let Some(i) = n.instances.get_mut(uid) else {
            return;
        };
        i.in_flight = i.in_flight.saturating_sub(1);
        if i.in_flight == 0 && std::mem::take(&mut i.finishing) {
            let input = Box::new(coracle_agent::Input::Stopped { uid: uid.into() });
            self.schedule(1, Event::Work { node, epoch, input });
        }
    }
}
