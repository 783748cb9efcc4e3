//! `/coracle/v1/registry/…` of the API listener, for administrators: what `coracle registry` asks.
//!
//! ```text
//! GET    usage                    what namespaces and repositories hold
//! POST   gc        {"dryRun"?}    collects on this member, then on the others
//! POST   scrub     {"bytesPerSecond"?}  begins a scrub on every member; GET: how far each has come
//! GET    quotas;   PUT {"bytes"} and DELETE  quotas/NAMESPACE
//! GET    retention;  PUT a policy and DELETE  retention/NAME
//! POST   local/gc;  POST and GET  local/scrub    the same on one member, for members
//! ```
//!
//! Rows are the cluster's, bytes are each member's: so usage, quotas and policies are one member's answer, while `gc` and
//! `scrub` answer `{"members": [{"member", "report" or "status"} or {"member", "error"}]}`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::any;
use coracle_api::{ApiError, Timestamp};
use coracle_registry::Registry;
use coracle_registry::error::Error;
use coracle_registry::retention::Policy;
use coracle_server::identity::{MASTERS, MEMBERS};
use coracle_server::{Identity, reply};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Spread, scrub};

/// Where all this is.
const PATH: &str = "/coracle/v1/registry";
/// Largest body: a policy of three lists of 64 patterns.
const BODY_BYTES_MAX: usize = 256 << 10;
/// How long another member may take to collect; scrubs only begin.
const PATIENCE: Duration = Duration::from_secs(300);

/// The registry as administrators see it.
pub(crate) struct Admin {
    pub registry: Arc<Registry>,
    pub spread: Spread,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub stop: CancellationToken,
}

/// A refusal of the registry as one of the API.
fn refused(error: Error) -> ApiError {
    let code = error.status.as_u16();
    let reason = match code {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    ApiError::new(code, reason, error.message)
}

fn unknown(method: &Method, path: &str) -> ApiError {
    ApiError::new(
        404,
        "NotFound",
        format!("{PATH}/{path} does not take {method}"),
    )
}

/// A whole number of a body, if it is there.
fn number(body: &Value, field: &str) -> Result<Option<u64>, ApiError> {
    match &body[field] {
        Value::Null => Ok(None),
        value => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::bad_request(format!(
                "{field}: must be a whole number that is not negative"
            ))),
        },
    }
}

