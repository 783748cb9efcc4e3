//! Requests to servers that are not ours: a component's own calls to the world, and hand-written EndpointSlices.
//!
//! Whether a component may call a name at all is its runner's policy and decided before; whether the *address* that name
//! resolves to may be connected to is decided here, after resolving, so that no DNS answer leads into the node itself.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::{self, Body, BoxError};
use crate::config::AddressPolicy;
use crate::failure::Failure;
use crate::peers::chain;

/// Idle connections kept per server and core.
const IDLE_PER_HOST_MAX: usize = 64;
/// How long they are kept; below the 60 s after which most servers close theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A plain or a TLS connection.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

struct Stream(Box<dyn Duplex>);

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Why a connection was not made; the message is for the caller.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("{host} cannot be resolved: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{0} resolves to no address that may be connected to")]
    Forbidden(String),
    #[error("{host} does not take connections: {source}")]
    Connect { host: String, source: io::Error },
    #[error("{host} did not take the connection within {ms} ms")]
    Slow { host: String, ms: u128 },
    #[error("the certificate of {host} was not accepted: {source}")]
    Tls { host: String, source: io::Error },
    #[error("https needs the system's root certificates: {0}")]
    NoRoots(String),
    #[error("{0} is not a URL of a server")]
    BadUrl(String),
}

type Sender = dyn Fn(Request<Body>) -> hyper_util::client::legacy::ResponseFuture + Send + Sync;

/// A pool of connections; one per core, so that no request waits for another thread.
pub(crate) struct Outside {
    /// To wherever a name resolves, under the address policy.
    named: Box<Sender>,
    /// To addresses an operator wrote down.
    direct: Box<Sender>,
}

impl Outside {
    pub fn new(policy: AddressPolicy, connect_timeout: Duration) -> Self {
        Self {
            named: client(policy, connect_timeout),
            direct: client(Arc::new(|_| true), connect_timeout),
        }
    }

    /// Sends a request to the host of its absolute URI.
    ///
    /// # Errors
    /// `upstream_connect_failed` if nothing was sent, `upstream_reset` otherwise.
    pub async fn send(&self, mut req: Request<Body>) -> Result<Response<Body>, Failure> {
        *req.version_mut() = Version::HTTP_11;
        answer((self.named)(req).await)
    }

    /// Sends a request in origin form to an address; its Host header stays.
    pub async fn send_to(
        &self,
        addr: SocketAddr,
        mut req: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let mut uri = req.uri().clone().into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Authority::try_from(addr.to_string()).ok();
        *req.uri_mut() = Uri::from_parts(uri).map_err(|e| Failure::bad_request(e.to_string()))?;
        *req.version_mut() = Version::HTTP_11;
        answer((self.direct)(req).await)
    }
}

fn answer(
    result: Result<Response<hyper::body::Incoming>, hyper_util::client::legacy::Error>,
) -> Result<Response<Body>, Failure> {
    match result {
        Ok(response) => Ok(response.map(body::boxed)),
        Err(error) if error.is_connect() => {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), chain);
            Err(
                Failure::new(StatusCode::BAD_GATEWAY, "upstream_connect_failed", cause)
                    .fix("check the name, the port, and whether the server is up"),
            )
        }
        Err(error) => {
            let message = format!("the server broke off: {}", chain(&error));
            Err(Failure::new(
                StatusCode::BAD_GATEWAY,
                "upstream_reset",
                message,
            ))
        }
    }
}

fn client(policy: AddressPolicy, connect_timeout: Duration) -> Box<Sender> {
    let connector = tower::service_fn(move |uri: Uri| {
        let policy = policy.clone();
        // Boxed, because the client wants a future it can move.
        Box::pin(async move {
            connect(uri, &policy, connect_timeout)
                .await
                .map(TokioIo::new)
                .map_err(BoxError::from)
        })
    });
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .build::<_, Body>(connector);
    Box::new(move |req| client.request(req))
}

async fn connect(
    uri: Uri,
    policy: &AddressPolicy,
    timeout: Duration,
) -> Result<Stream, ConnectError> {
    let bad = || ConnectError::BadUrl(uri.to_string());
    let host = uri
        .host()
        .ok_or_else(bad)?
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_string();
    let is_tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(bad()),
    };
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let work = async {
        let found = tokio::net::lookup_host((host.as_str(), port))
            .await
            .map_err(|source| ConnectError::Resolve {
                host: host.clone(),
                source,
            })?;
        let mut last = ConnectError::Forbidden(host.clone());
        for addr in found.filter(|a| policy(a.ip())) {
            match TcpStream::connect(addr).await {
                Ok(stream) => return finish(stream, is_tls, &host).await,
                Err(source) => {
                    last = ConnectError::Connect {
                        host: host.clone(),
                        source,
                    }
                }
            }
        }
        Err(last)
    };
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or_else(|_| {
            Err(ConnectError::Slow {
                host: host.clone(),
                ms: timeout.as_millis(),
            })
        })
}

async fn finish(stream: TcpStream, is_tls: bool, host: &str) -> Result<Stream, ConnectError> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, host, "TCP_NODELAY was not set");
    }
    if !is_tls {
        return Ok(Stream(Box::new(stream)));
    }
    let name =
        ServerName::try_from(host.to_string()).map_err(|_| ConnectError::BadUrl(host.into()))?;
    let tls = tls()?
        .connect(name, stream)
        .await
        .map_err(|source| ConnectError::Tls {
            host: host.into(),
            source,
        })?;
    Ok(Stream(Box::new(tls)))
}

/// TLS with the system's roots, read at the first use.
fn tls() -> Result<TlsConnector, ConnectError> {
    static TLS: OnceLock<Result<TlsConnector, String>> = OnceLock::new();
    TLS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = rustls::RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(format!(
                "none were found; install the package ca-certificates ({})",
                errors.join("; ")
            ));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    })
    .clone()
    .map_err(ConnectError::NoRoots)
}
