//! Manifests: what the registry reads out of them against a walk over generic JSON.
//!
//! An input is a `Content-Type` on the first line (none if the line is empty) and the manifest behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use http::HeaderValue;
use regex::Regex;
use serde_json::{Value, json};

use super::{Target, grammar};
use crate::digest::{Algorithm, Digest};
use crate::manifest::{
    self, DOCKER_LIST, DOCKER_MANIFEST, Facts, OCI_INDEX, OCI_MANIFEST, REFERENCES_MAX,
};
use crate::wasm;

pub(super) const TARGET: Target = Target {
    name: "manifests",
    seeds,
    words: &[
        "\"config\":",
        "\"layers\":",
        "\"blobs\":",
        "\"manifests\":",
        "\"subject\":",
        "\"annotations\":",
        "\"mediaType\":",
        "\"artifactType\":",
        "\"schemaVersion\":",
        "\"digest\":",
        "\"size\":",
        "\"urls\":",
        "\"platform\":",
        "null",
        "[]",
        "{}",
        "\"\"",
        "2",
        "-1",
        "1e999",
        "\"https://example.com/x\"",
        "\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\"",
        "\"sha256:zz\"",
        ".nondistributable.",
        ".foreign.",
        OCI_MANIFEST,
        OCI_INDEX,
        DOCKER_MANIFEST,
        DOCKER_LIST,
        wasm::CONFIG,
        wasm::LAYER,
        "; charset=utf-8",
        "\\u0000",
        "\\n",
        ",",
        ":",
        "{",
        "}",
        "[",
        "]",
    ],
    check,
};

fn described(media_type: &str, content: &[u8]) -> Value {
    let digest = Algorithm::Sha256.digest(content).to_string();
    json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
}

fn seeds() -> Vec<Vec<u8>> {
    let image = |config: &str, layers: Value| json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described(config, b"{}"), "layers": layers });
    let plain = image(
        "application/x",
        json!([described("a/b", b"1"), described("a/b", b"2")]),
    );
    let mut about = plain.clone();
    about["subject"] = described(OCI_MANIFEST, b"subject");
    about["annotations"] = json!({ "k": "v", "org.opencontainers.image.title": "x.wasm" });
    about["artifactType"] = json!("application/vnd.example.sbom");
    let mut far = described("a/b", b"1");
    far["urls"] = json!(["https://example.com/x"]);
    let foreign = described(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        b"2",
    );
    let long = json!({ "mediaType": "a/b", "digest": Algorithm::Sha512.digest(b"3").to_string(), "size": 1 });
    let mut entry = described(OCI_MANIFEST, b"entry");
    entry["platform"] = json!({ "os": "wasip2", "architecture": "wasm" });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry, described(OCI_INDEX, b"nested")] });
    let by_position = json!([
        "application/x",
        Algorithm::Sha256.digest(b"{}").to_string(),
        2
    ]);
    let mut listed = plain.clone();
    listed["config"] = by_position;
    let mut platform = index.clone();
    platform["manifests"][0]["platform"] = json!(["wasip2", "wasm"]);
    let documents = [
        ("", plain.clone()),
        ("", about),
        ("", image("application/x", json!([far, foreign, long]))),
        (
            "",
            image(wasm::CONFIG, json!([described(wasm::LAYER, b"\0asm")])),
        ),
        ("", image(wasm::CONFIG, json!([]))),
        ("", index.clone()),
        (OCI_INDEX, json!({ "schemaVersion": 2, "manifests": null })),
        (
            OCI_MANIFEST,
            json!({ "schemaVersion": 2, "config": described("x", b""), "layers": null }),
        ),
        (
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            plain.clone(),
        ),
        (
            DOCKER_LIST,
            json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [] }),
        ),
        (OCI_INDEX, plain),
        (
            "application/vnd.example+json",
            json!({ "x": [1, { "y": null }] }),
        ),
        (
            "",
            json!({ "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [described("a/b", b"1")] }),
        ),
        // An array in place of an object is no descriptor, whatever a derived reader thinks.
        ("", listed),
        ("", platform),
        (OCI_MANIFEST, json!([2, OCI_MANIFEST])),
        // Types that could not be sent back.
        ("", json!({ "mediaType": "" })),
        ("", json!({ "mediaType": "a\n/b" })),
    ];
    let mut seeds: Vec<Vec<u8>> = documents
        .iter()
        .map(|(head, document)| format!("{head}\n{document}").into_bytes())
        .collect();
    seeds.push(format!("\n{index:#}").into_bytes());
    seeds.push(b"\n\xff".to_vec());
    seeds
}

