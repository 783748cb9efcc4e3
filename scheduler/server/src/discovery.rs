//! Discovery in both forms and OpenAPI v3, so that every client finds the kinds it may use.

use coracle_api::{discovery, schema};
use http::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::negotiate::{Media, accept};
use crate::reply::{self, Answer};

/// The version of aggregated discovery that a client asks for first, if it comes before plain JSON.
fn aggregated(accepted: &[Media]) -> Option<&'static str> {
    for media in accepted.iter().filter(|m| m.takes_json()) {
        let group = media.parameter("g") == "apidiscovery.k8s.io"
            && media.parameter("as") == "APIGroupDiscoveryList";
        match (group, media.parameter("v")) {
            (true, "v2") => return Some("v2"),
            (true, "v2beta1") => return Some("v2beta1"),
            _ if media.parameter("as").is_empty() => return None,
            _ => {}
        }
    }
    None
}

/// Answers a discovery or OpenAPI path; `None` if it is neither.
pub fn answer(ctx: &Context, headers: &HeaderMap, path: &[&str]) -> Option<Answer> {
    let accepted = accept(
        headers
            .get(http::header::ACCEPT)
            .and_then(|v| v.to_str().ok()),
    );
    let found = |v: Option<Value>| {
        v.map(|v| reply::value(200, &v))
            .ok_or_else(reply::unknown_path)
    };
    Some(match path {
        ["api"] | ["apis"] => {
            let core = path == ["api"];
            match aggregated(&accepted) {
                Some(version) => {
                    let body = if core {
                        discovery::aggregated_core(version)
                    } else {
                        discovery::aggregated_groups(version)
                    };
                    // The client trusts the form only if the type says so.
                    let content_type = format!(
                        "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                    );
                    Ok(reply::bytes(200, &content_type, body.to_string()))
                }
                None => found(Some(if core {
                    discovery::legacy_api(&ctx.config.server_address)
                } else {
                    discovery::legacy_groups()
                })),
            }
        }
        ["api", "v1"] => found(Some(discovery::legacy_api_v1())),
        ["apis", group] => found(discovery::legacy_group(group)),
        ["apis", group, version] => found(discovery::legacy_group_version(group, version)),
        ["openapi", "v3"] => found(Some(schema::openapi_index())),
        ["openapi", "v3", rest @ ..] => openapi(headers, &rest.join("/")),
        _ => return None,
    })
}

/// One document; clients cache it by ETag.
fn openapi(headers: &HeaderMap, group_version: &str) -> Answer {
    let document = schema::openapi(group_version)
        .ok_or_else(reply::unknown_path)?
        .to_string();
    let tag = format!(
        "\"{}\"",
        hex::encode_upper(&Sha256::digest(document.as_bytes())[..16])
    );
    let mut response = match headers
        .get(http::header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
    {
        Some(known) if known.contains(&tag) => reply::bytes(304, reply::JSON, ""),
        _ => reply::bytes(200, reply::JSON, document),
    };
    if let Ok(v) = tag.parse() {
        response.headers_mut().insert(http::header::ETAG, v);
    }
    Ok(response)
}

/// `/` lists where to look.
pub fn index() -> Answer {
    let paths = [
        "/api",
        "/api/v1",
        "/apis",
        "/coracle/v1/ca",
        "/coracle/v1/join",
        "/coracle/v1/status",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    Ok(reply::value(200, &json!({"paths": paths})))
}
