//! Strict decoding: every unknown field, every value of a wrong type, with a hint where the slip is plain.

use std::collections::BTreeMap;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;

use super::{Node, Shape};
use crate::error::Cause;
use crate::suggest::suggest;
use crate::{ApiError, Kind};

/// What strict decoding found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// Paths of unknown fields, in the order of the document.
    pub unknown: Vec<String>,
    /// Path of an unknown field -> the known field it resembles.
    pub hints: BTreeMap<String, String>,
    /// Values of the wrong type.
    pub wrong: Vec<Cause>,
}

impl Problems {
    /// Nothing found.
    pub fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.wrong.is_empty()
    }

    /// `unknown field "spec.contaners", did you mean "containers"?`, one for each (the Warning headers of
    /// `fieldValidation=Warn`).
    pub fn warnings(&self) -> Vec<String> {
        self.unknown
            .iter()
            .map(|path| match self.hints.get(path) {
                Some(hint) => format!("unknown field {path:?}, did you mean {hint:?}?"),
                None => format!("unknown field {path:?}"),
            })
            .collect()
    }

    /// 400 listing all unknown fields (`fieldValidation=Strict`), if there are any.
    pub fn strict_error(&self, kind: &Kind, name: &str) -> Option<ApiError> {
        if self.unknown.is_empty() {
            return None;
        }
        let text = format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            self.warnings().join(", ")
        );
        let mut error = ApiError::bad_request(text).about(kind.group, kind.plural, name);
        error.causes = self
            .unknown
            .iter()
            .zip(self.warnings())
            .map(|(field, message)| Cause {
                field: field.clone(),
                reason: "FieldValueNotSupported".into(),
                message,
            })
            .collect();
        Some(error)
    }

    /// 400 listing all values of a wrong type, if there are any: refused whatever `fieldValidation` says.
    pub fn type_error(&self, kind: &Kind, name: &str) -> Option<ApiError> {
        if self.wrong.is_empty() {
            return None;
        }
        let list: Vec<String> = self
            .wrong
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let text = format!(
            "{} in version {:?} cannot be handled as a {}: {}",
            kind.kind,
            kind.version,
            kind.kind,
            list.join(", ")
        );
        let mut error = ApiError::bad_request(text).about(kind.group, kind.plural, name);
        error.causes = self.wrong.clone();
        Some(error)
    }
}

/// Finds unknown fields and values of a wrong type. `null` stands for absence and is fine in a map.
pub fn check(kind: &Kind, object: &Value) -> Problems {
    let mut problems = Problems::default();
    if let Some(root) = Node::of(kind) {
        walk(root, object, "", &mut problems);
    }
    problems
}

fn walk(node: Node, value: &Value, path: &str, problems: &mut Problems) {
    let expected = match (node.shape(), value) {
        (Shape::Struct | Shape::Map, Value::Object(map)) => {
            for (key, below) in map {
                let at = join(path, key);
                match node.field(key) {
                    None => {
                        if let Some(hint) = suggest(key, node.fields()) {
                            problems.hints.insert(at.clone(), hint.to_string());
                        }
                        problems.unknown.push(at);
                    }
                    Some(_) if below.is_null() => {}
                    Some(child) => walk(child, below, &at, problems),
                }
            }
            return;
        }
        (Shape::List, Value::Array(items)) => {
            if let Some(item) = node.item() {
                for (i, below) in items.iter().enumerate() {
                    walk(item, below, &format!("{path}[{i}]"), problems);
                }
            }
            return;
        }
        (Shape::Any, _) => return,
        (Shape::Struct | Shape::Map, _) => "an object",
        (Shape::List, _) => "a list",
        (Shape::Text, Value::String(_)) => return,
        (Shape::Text, Value::Number(_) | Value::Bool(_)) => "a string; put it in quotes",
        (Shape::Text, _) => "a string",
        (Shape::Time, Value::String(text))
            if text.is_empty() || text.parse::<Timestamp>().is_ok() =>
        {
            return;
        }
        (Shape::Time, _) => "a time such as 2026-01-31T12:00:00Z",
        (Shape::Bytes, Value::String(text))
            if base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok() =>
        {
            return;
        }
        (Shape::Bytes, _) => "base64 text (stringData takes plain text)",
        (Shape::Integer { short: true }, Value::Number(n))
            if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
        {
            return;
        }
        (Shape::Integer { short: true }, Value::Number(n)) if n.is_i64() || n.is_u64() => {
            "a whole number of 32 bits"
        }
        (Shape::Integer { short: false }, Value::Number(n)) if n.is_i64() => return,
        (Shape::Integer { .. }, Value::String(text)) if text.parse::<i64>().is_ok() => {
            "a whole number; leave out the quotes"
        }
        (Shape::Integer { .. }, _) => "a whole number",
        (Shape::Number, Value::Number(_)) | (Shape::Bool, Value::Bool(_)) => return,
        (Shape::Number, _) => "a number",
        (Shape::Bool, Value::String(text)) if matches!(text.as_str(), "true" | "false") => {
            "true or false; leave out the quotes"
        }
        (Shape::Bool, _) => "true or false",
        (Shape::IntOrString | Shape::Quantity, Value::String(_)) => return,
        (Shape::IntOrString, Value::Number(n))
            if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
        {
            return;
        }
        (Shape::IntOrString, _) => "a whole number or a string",
        (Shape::Quantity, Value::Number(_)) => return,
        (Shape::Quantity, _) => "a quantity such as 250m or 64Mi",
    };
    problems.wrong.push(Cause {
        field: if path.is_empty() {
            "<root>".into()
        } else {
            path.into()
        },
        reason: "FieldValueTypeInvalid".into(),
        message: format!("Invalid value: {}: must be {expected}", shown(value)),
    });
}

