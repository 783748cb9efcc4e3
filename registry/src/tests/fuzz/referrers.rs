//! Lists by pages: whoever follows the links sees every entry once, in order, whatever the filter is called.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use arbitrary::Unstructured;
use axum::body::Body;
use regex::Regex;
use serde_json::{Value, json};

use super::wire::{Reply, Wire};
use super::{Target, grammar};
use crate::digest::Algorithm;
use crate::limits::Limits;
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::serve::path;

pub(super) const TARGET: Target = Target {
    name: "referrers",
    seeds,
    words: &[
        "application/vnd.example+json",
        "&",
        "=",
        "%",
        "%26",
        ">",
        "; rel=\"next\"",
        "\"",
        "\\",
        " ",
        "+",
        "#",
        "?",
        "/",
        "é",
        "\0",
        "\n",
        "\u{5}\u{6}\u{2}",
        "sha256:",
        "t3",
    ],
    check,
};

/// Longest filter that is tried: a filter stands in the path of a request, which has a bound of its own.
const FILTER_CHARS_MAX: usize = 300;
/// Most referrers of one input.
const REFERRERS_MAX: usize = 6;

fn seeds() -> Vec<Vec<u8>> {
    let shapes: [&[u8]; 4] = [
        &[6, 1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 3],
        &[3, 2, 0, 1, 2, 0, 4, 2, 1],
        &[0, 0, 0, 0],
        &[6, 2, 2, 2, 2, 2, 2, 2, 5, 1],
    ];
    let filters = [
        "application/vnd.example.sbom.v1+json",
        "a b&c=d%>\"; rel=\"next\"",
        "",
    ];
    let mut seeds = Vec::new();
    for shape in shapes {
        for filter in filters {
            seeds.push([shape, filter.as_bytes()].concat());
        }
    }
    seeds
}

/// The form of a next page that clients look for.
static NEXT: LazyLock<Regex> = LazyLock::new(|| grammar::pattern(r#"\A<([^<>]*)>; rel="next"\z"#));

fn check(input: &[u8]) -> bool {
    run(Unstructured::new(input)).unwrap_or(false)
}

fn run(mut u: Unstructured<'_>) -> arbitrary::Result<bool> {
    let kinds: Vec<u8> = (0..u.int_in_range(0..=REFERRERS_MAX)?)
        .map(|_| u.int_in_range(0..=2))
        .collect::<arbitrary::Result<_>>()?;
    let tags: usize = u.int_in_range(0..=5)?;
    let n: usize = u.int_in_range(1..=4)?;
    let rest = String::from_utf8_lossy(u.take_rest());
    let filter: String = rest.chars().take(FILTER_CHARS_MAX).collect();

    let wire = Wire::new(Limits::default());
    let types = ["application/vnd.example.other", filter.as_str(), ""];
    let mut all: BTreeMap<String, &str> = BTreeMap::new();
    for (at, kind) in kinds.iter().enumerate() {
        let artifact_type = types[usize::from(*kind)];
        let digest = push(&wire, at, artifact_type);
        all.insert(digest, artifact_type);
    }
    let subject = subject();
    let base = format!("/v2/demo/a/referrers/{subject}");
    let every: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(pages(&wire, &base, "", None), every);
    assert_eq!(pages(&wire, &base, "", Some(n)), every);
    let matching: Vec<&str> = all
        .iter()
        .filter(|(_, artifact_type)| filter.is_empty() || **artifact_type == filter)
        .map(|(digest, _)| digest.as_str())
        .collect();
    let asked = format!("artifactType={}", path::encode(&filter));
    assert_eq!(pages(&wire, &base, &asked, None), matching, "{filter:?}");
    assert_eq!(pages(&wire, &base, &asked, Some(n)), matching, "{filter:?}");
    let after = format!("last={}", path::encode(&filter));
    let later: Vec<&str> = every
        .iter()
        .copied()
        .filter(|one| *one > filter.as_str())
        .collect();
    assert_eq!(pages(&wire, &base, &after, None), later, "{filter:?}");

    tags_by_pages(&wire, tags, n, &filter);
    if let Some(gone) = every.first() {
        let uri = format!("/v2/demo/a/manifests/{gone}");
        assert_eq!(wire.send("DELETE", &uri, &[], Body::empty()).status, 202);
        assert_eq!(pages(&wire, &base, "", Some(n)), every[1..]);
    }
    Ok(!filter.is_empty() && !matching.is_empty())
}

fn subject() -> String {
    Algorithm::Sha256.digest(b"subject").to_string()
}

/// One more manifest about the subject; its digest.
fn push(wire: &Wire, at: usize, artifact_type: &str) -> String {
    let about = json!({ "mediaType": OCI_MANIFEST, "digest": subject(), "size": 7 });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "artifactType": artifact_type,
        "subject": about, "annotations": { "at": at.to_string() },
    });
    let bytes = manifest.to_string();
    let digest = Algorithm::Sha256.digest(bytes.as_bytes()).to_string();
    let uri = format!("/v2/demo/a/manifests/{digest}");
    let reply = wire.send("PUT", &uri, &[("content-type", OCI_INDEX)], bytes);
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("oci-subject"), subject());
    digest
}

