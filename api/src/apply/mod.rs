//! Server-side apply: who owns which field, what changes when a manager applies, and who is in conflict.
//!
//! Ownership is by the list and map types of [`crate::mergekeys`]. [`server_side`] answers an apply; every other write
//! goes through [`track_update`], so that `metadata.managedFields` is right whoever writes.

mod fields;
mod managers;
mod merge;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::Cause;
use crate::schema::{self, Node};
use crate::{ApiError, Kind};
use fields::{FieldSet, Leaves, Path, Step, Style, collect, show};
use managers::{Entry, Manager, Managers};

/// The manager that stands for whoever wrote an object before anyone was tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields of `metadata` that belong to the server or are the object's identity: nobody owns them.
const UNOWNED_METADATA: &[&str] = &[
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
];

/// The object after `manager` applied `applied`, with its new `managedFields`.
///
/// With `live` absent the object is created. `subresource` is `None` for the object itself (whose status is then left
/// alone) or `Some("status")` (then only the status is taken). Returns `live` unchanged if nothing changes.
///
/// Errors: 409 with one `FieldManagerConflict` cause per field that another manager owns and that would change, unless
/// `force`; 400 if the configuration carries `managedFields`, no `fieldManager` was named, or a keyed list is malformed.
pub fn server_side(
    kind: &Kind,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: Option<&str>,
    now: Timestamp,
) -> Result<Value, ApiError> {
    if manager.is_empty() {
        return Err(ApiError::bad_request(
            "fieldManager is required for server-side apply",
        ));
    }
    if !applied["metadata"]["managedFields"]
        .as_array()
        .is_none_or(Vec::is_empty)
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let root = root(kind)?;
    let config = configuration(kind, applied, subresource);
    let before = live.map_or_else(|| Value::Object(serde_json::Map::new()), Clone::clone);
    let before_leaves = owned(collect(root, &before)?);
    let mut managers = managers::read(&before);
    if live.is_some() && managers.is_empty() && !before_leaves.is_empty() {
        let entry = Entry {
            api_version: kind.api_version(),
            time: managers::stamp(now),
            fields: before_leaves.keys().cloned().collect(),
        };
        managers.insert(managers::updater(kind, BEFORE_FIRST_APPLY, None), entry);
    }
    let me = managers::applier(manager, subresource);
    let last = managers.remove(&me);
    let mine: FieldSet = owned(collect(root, &config)?).into_keys().collect();

    let mut after = merge::merge(root, Style::Map, live, &config);
    if let Some(last) = &last {
        take_out_abandoned(&mut after, &last.fields, &mine, &managers);
    }
    let change = Change::between(&before_leaves, &owned(collect(root, &after)?));
    resolve(&mut managers, &change, &mine, force)?;

    let unchanged = last.as_ref().is_some_and(|l| l.fields == mine) && change.is_empty();
    if let (true, Some(live)) = (unchanged, live) {
        return Ok(live.clone());
    }
    managers.insert(
        me,
        Entry {
            api_version: kind.api_version(),
            time: managers::stamp(now),
            fields: mine,
        },
    );
    managers::write(&mut after, managers);
    Ok(after)
}

/// Records in `new.metadata.managedFields` that `manager` wrote what differs from `old` (everything, if there is no
/// `old`); what it changed, others own no longer. An explicit empty `managedFields` in `new` clears the record, as
/// Kubernetes documents. A write that changes nothing leaves the record as it was.
pub fn track_update(
    kind: &Kind,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: Timestamp,
) {
    let cleared = new["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|list| {
            list.iter()
                .all(|e| e.as_object().is_none_or(|e| e.is_empty()))
        });
    let empty = Value::Object(serde_json::Map::new());
    let old = old.unwrap_or(&empty);
    // A client may send the record back edited (kubectl does, to migrate ownership); else it is the old object's.
    let source = if cleared || new["metadata"]["managedFields"].is_array() {
        &*new
    } else {
        old
    };
    let mut all = if cleared {
        Managers::new()
    } else {
        managers::read(source)
    };
    let Ok(root) = root(kind) else { return };
    if all.is_empty() && !cleared && *old == empty {
        return track_new(kind, root, new, manager, subresource, now);
    }
    // A list with doubled keys cannot be told apart: validation refuses such an object, nothing is recorded for it.
    let (Ok(before), Ok(after)) = (collect(root, old), collect(root, new)) else {
        return;
    };
    let change = Change::between(&owned(before), &owned(after));
    if !cleared && !change.is_empty() {
        let written: FieldSet = change.written().cloned().collect();
        for entry in all.values_mut() {
            entry
                .fields
                .retain(|p| !written.contains(p) && !change.removed.contains(p));
        }
        let me = managers::updater(kind, manager, subresource);
        let entry = all.entry(me).or_insert_with(|| Entry {
            api_version: kind.api_version(),
            time: String::new(),
            fields: FieldSet::new(),
        });
        entry.fields.extend(written);
        entry.time = managers::stamp(now);
    }
    managers::write(new, all);
}

/// [`track_update`] of an object that was not there and that nobody has a record of: one manager owns everything. Most
/// writes of a busy cluster are of this sort, so they skip the comparison.
fn track_new(
    kind: &Kind,
    root: Node,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: Timestamp,
) {
    let Ok(leaves) = collect(root, new) else {
        return;
    };
    let entry = Entry {
        api_version: kind.api_version(),
        time: managers::stamp(now),
        fields: owned(leaves).into_keys().collect(),
    };
    let me = managers::updater(kind, manager, subresource);
    managers::write(new, Managers::from([(me, entry)]));
}

