//! `metadata.managedFields`: who wrote which field, by which operation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{FieldSet, decode, encode};
use crate::{Kind, meta};

/// Most entries of operation Update an object keeps; the oldest are folded into [`ANCIENT`], as in Kubernetes.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that stands for folded entries.
const ANCIENT: &str = "ancient-changes";

/// What tells entries apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    /// `Apply` or `Update`.
    pub operation: String,
    /// Name of the manager.
    pub name: String,
    /// Subresource, "" for the object itself.
    pub subresource: String,
    /// apiVersion of an Update entry, "" for Apply (one entry whatever the version).
    pub api_version: String,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub api_version: String,
    pub time: String,
    pub fields: FieldSet,
}

/// All entries of an object.
pub(super) type Managers = BTreeMap<Manager, Entry>;

pub(super) fn applier(name: &str, subresource: Option<&str>) -> Manager {
    Manager {
        operation: "Apply".into(),
        name: name.into(),
        subresource: subresource.unwrap_or_default().into(),
        api_version: String::new(),
    }
}

pub(super) fn updater(kind: &Kind, name: &str, subresource: Option<&str>) -> Manager {
    Manager {
        operation: "Update".into(),
        name: name.into(),
        subresource: subresource.unwrap_or_default().into(),
        api_version: kind.api_version(),
    }
}

/// Reads the entries; malformed ones are left out.
pub(super) fn read(object: &Value) -> Managers {
    let mut all = Managers::new();
    for entry in object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_string();
        let operation = text("operation");
        if !matches!(operation.as_str(), "Apply" | "Update") {
            continue;
        }
        let api_version = if operation == "Apply" {
            String::new()
        } else {
            text("apiVersion")
        };
        let manager = Manager {
            operation,
            name: text("manager"),
            subresource: text("subresource"),
            api_version,
        };
        all.insert(
            manager,
            Entry {
                api_version: text("apiVersion"),
                time: text("time"),
                fields: decode(&entry["fieldsV1"]),
            },
        );
    }
    all
}

/// Writes the entries into the object: appliers first, then by time and name. Empty ones are left out.
pub(super) fn write(object: &mut Value, mut all: Managers) {
    all.retain(|_, entry| !entry.fields.is_empty());
    fold_old(&mut all);
    let mut list: Vec<(Manager, Entry)> = all.into_iter().collect();
    list.sort_by(|(a, x), (b, y)| (&a.operation, &x.time, a).cmp(&(&b.operation, &y.time, b)));
    let list: Vec<Value> = list
        .into_iter()
        .map(|(manager, entry)| {
            let mut json = json!({"manager": manager.name, "operation": manager.operation, "apiVersion": entry.api_version,
                "fieldsType": "FieldsV1", "fieldsV1": encode(&entry.fields)});
            if !entry.time.is_empty() {
                json["time"] = json!(entry.time);
            }
            if !manager.subresource.is_empty() {
                json["subresource"] = json!(manager.subresource);
            }
            json
        })
        .collect();
    if list.is_empty() {
        meta::metadata(object).remove("managedFields");
    } else {
        meta::metadata(object).insert("managedFields".into(), Value::Array(list));
    }
}

fn fold_old(all: &mut Managers) {
    let mut updates: Vec<(String, Manager)> = all
        .iter()
        .filter(|(m, _)| m.operation == "Update" && m.name != ANCIENT)
        .map(|(m, e)| (e.time.clone(), m.clone()))
        .collect();
    updates.sort();
    let excess = updates.len().saturating_sub(MAX_UPDATE_MANAGERS);
    for (_, manager) in updates.into_iter().take(excess) {
        let Some(old) = all.remove(&manager) else {
            continue;
        };
        let home = Manager {
            name: ANCIENT.into(),
            subresource: String::new(),
            ..manager
        };
        let ancient = all.entry(home).or_insert_with(|| Entry {
            fields: FieldSet::new(),
            ..old.clone()
        });
        ancient.time = old.time;
        ancient.fields.extend(old.fields);
    }
}

/// The time of an entry that changes now.
pub(super) fn stamp(now: Timestamp) -> String {
    meta::time_text(now)
}
