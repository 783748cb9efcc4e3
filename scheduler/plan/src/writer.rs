//! Collects what a reconcile decides: ready commands, waits and the time to look again.

use std::sync::Arc;

use coracle_api::{Ids, Key, Kind, Timestamp, attrs, canonical, claims, kinds, meta};
use coracle_state::{Command, Expect, Obj, Op, View};
use jiff::SignedDuration;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Input, Outcome, Settings, Volatile, Wait, Write};

/// Kinds whose `metadata.generation` counts changes of `spec`.
const GENERATIONS: &[&str] = &[
    "deployments.apps",
    "replicasets.apps",
    "replicationcontrollers",
];

/// One reconcile in the making.
pub(crate) struct Plan<'a> {
    pub view: &'a View,
    pub volatile: &'a Volatile,
    pub now: Timestamp,
    pub settings: &'a Settings,
    ids: &'a mut Ids,
    out: Outcome,
    group: u32,
    groups: u32,
}

impl<'a> Plan<'a> {
    pub fn new(input: &Input<'a>, ids: &'a mut Ids) -> Self {
        let Input {
            view,
            volatile,
            now,
            settings,
        } = *input;
        Self {
            view,
            volatile,
            now,
            settings,
            ids,
            out: Outcome::default(),
            group: 0,
            groups: 0,
        }
    }

    pub fn finish(self) -> Outcome {
        self.out
    }

    /// The time as an object holds it.
    pub fn time(&self) -> Value {
        json!(meta::time_text(self.now))
    }

    /// Asks to be run again at `at` at the latest.
    pub fn wake_at(&mut self, at: Timestamp) {
        self.out.wake_at = Some(self.out.wake_at.map_or(at, |w| w.min(at)));
    }

    /// Asks to be run again in `ms`.
    pub fn wake_in(&mut self, ms: i64) {
        self.wake_at(later(self.now, ms));
    }

    pub fn wait(&mut self, wait: Wait) {
        self.out.waits.push(wait);
    }

    /// What `more` pushes takes effect all or none.
    pub fn group(&mut self, more: impl FnOnce(&mut Self)) {
        self.groups += 1;
        self.group = self.groups;
        more(self);
        self.group = 0;
    }

    fn push(&mut self, mut command: Command, note: String) {
        command.group = self.group;
        self.out.writes.push(Write { command, note });
    }

    /// The group takes effect only if this object is still as it was.
    pub fn require(&mut self, table: &str, obj: &Obj) {
        let command = Command {
            table: table.into(),
            key: obj.key.clone(),
            expect: Expect::Revision(obj.revision),
            op: Op::Check,
            group: 0,
        };
        self.push(command, format!("require {table} {}", obj.key));
    }

    /// Creates an object; uid and creation time are filled in.
    pub fn create(&mut self, kind: &Kind, mut object: Value) {
        let time = self.time();
        let uid = self.ids.uid();
        let metadata = meta::metadata(&mut object);
        metadata.entry("uid").or_insert_with(|| json!(uid));
        metadata.entry("creationTimestamp").or_insert(time);
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        let key = meta::key(&object);
        let note = format!("create {} {key}", kind.plural);
        let claims = claims::of(kind, &object);
        self.push(
            Command::put(
                kind.table,
                key,
                Expect::Absent,
                canonical::encode(&object),
                claims,
            ),
            note,
        );
    }

    /// Replaces an object; nothing if it would be the same. Returns whether there is something to write.
    pub fn update(&mut self, table: &'static str, old: &Obj, mut object: Value, why: &str) -> bool {
        let Some(kind) = kinds::by_table(table) else {
            return false;
        };
        if GENERATIONS.contains(&table) {
            let before = old.value();
            if before["spec"] != object["spec"] {
                meta::metadata(&mut object)
                    .insert("generation".into(), json!(meta::generation(&before) + 1));
            }
        }
        let bytes = canonical::encode(&object);
        if bytes == old.bytes {
            return false;
        }
        let claims = claims::of(kind, &object);
        let note = format!("update {} {}: {why}", kind.plural, old.key);
        self.push(
            Command::put(
                table,
                old.key.clone(),
                Expect::Revision(old.revision),
                bytes,
                claims,
            ),
            note,
        );
        true
    }

    /// Takes an object out of its table, whatever its finalizers.
    pub fn remove(&mut self, table: &str, old: &Obj) {
        let note = format!("remove {table} {}", old.key);
        self.push(
            Command::delete(table, old.key.clone(), Expect::Revision(old.revision)),
            note,
        );
    }

    /// Deletes as the API does: a bound, running pod gets its grace period, finalizers hold an object back, anything
    /// else goes at once. `grace_seconds` replaces the pod's own; returns whether there is something to write.
    pub fn delete(&mut self, table: &'static str, old: &Obj, grace_seconds: Option<i64>) -> bool {
        let mut object = old.value();
        let grace = if table == "pods" {
            grace(&object, grace_seconds)
        } else {
            0
        };
        if grace == 0 && meta::finalizers(&object).is_empty() {
            self.remove(table, old);
            return true;
        }
        let shorter = object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .is_some_and(|g| grace < g);
        if old.attrs.deleting && !shorter {
            return false;
        }
        let at = later(self.now, grace.saturating_mul(1000));
        let metadata = meta::metadata(&mut object);
        metadata.insert("deletionTimestamp".into(), json!(meta::time_text(at)));
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
        self.update(table, old, object, "delete")
    }

