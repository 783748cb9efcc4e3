//! Paths under `/v2` against regular expressions tried in the order of the specification's table.

use std::sync::LazyLock;

use regex::Regex;

use super::{Target, grammar, texts};
use crate::error::Code;
use crate::serve::path::{self, Target as Place};

pub(super) const TARGET: Target = Target {
    name: "paths",
    seeds,
    words: &[
        "/v2/",
        "/blobs",
        "/uploads",
        "/manifests",
        "/tags",
        "/list",
        "/referrers",
        "/_catalog",
        "/",
        "%2F",
        "%2f",
        "%3A",
        "%25",
        "%",
        "..",
        "a",
        "sha256:",
        "%c3%a9",
        "%ff",
        "\n",
    ],
    check,
};

fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        "/v2",
        "/v2/",
        "/v2/_catalog",
        "/v2/a/b/tags/list",
        "/v2/a%2Fb/tags/list",
        "/v2/a/blobs/uploads",
        "/v2/a/blobs/uploads/",
        "/v2/a/blobs/uploads/00112233445566778899aabbccddeeff",
        "/v2/a/blobs/uploads/blobs/uploads/",
        "/v2/blobs/uploads/manifests/v1",
        "/v2/tags/list/blobs/sha256%3Aab",
        "/v2/manifests/manifests/manifests",
        "/v2/a/referrers/sha256:x",
        "/v2/a/manifests/",
        "/v2/../etc/manifests/v1",
        "/v2/a/%2e%2e/b/manifests/v1",
        "/v2//tags/list",
        "/v2/tags/list",
        "/v2/a/%ff/tags/list",
        "/v2/a/%zz/tags/list",
        "/v2/a/b",
        "/v2//",
    ])
}

/// What a path names, by the last of its segments: kind, name, and the text after the last slash.
type Meant<'a> = (&'static str, &'a str, &'a str);

/// The forms a path can have, first match first. The first group is the name, the second what stands behind it.
static FORMS: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    [
        ("ping", r"(?s)\A/v2/?\z"),
        ("catalog", r"(?s)\A/v2/_catalog\z"),
        ("uploads", r"(?s)\A/v2/(?:(.*)/)?blobs/uploads/?\z"),
        ("upload", r"(?s)\A/v2/(?:(.*)/)?blobs/uploads/([^/]*)\z"),
        ("tags", r"(?s)\A/v2/(?:(.*)/)?tags/list\z"),
        ("blob", r"(?s)\A/v2/(?:(.*)/)?blobs/([^/]*)\z"),
        ("manifest", r"(?s)\A/v2/(?:(.*)/)?manifests/([^/]*)\z"),
        ("referrers", r"(?s)\A/v2/(?:(.*)/)?referrers/([^/]*)\z"),
    ]
    .into_iter()
    .map(|(kind, form)| (kind, grammar::pattern(form)))
    .collect()
});

fn meant(decoded: &str) -> Option<Meant<'_>> {
    FORMS.iter().find_map(|(kind, form)| {
        let groups = form.captures(decoded)?;
        let text = |n| groups.get(n).map_or("", |found| found.as_str());
        Some((*kind, text(1), text(2)))
    })
}

fn seen(place: &Place) -> Meant<'_> {
    match place {
        Place::Ping => ("ping", "", ""),
        Place::Catalog => ("catalog", "", ""),
        Place::Uploads(name) => ("uploads", name.as_str(), ""),
        Place::Upload(name, id) => ("upload", name.as_str(), id),
        Place::Tags(name) => ("tags", name.as_str(), ""),
        Place::Blob(name, digest) => ("blob", name.as_str(), digest),
        Place::Manifest(name, reference) => ("manifest", name.as_str(), reference),
        Place::Referrers(name, digest) => ("referrers", name.as_str(), digest),
    }
}

fn printed(place: &Place) -> String {
    let (kind, name, last) = seen(place);
    let last = path::encode(last);
    match kind {
        "ping" => "/v2/".to_owned(),
        "catalog" => "/v2/_catalog".to_owned(),
        "uploads" => format!("/v2/{name}/blobs/uploads/"),
        "upload" => format!("/v2/{name}/blobs/uploads/{last}"),
        "tags" => format!("/v2/{name}/tags/list"),
        "blob" => format!("/v2/{name}/blobs/{last}"),
        "manifest" => format!("/v2/{name}/manifests/{last}"),
        _ => format!("/v2/{name}/referrers/{last}"),
    }
}

fn check(input: &[u8]) -> bool {
    let Ok(raw) = std::str::from_utf8(input) else {
        return false;
    };
    let answer = path::parse(raw);
    // The router lets nothing else in; for the rest it is enough not to panic.
    if raw != "/v2" && !raw.starts_with("/v2/") {
        return false;
    }
    let Some(decoded) = grammar::percent_decode(raw) else {
        let error = answer.expect_err("broken percent-encoding");
        assert_eq!(
            (error.code, error.status.as_u16()),
            (Code::NameInvalid, 400)
        );
        return false;
    };
    match (meant(&decoded), answer) {
        (None, Err(error)) => {
            assert_eq!(
                (error.code, error.status.as_u16()),
                (Code::Unsupported, 404)
            );
            false
        }
        (Some((kind, name, _)), Err(error)) => {
            assert!(!grammar::is_name(name), "{raw:?} is a {kind}: {error}");
            assert_eq!(
                (error.code, error.status.as_u16()),
                (Code::NameInvalid, 400)
            );
            false
        }
        (model, Ok(place)) => {
            assert_eq!(model, Some(seen(&place)), "{raw:?}");
            assert!(
                matches!(place, Place::Ping | Place::Catalog) || grammar::is_name(seen(&place).1)
            );
            assert!(!seen(&place).2.contains('/'), "{raw:?}");
            assert_eq!(path::parse(&printed(&place)).ok(), Some(place));
            true
        }
    }
}
