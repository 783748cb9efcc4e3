//! `/.well-known/wasm-pkg/registry.json`: how package clients (wkg) learn that a domain's packages are in this registry.
//!
//! The package `wasi:http` of this domain is then the repository `PREFIX` + `wasi/http`. The prefix's first segment is
//! the namespace the packages belong to, like that of every repository.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use serde_json::json;

use super::{json, unsupported};
use crate::error::{Code, Error};

/// Where clients look, from wasm-pkg-client.
pub(super) const PATH: &str = "/.well-known/wasm-pkg/registry.json";

/// The namespace packages are in where nothing else is said.
pub const PACKAGE_PREFIX: &str = "default/";

/// The document. It tells nothing that the client did not know, so nobody needs to log in for it.
pub(super) fn answer(prefix: &str, request: &Request) -> Response {
    let method = request.method();
    if !matches!(*method, Method::GET | Method::HEAD) {
        return unsupported(method, "GET, HEAD").into_response();
    }
    let Some(host) = host(request) else {
        return Error::new(
            Code::Unsupported,
            "the request has no Host: say by which name you reach this registry",
        )
        .status(StatusCode::BAD_REQUEST)
        .into_response();
    };
    let body = json!({
        "preferredProtocol": "oci",
        "oci": { "registry": host, "namespacePrefix": prefix },
    });
    let mut response = json(StatusCode::OK, &[], body.to_string());
    if *method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

/// The name and port the client used: HTTP/2 puts them into the target, HTTP/1 into a header.
fn host(request: &Request) -> Option<&str> {
    let target = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let header = request.headers().get(header::HOST);
    let host = target.or_else(|| header?.to_str().ok())?;
    let host = host.rsplit('@').next().unwrap_or(host).trim();
    (!host.is_empty()).then_some(host)
}