/// A value as a message shows it: short, its kind only where it is an object or a list.
fn shown(value: &Value) -> String {
    /// Longer texts are cut: a message is read, not parsed.
    const LONGEST: usize = 64;
    match value {
        Value::Object(_) => "an object".into(),
        Value::Array(_) => "a list".into(),
        scalar => {
            let text = scalar.to_string();
            if text.chars().count() <= LONGEST {
                text
            } else {
                text.chars().take(LONGEST).chain("...".chars()).collect()
            }
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_string()
    } else {
        format!("{path}.{key}")
    }
}

/// Brings an object to the one form we store: quantities given as numbers become strings, nulls and empty times go.
pub fn normalise(kind: &Kind, object: &mut Value) {
    if let Some(root) = Node::of(kind) {
        tidy(root, object);
    }
}

fn tidy(node: Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            for key in keys {
                let child = node.field(&key);
                let time = child.is_some_and(|c| matches!(c.shape(), Shape::Time));
                if map[&key].is_null() || (time && map[&key] == "") {
                    map.remove(&key);
                } else if let Some(child) = child {
                    tidy(child, &mut map[&key]);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = node.item() {
                items.iter_mut().for_each(|i| tidy(item, i));
            }
        }
        Value::Number(n) if matches!(node.shape(), Shape::Quantity) => {
            *value = Value::String(n.to_string())
        }
        _ => {}
    }
}

/// Drops every unknown field: what `fieldValidation=Warn` and `Ignore` do before an object is stored.
pub fn prune(kind: &Kind, object: &mut Value) {
    if let Some(root) = Node::of(kind) {
        cut(root, object);
    }
}

fn cut(node: Node, value: &mut Value) {
    match value {
        Value::Object(map) if matches!(node.shape(), Shape::Struct | Shape::Map) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            for key in keys {
                match node.field(&key) {
                    Some(child) => cut(child, &mut map[&key]),
                    None => drop(map.remove(&key)),
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = node.item() {
                items.iter_mut().for_each(|i| cut(item, i));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(word: &str) -> &'static Kind {
        crate::kinds::by_word(word).unwrap()
    }

    #[test]
    fn unknown_fields_are_named_by_path_with_a_hint() {
        let d = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "lables": {}},
            "spec": {"replicas": 1, "template": {"spec": {"contaners": [], "containers": [{"name": "a", "imagee": "x"}]}}}});
        let mut found = check(kind("deploy"), &d).unknown;
        found.sort();
        assert_eq!(
            found,
            [
                "metadata.lables",
                "spec.template.spec.containers[0].imagee",
                "spec.template.spec.contaners"
            ]
        );
        let problems = check(kind("deploy"), &d);
        assert_eq!(problems.hints["spec.template.spec.contaners"], "containers");
        assert_eq!(
            problems.hints["spec.template.spec.containers[0].imagee"],
            "image"
        );
        let error = problems.strict_error(kind("deploy"), "web").unwrap();
        assert_eq!(error.code, 400);
        assert!(error.message.contains("strict decoding error"), "{error}");
        assert!(
            error.message.contains(
                r#"unknown field "spec.template.spec.contaners", did you mean "containers"?"#
            ),
            "{error}"
        );
        let mut pruned = d.clone();
        prune(kind("deploy"), &mut pruned);
        assert!(check(kind("deploy"), &pruned).is_empty());
        assert_eq!(
            pruned["spec"]["template"]["spec"]["containers"][0],
            json!({"name": "a"})
        );
    }

    #[test]
    fn wrong_types_say_what_is_expected() {
        for (word, object, field, message) in [
            (
                "deploy",
                json!({"spec": {"replicas": "three"}}),
                "spec.replicas",
                "must be a whole number",
            ),
            (
                "deploy",
                json!({"spec": {"replicas": "3"}}),
                "spec.replicas",
                "leave out the quotes",
            ),
            (
                "deploy",
                json!({"spec": {"replicas": 1.5}}),
                "spec.replicas",
                "must be a whole number",
            ),
            (
                "deploy",
                json!({"spec": {"replicas": 4_294_967_296_i64}}),
                "spec.replicas",
                "32 bits",
            ),
            (
                "po",
                json!({"spec": {"containers": {"name": "a"}}}),
                "spec.containers",
                "must be a list",
            ),
            (
                "po",
                json!({"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}}),
                "spec.containers[0].env[0].value",
                "put it in quotes",
            ),
            (
                "po",
                json!({"metadata": {"labels": {"a": true}}}),
                "metadata.labels.a",
                "put it in quotes",
            ),
            (
                "po",
                json!({"spec": {"hostNetwork": "yes"}}),
                "spec.hostNetwork",
                "must be true or false",
            ),
            ("po", json!({"spec": []}), "spec", "must be an object"),
            ("po", json!([1]), "<root>", "must be an object"),
            (
                "secret",
                json!({"data": {"a": "not base64!"}}),
                "data.a",
                "base64",
            ),
            (
                "svc",
                json!({"spec": {"ports": [{"targetPort": 1.5}]}}),
                "spec.ports[0].targetPort",
                "a whole number or a string",
            ),
            (
                "lease",
                json!({"spec": {"renewTime": "noon"}}),
                "spec.renewTime",
                "must be a time",
            ),
        ] {
            let problems = check(kind(word), &object);
            assert_eq!(problems.wrong.len(), 1, "{object}: {problems:?}");
            assert_eq!(problems.wrong[0].field, field);
            assert!(
                problems.wrong[0].message.contains(message),
                "{}",
                problems.wrong[0].message
            );
            assert_eq!(problems.type_error(kind(word), "x").unwrap().code, 400);
        }
    }

    #[test]
    fn right_objects_have_no_problems() {
        for (word, object) in [
            (
                "po",
                json!({"metadata": {"creationTimestamp": null, "managedFields": [{"fieldsV1": {"f:x": {}}}]},
                "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"port": "http"}}}]}, "status": {}}),
            ),
            (
                "svc",
                json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8080}]}}),
            ),
            (
                "secret",
                json!({"data": {"a": "aGVsbG8="}, "stringData": {"b": "x"}}),
            ),
            (
                "lease",
                json!({"spec": {"renewTime": "2026-01-01T00:00:00.123456Z"}}),
            ),
        ] {
            assert_eq!(check(kind(word), &object), Problems::default());
        }
    }

    #[test]
    fn normal_form_has_text_quantities_and_no_nulls() {
        let mut pod = json!({"metadata": {"creationTimestamp": null, "name": "a", "deletionTimestamp": ""},
            "spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": 1024}}, "command": null}]}});
        normalise(kind("po"), &mut pod);
        assert_eq!(
            pod,
            json!({"metadata": {"name": "a"}, "spec": {"containers": [{"resources": {"limits": {"cpu": "0.5", "memory": "1024"}}}]}})
        );
    }
}
