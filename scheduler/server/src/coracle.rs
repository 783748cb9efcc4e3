//! Coracle's own endpoints under `/coracle/v1`: what runners, joiners and the CLI need beside the Kubernetes API.

use axum::body::Body;
use coracle_api::ApiError;
use http::header::CONTENT_DISPOSITION;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::body::{self, Decoded};
use crate::context::Context;
use crate::identity::{Identity, MASTERS, MEMBERS};
use crate::reply::{self, Answer};

/// Whether a path belongs here.
pub fn owns(path: &[&str]) -> bool {
    path.first() == Some(&"coracle")
}

/// Answers; the caller has authorised the path already.
pub async fn answer(
    ctx: &Context,
    identity: &Identity,
    method: &Method,
    path: &[&str],
    decoded: Decoded,
) -> Answer {
    if let ["coracle", "v1", "members", below @ ..] = path {
        return members(ctx, identity, method, below, decoded).await;
    }
    match (method.as_str(), path) {
        ("GET", ["coracle", "v1", "ca"]) => Ok(reply::bytes(
            200,
            "application/x-pem-file",
            (ctx.config.ca_bundle_pem)(),
        )),
        ("GET", ["coracle", "v1", "ca", "status"]) => {
            Ok(reply::value(200, &ctx.config.certificates.status()))
        }
        ("POST", ["coracle", "v1", "ca", "rotate"]) => {
            if !identity.in_group(MASTERS) {
                return Err(ApiError::new(
                    403,
                    "Forbidden",
                    "E_CA_ROTATE: only an administrator rotates the CA",
                ));
            }
            ctx.config
                .certificates
                .rotate(options(decoded)?)
                .await
                .map(|v| reply::value(200, &v))
        }
        ("POST", ["coracle", "v1", "renew"]) => ctx
            .config
            .certificates
            .renew(identity, object(decoded)?)
            .await
            .map(|v| reply::value(200, &v)),
        ("GET", ["coracle", "v1", "endpoints"]) => {
            Ok(reply::value(200, &ctx.config.members.endpoints()))
        }
        ("GET", ["coracle", "v1", "status"]) => Ok(reply::value(200, &status(ctx))),
        ("GET", ["coracle", "v1", "backup"]) => backup(ctx).await,
        ("GET", ["coracle", "v1", "backups"]) => {
            let list = ctx.config.backups.list().await?;
            Ok(reply::value(200, &list))
        }
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
        ("GET", ["coracle", "v1", "tokens"]) => {
            let list = ctx.config.tokens.list().await?;
            Ok(reply::value(200, &list))
        }
        ("DELETE", ["coracle", "v1", "tokens", id]) => {
            let gone = ctx.config.tokens.delete(id).await?;
            Ok(reply::value(200, &gone))
        }
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
            [
                "coracle",
                "v1",
                "backup" | "backups" | "ca" | "endpoints" | "status" | "join" | "renew" | "tokens",
            ]
            | ["coracle", "v1", "ca", "status" | "rotate"]
            | ["coracle", "v1", "proxies" | "tokens", _],
        ) => Err(reply::not_allowed(method.as_str())),
        _ => Err(reply::unknown_path()),
    }
}

/// The file as it is made. Its name is in `Content-Disposition`.
async fn backup(ctx: &Context) -> Answer {
    let backup = ctx.config.backups.save().await?;
    let body = Body::from_stream(backup.bytes);
    let mut response = reply::bytes(200, "application/octet-stream", body);
    let name = format!("attachment; filename=\"{}\"", backup.name);
    if let Ok(value) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// `/coracle/v1/members` and below.
async fn members(
    ctx: &Context,
    identity: &Identity,
    method: &Method,
    below: &[&str],
    decoded: Decoded,
) -> Answer {
    let members = &ctx.config.members;
    let done = match (method.as_str(), below) {
        ("GET", []) => members.list().await,
        ("POST", []) => {
            // An administrator has no member to add: the process joins by itself, with a token.
            if !identity.in_group(MEMBERS) {
                return Err(ApiError::new(
                    403,
                    "Forbidden",
                    "E_MEMBER_ADD: members add themselves; start one with `coracle scheduler --join HOST:PORT --token TOKEN`",
                ));
            }
            members.add(identity, object(decoded)?).await
        }
        ("POST", ["transfer"]) => members.transfer(options(decoded)?).await,
        ("DELETE", [which]) => members.remove(which, options(decoded)?).await,
        ("POST", [which, "promote"]) => members.promote(which, options(decoded)?).await,
        (_, [] | [_] | [_, "promote"]) => return Err(reply::not_allowed(method.as_str())),
        _ => return Err(reply::unknown_path()),
    };
    done.map(|v| reply::value(200, &v))
}

/// A body that may be left out.
fn options(decoded: Decoded) -> Result<Value, ApiError> {
    match decoded.value {
        Value::Null => Ok(json!({})),
        _ => object(decoded),
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
