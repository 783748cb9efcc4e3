//! Reading and writing `metadata` of an object held as JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Key;

/// A string in `metadata`, or "".
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or("")
}

/// `metadata.name`, or "".
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`, or "".
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, or "".
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// The key of the object.
pub fn key(object: &Value) -> Key {
    Key::new(namespace(object), name(object))
}

/// `metadata.resourceVersion` as a number; `None` if absent or not a number.
pub fn revision(object: &Value) -> Option<u64> {
    text(object, "resourceVersion").parse().ok()
}

/// `metadata.generation`, 0 if absent.
pub fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// A string map in `metadata` (`labels` or `annotations`).
pub fn strings(object: &Value, field: &str) -> BTreeMap<String, String> {
    string_map(&object["metadata"][field])
}

/// Any JSON object of strings, as a map; entries that are not strings are left out.
pub fn string_map(value: &Value) -> BTreeMap<String, String> {
    let Some(map) = value.as_object() else {
        return BTreeMap::new();
    };
    map.iter()
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string())))
        .collect()
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> BTreeMap<String, String> {
    strings(object, "labels")
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

/// Sets one annotation.
pub fn set_annotation(object: &mut Value, name: &str, value: &str) {
    metadata(object)
        .entry("annotations")
        .or_insert_with(|| json!({}))[name] = json!(value);
}

/// `metadata` as a map, made if it is missing.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]
        .as_object_mut()
        .expect("metadata was just made an object")
}

/// `metadata.deletionTimestamp`, parsed.
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    text(object, "deletionTimestamp").parse().ok()
}

/// `metadata.creationTimestamp`, parsed.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    text(object, "creationTimestamp").parse().ok()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<String> {
    object["metadata"]["finalizers"]
        .as_array()
        .map(|a| {
            a.iter()
                .filter_map(|f| Some(f.as_str()?.to_string()))
                .collect()
        })
        .unwrap_or_default()
}

/// A time as Kubernetes writes it: whole seconds, UTC, `Z`.
pub fn time_text(at: Timestamp) -> String {
    at.round(
        jiff::TimestampRound::new()
            .smallest(jiff::Unit::Second)
            .mode(jiff::RoundMode::Trunc),
    )
    .unwrap_or(at)
    .to_string()
}