/// Every digest or tag on the pages from this one on.
fn pages(wire: &Wire, base: &str, query: &str, n: Option<usize>) -> Vec<String> {
    let size = n.map(|n| format!("&n={n}")).unwrap_or_default();
    let mut uri = format!("{base}?{query}{size}");
    let mut seen: Vec<String> = Vec::new();
    loop {
        let reply = wire.send("GET", &uri, &[], Body::empty());
        assert_eq!(reply.status, 200, "{uri}: {reply:?}");
        if query.starts_with("artifactType=") && query.len() > "artifactType=".len() {
            assert_eq!(reply.header("oci-filters-applied"), "artifactType");
        }
        let page = listed(&reply);
        let link = reply.header("link");
        assert!(n.is_none_or(|n| page.len() <= n), "{uri}");
        // A page with a successor is full, or a client could go round for ever.
        assert!(link.is_empty() || Some(page.len()) == n, "{uri}: {link}");
        seen.extend(page);
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "{uri}: an entry twice");
        if link.is_empty() {
            return seen;
        }
        let next = NEXT.captures(link);
        uri = next.expect("a link of the usual form")[1].to_owned();
    }
}

fn listed(reply: &Reply) -> Vec<String> {
    let body: Value = serde_json::from_slice(&reply.body).expect("a list is JSON");
    let text = |value: &Value| value.as_str().expect("entries are text").to_owned();
    match body["tags"].as_array() {
        Some(tags) => tags.iter().map(text).collect(),
        None => {
            let entries = body["manifests"].as_array().expect("an index");
            entries.iter().map(|entry| text(&entry["digest"])).collect()
        }
    }
}

fn tags_by_pages(wire: &Wire, tags: usize, n: usize, last: &str) {
    if tags == 0 {
        return;
    }
    let names: Vec<String> = (0..tags).map(|at| format!("t{at}")).collect();
    let query: Vec<String> = names.iter().map(|tag| format!("tag={tag}")).collect();
    let bytes = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }).to_string();
    let digest = Algorithm::Sha256.digest(bytes.as_bytes());
    let uri = format!("/v2/demo/t/manifests/{digest}?{}", query.join("&"));
    let reply = wire.send("PUT", &uri, &[("content-type", OCI_INDEX)], bytes);
    assert_eq!(reply.status, 201, "{reply:?}");
    let base = "/v2/demo/t/tags/list";
    assert_eq!(pages(wire, base, "", None), names);
    assert_eq!(pages(wire, base, "", Some(n)), names);
    let later: Vec<&String> = names.iter().filter(|tag| tag.as_str() > last).collect();
    let after = format!("last={}", path::encode(last));
    assert_eq!(
        pages(wire, base, &after, Some(n))
            .iter()
            .collect::<Vec<_>>(),
        later,
        "{last:?}"
    );
    let none = wire.send("GET", &format!("{base}?n=0"), &[], Body::empty());
    assert!(listed(&none).is_empty() && none.header("link").is_empty());
}
