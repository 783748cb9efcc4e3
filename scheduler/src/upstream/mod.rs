//! Registries outside, through the cluster's own: `GET /v2/NAME/manifests|blobs/REFERENCE?ns=HOST`.
//!
//! What is asked for is fetched once, however many ask at the same time, and kept under `coracle.upstream/HOST/NAME` as
//! if it had been pushed there; from then on it is served from here, also while the upstream is down. Content by digest
//! never changes; a tag is looked at again when it is older than [`FRESH`].
//!
//! Never an open proxy: only hosts that the operator listed, only for callers whom the registry lets read the mirror
//! (which is asked before the upstream is), and only content under its digest. Nobody but this module writes to a mirror.

mod remote;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use coracle_registry::digest::Digest;
use coracle_registry::error::{Code, Error};
use coracle_registry::name::Name;
use coracle_registry::refuse;
use coracle_registry::through::{MIRRORS, mirror};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub(crate) use remote::Secrets;
use remote::{Remotes, Wanted};
use store::Store;

/// A tag is believed for so long before the upstream is asked again.
const FRESH: Duration = Duration::from_secs(300);
/// After an upstream did not answer, tags that are here are served for so long without asking it again.
const PAUSE: Duration = Duration::from_secs(10);
/// Transfers at once: enough to fill a line, few enough that slow upstreams do not fill memory.
const RUNNING_MAX: usize = 8;
/// Transfers running or waiting; more are refused with 429.
const WAITING_MAX: usize = 1_024;
/// Tags whose age is remembered; the oldest is forgotten, and asked for again when it is wanted.
const TAGS_MAX: usize = 10_000;
/// Names the registry that an answer comes from.
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// Why something could not be had from an upstream.
#[derive(Clone, Debug, thiserror::Error)]
enum Failure {
    #[error("the upstream has no such thing")]
    NotFound,
    #[error(
        "the upstream asks for a login; put one into the Secret kube-system/registry-upstream (kubernetes.io/dockerconfigjson)"
    )]
    Denied,
    #[error("the Secret kube-system/registry-upstream does not read: {0}")]
    Credentials(String),
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(String),
    #[error("it cannot be stored in the cluster's registry: {0}")]
    Store(String),
    #[error("{WAITING_MAX} transfers are under way; try again")]
    Busy,
}

impl Failure {
    fn response(self, manifest: bool) -> Error {
        let text = format!("E_REGISTRY_UPSTREAM: {self}");
        match self {
            Failure::NotFound if manifest => Error::new(Code::ManifestUnknown, text),
            Failure::NotFound => Error::new(Code::BlobUnknown, text),
            Failure::Denied | Failure::Credentials(_) => Error::new(Code::Denied, text),
            Failure::Unreachable(_) => {
                Error::new(Code::Unknown, text).status(StatusCode::BAD_GATEWAY)
            }
            Failure::Store(_) => {
                Error::new(Code::Unknown, text).status(StatusCode::INSUFFICIENT_STORAGE)
            }
            Failure::Busy => Error::busy(text),
        }
    }
}

type Flight = Shared<BoxFuture<'static, Result<(), Failure>>>;

/// The mirror.
pub(crate) struct Upstream {
    hosts: Vec<String>,
    remotes: Remotes,
    /// Transfers under way.
    flights: Mutex<BTreeMap<Wanted, Flight>>,
    running: Semaphore,
    /// Until when a tag is served without asking, and why it may be old.
    tags: Mutex<BTreeMap<Wanted, (Instant, Option<String>)>>,
}

/// What stands in front of a registry's router.
#[derive(Clone)]
struct Front {
    upstream: Arc<Upstream>,
    store: Store,
}

