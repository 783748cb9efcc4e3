//! Whether a node takes a pod.

use coracle_api::{Amounts, canonical, meta};
use coracle_state::Obj;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{Reason, needs};
use crate::nodes::{UNSCHEDULABLE, effective_taints};

/// Everything about a pod that placement looks at; equal shapes rank nodes alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub needs: Amounts,
    /// Uid of the controller, for spreading.
    pub owner: String,
    /// Canonical JSON of `{nodeSelector, required affinity terms, tolerations}`.
    constraints: Vec<u8>,
}

impl Shape {
    pub fn of(pod: &Value) -> Self {
        let spec = &pod["spec"];
        let terms = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"];
        let owners = pod["metadata"]["ownerReferences"].as_array();
        let owner = owners
            .and_then(|all| all.iter().find(|o| o["controller"] == true))
            .and_then(|o| o["uid"].as_str());
        let constraints = json!({"selector": spec["nodeSelector"], "terms": terms, "tolerations": spec["tolerations"]});
        Self {
            needs: needs(pod),
            owner: owner.unwrap_or_default().into(),
            constraints: canonical::encode(&constraints).to_vec(),
        }
    }

    fn constraints(&self) -> Value {
        serde_json::from_slice(&self.constraints).unwrap_or(Value::Null)
    }
}

/// A node during a pass.
pub(crate) struct Node {
    pub name: String,
    pub value: Value,
    labels: BTreeMap<String, String>,
    taints: Vec<Value>,
    room: Amounts,
    used: Amounts,
}

impl Node {
    pub fn new(obj: &Obj, used: Amounts) -> Self {
        let value = obj.value();
        let taints = effective_taints(&value)
            .into_iter()
            .filter(|t| t["effect"] != "PreferNoSchedule")
            .collect();
        Self {
            name: obj.key.name.clone(),
            labels: meta::labels(&value),
            taints,
            room: obj.attrs.allocatable.unwrap_or_default(),
            used,
            value,
        }
    }

    /// Counts a pod here.
    pub fn fill(&mut self, needs: &Amounts) {
        self.used.cpu_millis += needs.cpu_millis;
        self.used.memory_bytes += needs.memory_bytes;
        self.used.pods += needs.pods;
    }

    /// What is missing for a pod.
    pub fn short_of(&self, needs: &Amounts) -> Vec<Reason> {
        let mut short = Vec::new();
        let lacks = |used: u64, more: u64, room: u64| used.saturating_add(more) > room;
        // As apply counts it: a node that has shrunk below what it holds takes nothing more.
        if lacks(self.used.cpu_millis, needs.cpu_millis, self.room.cpu_millis) {
            short.push(Reason::Insufficient("cpu"));
        }
        if lacks(
            self.used.memory_bytes,
            needs.memory_bytes,
            self.room.memory_bytes,
        ) {
            short.push(Reason::Insufficient("memory"));
        }
        if lacks(self.used.pods, needs.pods, self.room.pods) {
            short.push(Reason::TooManyPods);
        }
        short
    }

    /// Why this node never takes such a pod, whatever room it has.
    pub fn refuses(&self, shape: &Shape) -> Option<Reason> {
        let constraints = shape.constraints();
        let tolerations = constraints["tolerations"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        if let Some(t) = self
            .taints
            .iter()
            .find(|t| !tolerations.iter().any(|x| tolerates(x, t)))
        {
            let key = t["key"].as_str().unwrap_or_default();
            if key == UNSCHEDULABLE {
                return Some(Reason::Unschedulable);
            }
            return Some(Reason::Taint(format!(
                "{{{key}: {}}}",
                t["value"].as_str().unwrap_or_default()
            )));
        }
        let wanted = meta::string_map(&constraints["selector"]);
        let selected = wanted.iter().all(|(k, v)| self.labels.get(k) == Some(v));
        // Terms are alternatives; without any there is nothing to match.
        let matched = constraints["terms"]
            .as_array()
            .is_none_or(|terms| terms.iter().any(|t| self.matches(t)));
        (!selected || !matched).then_some(Reason::Affinity)
    }

    fn matches(&self, term: &Value) -> bool {
        let expressions = term["matchExpressions"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let fields = term["matchFields"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        // An empty term matches nothing.
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|e| {
                holds(
                    e,
                    self.labels
                        .get(e["key"].as_str().unwrap_or_default())
                        .map(String::as_str),
                )
            })
            && fields
                .iter()
                .all(|e| e["key"] == "metadata.name" && holds(e, Some(&self.name)))
    }

    /// The larger of the used shares of cpu, memory and pods, in thousandths.
    pub fn used_permille(&self) -> u64 {
        let share = |used: u64, room: u64| {
            if room == 0 {
                0
            } else {
                (u128::from(used) * 1000 / u128::from(room)) as u64
            }
        };
        share(self.used.cpu_millis, self.room.cpu_millis)
            .max(share(self.used.memory_bytes, self.room.memory_bytes))
            .max(share(self.used.pods, self.room.pods))
    }
}

/// One requirement of a node selector term on a value.
fn holds(requirement: &Value, value: Option<&str>) -> bool {
    let values = || {
        requirement["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    };
    let bound = || values().next().and_then(|v| v.parse::<i64>().ok());
    let number = value.and_then(|v| v.parse::<i64>().ok());
    match requirement["operator"].as_str() {
        Some("In") => value.is_some_and(|v| values().any(|x| x == v)),
        Some("NotIn") => value.is_none_or(|v| values().all(|x| x != v)),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        Some("Gt") => number.zip(bound()).is_some_and(|(n, b)| n > b),
        Some("Lt") => number.zip(bound()).is_some_and(|(n, b)| n < b),
        _ => false,
    }
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |v: &Value, field: &str| v[field].as_str().unwrap_or_default().to_string();
    let (key, effect) = (text(toleration, "key"), text(toleration, "effect"));
    let exists = toleration["operator"] == "Exists";
    (effect.is_empty() || effect == text(taint, "effect"))
        && (key == text(taint, "key") || (key.is_empty() && exists))
        && (exists || text(toleration, "value") == text(taint, "value"))
}
