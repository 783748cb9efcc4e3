//! What is read in manifests, and what is refused.

use super::*;
use crate::digest::Algorithm;
use serde_json::json;

fn desc(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Algorithm::Sha256.digest(bytes).to_string(), "size": bytes.len() })
}

fn image(config: &str, layers: Vec<Value>) -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": desc(config, b"c"), "layers": layers })
}

fn check(value: &Value) -> Result<Facts, Invalid> {
    inspect(value.to_string().as_bytes(), None)
}

#[test]
fn facts_of_an_image() {
    let mut value = image("application/x", vec![desc("a/b", b"1"), desc("a/b", b"2")]);
    value["subject"] = desc(OCI_MANIFEST, b"s");
    value["annotations"] = json!({ "k": "v" });
    value["somethingNew"] = json!([1, 2]);
    let facts = check(&value).unwrap();
    assert_eq!(facts.blobs.len(), 3);
    assert_eq!(facts.subject, Some(Algorithm::Sha256.digest(b"s")));
    assert_eq!(facts.artifact_type.as_deref(), Some("application/x"));
    assert_eq!(facts.annotations.unwrap()["k"], "v");
}

#[test]
fn what_may_be_absent() {
    let mut far = desc("a/b", b"1");
    far["urls"] = json!(["https://example.com/x"]);
    let foreign = desc(
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        b"2",
    );
    let facts = check(&image("application/x", vec![far, foreign])).unwrap();
    assert_eq!((facts.blobs.len(), facts.optional.len()), (1, 2));
}

#[test]
fn refused() {
    let bad_digest = json!({ "mediaType": "a/b", "digest": "sha256:zz", "size": 1 });
    let mixed = {
        let mut value = image("application/x", vec![]);
        value["manifests"] = json!([]);
        value
    };
    for (value, want) in [
        (json!([]), "cannot be read"),
        (json!({}), "no type"),
        (json!({ "mediaType": "" }), "no type"),
        (json!({ "mediaType": "a\n/b" }), "no type"),
        (
            json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
                "config": ["x", Algorithm::Sha256.digest(b"").to_string(), 0] }),
            "an object",
        ),
        (json!({ "mediaType": OCI_MANIFEST }), "schemaVersion"),
        (
            json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [] }),
            "config",
        ),
        (
            json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": desc("x", b"") }),
            "layers",
        ),
        (
            json!({ "schemaVersion": 2, "mediaType": OCI_INDEX }),
            "manifests",
        ),
        (mixed, "may not have"),
        (image("application/x", vec![bad_digest]), "layers"),
        (image(wasm::CONFIG, vec![]), "exactly one layer"),
        (
            image(wasm::CONFIG, vec![desc("a/b", b"1")]),
            "exactly one layer",
        ),
        (
            image(
                wasm::CONFIG,
                vec![desc(wasm::LAYER, b"1"), desc(wasm::LAYER, b"2")],
            ),
            "2 layers",
        ),
    ] {
        let error = check(&value).unwrap_err().to_string();
        assert!(error.contains(want), "{value}: {error}");
    }
    let value = image("application/x", vec![]).to_string();
    let error = inspect(value.as_bytes(), Some(OCI_INDEX)).unwrap_err();
    assert!(matches!(error, Invalid::TypeMismatch { .. }));
    assert!(
        inspect(
            value.as_bytes(),
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")
        )
        .is_ok()
    );
}

#[test]
fn indexes_and_unknown_types_pass() {
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [desc(OCI_MANIFEST, b"m")] });
    let facts = check(&index).unwrap();
    assert_eq!(facts.children.len(), 1);
    assert_eq!(facts.artifact_type, None);
    let typed = "application/vnd.Example+json";
    let other = Algorithm::Sha512.digest(b"other");
    for (value, named) in [
        (json!({ "mediaType": typed, "x": 1 }), 0),
        (
            json!({ "mediaType": typed, "x": [{ "digest": other.to_string() }] }),
            1,
        ),
        (
            json!({ "mediaType": typed, "config": "text", "x": { "digest": other.to_string() } }),
            1,
        ),
        (
            json!({ "mediaType": typed, "subject": desc("a/b", b"s"), "layers": [desc("a/b", b"l")] }),
            0,
        ),
    ] {
        let facts = check(&value).unwrap();
        assert_eq!(facts.media_type, typed);
        assert_eq!(facts.optional.len(), named, "{value}");
        assert!(facts.elsewhere.is_empty());
    }
    // What stands twice is refused, whatever the type: readers differ in which of both they take.
    let twice = format!("{{\"mediaType\":\"{typed}\",\"layers\":[],\"layers\":[]}}");
    assert!(inspect(twice.as_bytes(), None).is_err());
    let known = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": "text" });
    assert!(check(&known).is_err());
    let nulls = json!({ "schemaVersion": 2, "config": { "mediaType": null, "digest": other.to_string(), "urls": null }, "layers": [] });
    let facts = inspect(nulls.to_string().as_bytes(), Some(OCI_MANIFEST)).unwrap();
    assert!(facts.untyped && facts.blobs.contains(&other));
    let null = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": null });
    assert!(check(&null).unwrap().children.is_empty());
}
