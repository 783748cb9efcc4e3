//! Manifests of types nobody here knows.
//!
//! A registry must not fail on a type it has never heard of, and yet must not collect what such a document names. So
//! whatever stands under a key `digest`, at any depth, counts as a reference to bytes that are kept if they are there.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::digest::Digest;

/// The document's fields, `None` if it is no JSON object.
pub(crate) fn fields(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(bytes).ok()
}

/// Every digest the document names.
pub(crate) fn digests(fields: &Map<String, Value>) -> BTreeSet<Digest> {
    let mut found = BTreeSet::new();
    in_fields(fields, &mut found);
    found
}

fn in_fields(fields: &Map<String, Value>, found: &mut BTreeSet<Digest>) {
    for (key, value) in fields {
        match value {
            Value::String(text) if key == "digest" => found.extend(text.parse::<Digest>()),
            other => in_value(other, found),
        }
    }
}

/// Goes no deeper than the JSON reader went, which is 128 levels.
fn in_value(value: &Value, found: &mut BTreeSet<Digest>) {
    match value {
        Value::Object(fields) => in_fields(fields, found),
        Value::Array(items) => items.iter().for_each(|item| in_value(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn digests_at_any_depth() {
        let (one, two) = (
            Algorithm::Sha256.digest(b"1"),
            Algorithm::Sha512.digest(b"2"),
        );
        let text = format!(
            r#"{{"digest":"{one}","a":[{{"b":{{"digest":"{two}"}}}}],"other":"{one}","c":{{"digest":"latest"}},"d":{{"digest":7}}}}"#
        );
        let found = digests(&fields(text.as_bytes()).unwrap());
        assert_eq!(found, BTreeSet::from([one, two]));
        assert!(fields(b"[]").is_none());
        assert!(fields(b"{").is_none());
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(fields(deep.as_bytes()).is_none());
    }
}