static BARE: LazyLock<Regex> = LazyLock::new(|| grammar::pattern(r"(?s)\A\s*([^;]*?)\s*(?:;|\z)"));

/// A media type without parameters.
fn bare(text: &str) -> String {
    let found = BARE.captures(text).map_or("", |groups| {
        groups.get(1).map_or("", |group| group.as_str())
    });
    found.to_ascii_lowercase()
}

fn check(input: &[u8]) -> bool {
    let end = input.iter().position(|b| *b == b'\n').unwrap_or(0);
    let body = input.get(end + 1..).unwrap_or_default();
    let Ok(head) = std::str::from_utf8(&input[..end]) else {
        return false;
    };
    if HeaderValue::from_str(head).is_err() {
        // HTTP would not have brought it here.
        return false;
    }
    let content_type = (!head.is_empty()).then_some(head);
    let answer = manifest::inspect(body, content_type);
    // A reader of generic JSON is stricter on what we skip: huge numbers, deep nesting, text that is not UTF-8.
    let Ok(document) = serde_json::from_slice::<Value>(body) else {
        return answer.is_ok();
    };
    pulled(body, &document);
    let printed = document.to_string();
    match answer {
        Ok(facts) => {
            accepted(&facts, &document, head);
            let again = manifest::inspect(printed.as_bytes(), content_type);
            assert_eq!(again.as_ref(), Ok(&facts), "printed again");
            let spread = format!("{document:#}\n");
            assert_eq!(
                manifest::inspect(spread.as_bytes(), content_type),
                Ok(facts)
            );
            true
        }
        Err(error) => {
            // Judged by what it says and not by how it is written: doubled fields are gone in the print.
            let printed = manifest::inspect(printed.as_bytes(), content_type);
            let flawless = is_flawless(&document, head);
            assert!(!flawless || printed.is_ok(), "{document}: {error}");
            false
        }
    }
}

