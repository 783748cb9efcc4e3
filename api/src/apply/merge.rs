//! Merging an applied configuration into the live object, and taking out what its manager no longer applies.

use serde_json::{Map, Value};

use super::fields::{Path, Step, Style, canonical, item_style, key_step, style};
use crate::mergekeys;
use crate::schema::Node;

/// The live value with the applied one merged in: maps by key, lists by their type, anything else replaced.
pub(super) fn merge(node: Node, how: Style, live: Option<&Value>, applied: &Value) -> Value {
    match (how, live, applied) {
        (Style::Map, live, Value::Object(applied)) => {
            let empty = Map::new();
            let live = live.and_then(Value::as_object).unwrap_or(&empty);
            let mut out = live.clone();
            for (key, value) in applied {
                let merged = match node.field(key) {
                    Some(child) => merge(child, style(node, key, child), live.get(key), value),
                    None => value.clone(),
                };
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (Style::Keyed(keys), live, Value::Array(applied)) => {
            let live = live
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let id = |item: &Value| key_step(item, keys);
            merge_lists(live, applied, id, |old, new| match node.item() {
                Some(child) => merge(child, item_style(child), old, new),
                None => new.clone(),
            })
        }
        (Style::Set, live, Value::Array(applied)) => {
            let live = live
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            merge_lists(
                live,
                applied,
                |item| Some(Step::Item(canonical(item))),
                |_, new| new.clone(),
            )
        }
        (_, _, applied) => applied.clone(),
    }
}

/// Applied items in their order; items that only the live list has keep their place among those both have.
fn merge_lists(
    live: &[Value],
    applied: &[Value],
    id: impl Fn(&Value) -> Option<Step>,
    join: impl Fn(Option<&Value>, &Value) -> Value,
) -> Value {
    let live_ids: Vec<Option<Step>> = live.iter().map(&id).collect();
    let applied_ids: Vec<Option<Step>> = applied.iter().map(&id).collect();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut a) = (0, 0);
    while l < live.len() || a < applied.len() {
        if l < live.len() && !applied_ids.contains(&live_ids[l]) {
            out.push(live[l].clone());
            l += 1;
        } else if a < applied.len() {
            let old = live_ids.iter().position(|i| *i == applied_ids[a]);
            out.push(join(old.map(|i| &live[i]), &applied[a]));
            if l < live.len() && live_ids[l] == applied_ids[a] {
                l += 1;
            }
            a += 1;
        } else {
            // A live item whose applied twin has been emitted already.
            l += 1;
        }
    }
    Value::Array(out)
}

/// Removes the value at `path`, and the maps and lists above it that this leaves empty, as long as `keep` does not
/// claim them.
pub(super) fn remove(object: &mut Value, path: &[Step], keep: &dyn Fn(&Path) -> bool) {
    let mut path: Path = path.to_vec();
    while let Some(last) = path.pop() {
        let Some(parent) = find(object, &path) else {
            return;
        };
        match (parent, last) {
            (Value::Object(map), Step::Field(name)) => drop(map.remove(&name)),
            (Value::Array(items), step) => items.retain(|item| !is(item, &step)),
            _ => return,
        }
        // Root and top-level fields (metadata, spec) stay, and so does an item of a list: it is owned by itself.
        let empty = find(object, &path).is_some_and(|v| {
            v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty)
        });
        if path.len() < 2 || !empty || !matches!(path.last(), Some(Step::Field(_))) || keep(&path) {
            return;
        }
    }
}

/// Whether the path ends in a field that tells its list item apart.
pub(super) fn is_key(path: &[Step]) -> bool {
    matches!(path, [.., Step::Key(keys), Step::Field(name)]
        if serde_json::from_str::<Map<String, Value>>(keys).is_ok_and(|keys| keys.contains_key(name)))
}

fn find<'a>(object: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |at, step| match (at, step) {
        (Value::Object(map), Step::Field(name)) => map.get_mut(name),
        (Value::Array(items), step) => items.iter_mut().find(|item| is(item, step)),
        _ => None,
    })
}

fn is(item: &Value, step: &Step) -> bool {
    match step {
        Step::Field(_) => false,
        Step::Item(text) => canonical(item) == *text,
        Step::Key(text) => serde_json::from_str::<Map<String, Value>>(text).is_ok_and(|keys| {
            keys.iter().all(|(k, v)| match item.get(k) {
                Some(found) => found == v,
                None => v.as_str().is_some() && v.as_str() == mergekeys::key_default(k),
            })
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_keep_the_applied_order_and_the_others_place() {
        let ids = |v: &Value| Some(Step::Item(canonical(v)));
        for (live, applied, want) in [
            (json!([1, 2, 3]), json!([3, 1]), json!([3, 1, 2])),
            (json!([1, 2]), json!([2, 3]), json!([1, 2, 3])),
            (json!([]), json!([1]), json!([1])),
            (json!([1]), json!([]), json!([1])),
            (
                json!([9, 1, 8, 2, 7]),
                json!([1, 2]),
                json!([9, 1, 8, 2, 7]),
            ),
        ] {
            assert_eq!(
                merge_lists(
                    live.as_array().unwrap(),
                    applied.as_array().unwrap(),
                    ids,
                    |_, n| n.clone()
                ),
                want,
                "{live} {applied}"
            );
        }
    }
}
