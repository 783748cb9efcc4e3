//! Placement: binds every pending pod that fits somewhere, in one pass over one view.
//!
//! Pods are taken oldest first. Pods that ask for the same (most of a ReplicaSet's do) share one ranking of nodes.
//! During a pass nodes only fill up, so a node's rank only gets worse: taking the best entry and checking that it is
//! still what it was when ranked is exact, and a pass costs `shapes × nodes + pods × log nodes`, not `pods × nodes`.
//!
//! A binding is one write that holds the room on the node and the pod's address as claims; if another leader was
//! faster, apply refuses it and the next view is looked at.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::Ipv4Addr; // pure: an address is a value
use std::sync::Arc;

use coracle_api::{Amounts, attrs, kinds};
use coracle_state::Obj;
use serde_json::{Value, json};

use crate::nodes::internal_ip;
use crate::pods;
use crate::writer::{Plan, digest};
use crate::{Settings, Wait};

mod fit;
mod reason;

pub(crate) use fit::{Node, Shape, tolerates};
pub use reason::{Reason, Unplaceable};

/// Name of our scheduler, and of Kubernetes' own, which manifests ask for by default.
const SCHEDULERS: &[&str] = &["", "default-scheduler", "coracle-scheduler"];
/// Bindings in one pass; the rest follows on the view that has these.
const BURST_MAX: usize = 5_000;

pub(crate) fn reconcile(plan: &mut Plan) {
    let mut pending: Vec<Arc<Obj>> = plan
        .view
        .list("pods", None)
        .filter(|p| is_pending(p))
        .cloned()
        .collect();
    if pending.is_empty() {
        return;
    }
    // Creation order is revision order, which no clock can upset.
    pending.sort_by_key(|p| (p.created, p.key.clone()));
    if pending.len() > BURST_MAX {
        pending.truncate(BURST_MAX);
        plan.wake_in(1);
    }
    let mut pass = Pass::new(plan);
    for obj in &pending {
        let pod = obj.value();
        match pass.place(plan, &pod) {
            Ok((node, ip)) => bind(plan, obj, pod, &pass.nodes[node], ip),
            Err(Failure::Unplaceable(why)) => {
                unschedulable(plan, obj, pod, &why.to_string());
                plan.wait(Wait::NoNodeFits(obj.key.clone(), why));
            }
            Err(Failure::NoAddress) => {
                unschedulable(plan, obj, pod, "every address of the pod range is in use");
                plan.wait(Wait::NoAddress {
                    pod: obj.key.clone(),
                });
            }
        }
    }
}

/// Whether a pod waits for a node that we should find.
pub(crate) fn is_pending(pod: &Obj) -> bool {
    pod.attrs.node_name.is_empty()
        && pods::active(pod)
        && SCHEDULERS.contains(
            &pod.attrs
                .fields
                .get("spec.schedulerName")
                .map_or("", String::as_str),
        )
}

/// Why a pod cannot be placed now; for `explain`.
pub(crate) fn why_not(plan: &Plan, pod: &Value) -> Option<Unplaceable> {
    match Pass::new(plan).place(plan, pod) {
        Err(Failure::Unplaceable(why)) => Some(why),
        _ => None,
    }
}

enum Failure {
    Unplaceable(Unplaceable),
    NoAddress,
}

/// Rank of a node for a shape: fewest replicas of the same owner, then least used, then a hash that spreads owners
/// over equal nodes, then the name's position, so that every leader ranks alike.
type Rank = (usize, u64, u64, usize);

/// One pass: the nodes as they fill up, and a ranking for each shape.
struct Pass {
    nodes: Vec<Node>,
    /// Replicas by owner uid and node.
    mates: BTreeMap<String, BTreeMap<String, usize>>,
    shapes: BTreeMap<Shape, BinaryHeap<Reverse<Rank>>>,
    failed: BTreeMap<Shape, Unplaceable>,
    given: BTreeSet<Ipv4Addr>,
}

impl Pass {
    fn new(plan: &Plan) -> Self {
        let nodes = plan
            .view
            .list("nodes", None)
            .map(|n| Node::new(n, plan.view.used(&n.key.name)))
            .collect();
        Self {
            nodes,
            mates: BTreeMap::new(),
            shapes: BTreeMap::new(),
            failed: BTreeMap::new(),
            given: BTreeSet::new(),
        }
    }

    /// Finds a node and an address, and counts the pod there.
    fn place(&mut self, plan: &Plan, pod: &Value) -> Result<(usize, Ipv4Addr), Failure> {
        let shape = Shape::of(pod);
        if !self.mates.contains_key(&shape.owner) {
            let mut mates: BTreeMap<String, usize> = BTreeMap::new();
            if !shape.owner.is_empty() {
                for mate in plan
                    .controlled("pods", &shape.owner)
                    .iter()
                    .filter(|p| pods::active(p) && !p.attrs.node_name.is_empty())
                {
                    *mates.entry(mate.attrs.node_name.clone()).or_default() += 1;
                }
            }
            self.mates.insert(shape.owner.clone(), mates);
        }
        let mut heap = match self.shapes.remove(&shape) {
            Some(heap) => heap,
            None => (0..self.nodes.len())
                .filter(|n| self.nodes[*n].refuses(&shape).is_none())
                .map(|n| Reverse(self.rank(&shape, n)))
                .collect(),
        };
        let found = self.best(&shape, &mut heap);
        let address = self.address(plan, pod);
        let placed = match (found, address) {
            (None, _) => Err(Failure::Unplaceable(self.unplaceable(&shape))),
            (Some(_), None) => Err(Failure::NoAddress),
            (Some(node), Some(ip)) => {
                self.given.insert(ip);
                self.nodes[node].fill(&shape.needs);
                let name = self.nodes[node].name.clone();
                *self
                    .mates
                    .entry(shape.owner.clone())
                    .or_default()
                    .entry(name)
                    .or_default() += 1;
                Ok((node, ip))
            }
        };
        if let Some(node) = found {
            heap.push(Reverse(self.rank(&shape, node)));
        }
        self.shapes.insert(shape, heap);
        placed
    }

