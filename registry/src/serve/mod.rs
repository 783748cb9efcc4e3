//! The HTTP face: one fallback handler per `/v2`, because repository names contain slashes.
//!
//! Requests that change something run in a task of their own: a client that goes away must not stop a write half way
//! through, nor free a session's lock while the disk is still busy for it.

mod blobs;
mod lists;
mod manifests;
mod packages;
pub(crate) mod path;
mod uploads;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::authorise::{Access, Action};
use crate::body::Incoming;
use crate::conditions::Conditions;
use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::links::Caller;
use crate::name::Name;
use crate::push::Frame;
use crate::registry::Registry;
pub use packages::PACKAGE_PREFIX;
use path::{Query, Target};

/// Old clients look for this before they talk to a registry at all.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// How long a read by digest waits for a leader before it is answered from what is here.
const CURRENT_PATIENCE: Duration = Duration::from_secs(1);

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Everything under `/v2`, and the document by which package clients find it, to be merged into a server or served
/// alone. No body limit of axum applies: bodies are read here, by the registry's own bounds.
pub fn router(state: Arc<Registry>) -> Router {
    router_with_packages(state, PACKAGE_PREFIX)
}

/// The same with another prefix for Wasm packages than [`PACKAGE_PREFIX`]: a namespace and a slash, or nothing.
pub fn router_with_packages(state: Arc<Registry>, prefix: &str) -> Router {
    let prefix: Arc<str> = Arc::from(prefix);
    let packages = move |request: Request| ready(packages::answer(&prefix, &request));
    Router::new()
        .route(packages::PATH, any(packages))
        .route("/v2", any(serve))
        .route("/v2/", any(serve))
        .route("/v2/{*path}", any(serve))
        .with_state(state)
}

async fn serve(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let method = parts.method.clone();
    let log = format!("{method} {}", parts.uri.path());
    let reading = matches!(method, Method::GET | Method::HEAD);
    let work = answer(registry.clone(), parts, body);
    let mut response = if reading {
        work.await
    } else {
        match tokio::spawn(work).await {
            Ok(response) => response,
            Err(error) => {
                Error::internal(format!("the request's handler died: {error}")).into_response()
            }
        }
    };
    response
        .headers_mut()
        .insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    let status = response.status();
    registry.counters.requests.add(1);
    if status.is_server_error() {
        registry.counters.failed.add(1);
        tracing::error!(request = log, status = status.as_u16(), "request failed");
    } else {
        if status.is_client_error() {
            registry.counters.refused.add(1);
        }
        tracing::debug!(request = log, status = status.as_u16(), "request");
    }
    if method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Refuses a request before it gets to the registry, as the registry refuses: what the client still sends is read and
/// forgotten (8 MiB of it at most), so that it gets to read `error` instead of a reset connection.
pub async fn refuse(headers: &HeaderMap, body: Body, error: Error) -> Response {
    incoming(headers, body).drain().await;
    error.into_response()
}

/// A body as its headers say it comes.
fn incoming(headers: &HeaderMap, body: Body) -> Incoming {
    Incoming::new(body, !headers.contains_key(header::EXPECT))
}

/// Runs a request and turns its error into an answer, which the client is given a chance to read.
async fn answer(registry: Arc<Registry>, parts: Parts, body: Body) -> Response {
    let mut body = incoming(&parts.headers, body);
    match dispatch(&registry, &parts, &mut body).await {
        Ok(response) => {
            // A repeated last request may carry a body that nobody needs any more.
            body.drain().await;
            response
        }
        Err(error) => {
            if error.status.is_server_error() {
                tracing::error!(%error, "registry fault");
            }
            body.drain().await;
            error.into_response()
        }
    }
}

/// One request with everything its handler needs.
struct Call<'a> {
    registry: &'a Registry,
    parts: &'a Parts,
    query: Query,
}

impl Call<'_> {
    async fn allow(&self, action: Action, repository: Option<&Name>) -> Result<(), Error> {
        let access = Access {
            action,
            repository,
            headers: &self.parts.headers,
            extensions: &self.parts.extensions,
        };
        self.registry.allow(access).await
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            headers: &self.parts.headers,
            extensions: &self.parts.extensions,
        }
    }

    fn conditions(&self) -> Conditions {
        Conditions::of(&self.parts.headers)
    }

    /// Waits until what is looked up next is as new as any answer that any member has given.
    async fn current(&self) -> Result<(), Error> {
        Ok(self.registry.meta.fresh().await?)
    }

    /// The same before something is read by its digest. Such bytes are right however old the row is that leads to them,
    /// so they are served without a leader too; only what is not found then is not known to be absent.
    async fn found<T>(&self, look: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let current = match tokio::time::timeout(CURRENT_PATIENCE, self.current()).await {
            Ok(current) => current,
            Err(_) => Err(Error::new(
                Code::Unavailable,
                "no leader confirms in time that this is not here: try again",
            )),
        };
        match (look.await, current) {
            (Err(absent), Err(why)) if absent.status == StatusCode::NOT_FOUND => Err(why),
            (looked, _) => looked,
        }
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// Where the body stands in an upload.
    fn frame(&self) -> Frame<'_> {
        Frame {
            range: self.header(header::CONTENT_RANGE),
            length: self
                .header(header::CONTENT_LENGTH)
                .and_then(|text| text.parse().ok()),
        }
    }

    /// The digest a query parameter names.
    fn digest(&self, key: &str) -> Result<Option<Digest>, Error> {
        match self.query.get(key) {
            Some(text) => Ok(Some(text.parse()?)),
            None => Ok(None),
        }
    }
}