fn root(kind: &Kind) -> Result<Node, ApiError> {
    Node::of(kind).ok_or_else(|| {
        ApiError::new(
            415,
            "UnsupportedMediaType",
            format!(
                "{} has no schema: server-side apply is not possible",
                kind.kind
            ),
        )
    })
}

/// The part of the configuration that this request may set.
fn configuration(kind: &Kind, applied: &Value, subresource: Option<&str>) -> Value {
    let mut config = applied.clone();
    schema::normalise(kind, &mut config);
    let Some(map) = config.as_object_mut() else {
        return config;
    };
    match subresource {
        Some("status") => {
            map.retain(|k, _| matches!(k.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
            if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|k, _| matches!(k.as_str(), "name" | "namespace"));
            }
        }
        _ if kind.has_status() => drop(map.remove("status")),
        _ => {}
    }
    if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in UNOWNED_METADATA
            .iter()
            .filter(|f| !matches!(**f, "name" | "namespace"))
        {
            metadata.remove(*field);
        }
    }
    config
}

/// Leaves that can be owned.
fn owned(leaves: Leaves<'_>) -> Leaves<'_> {
    let is = |step: Option<&Step>, name: &str| matches!(step, Some(Step::Field(f)) if f == name);
    leaves
        .into_iter()
        .filter(|(path, _)| {
            let identity = is(path.first(), "apiVersion") || is(path.first(), "kind");
            let server = is(path.first(), "metadata")
                && UNOWNED_METADATA.iter().any(|name| is(path.get(1), name));
            !identity && !server && *path != [Step::Field("metadata".into())]
        })
        .collect()
}

/// What a write did, by path.
struct Change {
    added: FieldSet,
    modified: FieldSet,
    removed: FieldSet,
}

impl Change {
    fn between(before: &Leaves<'_>, after: &Leaves<'_>) -> Self {
        Self {
            added: after
                .keys()
                .filter(|p| !before.contains_key(*p))
                .cloned()
                .collect(),
            modified: after
                .iter()
                .filter(|(p, v)| before.get(*p).is_some_and(|old| old != *v))
                .map(|(p, _)| p.clone())
                .collect(),
            removed: before
                .keys()
                .filter(|p| !after.contains_key(*p))
                .cloned()
                .collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn written(&self) -> impl Iterator<Item = &Path> {
        self.added.iter().chain(&self.modified)
    }
}

/// Takes out what the manager applied last time, does not apply now, and nobody else owns. Items before what is in
/// them, because an item is found by its keys; the keys of an item that stays for another owner stay too.
fn take_out_abandoned(object: &mut Value, last: &FieldSet, mine: &FieldSet, others: &Managers) {
    let claimed = |path: &Path| {
        let below = |set: &FieldSet| {
            set.range(path.clone()..)
                .next()
                .is_some_and(|p| p.starts_with(path))
        };
        below(mine) || others.values().any(|e| below(&e.fields))
    };
    let mut gone: Vec<&Path> = last
        .iter()
        .filter(|p| !mine.contains(*p) && !claimed(p) && !merge::is_key(p))
        .collect();
    gone.sort_by_key(|p| p.len());
    for path in gone {
        merge::remove(object, path, &claimed);
    }
}

/// Finds fields that others own and that change; refuses, or with `force` takes them. What is gone nobody owns.
fn resolve(
    others: &mut Managers,
    change: &Change,
    mine: &FieldSet,
    force: bool,
) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    let mut by_manager: Vec<(String, Vec<String>)> = Vec::new();
    for (manager, entry) in others.iter_mut() {
        let clash: Vec<Path> = change
            .written()
            .filter(|p| mine.contains(*p) && entry.fields.contains(*p))
            .cloned()
            .collect();
        if !force && !clash.is_empty() {
            let who = describe(manager, entry);
            by_manager.push((who.clone(), clash.iter().map(|p| show(p)).collect()));
            causes.extend(clash.iter().map(|p| Cause {
                field: show(p),
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {who}"),
            }));
        }
        for path in clash.iter().chain(&change.removed) {
            entry.fields.remove(path);
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let text = if let [(who, paths)] = by_manager.as_slice()
        && let [path] = paths.as_slice()
    {
        format!("conflict with {who}: {path}")
    } else {
        let each: Vec<String> = by_manager
            .iter()
            .map(|(who, paths)| format!("conflicts with {who}:\n- {}", paths.join("\n- ")))
            .collect();
        each.join("\n")
    };
    let plural = if causes.len() == 1 {
        "conflict"
    } else {
        "conflicts"
    };
    let mut error = ApiError::new(
        409,
        "Conflict",
        format!("Apply failed with {} {plural}: {text}", causes.len()),
    );
    error.causes = causes;
    Err(error)
}

fn describe(manager: &Manager, entry: &Entry) -> String {
    let mut text = format!("{:?}", manager.name);
    if !manager.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", manager.subresource));
    }
    if manager.operation == "Update" {
        text.push_str(&format!(" using {}", entry.api_version));
        if !entry.time.is_empty() {
            text.push_str(&format!(" at {}", entry.time));
        }
    }
    text
}

#[cfg(test)]
mod tests;
