//! Planted faults: small changes to answers on their way to the checks. Each must be caught by a row, or the matrix
//! would not notice a registry that answers like that. Most are what some registry in use does.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::run::{Asked, Mangle};
use crate::digest::Algorithm;
use crate::tests::client::Reply;

fn status(reply: &mut Reply, from: u16, to: u16) {
    if reply.status.as_u16() == from {
        reply.status = StatusCode::from_u16(to).unwrap();
    }
}

fn lose(reply: &mut Reply, name: &'static str) {
    reply.headers.remove(name);
}

fn set(reply: &mut Reply, name: &'static str, value: &str) {
    let value = HeaderValue::from_str(value).unwrap();
    reply.headers.insert(HeaderName::from_static(name), value);
}

/// Changes a header that is there.
fn header(reply: &mut Reply, name: &'static str, change: impl Fn(&str) -> String) {
    if reply.headers.contains_key(name) {
        let value = change(reply.header(name));
        set(reply, name, &value);
    }
}

/// Changes the JSON of a successful answer, and its length with it.
fn json(reply: &mut Reply, change: impl Fn(&mut Value)) {
    let Ok(mut value) = serde_json::from_slice::<Value>(&reply.body) else {
        return;
    };
    let before = value.clone();
    change(&mut value);
    if value != before {
        body(reply, value.to_string());
    }
}

fn body(reply: &mut Reply, bytes: impl Into<Bytes>) {
    reply.body = bytes.into();
    if reply.headers.contains_key("content-length") {
        let length = reply.body.len().to_string();
        set(reply, "content-length", &length);
    }
}

/// Adds to the number behind the last dash.
fn last_number(text: &str, by: u64) -> String {
    let (head, rest) = text.rsplit_once('-').unwrap_or((text, ""));
    let digits = rest.find('/').unwrap_or(rest.len());
    match rest[..digits].parse::<u64>() {
        Ok(number) => format!("{head}-{}{}", number + by, &rest[digits..]),
        Err(_) => text.to_owned(),
    }
}

fn in_list(reply: &mut Reply, change: impl Fn(&mut Vec<Value>)) {
    json(reply, |value| {
        for field in ["tags", "repositories"] {
            if let Some(list) = value[field].as_array().cloned() {
                let mut list = list;
                change(&mut list);
                value[field] = Value::from(list);
                return;
            }
        }
    });
}

fn in_entries(asked: &Asked, reply: &mut Reply, change: impl Fn(&mut Value)) {
    if asked.target.contains("/referrers/") {
        json(reply, |value| {
            if let Some(entries) = value["manifests"].as_array_mut() {
                entries.iter_mut().for_each(&change);
            }
        });
    }
}

fn without(value: &mut Value, field: &str) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove(field);
    }
}

fn manifest(asked: &Asked, reply: &Reply) -> bool {
    asked.target.contains("/manifests/") && reply.status == StatusCode::OK
}