fn unsupported(method: &Method, allow: &str) -> Error {
    Error::new(
        Code::Unsupported,
        format!("{method} is not possible here: use {allow}"),
    )
    .header(header::ALLOW, allow)
}

async fn dispatch(
    registry: &Registry,
    parts: &Parts,
    body: &mut Incoming,
) -> Result<Response, Error> {
    let target = path::parse(parts.uri.path())?;
    let call = Call {
        registry,
        parts,
        query: Query::parse(parts.uri.query())?,
    };
    let method = &parts.method;
    let reading = matches!(*method, Method::GET | Method::HEAD);
    match target {
        Target::Ping if reading => {
            call.allow(Action::Ping, None).await?;
            Ok(json(StatusCode::OK, &[], "{}".to_owned()))
        }
        Target::Catalog if reading => {
            call.allow(Action::Catalog, None).await?;
            lists::catalog(&call).await
        }
        Target::Ping | Target::Catalog => Err(unsupported(method, "GET, HEAD")),
        Target::Tags(name) => {
            if !reading {
                return Err(unsupported(method, "GET, HEAD"));
            }
            call.allow(Action::Pull, Some(&name)).await?;
            lists::tags(&call, &name).await
        }
        Target::Referrers(name, digest) => {
            if !reading {
                return Err(unsupported(method, "GET, HEAD"));
            }
            call.allow(Action::Pull, Some(&name)).await?;
            lists::referrers(&call, &name, &digest.parse()?).await
        }
        Target::Uploads(name) => {
            if *method != Method::POST {
                return Err(unsupported(method, "POST"));
            }
            call.allow(Action::Push, Some(&name)).await?;
            uploads::start(&call, &name, body).await
        }
        Target::Upload(name, id) => {
            if !matches!(
                *method,
                Method::GET | Method::HEAD | Method::PATCH | Method::PUT | Method::DELETE
            ) {
                return Err(unsupported(method, "GET, HEAD, PATCH, PUT, DELETE"));
            }
            call.allow(Action::Push, Some(&name)).await?;
            match *method {
                Method::PATCH => uploads::append(&call, &name, &id, body).await,
                Method::PUT => uploads::finish(&call, &name, &id, body).await,
                Method::DELETE => uploads::cancel(&call, &name, &id).await,
                _ => uploads::status(&call, &name, &id).await,
            }
        }
        Target::Blob(name, digest) => match *method {
            Method::GET | Method::HEAD => {
                call.allow(Action::Pull, Some(&name)).await?;
                blobs::read(&call, &name, &digest.parse()?).await
            }
            Method::DELETE => {
                call.allow(Action::Delete, Some(&name)).await?;
                blobs::delete(&call, &name, &digest.parse()?).await
            }
            _ => Err(unsupported(method, "GET, HEAD, DELETE")),
        },
        Target::Manifest(name, reference) => match *method {
            Method::GET | Method::HEAD => {
                call.allow(Action::Pull, Some(&name)).await?;
                manifests::read(&call, &name, &reference).await
            }
            Method::PUT => {
                call.allow(Action::Push, Some(&name)).await?;
                manifests::push(&call, &name, &reference, body).await
            }
            Method::DELETE => {
                call.allow(Action::Delete, Some(&name)).await?;
                manifests::delete(&call, &name, &reference).await
            }
            _ => Err(unsupported(method, "GET, HEAD, PUT, DELETE")),
        },
    }
}

/// An answer without a body.
fn empty(status: StatusCode, headers: &[(HeaderName, String)]) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    set(response.headers_mut(), headers);
    // 204 may not have a length, everything else says that nothing comes.
    if status != StatusCode::NO_CONTENT {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

/// A JSON answer; a `Content-Type` among the headers replaces the usual one.
fn json(status: StatusCode, headers: &[(HeaderName, String)], body: String) -> Response {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let map = response.headers_mut();
    map.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    map.insert(header::CONTENT_LENGTH, length);
    set(map, headers);
    response
}

/// Sets headers; a name that comes twice stands twice. Every value here is made of checked names, digests and numbers,
/// or was a header before.
fn set(map: &mut HeaderMap, headers: &[(HeaderName, String)]) {
    let mut seen: Vec<&HeaderName> = Vec::new();
    for (name, value) in headers {
        let Ok(value) = HeaderValue::from_str(value) else {
            tracing::warn!(header = %name, "a header value could not be sent");
            continue;
        };
        if seen.contains(&name) {
            map.append(name, value);
        } else {
            map.insert(name, value);
            seen.push(name);
        }
    }
}
