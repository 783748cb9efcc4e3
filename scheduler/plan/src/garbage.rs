//! Owner references: what has lost its owners goes, owners in foreground deletion wait for their dependents, and
//! orphaning cuts the ties first.

use coracle_api::attrs::Owner;
use coracle_api::{Key, kinds, meta};
use coracle_state::Obj;
use std::sync::Arc;

use crate::adopt::remove_owners;
use crate::wake::foreground;
use crate::writer::Plan;
use crate::{Wait, tables};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Table and key of an owner. `None` for a kind we do not know: then nobody can say that it is gone.
pub(crate) fn owner_key(owner: &Owner, namespace: &str) -> Option<(&'static str, Key)> {
    let kind = kinds::by_type(&owner.api_version, &owner.kind).filter(|k| k.stored)?;
    Some((
        kind.table,
        Key::new(if kind.namespaced() { namespace } else { "" }, &owner.name),
    ))
}

pub(crate) fn reconcile(plan: &mut Plan, table: &'static str, key: &Key) {
    let Some(obj) = plan.view.get(table, key).cloned() else {
        return;
    };
    if obj.attrs.deleting {
        let finalizers = meta::finalizers(&obj.value());
        if finalizers.iter().any(|f| f == ORPHAN) {
            return orphan(plan, table, &obj);
        }
        if finalizers.iter().any(|f| f == FOREGROUND) {
            return in_foreground(plan, table, &obj);
        }
    }
    dependent(plan, table, &obj);
}

/// An object with owners: it goes when none of them is there, or when one in foreground deletion waits for it.
fn dependent(plan: &mut Plan, table: &'static str, obj: &Arc<Obj>) {
    let (mut solid, mut waiting, mut absent) = (0, 0, Vec::new());
    for owner in &obj.attrs.owners {
        let Some((owner_table, key)) = owner_key(owner, &obj.key.namespace) else {
            solid += 1;
            continue;
        };
        match plan
            .view
            .get(owner_table, &key)
            .filter(|o| o.attrs.uid == owner.uid)
        {
            None => absent.push(owner.uid.clone()),
            Some(o) if foreground(o) => waiting += 1,
            Some(_) => solid += 1,
        }
    }
    if solid > 0 {
        if !absent.is_empty() {
            let mut object = obj.value();
            remove_owners(&mut object, |uid| absent.iter().any(|a| a == uid));
            plan.update(table, obj, object, "an owner is gone");
        }
    } else if (waiting > 0 || !absent.is_empty()) && !obj.attrs.deleting {
        if waiting > 0 && has_dependents(plan, &obj.attrs.uid) {
            // Foreground goes down the tree: this one waits for its own dependents too.
            hold(plan, table, obj);
        } else {
            plan.delete(table, obj, None);
        }
    }
}

fn has_dependents(plan: &Plan, uid: &str) -> bool {
    tables().any(|k| plan.view.owned_by(k.table, uid).next().is_some())
}

/// Starts foreground deletion of an object.
fn hold(plan: &mut Plan, table: &'static str, obj: &Arc<Obj>) {
    let mut object = obj.value();
    let mut finalizers = meta::finalizers(&object);
    finalizers.push(FOREGROUND.into());
    let time = plan.time();
    let metadata = meta::metadata(&mut object);
    metadata.insert("finalizers".into(), serde_json::json!(finalizers));
    metadata.insert("deletionTimestamp".into(), time);
    metadata.insert("deletionGracePeriodSeconds".into(), serde_json::json!(0));
    plan.update(table, obj, object, "delete in foreground");
}

/// An owner in foreground deletion: its dependents go (each by its own task); it goes when none blocks any more.
fn in_foreground(plan: &mut Plan, table: &'static str, obj: &Arc<Obj>) {
    let uid = &obj.attrs.uid;
    let mut blocking = 0;
    for kind in tables() {
        for d in plan.view.owned_by(kind.table, uid) {
            blocking += usize::from(
                d.attrs
                    .owners
                    .iter()
                    .any(|o| o.uid == *uid && o.block_owner_deletion),
            );
        }
    }
    if blocking == 0 {
        plan.release(table, obj, FOREGROUND);
    } else {
        plan.wait(Wait::Dependents { count: blocking });
    }
}

/// Cuts the ties of every dependent, then lets the owner go. The owner goes last: until then a dependent that appears
/// meanwhile is seen by the next run.
fn orphan(plan: &mut Plan, table: &'static str, obj: &Arc<Obj>) {
    let uid = obj.attrs.uid.clone();
    let mut left = 0;
    for kind in tables() {
        let dependents: Vec<_> = plan.view.owned_by(kind.table, &uid).cloned().collect();
        for d in dependents {
            left += 1;
            let mut object = d.value();
            remove_owners(&mut object, |u| u == uid);
            plan.update(kind.table, &d, object, "orphaned");
        }
    }
    if left == 0 {
        plan.release(table, obj, ORPHAN);
    } else {
        plan.wait(Wait::Dependents { count: left });
    }
}
