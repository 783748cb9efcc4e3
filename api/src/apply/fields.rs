//! Sets of field paths: what a manager owns. Read from and written to `fieldsV1`, and collected from objects by the
//! list and map types of [`crate::mergekeys`].

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::mergekeys::{self, Apply};
use crate::schema::{Node, Shape};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A field of a struct or a key of a map.
    Field(String),
    /// An item of a keyed list: its keys as JSON with sorted names.
    Key(String),
    /// An item of a set: its JSON.
    Item(String),
}

pub(super) type Path = Vec<Step>;
pub(super) type FieldSet = BTreeSet<Path>;

/// How a value is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// As one.
    Whole,
    /// Key by key.
    Map,
    /// Item by item, told apart by these keys.
    Keyed(&'static [&'static str]),
    /// Item by item, each its own key.
    Set,
}

/// How the value of `field` below `parent` is owned.
pub(super) fn style(parent: Node, field: &str, node: Node) -> Style {
    match (mergekeys::rule(parent.name, field).apply, node.shape()) {
        (Apply::Atomic, _) => Style::Whole,
        (Apply::Set, Shape::List) => Style::Set,
        (Apply::Map(keys), Shape::List) => Style::Keyed(keys),
        (Apply::Granular, Shape::Struct | Shape::Map) => Style::Map,
        (_, Shape::Struct | Shape::Map) if !mergekeys::atomic_struct(node.name) => Style::Map,
        _ => Style::Whole,
    }
}

/// The style of an item of a keyed list.
pub(super) fn item_style(node: Node) -> Style {
    if matches!(node.shape(), Shape::Struct | Shape::Map) && !mergekeys::atomic_struct(node.name) {
        Style::Map
    } else {
        Style::Whole
    }
}

/// JSON with sorted names, the form of keys in `fieldsV1`.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, String> =
                map.iter().map(|(k, v)| (k, canonical(v))).collect();
            let parts: Vec<String> = sorted
                .iter()
                .map(|(k, v)| format!("{}:{v}", Value::String((*k).clone())))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(canonical).collect::<Vec<_>>().join(",")
        ),
        scalar => scalar.to_string(),
    }
}

/// The key step of an item of a keyed list; `None` if it lacks a key that has no default.
pub(super) fn key_step(item: &Value, keys: &[&str]) -> Option<Step> {
    let mut all = Map::new();
    for key in keys {
        let value = match item.get(*key) {
            Some(v) if !v.is_null() => v.clone(),
            _ => json!(mergekeys::key_default(key)?),
        };
        all.insert((*key).to_string(), value);
    }
    Some(Step::Key(canonical(&Value::Object(all))))
}

/// Every owned path of an object with the value there; `None` where only existence counts (items of lists).
pub(super) type Leaves<'a> = BTreeMap<Path, Option<&'a Value>>;

/// Collects the paths of a whole object.
pub(super) fn collect(root: Node, object: &Value) -> Result<Leaves<'_>, ApiError> {
    let mut out = Leaves::new();
    walk(root, Style::Map, object, &mut Vec::new(), &mut out)?;
    Ok(out)
}

fn walk<'a>(
    node: Node,
    style: Style,
    value: &'a Value,
    path: &mut Path,
    out: &mut Leaves<'a>,
) -> Result<(), ApiError> {
    match (style, value) {
        (Style::Map, Value::Object(map)) => {
            if map.is_empty() && !path.is_empty() {
                out.insert(path.clone(), Some(value));
            }
            let free_keys = matches!(node.shape(), Shape::Map);
            for (key, below) in map {
                path.push(Step::Field(key.clone()));
                match node.field(key) {
                    Some(child) => {
                        walk(child, self::style(node, key, child), below, path, out)?;
                        if free_keys {
                            out.entry(path.clone()).or_insert(None);
                        }
                    }
                    None => drop(out.insert(path.clone(), Some(below))),
                }
                path.pop();
            }
        }
        (Style::Keyed(keys), Value::Array(items)) => {
            for item in items {
                let Some(step) = key_step(item, keys) else {
                    let text = format!("{}: an item lacks its key {}", show(path), keys.join(", "));
                    return Err(ApiError::bad_request(text));
                };
                path.push(step);
                if out.contains_key(path) {
                    return Err(ApiError::bad_request(format!(
                        "{}: duplicate entries for this key",
                        show(path)
                    )));
                }
                if let Some(child) = node.item() {
                    walk(child, item_style(child), item, path, out)?;
                }
                out.entry(path.clone()).or_insert(None);
                path.pop();
            }
        }
        (Style::Set, Value::Array(items)) => {
            for item in items {
                path.push(Step::Item(canonical(item)));
                out.insert(path.clone(), None);
                path.pop();
            }
        }
        (_, leaf) => drop(out.insert(path.clone(), Some(leaf))),
    }
    Ok(())
}

