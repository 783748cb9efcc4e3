//! One HTTPS request to another member's API, for what happens before raft's connections are there: joining.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer taken: certificates and a list of members.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answered {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The `message` of a refusal, or the status.
    pub fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .map_or_else(|| format!("it answered {}", self.status), str::to_string)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// Nothing (that speaks TLS and HTTP) answers there.
    Unreachable(String),
    /// Its certificate is not good.
    Certificate(rustls::CertificateError),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) => f.write_str(why),
            Self::Certificate(why) => write!(f, "its certificate is not accepted ({why})"),
        }
    }
}

/// `HOST:PORT` of a URL or an address.
pub(crate) fn authority(url: &str) -> &str {
    url.trim_start_matches("https://").trim_end_matches('/')
}

fn unreachable(why: impl std::fmt::Display) -> AskError {
    AskError::Unreachable(why.to_string())
}

/// Asks `addr` (`HOST:PORT`) on a connection of its own.
pub(crate) async fn ask(
    addr: &str,
    tls: Arc<ClientConfig>,
    method: Method,
    path: &str,
    body: Option<&Value>,
    limit: Duration,
) -> Result<Answered, AskError> {
    let work = async {
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string())
            .map_err(|_| unreachable("it is not HOST:PORT"))?;
        let tcp = TcpStream::connect(addr).await.map_err(unreachable)?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await;
        let stream = stream.map_err(|e| {
            match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(why)) => AskError::Certificate(why.clone()),
                _ => unreachable(e),
            }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(unreachable)?;
        // What ends the connection early is seen by the request, too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, addr)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(
                body.map(Value::to_string).unwrap_or_default(),
            )))
            .map_err(unreachable)?;
        let (parts, body) = sender
            .send_request(request)
            .await
            .map_err(unreachable)?
            .into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        Ok(Answered {
            status: parts.status,
            headers: parts.headers,
            body: body.map_err(unreachable)?.to_bytes(),
        })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(answered) => answered,
        Err(_) => Err(unreachable(format!(
            "no answer within {} s",
            limit.as_secs()
        ))),
    }
}