    /// Takes the best node that still has the room off the heap.
    fn best(&self, shape: &Shape, heap: &mut BinaryHeap<Reverse<Rank>>) -> Option<usize> {
        while let Some(Reverse(rank)) = heap.pop() {
            let node = rank.3;
            if !self.nodes[node].short_of(&shape.needs).is_empty() {
                continue;
            }
            let now = self.rank(shape, node);
            if now == rank {
                return Some(node);
            }
            heap.push(Reverse(now));
        }
        None
    }

    fn rank(&self, shape: &Shape, node: usize) -> Rank {
        let n = &self.nodes[node];
        let mates = self
            .mates
            .get(&shape.owner)
            .and_then(|m| m.get(&n.name))
            .copied()
            .unwrap_or(0);
        let d = digest(&[&shape.owner, &n.name]);
        (
            mates,
            n.used_permille(),
            u64::from(u32::from_le_bytes([d[0], d[1], d[2], d[3]])),
            node,
        )
    }

    /// Every node's reasons; the same for every pod of a shape during a pass.
    fn unplaceable(&mut self, shape: &Shape) -> Unplaceable {
        if let Some(known) = self.failed.get(shape) {
            return known.clone();
        }
        let mut why = Unplaceable {
            nodes: self.nodes.len(),
            reasons: BTreeMap::new(),
        };
        for node in &self.nodes {
            let reasons = match node.refuses(shape) {
                Some(reason) => vec![reason],
                None => node.short_of(&shape.needs),
            };
            for reason in reasons {
                why.reasons
                    .entry(reason)
                    .or_default()
                    .insert(node.name.clone());
            }
        }
        self.failed.insert(shape.clone(), why.clone());
        why
    }

    /// A free address of the pod range, from a hash of the pod's uid on.
    fn address(&self, plan: &Plan, pod: &Value) -> Option<Ipv4Addr> {
        let Settings {
            pod_range,
            pod_range_bits,
            ..
        } = plan.settings;
        let size = 1u32 << (32 - u32::from((*pod_range_bits).clamp(8, 30)));
        let base = u32::from(*pod_range) & !(size - 1);
        let d = digest(&[coracle_api::meta::uid(pod)]);
        let start = u32::from_le_bytes([d[0], d[1], d[2], d[3]]) % size;
        // The first address names the range and the last one broadcasts: neither is given out.
        (0..size)
            .map(|i| start.wrapping_add(i) % size)
            .filter(|i| *i != 0 && *i != size - 1)
            .map(|i| Ipv4Addr::from(base + i))
            .find(|ip| !self.given.contains(ip) && plan.view.free("podIP", &ip.to_string()))
    }
}

fn bind(plan: &mut Plan, obj: &Obj, mut pod: Value, node: &Node, ip: Ipv4Addr) {
    let Some(kind) = kinds::by_table("pods") else {
        return;
    };
    pod["spec"]["nodeName"] = json!(node.name);
    pod["status"]["podIP"] = json!(ip.to_string());
    pod["status"]["podIPs"] = json!([{"ip": ip.to_string()}]);
    if let Some(host) = internal_ip(&node.value) {
        pod["status"]["hostIP"] = json!(host);
        pod["status"]["hostIPs"] = json!([{"ip": host}]);
    }
    pods::set_condition(&mut pod, "PodScheduled", "True", "Scheduled", "", plan.now);
    tidy(&mut pod);
    plan.update("pods", obj, pod.clone(), &format!("bind to {}", node.name));
    plan.event(
        kind,
        &pod,
        true,
        "Scheduled",
        &format!("Successfully assigned {} to {}", obj.key, node.name),
    );
}

fn unschedulable(plan: &mut Plan, obj: &Obj, mut pod: Value, message: &str) {
    pods::set_condition(
        &mut pod,
        "PodScheduled",
        "False",
        "Unschedulable",
        message,
        plan.now,
    );
    // Said once for each new reason, not at each try.
    if plan.update("pods", obj, pod.clone(), "unschedulable")
        && let Some(kind) = kinds::by_table("pods")
    {
        plan.event(kind, &pod, false, "FailedScheduling", message);
    }
}

/// Takes the empty reason and message off a condition that needs none.
fn tidy(pod: &mut Value) {
    let conditions = pod["status"]["conditions"]
        .as_array_mut()
        .into_iter()
        .flatten();
    for c in conditions.filter(|c| c["type"] == "PodScheduled") {
        if let Some(c) = c.as_object_mut() {
            c.remove("reason");
            c.remove("message");
        }
    }
}

/// What a pod asks for, as placement counts it.
pub(crate) fn needs(pod: &Value) -> Amounts {
    attrs::pod_amounts(pod)
}