/// A path as conflicts name it: `.spec.template.spec.containers[name="web"].image`.
pub(super) fn show(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) => {
                text.push('.');
                text.push_str(name);
            }
            Step::Key(keys) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let parts: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                text.push_str(&format!("[{}]", parts.join(",")));
            }
            Step::Item(value) => text.push_str(&format!("[={value}]")),
        }
    }
    text
}

/// Reads `fieldsV1`.
pub(super) fn decode(fields: &Value) -> FieldSet {
    fn below(fields: &Map<String, Value>, path: &mut Path, out: &mut FieldSet) {
        for (key, value) in fields {
            if key == "." {
                out.insert(path.clone());
                continue;
            }
            let step = match key.split_at_checked(2) {
                Some(("f:", name)) => Step::Field(name.to_string()),
                Some(("k:", keys)) => Step::Key(
                    serde_json::from_str::<Value>(keys)
                        .map_or_else(|_| keys.to_string(), |v| canonical(&v)),
                ),
                Some(("v:", item)) => Step::Item(
                    serde_json::from_str::<Value>(item)
                        .map_or_else(|_| item.to_string(), |v| canonical(&v)),
                ),
                _ => continue,
            };
            path.push(step);
            match value.as_object().filter(|m| !m.is_empty()) {
                Some(map) => below(map, path, out),
                None => drop(out.insert(path.clone())),
            }
            path.pop();
        }
    }
    let mut out = FieldSet::new();
    if let Some(map) = fields.as_object() {
        below(map, &mut Vec::new(), &mut out);
    }
    out
}

/// Writes `fieldsV1`.
pub(super) fn encode(set: &FieldSet) -> Value {
    #[derive(Default)]
    struct Tree {
        member: bool,
        below: BTreeMap<String, Tree>,
    }
    impl Tree {
        fn json(&self) -> Value {
            let mut map = Map::new();
            if self.member && !self.below.is_empty() {
                map.insert(".".into(), json!({}));
            }
            map.extend(self.below.iter().map(|(k, t)| (k.clone(), t.json())));
            Value::Object(map)
        }
    }
    let mut root = Tree::default();
    for path in set {
        let mut at = &mut root;
        for step in path {
            let key = match step {
                Step::Field(name) => format!("f:{name}"),
                Step::Key(keys) => format!("k:{keys}"),
                Step::Item(item) => format!("v:{item}"),
            };
            at = at.below.entry(key).or_default();
        }
        at.member = true;
    }
    root.json()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_and_write_the_wire_form() {
        let wire = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:replicas": {}}});
        assert_eq!(encode(&decode(&wire)), wire);
    }

    #[test]
    fn paths_follow_list_types() {
        let deployment = crate::kinds::by_word("deploy").unwrap();
        let object = json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [
            {"name": "web", "args": ["x"], "ports": [{"containerPort": 80}], "resources": {}}], "nodeSelector": {"a": "b"}}}}});
        let leaves = collect(Node::of(deployment).unwrap(), &object).unwrap();
        let shown: Vec<String> = leaves.keys().map(|p| show(p)).collect();
        for want in [
            ".spec.replicas",
            ".spec.selector",
            ".spec.template.spec.containers[name=\"web\"]",
            ".spec.template.spec.containers[name=\"web\"].args",
            ".spec.template.spec.containers[name=\"web\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
            ".spec.template.spec.containers[name=\"web\"].resources",
            ".spec.template.spec.nodeSelector",
        ] {
            assert!(shown.iter().any(|p| p == want), "{want} not in {shown:#?}");
        }
        assert_eq!(shown.len(), 9, "{shown:#?}");
    }
}