/// Every fault, with what it does in words.
pub const FAULTS: [(&str, Mangle); 63] = [
    ("created is only OK", |_, r| status(r, 201, 200)),
    ("accepted is only OK", |_, r| status(r, 202, 200)),
    ("no content is OK", |_, r| status(r, 204, 200)),
    ("a part is the whole", |_, r| status(r, 206, 200)),
    ("not modified is OK", |_, r| status(r, 304, 200)),
    ("what is not there is a bad request", |_, r| {
        status(r, 404, 400)
    }),
    ("a bad request is a fault of ours", |_, r| {
        status(r, 400, 500)
    }),
    ("a refused login is a refusal", |_, r| status(r, 401, 403)),
    ("a failed condition is a conflict", |_, r| {
        status(r, 412, 409)
    }),
    ("too large is a bad request", |_, r| status(r, 413, 400)),
    ("too many tags are a bad request", |_, r| {
        status(r, 414, 400)
    }),
    ("out of order is accepted", |_, r| status(r, 416, 202)),
    ("too many uploads are refused for ever", |_, r| {
        status(r, 429, 403)
    }),
    ("a mount is never done", |a, r| {
        if a.target.contains("mount=") {
            status(r, 201, 202);
        }
    }),
    ("no referrers API", |a, r| {
        if a.target.contains("/referrers/") {
            status(r, 200, 404);
        }
    }),
    ("a deleted tag is still there", |a, r| {
        if a.method == "GET" && a.target.ends_with("/manifests/v1") {
            status(r, 404, 200);
        }
    }),
    ("no API version", |_, r| {
        lose(r, "docker-distribution-api-version")
    }),
    ("no digest", |_, r| lose(r, "docker-content-digest")),
    ("no location", |_, r| lose(r, "location")),
    ("no upload id", |_, r| lose(r, "docker-upload-uuid")),
    ("no smallest chunk", |_, r| lose(r, "oci-chunk-min-length")),
    ("no range of an upload", |_, r| lose(r, "range")),
    ("no range of a part", |_, r| lose(r, "content-range")),
    ("no accepted ranges", |_, r| lose(r, "accept-ranges")),
    ("no ETag", |_, r| lose(r, "etag")),
    ("no type", |_, r| lose(r, "content-type")),
    ("no length on HEAD", |a, r| {
        if a.method == "HEAD" {
            lose(r, "content-length");
        }
    }),
    ("no next page", |_, r| lose(r, "link")),
    ("no subject", |_, r| lose(r, "oci-subject")),
    ("no tags told", |_, r| lose(r, "oci-tag")),
    ("no filters told", |_, r| lose(r, "oci-filters-applied")),
    ("no warning", |_, r| lose(r, "warning")),
    ("no allowed methods", |_, r| lose(r, "allow")),
    ("no challenge", |_, r| lose(r, "www-authenticate")),
    ("no time to come back", |_, r| lose(r, "retry-after")),
    ("the range of an upload is one too far", |_, r| {
        header(r, "range", |text| last_number(text, 1));
    }),
    ("an empty upload ends before it begins", |a, r| {
        if a.method == "POST" {
            header(r, "range", |_| "0--1".to_owned());
        }
    }),
    ("the range of a part is one too far", |_, r| {
        header(r, "content-range", |text| last_number(text, 1));
    }),
    ("a part is one byte short", |_, r| {
        if r.status == StatusCode::PARTIAL_CONTENT {
            let short = r.body.slice(..r.body.len() - 1);
            body(r, short);
        }
    }),
    ("a byte is flipped", |a, r| {
        if a.target.contains("/blobs/") && r.status == StatusCode::OK && !r.body.is_empty() {
            let mut bytes = r.body.to_vec();
            bytes[0] ^= 1;
            body(r, bytes);
        }
    }),
    ("every digest is a sha256", |a, r| {
        if manifest(a, r) && a.method == "GET" {
            let digest = Algorithm::Sha256.digest(&r.body).to_string();
            header(r, "docker-content-digest", |_| digest.clone());
        }
    }),
    ("the digest of something else", |a, r| {
        if a.method == "PUT" {
            let digest = Algorithm::Sha512.digest(b"something else").to_string();
            header(r, "docker-content-digest", |_| digest.clone());
        }
    }),
    ("the location leads to another host", |_, r| {
        header(r, "location", |text| format!("http://internal:5000{text}"));
    }),
    ("the location of a manifest is its tag", |a, r| {
        if a.method == "PUT" && a.target.contains("/manifests/") {
            header(r, "location", |_| a.target.clone());
        }
    }),
    ("the location of a blob is the session", |a, r| {
        if a.method == "PUT" && a.target.contains("/blobs/uploads/") {
            header(r, "location", |_| a.target.clone());
        }
    }),
    ("the type of a manifest has a parameter", |a, r| {
        if manifest(a, r) {
            header(r, "content-type", |text| format!("{text}; charset=utf-8"));
        }
    }),
    ("every manifest is JSON", |a, r| {
        if manifest(a, r) {
            header(r, "content-type", |_| "application/json".to_owned());
        }
    }),
    ("types are in lower case", |a, r| {
        if manifest(a, r) {
            header(r, "content-type", str::to_ascii_lowercase);
        }
    }),
    ("a manifest is written anew", |a, r| {
        if manifest(a, r)
            && let Ok(value) = serde_json::from_slice::<Value>(&r.body)
        {
            body(r, value.to_string());
        }
    }),
    ("the ETag has no quotes", |_, r| {
        header(r, "etag", |text| text.replace('"', ""));
    }),
    ("a list loses its last entry", |_, r| {
        in_list(r, |list| {
            list.pop();
        });
    }),
    ("a list is backwards", |_, r| {
        in_list(r, |list| list.reverse())
    }),
    ("a page of none has a next one", |a, r| {
        if a.target.contains("n=0") {
            set(r, "link", "</v2/demo/a/tags/list?last=a&n=0>; rel=\"next\"");
        }
    }),
    ("the next page is the same page", |a, r| {
        header(r, "link", |_| format!("<{}>; rel=\"next\"", a.target));
    }),
    ("the next page is called the last", |_, r| {
        header(r, "link", |text| text.replace("next", "last"));
    }),
    ("referrers lose their annotations", |a, r| {
        in_entries(a, r, |entry| without(entry, "annotations"));
    }),
    ("referrers lose their type", |a, r| {
        in_entries(a, r, |entry| without(entry, "artifactType"));
    }),
    ("a filter is said that was not asked for", |a, r| {
        if a.target.contains("/referrers/") {
            set(r, "oci-filters-applied", "artifactType");
        }
    }),
    ("tags are told in one header", |_, r| {
        let all = r.headers.get_all("oci-tag").iter();
        let all: Vec<String> = all.map(|v| v.to_str().unwrap().to_owned()).collect();
        if !all.is_empty() {
            set(r, "oci-tag", &all.join(", "));
        }
    }),
    ("codes are in lower case", |_, r| {
        json(r, |value| {
            if let Some(code) = value["errors"][0]["code"].as_str() {
                value["errors"][0]["code"] = Value::from(code.to_lowercase());
            }
        });
    }),
    ("an error has no list", |_, r| {
        json(r, |value| {
            let first = value["errors"][0].clone();
            if !first.is_null() {
                *value = first;
            }
        });
    }),
    ("an answer to HEAD has a body", |a, r| {
        if a.method == "HEAD" {
            r.body = Bytes::from_static(b"x");
        }
    }),
    ("a warning without its code", |_, r| {
        header(r, "warning", |text| text.replace("299 - ", ""));
    }),
];
