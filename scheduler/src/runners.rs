//! Log streams from runners: HTTPS with this member's certificate, and the runner's certificate checked against the
//! node's name, so that the node asked is the node that answers.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use coracle_api::ApiError;
use coracle_server::{LogRequest, LogStream, Runners};
use coracle_state::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Time to connect and shake hands: a runner is on the same network, or gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until a runner begins its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an error answer that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// The client.
pub(crate) struct RunnerClient {
    /// Replaced when this member's certificate is renewed.
    pub tls: ArcSwap<ClientConfig>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl RunnerClient {
    async fn open(&self, request: LogRequest) -> Result<LogStream, ApiError> {
        let gone = |why: &dyn std::fmt::Display| {
            let message = format!(
                "E_RUNNER: node {} does not answer at {}: {why}; see `coracle get nodes`",
                request.node, request.address
            );
            ApiError::new(502, "BadGateway", message)
        };
        let mut sender = match tokio::time::timeout(CONNECT_TIMEOUT, self.connect(&request)).await {
            Ok(connected) => connected.map_err(|e| gone(&e))?,
            Err(_) => return Err(gone(&"no connection within 5 s")),
        };
        let ask = Request::get(path(&request))
            .header(header::HOST, &request.address)
            .body(Empty::<Bytes>::new())
            .map_err(|e| ApiError::bad_request(format!("the log request is not valid: {e}")))?;
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(ask)).await {
            Ok(answer) => answer.map_err(|e| gone(&e))?,
            Err(_) => return Err(gone(&"no answer within 15 s")),
        };
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX)
                .collect()
                .await
                .map_err(|e| gone(&e))?
                .to_bytes();
            return Err(refused(status, &body));
        }
        let node = request.node.clone();
        let broken = move |e: hyper::Error| {
            ApiError::new(
                502,
                "BadGateway",
                format!("E_RUNNER: the log of node {node} broke off: {e}"),
            )
        };
        let frames = BodyStream::new(answer.into_body())
            .try_filter_map(|frame| async { Ok(frame.into_data().ok()) });
        // The sender lives as long as the stream: dropping it would end the connection.
        let stream = frames.map_err(broken).map(move |item| {
            let _ = &sender;
            item
        });
        Ok(Box::pin(stream))
    }

    async fn connect(
        &self,
        request: &LogRequest,
    ) -> Result<hyper::client::conn::http1::SendRequest<Empty<Bytes>>, Failure> {
        let tcp = TcpStream::connect(&request.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(request.node.clone())?;
        let tls = TlsConnector::from(self.tls.load_full())
            .connect(name, tcp)
            .await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(async move {
            // The stream's reader sees the same error.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a log connection ended early");
            }
        });
        Ok(sender)
    }
}

/// A runner's refusal, in its own words if it sent a Status.
fn refused(status: StatusCode, body: &[u8]) -> ApiError {
    let text = String::from_utf8_lossy(body);
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|v| Some(v["message"].as_str()?.to_string()))
        .unwrap_or_else(|| text.trim().to_string());
    let reason = match status.as_u16() {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        _ => "InternalError",
    };
    // What a runner forbids this server is this server's trouble, not the user's.
    let code = if matches!(status.as_u16(), 400 | 404) {
        status.as_u16()
    } else {
        502
    };
    ApiError::new(
        code,
        reason,
        if message.is_empty() {
            format!("the runner answered {status}")
        } else {
            message
        },
    )
}

/// Path and query. Names are DNS names and times RFC 3339 in UTC: nothing to escape.
fn path(r: &LogRequest) -> String {
    let mut path = format!(
        "/logs/{}/{}/{}?follow={}&previous={}&timestamps={}",
        r.namespace, r.pod, r.container, r.follow, r.previous, r.timestamps
    );
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing into a String does not fail.
            let _ = write!(path, "&{name}={value}");
        }
    };
    add("tailLines", r.tail_lines.map(|n| n.to_string()));
    add("sinceSeconds", r.since_seconds.map(|n| n.to_string()));
    add("sinceTime", r.since_time.map(|t| t.to_string()));
    add("limitBytes", r.limit_bytes.map(|n| n.to_string()));
    path
}

impl Runners for RunnerClient {
    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<LogStream, ApiError>> {
        Box::pin(self.open(request))
    }
}

/// A client with this configuration.
pub(crate) fn client(tls: ClientConfig) -> Arc<RunnerClient> {
    Arc::new(RunnerClient {
        tls: ArcSwap::from_pointee(tls),
    })
}
