//! The API server as this node uses it: a few verbs on JSON, over one `kube` client with the node's certificate.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::config::RunnerConfig;
use crate::tls;

/// Time for a request that is no stream. Writes go through the log, so a slow disk counts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer read whole: a list of 10,000 pods has about 50 MB.
const ANSWER_BYTES_MAX: usize = 512 << 20;
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
}

impl Failure {
    /// The HTTP code, 0 if there was no answer.
    pub fn code(&self) -> u16 {
        match self {
            Failure::Status { code, .. } => *code,
            Failure::Transport(_) => 0,
        }
    }
}

/// A client of the API server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
}

impl Api {
    /// A client with the node's identity; connects at the first request.
    pub fn new(config: &RunnerConfig) -> Result<Self, String> {
        let url = config
            .api_url
            .parse()
            .map_err(|e| format!("{:?} is not a URL: {e}", config.api_url))?;
        let mut settings = kube::Config::new(url);
        let roots = tls::certificates(&config.ca_pem)?;
        settings.root_cert = Some(roots.iter().map(|c| c.to_vec()).collect());
        settings.auth_info = serde_json::from_value(json!({
            "client-certificate-data": STANDARD.encode(&config.cert_pem),
            "client-key-data": STANDARD.encode(&config.key_pem),
        }))
        .map_err(|e| e.to_string())?;
        // Each caller has its own rule of what to repeat and when.
        settings.default_retry = false;
        kube::Client::try_from(settings)
            .map(|client| Self { client })
            .map_err(|e| e.to_string())
    }

    /// Sends a request and returns the answer if its status is a success.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let sent = tokio::time::timeout(REQUEST_TIMEOUT, self.client.send(request)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(e)) => return Err(Failure::Transport(chain(&e))),
            Err(_) => {
                return Err(Failure::Transport(format!(
                    "no answer in {} s",
                    REQUEST_TIMEOUT.as_secs()
                )));
            }
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

    async fn json(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json")
            .body(Body::from(body))
            .map_err(|e| Failure::Transport(e.to_string()))?;
        let answer = collect(self.send(request).await?.into_body(), ANSWER_BYTES_MAX)
            .await
            .map_err(Failure::Transport)?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer)
            .map_err(|e| Failure::Transport(format!("the answer is not JSON: {e}")))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::GET, path, "application/json", None).await
    }

    /// POST.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        self.json(Method::POST, path, "application/json", Some(object))
            .await
    }

    /// PUT.
    pub async fn put(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        self.json(Method::PUT, path, "application/json", Some(object))
            .await
    }

    /// PATCH with a JSON merge patch.
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value, Failure> {
        self.json(Method::PATCH, path, MERGE, Some(patch)).await
    }

    /// DELETE with options.
    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value, Failure> {
        self.json(Method::DELETE, path, "application/json", Some(options))
            .await
    }

    /// GET whose answer streams.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Response<Body>, Failure> {
        let request = Request::builder()
            .uri(path)
            .header(header::ACCEPT, accept)
            .body(Body::empty());
        self.send(request.map_err(|e| Failure::Transport(e.to_string()))?)
            .await
    }
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
