//! Reading manifests (YAML or JSON, one or many documents) and writing YAML.
//!
//! Duplicate keys are refused, plain `yes`/`no`/`on`/`off` stay strings (YAML 1.2), `0755` is octal as in every
//! manifest that sets a file mode, and anchors, aliases and merge keys work within bounds.

use serde_json::Value;

/// Why a text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", line.map(|l| format!("line {l}: ")).unwrap_or_default())]
pub struct DocError {
    /// Line, from 1, where it is known.
    pub line: Option<u64>,
    /// What is wrong.
    pub message: String,
}

/// Objects of a manifest; the items of `List` kinds stand for themselves, empty documents are left out. A document
/// that is no object is an error.
pub fn read(text: &str) -> Result<Vec<Value>, DocError> {
    let mut objects = Vec::new();
    for document in read_yaml(text)? {
        flatten(document, &mut objects)?;
    }
    Ok(objects)
}

fn flatten(document: Value, objects: &mut Vec<Value>) -> Result<(), DocError> {
    let wrong = |message: &str| DocError {
        line: None,
        message: message.into(),
    };
    let Value::Object(mut map) = document else {
        return Err(wrong(
            "a document must be an object with apiVersion and kind",
        ));
    };
    let is_list = map
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|k| k.ends_with("List"))
        && map.contains_key("items");
    if !is_list {
        objects.push(Value::Object(map));
        return Ok(());
    }
    match map.remove("items") {
        Some(Value::Array(items)) => items
            .into_iter()
            .try_for_each(|item| flatten(item, objects)),
        Some(Value::Null) | None => Ok(()),
        Some(_) => Err(wrong("items of a List must be a list")),
    }
}

/// The documents as they stand; empty ones are left out.
pub fn read_yaml(text: &str) -> Result<Vec<Value>, DocError> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
    };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|e| DocError {
            line: e.location().map(|l| l.line()).filter(|l| *l > 0),
            message: plain(&e),
        })?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

/// The reader's message without its picture of the source: the caller shows the line.
fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default().trim();
    first.strip_prefix("error: ").unwrap_or(first).to_string()
}

/// YAML of a value, with a final newline. Texts that another reader could take for something else are quoted.
pub fn write_yaml(value: &Value) -> String {
    let mut text = serde_saphyr::to_string(value).expect("JSON values serialise into memory");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_read_as_kubectl_reads_them() {
        for (text, want) in [
            ("a: 1\n---\nb: two\n", json!([{"a": 1}, {"b": "two"}])),
            (
                "---\n---\na: x\n---\n# only a comment\n",
                json!([{"a": "x"}]),
            ),
            (
                "a: yes\nb: on\nc: true\nd: 'true'\ne: n",
                json!([{"a": "yes", "b": "on", "c": true, "d": "true", "e": "n"}]),
            ),
            (
                "mode: 0755\nport: 8080\nratio: 0.5\nnone: ~\nempty:",
                json!([{"mode": 493, "port": 8080, "ratio": 0.5, "none": null, "empty": null}]),
            ),
            (
                r#"{"a": {"b": [1, "x", null]}}"#,
                json!([{"a": {"b": [1, "x", null]}}]),
            ),
            (
                "base: &b {x: 1}\nother:\n  <<: *b\n  y: 2\n",
                json!([{"base": {"x": 1}, "other": {"x": 1, "y": 2}}]),
            ),
            (
                "cpu: 250m\nmem: 64Mi\nver: 1.10.0\nsci: 1e3x",
                json!([{"cpu": "250m", "mem": "64Mi", "ver": "1.10.0", "sci": "1e3x"}]),
            ),
            ("text: |\n  one\n  two\n", json!([{"text": "one\ntwo\n"}])),
            (
                "at: 2026-01-01T00:00:00Z\n",
                json!([{"at": "2026-01-01T00:00:00Z"}]),
            ),
            ("a: []\nb: {}\n", json!([{"a": [], "b": {}}])),
            ("", json!([])),
        ] {
            assert_eq!(
                Value::Array(read(text).unwrap_or_else(|e| panic!("{text}: {e}"))),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn lists_are_flattened() {
        let text = "kind: List\napiVersion: v1\nitems:\n- kind: ConfigMap\n- kind: PodList\n  items: [{kind: Pod}]\n";
        assert_eq!(
            read(text).unwrap(),
            [json!({"kind": "ConfigMap"}), json!({"kind": "Pod"})]
        );
    }

    #[test]
    fn bad_texts_are_refused_with_their_line() {
        for (text, line, word) in [
            ("a: 1\nb: 2\na: 3\n", Some(3), "duplicate"),
            ("a: 1\n b: 2\n  - c\n", Some(2), ""),
            ("{\"a\": 1, \"a\": 2}", Some(1), "duplicate"),
            ("a: [1, 2\n", None, ""),
            ("- 1\n- 2\n", None, "must be an object"),
            ("just words", None, "must be an object"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(word), "{text:?}: {error}");
            if line.is_some() {
                assert_eq!(error.line, line, "{text:?}: {error}");
            }
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({"a": "yes", "b": "true", "c": "1", "d": "0755", "e": ["x", {"y": null}], "f": {}, "g": "two\nlines\n", "h": "a: b",
            "i": "", "j": " x", "k": "1e3", "l": 1.5, "m": [], "n": "2026-01-01", "o": "#x", "p": "~", "q": "0x1f"});
        assert_eq!(read(&write_yaml(&value)).unwrap(), [value]);
    }
}
