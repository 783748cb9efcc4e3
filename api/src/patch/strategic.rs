//! Strategic merge patch: lists of objects merge by a key that the type names, and directives say what a plain merge
//! cannot: `$patch`, `$retainKeys`, `$deleteFromPrimitiveList/F`, `$setElementOrder/F`.

use serde_json::{Map, Value};

use crate::mergekeys::{self, Strategic};
use crate::schema::Node;
use crate::{ApiError, Kind};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch. A patch that contradicts itself or names no merge key is a 400 that says where.
pub fn strategic(kind: &Kind, live: &Value, patch: &Value) -> Result<Value, ApiError> {
    let (Some(live), Some(patch)) = (live.as_object(), patch.as_object()) else {
        return Err(bad("", "a strategic merge patch must be an object"));
    };
    Ok(Value::Object(merge_map(
        Node::of(kind),
        live.clone(),
        patch,
        "",
    )?))
}

fn bad(path: &str, what: &str) -> ApiError {
    let at = if path.is_empty() {
        String::new()
    } else {
        format!(" at {path}")
    };
    ApiError::bad_request(format!("invalid strategic merge patch{at}: {what}"))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_string()
    } else {
        format!("{path}.{key}")
    }
}

fn rule(node: Option<Node>, field: &str) -> Strategic {
    node.map_or(Strategic::Plain, |n| {
        mergekeys::rule(n.name, field).strategic
    })
}

fn merge_map(
    node: Option<Node>,
    mut live: Map<String, Value>,
    patch: &Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>, ApiError> {
    match patch.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
        Some("replace") => return Ok(without_directive(patch)),
        Some("delete") => return Ok(Map::new()),
        None | Some("merge") => {}
        Some(other) => {
            return Err(bad(
                path,
                &format!("unknown $patch directive {other:?}; use replace, delete or merge"),
            ));
        }
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut live, patch, keys, path)?;
    }
    // Lists that the patch deletes from or orders, then the plain fields: one list may have all three.
    let mut fields: Vec<&str> = Vec::new();
    for key in patch.keys() {
        let field = key
            .strip_prefix(DELETE_FROM_LIST)
            .or_else(|| key.strip_prefix(ELEMENT_ORDER))
            .unwrap_or(key);
        if field != PATCH && field != RETAIN_KEYS && !fields.contains(&field) {
            fields.push(field);
        }
    }
    for field in fields {
        let at = join(path, field);
        let child = node.and_then(|n| n.field(field));
        if let Some(delete) = patch.get(&format!("{DELETE_FROM_LIST}{field}")) {
            let delete = delete
                .as_array()
                .ok_or_else(|| bad(&at, "$deleteFromPrimitiveList must be a list"))?;
            if let Some(Value::Array(items)) = live.get_mut(field) {
                items.retain(|item| !delete.contains(item));
            }
        }
        let order = match patch.get(&format!("{ELEMENT_ORDER}{field}")) {
            Some(order) => Some(
                order
                    .as_array()
                    .ok_or_else(|| bad(&at, "$setElementOrder must be a list"))?
                    .as_slice(),
            ),
            None => None,
        };
        match patch.get(field) {
            Some(Value::Null) => drop(live.remove(field)),
            Some(new) => {
                let merged = merge_value(
                    child,
                    rule(node, field),
                    live.remove(field),
                    new,
                    order,
                    &at,
                )?;
                live.insert(field.to_string(), merged);
            }
            None => {
                if let (Some(order), Some(Value::Array(items))) = (order, live.get_mut(field)) {
                    let list = List::of(rule(node, field));
                    let before = std::mem::take(items);
                    *items = list.sort(before.clone(), order, &before);
                }
            }
        }
    }
    Ok(live)
}