/// What `hosts` may be: `HOST` or `HOST:PORT` each.
///
/// # Errors
/// A sentence about the first that is neither.
pub(crate) fn check_hosts(hosts: &[String]) -> Result<(), String> {
    for host in hosts {
        let (name, port) = host.split_once(':').unwrap_or((host, "443"));
        let label = |l: &str| {
            !l.is_empty()
                && l.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let port = port.parse::<u16>().is_ok_and(|p| p != 0);
        if !(name.split('.').all(label) && port && mirror(host, "x").is_ok()) {
            return Err(format!("{host:?} is not HOST or HOST:PORT in lower case"));
        }
    }
    Ok(())
}

impl Upstream {
    /// A mirror of these hosts; of none: every `?ns=` is refused.
    pub fn new(hosts: Vec<String>, secrets: Secrets) -> Arc<Self> {
        Arc::new(Self {
            hosts,
            remotes: Remotes::new(secrets),
            flights: Mutex::default(),
            running: Semaphore::new(RUNNING_MAX),
            tags: Mutex::default(),
        })
    }

    /// Puts the mirror in front of a registry.
    pub fn wrap(self: &Arc<Self>, registry: Router) -> Router {
        let front = Front {
            upstream: self.clone(),
            store: Store(registry.clone()),
        };
        registry.layer(middleware::from_fn_with_state(front, serve))
    }

    fn flights(&self) -> MutexGuard<'_, BTreeMap<Wanted, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tags(&self) -> MutexGuard<'_, BTreeMap<Wanted, (Instant, Option<String>)>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a tag is served without asking; with why it may be old.
    fn believed(&self, tag: &Wanted) -> Option<Option<String>> {
        let tags = self.tags();
        let (until, why) = tags.get(tag)?;
        (*until > Instant::now()).then(|| why.clone())
    }

    fn believe(&self, tag: &Wanted, span: Duration, why: Option<String>) {
        let mut tags = self.tags();
        tags.insert(tag.clone(), (Instant::now() + span, why));
        while tags.len() > TAGS_MAX {
            let oldest = tags.iter().min_by_key(|(_, (until, _))| *until);
            let oldest = oldest.map(|(tag, _)| tag.clone());
            oldest.map(|tag| tags.remove(&tag));
        }
    }

    /// Runs `work`, or waits for the same that is under way.
    async fn once(
        self: &Arc<Self>,
        wanted: &Wanted,
        work: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) -> Result<(), Failure> {
        let flight = {
            let mut flights = self.flights();
            if let Some(flight) = flights.get(wanted) {
                flight.clone()
            } else if flights.len() >= WAITING_MAX {
                return Err(Failure::Busy);
            } else {
                // A task of its own: it goes on if the first who asked goes away.
                let listed = Listed(self.clone(), wanted.clone());
                let task = tokio::spawn(async move {
                    // It is never closed.
                    let _place = listed.0.running.acquire().await;
                    work.await
                });
                let flight = task
                    .map(|done| done.unwrap_or_else(|e| Err(Failure::Store(e.to_string()))))
                    .boxed()
                    .shared();
                flights.insert(wanted.clone(), flight.clone());
                flight
            }
        };
        flight.await
    }
}

/// Takes a transfer off the list however it ends.
struct Listed(Arc<Upstream>, Wanted);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.flights().remove(&self.1);
    }
}

/// What a path under `/v2/` reads, if it is a manifest or a blob.
fn parse(path: &str) -> Option<(&str, bool, &str)> {
    let (rest, reference) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    match kind {
        "manifests" => Some((repository, true, reference)),
        "blobs" => Some((repository, false, reference)),
        _ => None,
    }
}

/// The value of `ns`.
fn namespace(query: Option<&str>) -> Option<String> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| *key == "ns")?.1;
    Some(value.replace("%3A", ":").replace("%3a", ":"))
}

async fn serve(State(front): State<Front>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    let of_mirror = path
        .strip_prefix("/v2/")
        .is_some_and(|rest| rest.starts_with(&format!("{MIRRORS}/")));
    if of_mirror && !reads && *request.method() != Method::DELETE {
        let message = format!(
            "E_REGISTRY_MIRROR: what is under {MIRRORS}/ comes from registries outside; push to another repository"
        );
        let (parts, body) = request.into_parts();
        return refuse(&parts.headers, body, Error::new(Code::Denied, message)).await;
    }
    let own = request.headers().get(header::HOST);
    let own = own.and_then(|host| host.to_str().ok());
    let Some(host) = namespace(request.uri().query()).filter(|ns| Some(ns.as_str()) != own) else {
        return next.run(request).await;
    };
    let (parts, body) = request.into_parts();
    let headers = parts.headers.clone();
    match front.answer(host.clone(), reads, parts).await {
        Ok(mut response) => {
            // It is one of the listed.
            if let Ok(host) = HeaderValue::from_str(&host) {
                response.headers_mut().insert(NAMESPACE, host);
            }
            response
        }
        Err(error) => refuse(&headers, body, error).await,
    }
}