    /// Takes a finalizer off; the object goes with the last one if it is to be deleted.
    pub fn release(&mut self, table: &'static str, old: &Obj, finalizer: &str) {
        let mut object = old.value();
        let left: Vec<String> = meta::finalizers(&object)
            .into_iter()
            .filter(|f| f != finalizer)
            .collect();
        let grace = object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        if left.is_empty()
            && old.attrs.deleting
            && (table != "pods" || grace == 0 || old.attrs.node_name.is_empty())
        {
            self.remove(table, old);
            return;
        }
        let metadata = meta::metadata(&mut object);
        if left.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), json!(left));
        }
        self.update(table, old, object, "finalizer done");
    }

    /// Records an Event about an object. The same reason and message about the same object is one Event that counts.
    pub fn event(&mut self, kind: &Kind, about: &Value, normal: bool, reason: &str, message: &str) {
        let component = component(reason);
        let namespace = if kind.namespaced() {
            meta::namespace(about)
        } else {
            "default"
        };
        // An Event in a namespace that is being emptied would only be in the way.
        if !self.open(namespace) {
            return;
        }
        let name = meta::name(about);
        let hash = digest(&[meta::uid(about), reason, message]);
        let key = Key::new(
            namespace,
            format!("{}.{}", prefix(name, 200), hex::encode(&hash[..8])),
        );
        let time = self.time();
        let Some(events) = kinds::by_table("events") else {
            return;
        };
        if let Some(old) = self.view.get("events", &key).cloned() {
            let mut event = old.value();
            event["count"] = json!(event["count"].as_i64().unwrap_or(1) + 1);
            event["lastTimestamp"] = time;
            self.update("events", &old, event, reason);
            return;
        }
        self.create(
            events,
            json!({
                "metadata": {"name": key.name, "namespace": key.namespace},
                "involvedObject": {"apiVersion": kind.api_version(), "kind": kind.kind, "name": name, "namespace": meta::namespace(about),
                    "uid": meta::uid(about), "resourceVersion": meta::text(about, "resourceVersion")},
                "reason": reason, "message": message, "type": if normal { "Normal" } else { "Warning" },
                "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
                "firstTimestamp": time, "lastTimestamp": time, "count": 1,
            }),
        );
    }

    /// Whether a namespace takes new objects.
    pub fn open(&self, namespace: &str) -> bool {
        self.view
            .get("namespaces", &Key::new("", namespace))
            .is_some_and(|n| !n.attrs.deleting)
    }

    /// Objects of a table whose controller has this uid.
    pub fn controlled(&self, table: &str, uid: &str) -> Vec<Arc<Obj>> {
        self.view
            .owned_by(table, uid)
            .filter(|o| o.attrs.controller().is_some_and(|c| c.uid == uid))
            .cloned()
            .collect()
    }
}

/// Who an Event says it is from; named after the Kubernetes component that users know the reason from.
fn component(reason: &str) -> &'static str {
    match reason {
        "ScalingReplicaSet" | "DeploymentPaused" => "deployment-controller",
        "SuccessfulCreate" | "SuccessfulDelete" | "FailedCreate" => "replicaset-controller",
        "Scheduled" | "FailedScheduling" => "coracle-scheduler",
        "NodeNotReady" | "NodeReady" | "TaintManagerEviction" => "node-controller",
        _ => "coracle-controller",
    }
}

/// A time `ms` later; the last one there is if that is out of range.
pub(crate) fn later(at: Timestamp, ms: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_millis(ms))
        .unwrap_or(Timestamp::MAX)
}

/// The grace period a pod gets, in seconds: none if it never ran or has ended.
fn grace(pod: &Value, wanted: Option<i64>) -> i64 {
    let bound = pod["spec"]["nodeName"]
        .as_str()
        .is_some_and(|n| !n.is_empty());
    if !bound || attrs::pod_ended(pod) {
        return 0;
    }
    wanted
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30)
        .max(0)
}

pub(crate) fn digest(parts: &[&str]) -> [u8; 32] {
    let mut h = Sha256::new();
    for part in parts {
        h.update((part.len() as u64).to_le_bytes());
        h.update(part);
    }
    h.finalize().into()
}

/// `n` (at most 10) characters that follow from `parts`, in the alphabet of generated names.
pub(crate) fn suffix(parts: &[&str], n: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let d = digest(parts);
    d.chunks(2)
        .take(n.min(10))
        .map(|c| ALPHABET[u16::from_le_bytes([c[0], c[1]]) as usize % ALPHABET.len()] as char)
        .collect()
}

/// The first `n` bytes of a name; names are ASCII.
pub(crate) fn prefix(name: &str, n: usize) -> &str {
    name.get(..n).unwrap_or(name)
}
