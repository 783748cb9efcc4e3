//! The API as this node uses it: a few verbs on JSON, with the node's certificate, at whichever server answers.

mod client;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::sync::watch;

use crate::endpoints::Endpoints;
use crate::live::Live;
use crate::tls::BadTls;
use client::{Clients, Place};

/// Time for a request that is no stream. Writes go through the log, so a slow disk counts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer read whole: a list of 10,000 pods has about 50 MB.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// Between two departures from servers that say they cannot serve: at first, and at most. A cluster without a quorum has
/// no better server, and each departure begins every watch anew.
const LEAVE_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// JSON merge patch.
pub(crate) const MERGE: &str = "application/merge-patch+json";

/// Why a request had no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The API server said no.
    #[error("the API server answered {code} {reason}: {message}")]
    Status {
        code: u16,
        reason: String,
        message: String,
    },
    /// It could not be asked, or its answer broke off.
    #[error("the API server cannot be reached: {0}")]
    Transport(String),
    /// It was asked and said nothing.
    #[error("the API server did not answer in {0} s")]
    Silent(u64),
}

impl Failure {
    /// The HTTP code, 0 if there was no answer.
    pub fn code(&self) -> u16 {
        match self {
            Failure::Status { code, .. } => *code,
            Failure::Transport(_) | Failure::Silent(_) => 0,
        }
    }
}

/// A client of the API. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    clients: Clients,
    endpoints: Arc<Endpoints>,
    left: Mutex<Left>,
}

/// The last departure from a server that could not serve.
struct Left {
    at: Option<Instant>,
    pause: Duration,
}

/// An answer that is read as it comes.
pub(crate) struct Streaming {
    /// The bytes.
    pub body: Body,
    /// Whether they are the part that was asked for.
    pub part: bool,
    _place: Place,
}

impl Api {
    /// A client with the node's identity; connects at the first request.
    pub fn new(endpoints: Arc<Endpoints>, live: &Arc<Live>) -> Result<Self, BadTls> {
        let inner = Inner {
            clients: Clients::new(endpoints.clone(), live)?,
            endpoints,
            left: Mutex::new(Left {
                at: None,
                pause: LEAVE_EVERY.0,
            }),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// New connections from now on, with the identity in use by now.
    pub fn renew(&self) {
        self.inner.clients.renew();
    }

    /// Changes when streams have to begin anew, because another server is in use.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.inner.endpoints.moves()
    }

    /// Where the API is served.
    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.inner.endpoints
    }

    /// Sends a request and returns the answer if its status is a success.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let client = self.inner.clients.requests();
        let write = request.method() != Method::GET && request.uri().path().starts_with("/api");
        let sent = self.exchange(&client, request).await;
        match &sent {
            Err(Failure::Status { code: 503, .. } | Failure::Silent(_)) => self.doubt(),
            Ok(_) if write => self.left().pause = LEAVE_EVERY.0,
            _ => {}
        }
        sent
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Left> {
        self.inner
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A member without a quorum answers, but others may have one.
    fn doubt(&self) {
        let mut left = self.left();
        if left.at.is_some_and(|at| at.elapsed() < left.pause) {
            return;
        }
        if self.inner.endpoints.leave() {
            left.pause = match left.at {
                Some(_) => (left.pause * 2).min(LEAVE_EVERY.1),
                None => left.pause,
            };
            left.at = Some(Instant::now());
        }
    }

    async fn exchange(
        &self,
        client: &kube::Client,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let sent = tokio::time::timeout(REQUEST_TIMEOUT, client::send(client, request)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(e)) => return Err(Failure::Transport(e)),
            Err(_) => return Err(Failure::Silent(REQUEST_TIMEOUT.as_secs())),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = collect(response.into_body(), 64 << 10)
            .await
            .unwrap_or_default();
        let status: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_string();
        Err(Failure::Status {
            code,
            reason: text("reason"),
            message: text("message"),
        })
    }

    async fn whole(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json")
            .body(Body::from(body))
            .map_err(|e| Failure::Transport(e.to_string()))?;
        collect(self.send(request).await?.into_body(), ANSWER_BYTES_MAX)
            .await
            .map_err(Failure::Transport)
    }

    /// A GET changes nothing, so it is asked once more if the connection broke under it: the next one is to a member that
    /// answers.
    async fn read(&self, path: &str) -> Result<Bytes, Failure> {
        let once = || self.whole(Method::GET, path, "application/json", Vec::new());
        match once().await {
            Err(Failure::Transport(_)) => once().await,
            done => done,
        }
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        decoded(
            &self
                .whole(method, path, kind, body.to_string().into_bytes())
                .await?,
        )
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        decoded(&self.read(path).await?)
    }

    /// GET of a text.
    pub async fn text(&self, path: &str) -> Result<String, Failure> {
        String::from_utf8(self.read(path).await?.to_vec())
            .map_err(|_| Failure::Transport("the answer is no text".into()))
    }

    /// POST.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        self.json(Method::POST, path, "application/json", object)
            .await
    }

    /// PUT.
    pub async fn put(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        self.json(Method::PUT, path, "application/json", object)
            .await
    }

    /// PATCH with a JSON merge patch.
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value, Failure> {
        self.json(Method::PATCH, path, MERGE, patch).await
    }

    /// DELETE with options.
    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value, Failure> {
        self.json(Method::DELETE, path, "application/json", options)
            .await
    }

    /// GET whose answer streams.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Streaming, Failure> {
        self.stream_from(path, accept, 0).await
    }

    /// GET of the bytes from `start` on. [`Streaming::part`] says whether they are; else they are all bytes.
    pub async fn stream_from(
        &self,
        path: &str,
        accept: &str,
        start: u64,
    ) -> Result<Streaming, Failure> {
        let mut request = Request::builder().uri(path).header(header::ACCEPT, accept);
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let request = request
            .body(Body::empty())
            .map_err(|e| Failure::Transport(e.to_string()))?;
        let (client, place) = self.inner.clients.stream();
        let response = self.exchange(&client, request).await?;
        Ok(Streaming {
            part: response.status() == StatusCode::PARTIAL_CONTENT,
            body: response.into_body(),
            _place: place,
        })
    }
}

fn decoded(answer: &[u8]) -> Result<Value, Failure> {
    if answer.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(answer)
        .map_err(|e| Failure::Transport(format!("the answer is not JSON: {e}")))
}

/// Reads a body whole, up to a bound.
pub(crate) async fn collect(body: Body, max: usize) -> Result<Bytes, String> {
    let limited = http_body_util::Limited::new(body, max);
    match tokio::time::timeout(Duration::from_secs(60), limited.collect()).await {
        Ok(Ok(all)) => Ok(all.to_bytes()),
        Ok(Err(e)) => Err(format!("the answer broke off: {e}")),
        Err(_) => Err("the answer did not end in 60 s".into()),
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let next = e.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = e.source();
    }
    text
}
