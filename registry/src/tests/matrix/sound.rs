//! What holds of every answer, whatever the row says about it.

use http::StatusCode;
use serde_json::Value;

use super::run::Asked;
use crate::digest::Digest;
use crate::tests::client::Reply;

/// The codes of the specification; others may only come with a 5xx.
const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

/// Most bytes of warnings in one answer.
const WARNING_BYTES_MAX: usize = 4_096;

/// Says what is wrong with an answer, if anything.
pub fn sound(asked: &Asked, reply: &Reply) -> Result<(), String> {
    let head = asked.method == "HEAD";
    let bodiless = matches!(
        reply.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if asked.target.starts_with("/v2") {
        let version = reply.header("docker-distribution-api-version");
        expect(version == "registry/2.0", "the API version is missing")?;
    }
    if head || bodiless {
        expect(reply.body.is_empty(), "a body where none may be")?;
    }
    let length = reply.header("content-length");
    if bodiless {
        expect(length.is_empty(), "a length of no body")?;
    } else if !head && !length.is_empty() {
        let right = length.parse::<usize>() == Ok(reply.body.len());
        expect(right, "Content-Length is not the body's length")?;
    }
    for location in reply.headers.get_all("location") {
        let under = location.as_bytes().starts_with(b"/v2/");
        expect(under, "Location leads out of /v2/")?;
    }
    warnings(reply)?;
    if reply.status == StatusCode::OK && asked.method == "GET" {
        let told = reply.header("docker-content-digest");
        if !told.is_empty() {
            let digest = told.parse::<Digest>().map_err(|e| format!("{told}: {e}"))?;
            let right = digest.algorithm().digest(&reply.body) == digest;
            expect(right, "Docker-Content-Digest is not the body's digest")?;
        }
    }
    let status = reply.status;
    if status.is_client_error() || status.is_server_error() {
        if !head {
            error(reply)?;
        }
        for (when, needed) in [
            (StatusCode::METHOD_NOT_ALLOWED, "allow"),
            (StatusCode::UNAUTHORIZED, "www-authenticate"),
            (StatusCode::TOO_MANY_REQUESTS, "retry-after"),
        ] {
            if status == when {
                expect(!reply.header(needed).is_empty(), needed)?;
            }
        }
    }
    Ok(())
}

fn expect(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn warnings(reply: &Reply) -> Result<(), String> {
    let mut bytes = 0;
    for warning in reply.headers.get_all("warning") {
        let text = warning.to_str().map_err(|_| "a warning is not text")?;
        let quoted = text.strip_prefix("299 - \"");
        let quoted = quoted.and_then(|text| text.strip_suffix('"'));
        expect(quoted.is_some(), "a warning is 299 - \"text\"")?;
        bytes += text.len();
    }
    expect(
        bytes <= WARNING_BYTES_MAX,
        "more than 4096 bytes of warnings",
    )
}

fn error(reply: &Reply) -> Result<(), String> {
    let json = reply.header("content-type") == "application/json";
    expect(json, "an error that is not application/json")?;
    let body: Value = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
    let errors = body["errors"].as_array().ok_or("no list of errors")?;
    expect(!errors.is_empty(), "an empty list of errors")?;
    for error in errors {
        let code = error["code"].as_str().ok_or("an error without a code")?;
        let known = CODES.contains(&code) || reply.status.is_server_error();
        expect(known, "a code that the specification does not have")?;
        let message = error["message"].as_str().unwrap_or_default();
        expect(!message.is_empty(), "an error without a sentence")?;
    }
    Ok(())
}