impl Admin {
    async fn answer(&self, path: &str, request: Request) -> Result<Value, ApiError> {
        let path: Vec<&str> = path.split('/').collect();
        let who = request.extensions().get::<Identity>();
        let (group, whom) = match path.first() {
            Some(&"local") => (MEMBERS, "members of the cluster"),
            _ => (MASTERS, "administrators"),
        };
        if !who.is_some_and(|who| who.in_group(group)) {
            let message = format!("E_REGISTRY_ADMIN: only {whom} may do this");
            return Err(ApiError::new(403, "Forbidden", message));
        }
        let method = request.method().clone();
        let bytes = to_bytes(request.into_body(), BODY_BYTES_MAX).await;
        let bytes =
            bytes.map_err(|e| ApiError::bad_request(format!("the body cannot be read: {e}")))?;
        let body: Value = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes)
                .map_err(|e| ApiError::bad_request(format!("the body is no JSON: {e}")))?,
        };
        match (method.as_str(), path.as_slice()) {
            ("GET", ["usage"]) => encoded(&self.registry.usage().await.map_err(refused)?),
            ("POST", ["gc"]) => self.collect(&body).await,
            ("POST", ["scrub"]) => {
                let own = self.begin_scrub(&body)?;
                Ok(self.with_others(own, method, "local/scrub", body).await)
            }
            ("GET", ["scrub"]) => {
                let own = self.scrub_status()?;
                Ok(self.with_others(own, method, "local/scrub", body).await)
            }
            ("POST", ["local", "gc"]) => self.collect_here(false).await,
            ("POST", ["local", "scrub"]) => self.begin_scrub(&body),
            ("GET", ["local", "scrub"]) => self.scrub_status(),
            // The rest is a name. One with a slash in it is none, which the registry says best.
            (_, ["quotas", name @ ..]) => self.quotas(&method, &name.join("/"), &body).await,
            (_, ["retention", name @ ..]) => self.retention(&method, &name.join("/"), body).await,
            _ => Err(unknown(&method, &path.join("/"))),
        }
    }

    async fn collect(&self, body: &Value) -> Result<Value, ApiError> {
        // The rows are the same everywhere, so one member can tell what would go.
        let dry = body["dryRun"] == true;
        let own = self.collect_here(dry).await?;
        if dry {
            return Ok(json!({"dryRun": true, "members": [own]}));
        }
        Ok(self
            .with_others(own, Method::POST, "local/gc", Value::Null)
            .await)
    }

    async fn collect_here(&self, dry: bool) -> Result<Value, ApiError> {
        let now = (self.clock)();
        let report = match dry {
            true => self.registry.collect_dry(now).await,
            false => self.registry.collect(now).await,
        };
        let report = encoded(&report.map_err(refused)?)?;
        Ok(json!({"member": self.spread.0.peers.own_name(), "report": report}))
    }

    fn begin_scrub(&self, body: &Value) -> Result<Value, ApiError> {
        let usual = self.registry.limits().scrub_bytes_per_second;
        let rate = number(body, "bytesPerSecond")?.unwrap_or(usual);
        scrub::begin(&self.registry, rate, &self.stop);
        self.scrub_status()
    }

    fn scrub_status(&self) -> Result<Value, ApiError> {
        let status = encoded(&self.registry.scrub_status())?;
        Ok(json!({"member": self.spread.0.peers.own_name(), "status": status}))
    }

    /// This member's part of an answer and those of the others, asked at once.
    async fn with_others(&self, own: Value, method: Method, path: &str, body: Value) -> Value {
        let peers = &self.spread.0.peers;
        let path = format!("{PATH}/{path}");
        let others = peers.round().others.into_iter().map(|peer| {
            let (method, path, body) = (method.clone(), &path, &body);
            async move {
                match peers.ask(&peer, method, path, body, PATIENCE).await {
                    Ok(part) => part,
                    Err(error) => json!({"member": peer.name, "error": error.to_string()}),
                }
            }
        });
        let mut members = vec![own];
        members.extend(join_all(others).await);
        json!({"members": members})
    }

    async fn quotas(
        &self,
        method: &Method,
        namespace: &str,
        body: &Value,
    ) -> Result<Value, ApiError> {
        match (method.as_str(), namespace) {
            ("GET", "") => {}
            ("PUT", _) => {
                let bytes = number(body, "bytes")?
                    .ok_or_else(|| ApiError::bad_request("bytes: is required"))?;
                let set = self.registry.set_quota(namespace, Some(bytes));
                set.await.map_err(refused)?;
            }
            ("DELETE", _) => {
                let set = self.registry.set_quota(namespace, None);
                set.await.map_err(refused)?;
            }
            _ => return Err(unknown(method, "quotas")),
        }
        let quotas = self.registry.quotas().await.map_err(refused)?;
        Ok(json!({"quotas": encoded(&quotas)?}))
    }

    async fn retention(&self, method: &Method, name: &str, body: Value) -> Result<Value, ApiError> {
        match (method.as_str(), name) {
            ("GET", "") => {}
            ("PUT", _) => {
                let policy: Policy = serde_json::from_value(body)
                    .map_err(|e| ApiError::bad_request(format!("the policy: {e}")))?;
                let set = self.registry.set_policy(name, &policy);
                set.await.map_err(refused)?;
            }
            ("DELETE", _) => {
                if !self.registry.remove_policy(name).await.map_err(refused)? {
                    let message = format!(
                        "E_REGISTRY_POLICY: there is no retention policy {name}; `coracle registry retention get` shows those there are"
                    );
                    return Err(ApiError::new(404, "NotFound", message));
                }
            }
            _ => return Err(unknown(method, "retention")),
        }
        let policies = self.registry.policies().await.map_err(refused)?;
        Ok(json!({"policies": encoded(&policies)?}))
    }
}

fn encoded(value: &impl serde::Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(value)
        .map_err(|e| ApiError::new(500, "InternalError", format!("an answer is no JSON: {e}")))
}

/// To be merged beside the API's router: a path named here goes before its fallback.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route(&format!("{PATH}/{{*path}}"), any(serve))
        .with_state(Arc::new(admin))
}

async fn serve(
    State(admin): State<Arc<Admin>>,
    Path(path): Path<String>,
    request: Request,
) -> Response {
    // In a task of its own: a client that goes away does not stop a collection half way through.
    let work = tokio::spawn(async move { admin.answer(&path, request).await });
    match work.await {
        Ok(Ok(value)) => reply::value(200, &value),
        Ok(Err(error)) => reply::error(&error),
        Err(error) => reply::error(&ApiError::new(
            500,
            "InternalError",
            format!("the request's handler died: {error}"),
        )),
    }
}
