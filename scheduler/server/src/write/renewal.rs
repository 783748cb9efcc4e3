//! Heartbeats: a write to a node's Lease that changes nothing but `spec.renewTime`. They are taken into the leader's
//! memory and logged in batches, so that ten thousand nodes cost a few log entries per second instead of a thousand.
//!
//! What is given up: after the loss of a leader the last half second of renewals may be gone, against a lease of 40 s.
//! The answer carries the last committed resourceVersion, never a new one.

use coracle_api::{Kind, canonical, meta};
use coracle_state::{BoxFuture, Change, Obj, ProposeError, View};
use serde_json::Value;

use super::stamp;
use crate::call::Call;
use crate::reply::unproposed;

/// The namespace that node heartbeats live in.
pub const NODE_LEASES: &str = "kube-node-lease";
/// The table of Leases.
pub const LEASES: &str = "leases.coordination.k8s.io";

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Name of the Lease in [`NODE_LEASES`].
    pub name: String,
    /// The committed revision it was made from.
    pub revision: u64,
    /// The Lease as it is to be stored, canonical.
    pub bytes: bytes::Bytes,
}

/// Takes heartbeats; without it they are logged one by one.
pub trait Renewals: Send + Sync + 'static {
    /// Answers when the leader has the renewal in its memory, from where it is logged soon. Fails like a proposal.
    fn renew(&self, renewal: Renewal) -> BoxFuture<'_, Result<(), ProposeError>>;
}

/// Whether the new form is a heartbeat: a node's Lease in which nothing differs but `spec.renewTime`.
pub fn only(kind: &Kind, live: &Value, new: &Value) -> bool {
    kind.table == LEASES && meta::namespace(live) == NODE_LEASES && alike(live, new)
}

/// Whether two forms of a Lease differ in `spec.renewTime` at most (and the resourceVersion, which is not stored).
fn alike(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return false;
    };
    let except = |a: &Value, b: &Value, field: &str| {
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
            return a == b;
        };
        let covers = |a: &serde_json::Map<_, _>, b: &serde_json::Map<_, _>| {
            a.iter().all(|(k, v)| k == field || b.get(k) == Some(v))
        };
        covers(a, b) && covers(b, a)
    };
    a.len() == b.len()
        && a.iter().all(|(k, v)| {
            b.get(k).is_some_and(|w| match k.as_str() {
                "metadata" => except(v, w, "resourceVersion"),
                "spec" => except(v, w, "renewTime"),
                _ => v == w,
            })
        })
}

/// Hands a heartbeat over and stamps it with the revision that is committed.
pub async fn take(
    renewals: &dyn Renewals,
    obj: &Obj,
    new: &mut Value,
) -> Result<(), coracle_api::ApiError> {
    let renewal = Renewal {
        name: obj.key.name.clone(),
        revision: obj.revision,
        bytes: canonical::encode(new),
    };
    renewals.renew(renewal).await.map_err(unproposed)?;
    stamp(new, obj.revision);
    Ok(())
}

/// Whether nothing but heartbeats has changed a node's Lease since the revision that a client names: its optimistic lock
/// holds then, or every batch would cost each node a conflict.
pub fn only_renewed_since(call: &Call, view: &View, live: &Value, given: &str) -> bool {
    if call.kind.table != LEASES || meta::namespace(live) != NODE_LEASES {
        return false;
    }
    let (Ok(given), Some(table)) = (given.parse::<u64>(), view.tables.get(LEASES)) else {
        return false;
    };
    let key = call.key();
    let Some(events) = table.events_since(given) else {
        return false;
    };
    let mut first = true;
    for event in events.filter(|e| e.obj.key == key) {
        let (Change::Modified, Some(before)) = (event.change, &event.before) else {
            return false;
        };
        // The revision must be one that this Lease had.
        if std::mem::take(&mut first) && before.revision != given {
            return false;
        }
        if !alike(&before.value(), &event.obj.value()) {
            return false;
        }
    }
    !first
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::alike;

    #[test]
    fn only_the_time_may_differ() {
        let lease = json!({"metadata": {"name": "n", "resourceVersion": "1"}, "spec": {"holderIdentity": "n", "renewTime": "a"}});
        let with = |path: &str, v: serde_json::Value| {
            let mut other = lease.clone();
            *other.pointer_mut(path).unwrap() = v;
            other
        };
        assert!(alike(&lease, &with("/spec/renewTime", json!("b"))));
        assert!(alike(
            &lease,
            &with("/metadata/resourceVersion", json!("2"))
        ));
        assert!(!alike(&lease, &with("/spec/holderIdentity", json!("m"))));
        assert!(!alike(&lease, &with("/metadata/name", json!("m"))));
        let mut more = lease.clone();
        more["spec"]["leaseTransitions"] = json!(1);
        assert!(!alike(&lease, &more) && !alike(&more, &lease));
        let mut first = lease.clone();
        first["spec"].as_object_mut().unwrap().remove("renewTime");
        assert!(
            alike(&first, &lease),
            "the first renewal of a Lease without a time"
        );
    }
}
