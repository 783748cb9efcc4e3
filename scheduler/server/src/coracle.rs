//! Coracle's own endpoints under `/coracle/v1`: what runners, joiners and the CLI need beside the Kubernetes API.

use coracle_api::ApiError;
use http::Method;
use serde_json::{Value, json};

use crate::body::{self, Decoded};
use crate::context::Context;
use crate::reply::{self, Answer};

/// Whether a path belongs here.
pub fn owns(path: &[&str]) -> bool {
    path.first() == Some(&"coracle")
}

/// Answers; the caller has authorised the path already.
pub async fn answer(ctx: &Context, method: &Method, path: &[&str], decoded: Decoded) -> Answer {
    match (method.as_str(), path) {
        ("GET", ["coracle", "v1", "ca"]) => Ok(reply::bytes(
            200,
            "application/x-pem-file",
            (ctx.config.ca_bundle_pem)(),
        )),
        ("GET", ["coracle", "v1", "status"]) => Ok(reply::value(200, &status(ctx))),
        ("POST", ["coracle", "v1", "join"]) => ctx
            .config
            .join
            .join(object(decoded)?)
            .await
            .map(|v| reply::value(200, &v)),
        ("POST", ["coracle", "v1", "tokens"]) => ctx
            .config
            .tokens
            .create(object(decoded)?)
            .await
            .map(|v| reply::value(201, &v)),
        ("PUT", ["coracle", "v1", "proxies", node]) => {
            let applied = match &decoded.value["applied"] {
                Value::Number(n) => n.as_u64(),
                Value::String(s) => s.parse().ok(),
                _ => None,
            };
            let applied = applied.ok_or_else(|| {
                ApiError::bad_request(
                    "applied: must be the resourceVersion that the proxy has swapped in",
                )
            })?;
            (ctx.config.acks)(node, applied);
            Ok(reply::bytes(204, reply::JSON, ""))
        }
        (
            _,
            ["coracle", "v1", "ca" | "status" | "join" | "tokens"]
            | ["coracle", "v1", "proxies", _],
        ) => Err(reply::not_allowed(method.as_str())),
        _ => Err(reply::unknown_path()),
    }
}

fn object(decoded: Decoded) -> Result<Value, ApiError> {
    if decoded.value.is_object() {
        Ok(decoded.value)
    } else {
        Err(ApiError::bad_request(
            "the request body must be a JSON object",
        ))
    }
}

fn status(ctx: &Context) -> Value {
    let view = ctx.view();
    let mut status = json!({
        "version": ctx.config.product_version,
        "revision": view.revision,
        "at": view.at.to_string(),
        "ready": (ctx.config.ready)().is_ok(),
    });
    if let (Some(into), Value::Object(more)) = (status.as_object_mut(), (ctx.config.status)()) {
        into.extend(more);
    }
    status
}

/// Decodes the body of these endpoints: JSON, whatever the Content-Type says (curl's default is a form).
pub fn decode(bytes: &[u8]) -> Result<Decoded, ApiError> {
    body::json(bytes)
}