/// Descriptors under a field that holds one or a list of them.
fn descriptors<'a>(document: &'a Value, field: &str) -> Vec<&'a Value> {
    match &document[field] {
        Value::Null => Vec::new(),
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Lives elsewhere, by the words of the image specification.
fn is_elsewhere(descriptor: &Value) -> bool {
    let media_type = text(descriptor, "mediaType");
    descriptor["urls"]
        .as_array()
        .is_some_and(|urls| !urls.is_empty())
        || media_type.contains(".nondistributable.")
        || media_type.contains(".foreign.")
}

fn accepted(facts: &Facts, document: &Value, head: &str) {
    assert!(document.is_object(), "{document}");
    let mut walked: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (field, kind) in [
        ("config", "blob"),
        ("layers", "blob"),
        ("blobs", "blob"),
        ("manifests", "child"),
        ("subject", "subject"),
    ] {
        let many = !matches!(field, "config" | "subject");
        assert!(
            document[field].is_null() || document[field].is_array() == many,
            "{field}"
        );
        for descriptor in descriptors(document, field) {
            assert!(descriptor.is_object(), "{field}: {descriptor}");
            let platform = &descriptor["platform"];
            assert!(
                platform.is_null() || platform.is_object(),
                "{field}: {platform}"
            );
            let digest = text(descriptor, "digest");
            assert!(grammar::is_digest(digest), "{field}: {descriptor}");
            let elsewhere = kind != "subject" && is_elsewhere(descriptor);
            let kind = if elsewhere { "optional" } else { kind };
            walked.entry(kind).or_default().insert(digest.to_owned());
        }
    }
    let printed = |digests: &BTreeSet<crate::digest::Digest>| -> BTreeSet<String> {
        digests.iter().map(ToString::to_string).collect()
    };
    let mut want = |kind: &str| walked.remove(kind).unwrap_or_default();
    assert_eq!(printed(&facts.blobs), want("blob"), "{document}");
    assert_eq!(printed(&facts.children), want("child"), "{document}");
    assert_eq!(printed(&facts.optional), want("optional"), "{document}");
    let subject: BTreeSet<String> = facts.subject.iter().map(ToString::to_string).collect();
    assert_eq!(subject, want("subject"), "{document}");
    let all = facts.blobs.len() + facts.children.len() + facts.optional.len();
    assert!(all <= REFERENCES_MAX);

    types(facts, document, head);
    let annotations: Option<BTreeMap<String, String>> =
        document["annotations"].as_object().map(|map| {
            let owned = |value: &Value| value.as_str().map(str::to_owned);
            map.iter()
                .map(|(key, value)| (key.clone(), owned(value).expect("annotations are text")))
                .collect()
        });
    assert_eq!(facts.annotations, annotations);
    let own = text(document, "artifactType");
    let config = text(&document["config"], "mediaType");
    let artifact_type = [own, config].into_iter().find(|text| !text.is_empty());
    assert_eq!(facts.artifact_type.as_deref(), artifact_type);
}

/// One type, sent or written inside, that can be sent back; and the fields it stands for.
fn types(facts: &Facts, document: &Value, head: &str) {
    let (header, field) = (bare(head), bare(text(document, "mediaType")));
    assert!(
        header.is_empty() || field.is_empty() || header == field,
        "{header} {field}"
    );
    let media_type = if header.is_empty() { field } else { header };
    assert_eq!(facts.media_type, media_type);
    assert!(!media_type.is_empty());
    assert!(HeaderValue::from_str(&media_type).is_ok(), "{media_type:?}");
    let has = |field: &str| document.get(field).is_some();
    let config = !document["config"].is_null();
    match media_type.as_str() {
        OCI_MANIFEST | DOCKER_MANIFEST => {
            assert!(config && has("layers") && !has("manifests"), "{document}");
            assert_eq!(document["schemaVersion"], json!(2));
        }
        OCI_INDEX | DOCKER_LIST => {
            assert!(has("manifests") && !has("layers") && !config, "{document}");
            assert_eq!(document["schemaVersion"], json!(2));
        }
        _ => {}
    }
    if bare(text(&document["config"], "mediaType")) == wasm::CONFIG {
        let layers = descriptors(document, "layers");
        let all = layers
            .iter()
            .all(|layer| bare(text(layer, "mediaType")) == wasm::LAYER);
        assert!(all && layers.len() == 1, "{document}");
    }
}

/// An image or index as the specification's own examples are: such a document has to be taken.
fn is_flawless(document: &Value, head: &str) -> bool {
    let complete = |descriptor: &&Value| {
        let fields = descriptor.as_object().map_or(0, serde_json::Map::len);
        fields == 3
            && !text(descriptor, "mediaType").is_empty()
            && grammar::is_digest(text(descriptor, "digest"))
            && descriptor["size"].is_u64()
    };
    let media_type = text(document, "mediaType");
    let field = match media_type {
        OCI_MANIFEST => "layers",
        OCI_INDEX => "manifests",
        _ => return false,
    };
    let image = field == "layers";
    let wanted = if image { 4 } else { 3 };
    let listed = &document[field];
    document.as_object().map_or(0, serde_json::Map::len) == wanted
        && (head.is_empty() || bare(head) == media_type)
        && document["schemaVersion"] == json!(2)
        && listed
            .as_array()
            .is_some_and(|list| list.len() <= 100 && list.iter().all(|one| complete(&one)))
        && (!image || complete(&&document["config"]))
        && bare(text(&document["config"], "mediaType")) != wasm::CONFIG
}

/// What a runner would fetch stands in the document.
fn pulled(body: &[u8], document: &Value) {
    let names = |field: &str, digest: &Digest| {
        let digest = digest.to_string();
        let all = descriptors(document, field);
        all.into_iter()
            .any(|one| text(one, "digest") == digest.as_str())
    };
    // With a configuration the choice never asks for one.
    let informed = wasm::choose(body, Some(b"{}"));
    assert!(!matches!(informed, Ok(wasm::Choice::Config(_))));
    let found = match wasm::choose(body, None) {
        Err(_) => true,
        Ok(wasm::Choice::Layer(layer)) => {
            assert!(layer.size > 0);
            names("layers", &layer.digest)
        }
        Ok(wasm::Choice::Manifest(target)) => names("manifests", &target.digest),
        Ok(wasm::Choice::Config(target)) => {
            text(&document["config"], "digest") == target.digest.to_string()
        }
        Ok(wasm::Choice::Packed(packed)) => panic!("{packed:?} without a configuration"),
    };
    assert!(found, "what was chosen is not in {document}");
}