/// The patch's own content as it is, with nulls kept out.
fn without_directive(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(k, v)| *k != PATCH && !v.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn retain_keys(
    live: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    keys: &Value,
    path: &str,
) -> Result<(), ApiError> {
    let keys = keys
        .as_array()
        .ok_or_else(|| bad(path, "$retainKeys must be a list"))?;
    let listed = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    if let Some((stray, _)) = patch
        .iter()
        .find(|(key, v)| !key.starts_with('$') && !v.is_null() && !listed(key))
    {
        return Err(bad(
            path,
            &format!("{stray:?} is set but not listed in $retainKeys"),
        ));
    }
    let drop: Vec<String> = live.keys().filter(|key| !listed(key)).cloned().collect();
    for key in drop {
        live.remove(&key);
    }
    Ok(())
}

/// Merges one field. Where live and patch differ in type the patch wins.
fn merge_value(
    node: Option<Node>,
    strategy: Strategic,
    live: Option<Value>,
    patch: &Value,
    order: Option<&[Value]>,
    path: &str,
) -> Result<Value, ApiError> {
    match (live, patch) {
        (live, Value::Object(patch)) => {
            let live = match live {
                Some(Value::Object(map)) if strategy != Strategic::Replace => map,
                _ => Map::new(),
            };
            Ok(Value::Object(merge_map(node, live, patch, path)?))
        }
        (live, Value::Array(patch)) => {
            let live = match live {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
            let list = List::of(strategy);
            let merged = match list {
                List::Plain => return Ok(Value::Array(patch.clone())),
                List::Scalars => union(&live, patch),
                List::Keyed(key) => {
                    match merge_list(node.and_then(Node::item), live.clone(), patch, key, path)? {
                        Merged::Whole(items) => return Ok(Value::Array(items)),
                        Merged::Items(items) => items,
                    }
                }
            };
            let Some(order) = order else {
                return Ok(Value::Array(merged));
            };
            list.check_order(patch, order, path)?;
            Ok(Value::Array(list.sort(merged, order, &live)))
        }
        (_, scalar) => Ok(scalar.clone()),
    }
}

fn union(live: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::with_capacity(live.len() + patch.len());
    for item in live.iter().chain(patch) {
        if !all.contains(item) {
            all.push(item.clone());
        }
    }
    all
}

/// What merging a keyed list gave.
enum Merged {
    /// The list was replaced: its order is the patch's.
    Whole(Vec<Value>),
    /// Live items in place, new ones behind.
    Items(Vec<Value>),
}

fn merge_list(
    node: Option<Node>,
    mut live: Vec<Value>,
    patch: &[Value],
    key: &str,
    path: &str,
) -> Result<Merged, ApiError> {
    let directive = |item: &Value| {
        item.get(PATCH)
            .map(|d| d.as_str().unwrap_or_default().to_string())
    };
    if patch
        .iter()
        .any(|item| directive(item).as_deref() == Some("replace"))
    {
        let rest = patch
            .iter()
            .filter(|item| directive(item).is_none())
            .cloned()
            .collect();
        return Ok(Merged::Whole(rest));
    }
    for (i, item) in patch.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let Some(map) = item.as_object() else {
            return Err(bad(&at, "an item of this list must be an object"));
        };
        let Some(value) = map.get(key).filter(|v| !v.is_null()) else {
            return Err(bad(
                &at,
                &format!("the item does not contain the merge key {key:?}"),
            ));
        };
        match directive(item).as_deref() {
            Some("delete") => live.retain(|l| l.get(key) != Some(value)),
            Some(other) => {
                return Err(bad(
                    &at,
                    &format!(
                        "the $patch directive {other:?} is not possible on an item of a list; use delete or replace"
                    ),
                ));
            }
            None => match live.iter().position(|l| l.get(key) == Some(value)) {
                Some(found) => {
                    let before = live[found].take();
                    live[found] =
                        merge_value(node, Strategic::Plain, Some(before), item, None, &at)?;
                }
                None => live.push(merge_value(node, Strategic::Plain, None, item, None, &at)?),
            },
        }
    }
    Ok(Merged::Items(live))
}

/// How the items of a list are told apart.
#[derive(Clone, Copy)]
enum List {
    Plain,
    Scalars,
    Keyed(&'static str),
}

impl List {
    fn of(strategy: Strategic) -> Self {
        match strategy {
            Strategic::Merge(key) | Strategic::MergeRetainKeys(key) => List::Keyed(key),
            Strategic::Union => List::Scalars,
            Strategic::Plain | Strategic::RetainKeys | Strategic::Replace => List::Plain,
        }
    }

    /// What tells the item apart; a keyed item in an order list may be the key's holder only.
    fn id(self, item: &Value) -> &Value {
        match self {
            List::Keyed(key) => item.get(key).unwrap_or(&Value::Null),
            List::Plain | List::Scalars => item,
        }
    }

    fn position(self, list: &[Value], item: &Value) -> Option<usize> {
        list.iter()
            .position(|other| self.id(other) == self.id(item))
    }

    /// The patch's items must stand in the order list, in the same relative order; deleted ones need not.
    fn check_order(self, patch: &[Value], order: &[Value], path: &str) -> Result<(), ApiError> {
        let mut last = None;
        for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
            let at = self.position(order, item);
            if at.is_none() || at < last {
                return Err(bad(
                    path,
                    "the order in the patch does not match the $setElementOrder list",
                ));
            }
            last = at;
        }
        Ok(())
    }

    /// Items named in `order` stand in that order; the others keep their place relative to the live list.
    fn sort(self, items: Vec<Value>, order: &[Value], live: &[Value]) -> Vec<Value> {
        let (mut ordered, rest): (Vec<Value>, Vec<Value>) = items
            .into_iter()
            .partition(|item| self.position(order, item).is_some());
        ordered.sort_by_key(|item| self.position(order, item));
        let (mut ordered, mut rest) = (ordered.into_iter().peekable(), rest.into_iter().peekable());
        let mut all = Vec::new();
        loop {
            let take_rest = match (rest.peek(), ordered.peek()) {
                (None, None) => return all,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some(r), Some(o)) => {
                    matches!((self.position(live, r), self.position(live, o)), (Some(r), Some(o)) if r < o)
                }
            };
            all.extend(if take_rest {
                rest.next()
            } else {
                ordered.next()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> &'static Kind {
        crate::kinds::by_word("po").unwrap()
    }

    fn deployment() -> &'static Kind {
        crate::kinds::by_word("deploy").unwrap()
    }

    #[test]
    fn patches_merge_by_the_types_keys() {
        let name = |n: &str, image: &str| json!({"name": n, "image": image});
        for (what, live, patch, want) in [
            (
                "containers merge by name",
                json!({"spec": {"containers": [name("a", "1"), name("b", "1")]}}),
                json!({"spec": {"containers": [{"name": "b", "image": "2"}]}}),
                json!({"spec": {"containers": [name("a", "1"), name("b", "2")]}}),
            ),
            (
                "a new container goes last",
                json!({"spec": {"containers": [name("a", "1")]}}),
                json!({"spec": {"containers": [name("b", "1")]}}),
                json!({"spec": {"containers": [name("a", "1"), name("b", "1")]}}),
            ),
            (
                "set image",
                json!({"spec": {"containers": [name("a", "1"), name("b", "1")]}}),
                json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "a", "image": "2"}]}}),
                json!({"spec": {"containers": [name("a", "2"), name("b", "1")]}}),
            ),
            (
                "order alone",
                json!({"spec": {"containers": [name("a", "1"), name("b", "1")]}}),
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
                json!({"spec": {"containers": [name("b", "1"), name("a", "1")]}}),
            ),
            (
                "server's own items keep their place",
                json!({"spec": {"containers": [name("s", "1"), name("a", "1"), name("b", "1")]}}),
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "2"}]}}),
                json!({"spec": {"containers": [name("s", "1"), name("b", "2"), name("a", "1")]}}),
            ),
            (
                "delete one",
                json!({"spec": {"containers": [name("a", "1"), name("b", "1")]}}),
                json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
                json!({"spec": {"containers": [name("b", "1")]}}),
            ),
            (
                "delete what is not there",
                json!({"spec": {"containers": [name("b", "1")]}}),
                json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
                json!({"spec": {"containers": [name("b", "1")]}}),
            ),
            (
                "replace the list",
                json!({"spec": {"containers": [name("a", "1"), name("b", "1")]}}),
                json!({"spec": {"containers": [{"$patch": "replace"}, name("c", "1")]}}),
                json!({"spec": {"containers": [name("c", "1")]}}),
            ),
            (
                "replace a map",
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
                json!({"metadata": {"labels": {"b": "2"}}}),
            ),
            (
                "empty a map",
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "delete"}}}),
                json!({"metadata": {"labels": {}}}),
            ),
            (
                "null removes",
                json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
                json!({"metadata": {"labels": {"a": null}}}),
                json!({"metadata": {"labels": {"b": "2"}}}),
            ),
            (
                "null in something new",
                json!({}),
                json!({"metadata": {"labels": {"a": null, "b": "1"}}}),
                json!({"metadata": {"labels": {"b": "1"}}}),
            ),
            (
                "finalizers are a union",
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"finalizers": ["b", "c"]}}),
                json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            ),
            (
                "finalizers deleted",
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}}),
                json!({"metadata": {"finalizers": ["c", "b"]}}),
            ),
            (
                "tolerations are replaced",
                json!({"spec": {"tolerations": [{"key": "a"}]}}),
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
            ),
            (
                "env merges by name, nested",
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}, {"name": "Y", "$patch": "delete"}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}]}]}}),
            ),
            (
                "volumes keep listed keys",
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}}),
            ),
            (
                "types differ: the patch wins",
                json!({"spec": {"containers": "x"}}),
                json!({"spec": {"containers": [name("a", "1")]}}),
                json!({"spec": {"containers": [name("a", "1")]}}),
            ),
        ] {
            assert_eq!(
                strategic(pod(), &live, &patch).unwrap_or_else(|e| panic!("{what}: {e}")),
                want,
                "{what}"
            );
        }
    }

    #[test]
    fn strategy_of_a_deployment_keeps_only_listed_keys() {
        let live = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            strategic(deployment(), &live, &patch).unwrap(),
            json!({"spec": {"strategy": {"type": "Recreate"}}})
        );
    }

    #[test]
    fn patches_that_contradict_themselves_are_refused() {
        let live = json!({"spec": {"containers": [{"name": "a"}], "volumes": []}});
        for (patch, word) in [
            (
                json!({"spec": {"containers": [{"image": "x"}]}}),
                "merge key \"name\"",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
                "not possible on an item",
            ),
            (json!({"spec": {"containers": ["a"]}}), "must be an object"),
            (
                json!({"spec": {"$patch": "drop"}}),
                "unknown $patch directive",
            ),
            (
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
                "does not match",
            ),
            (
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a"}, {"name": "b"}]}}),
                "does not match",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}}),
                "not listed in $retainKeys",
            ),
            (json!([]), "must be an object"),
        ] {
            let error = strategic(pod(), &live, &patch).unwrap_err();
            assert_eq!(error.code, 400);
            assert!(error.message.contains(word), "{patch}: {error}");
        }
    }
}