impl Front {
    async fn answer(&self, host: String, reads: bool, mut parts: Parts) -> Result<Response, Error> {
        if !self.upstream.hosts.contains(&host) {
            let message = format!(
                "E_REGISTRY_UPSTREAM: this registry does not pull from {host:?}; allow it with --registry-upstream HOST"
            );
            return Err(Error::new(Code::NameUnknown, message));
        }
        let parsed = parse(parts.uri.path()).filter(|_| reads);
        let Some((repository, is_manifest, reference)) = parsed else {
            let message = "E_REGISTRY_UPSTREAM: only manifests and blobs can be read through ?ns=";
            return Err(Error::new(Code::Unsupported, message));
        };
        let mut repository = repository.to_string();
        if host == "docker.io" && !repository.contains('/') {
            repository = format!("library/{repository}");
        }
        let name =
            mirror(&host, &repository).map_err(|e| Error::new(Code::NameInvalid, e.to_string()))?;
        let wanted = Wanted {
            host,
            repository,
            is_manifest,
            reference: reference.replace("%3A", ":").replace("%3a", ":"),
        };
        let kind = if is_manifest { "manifests" } else { "blobs" };
        let path = format!("/v2/{name}/{kind}/{}", wanted.reference);
        parts.uri = path
            .parse::<Uri>()
            .map_err(|e| Error::new(Code::NameInvalid, e.to_string()))?;
        // The registry says first whether this caller may read it; whether it is here says it, too.
        let mut look = parts.clone();
        look.method = Method::HEAD;
        look.headers.remove(header::RANGE);
        look.headers.remove(header::IF_NONE_MATCH);
        let looked = self
            .store
            .run(Request::from_parts(look, Body::empty()))
            .await;
        let here = match looked.status() {
            StatusCode::OK => true,
            StatusCode::NOT_FOUND => false,
            // Asked again as it was asked: the answer to a HEAD has no body that says why.
            _ => {
                let refused = Request::from_parts(parts, Body::empty());
                return Ok(self.store.run(refused).await);
            }
        };
        let is_tag = is_manifest && !wanted.reference.contains(':');
        let stale = match (is_tag, here) {
            (true, _) => self.tag(&name, &wanted, here).await,
            (false, true) => Ok(None),
            (false, false) => self.content(&name, &wanted).await,
        };
        let stale = stale.map_err(|failure| failure.response(is_manifest))?;
        let mut response = self
            .store
            .run(Request::from_parts(parts, Body::empty()))
            .await;
        if let Some(why) = stale {
            let text: String = why
                .chars()
                .filter(|c| matches!(c, ' '..='~') && *c != '"')
                .collect();
            let text = format!("299 - \"what is served may be old: {:.400}\"", text);
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        Ok(response)
    }

    /// Brings a manifest or a blob here by its digest.
    async fn content(&self, name: &Name, wanted: &Wanted) -> Result<Option<String>, Failure> {
        let digest: Digest = wanted.reference.parse().map_err(|_| Failure::NotFound)?;
        let (upstream, store) = (self.upstream.clone(), self.store.clone());
        let (name, wanted) = (name.clone(), wanted.clone());
        let of = wanted.clone();
        let work = async move {
            if of.is_manifest {
                let bytes = upstream.remotes.manifest(&of).await?;
                return store.put_manifest(&name, &of.reference, bytes).await;
            }
            let bytes = upstream.remotes.blob(&of, &digest).await?;
            store.put_blob(&name, &digest, bytes).await?;
            tracing::info!(host = of.host, repository = of.repository, %digest, "a blob was fetched from a registry outside");
            Ok(())
        };
        self.upstream.once(&wanted, work).await.map(|()| None)
    }

    /// Sees to it that a tag means what it means at the upstream; answers why it may not.
    async fn tag(
        &self,
        name: &Name,
        wanted: &Wanted,
        here: bool,
    ) -> Result<Option<String>, Failure> {
        if let Some(why) = self.upstream.believed(wanted).filter(|_| here) {
            return Ok(why);
        }
        let (upstream, store) = (self.upstream.clone(), self.store.clone());
        let (name, of) = (name.clone(), wanted.clone());
        let work = async move {
            let there = match upstream.remotes.digest(&of).await {
                Err(Failure::NotFound) => {
                    store.delete_tag(&name, &of.reference).await?;
                    return Err(Failure::NotFound);
                }
                there => there?,
            };
            if store.digest(&name, &of.reference).await?.as_deref() != Some(&*there) {
                // By digest: what was looked at is what is taken, whatever the tag means by now.
                let mut exact = of.clone();
                exact.reference = there;
                let bytes = upstream.remotes.manifest(&exact).await?;
                store.put_manifest(&name, &of.reference, bytes).await?;
            }
            upstream.believe(&of, FRESH, None);
            Ok(())
        };
        match self.upstream.once(wanted, work).await {
            Ok(()) => Ok(None),
            Err(Failure::NotFound) => Err(Failure::NotFound),
            Err(failure) if here => {
                tracing::warn!(host = wanted.host, repository = wanted.repository, %failure, "a registry outside does not answer; what is here is served");
                let why = Some(failure.to_string());
                self.upstream.believe(wanted, PAUSE, why.clone());
                Ok(why)
            }
            Err(failure) => Err(failure),
        }
    }
}
