//! The API as far as writes go: what `server::write` would propose for a request, from one view. Defaults are the
//! production ones; conflicts come back and are tried again by whoever asked.

use coracle_api::{
    Ids, Key, Kind, Timestamp, attrs, canonical, claims, defaults, kinds, meta, patch,
};
use coracle_state::{Command, Expect, View};
use jiff::SignedDuration;
use serde_json::{Value, json};

/// Why a request leads to no proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such object, or another uid.
    NotFound,
    /// Another revision.
    Conflict,
}

fn put(kind: &Kind, object: &Value, expect: Expect) -> Command {
    Command::put(
        kind.table,
        meta::key(object),
        expect,
        canonical::encode(object),
        claims::of(kind, object),
    )
}

/// The kind of a word that the simulator itself uses.
pub(crate) fn kind(word: &str) -> &'static Kind {
    kinds::by_word(word).unwrap_or_else(|| panic!("{word} is not a kind"))
}

/// Create.
pub(crate) fn create(kind: &Kind, mut object: Value, now: Timestamp, ids: &mut Ids) -> Command {
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.kind);
    defaults::apply(kind, &mut object);
    let metadata = meta::metadata(&mut object);
    metadata.insert("uid".into(), json!(ids.uid()));
    metadata.insert("creationTimestamp".into(), json!(meta::time_text(now)));
    if !object["spec"].is_null() {
        meta::metadata(&mut object).insert("generation".into(), json!(1));
    }
    put(kind, &object, Expect::Absent)
}

/// Read, change, write with the revision read.
pub(crate) fn update(
    view: &View,
    kind: &Kind,
    key: &Key,
    change: impl FnOnce(&mut Value),
) -> Result<Command, Refusal> {
    let old = view.get(kind.table, key).ok_or(Refusal::NotFound)?;
    let before = old.value();
    let mut object = before.clone();
    change(&mut object);
    defaults::apply(kind, &mut object);
    if object["spec"] != before["spec"] && meta::generation(&before) > 0 && kind.table != "pods" {
        meta::metadata(&mut object)
            .insert("generation".into(), json!(meta::generation(&before) + 1));
    }
    Ok(put(kind, &object, Expect::Revision(old.revision)))
}

/// Merge patch of a pod's status, with uid and revision as preconditions.
pub(crate) fn pod_status(
    view: &View,
    key: &Key,
    uid: &str,
    revision: u64,
    status: &Value,
) -> Result<Command, Refusal> {
    let old = view
        .get("pods", key)
        .filter(|o| o.attrs.uid == uid)
        .ok_or(Refusal::NotFound)?;
    if old.revision != revision {
        return Err(Refusal::Conflict);
    }
    let mut object = old.value();
    patch::merge(&mut object["status"], status);
    Ok(put(kind("po"), &object, Expect::Revision(old.revision)))
}

/// How dependents are dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Delete, gracefully where there is something to be graceful about.
pub(crate) fn delete(
    view: &View,
    kind: &Kind,
    key: &Key,
    uid: Option<&str>,
    grace_seconds: Option<i64>,
    propagation: Propagation,
    now: Timestamp,
) -> Result<Command, Refusal> {
    let old = view
        .get(kind.table, key)
        .filter(|o| uid.is_none_or(|u| o.attrs.uid == u))
        .ok_or(Refusal::NotFound)?;
    let mut object = old.value();
    let bound =
        kind.table == "pods" && !old.attrs.node_name.is_empty() && !attrs::pod_ended(&object);
    let own = object["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    let grace = if bound {
        grace_seconds.unwrap_or(own)
    } else {
        0
    };
    let mut finalizers = meta::finalizers(&object);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push("foregroundDeletion".into()),
        Propagation::Orphan => finalizers.push("orphan".into()),
    }
    let held = kind.table == "namespaces"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
    if grace == 0 && finalizers.is_empty() && !held {
        return Ok(Command::delete(
            kind.table,
            key.clone(),
            Expect::Revision(old.revision),
        ));
    }
    if old.attrs.deleting {
        // Being deleted already; nothing is made shorter here.
        return Err(Refusal::NotFound);
    }
    let at = now
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    let metadata = meta::metadata(&mut object);
    metadata.insert("deletionTimestamp".into(), json!(meta::time_text(at)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    if !finalizers.is_empty() {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    if held {
        object["status"]["phase"] = json!("Terminating");
    }
    Ok(put(kind, &object, Expect::Revision(old.revision)))
}

/// Renews a node's lease.
pub(crate) fn lease(
    view: &View,
    node: &str,
    seconds: u64,
    now: Timestamp,
    ids: &mut Ids,
) -> Command {
    let kind = kind("leases");
    let key = Key::new("kube-node-lease", node);
    let mut object = match view.get(kind.table, &key) {
        Some(old) => old.value(),
        None => {
            let time = meta::time_text(now);
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node, "namespace": key.namespace, "uid": ids.uid(), "creationTimestamp": time}})
        }
    };
    object["spec"] = json!({"holderIdentity": node, "leaseDurationSeconds": seconds, "renewTime": now.to_string()});
    put(kind, &object, Expect::Any)
}
