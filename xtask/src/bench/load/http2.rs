//! One HTTP/2 connection over TLS. gRPC and our API are both plain HTTP/2, so both sides share this code to the byte.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Window of one stream: a watch must never wait for the load generator's acknowledgement.
const STREAM_WINDOW: u32 = 1 << 20;
/// Window of one connection.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Where a member listens, and whom to trust.
#[derive(Clone)]
pub struct Endpoint {
    /// Address of the client API.
    pub address: SocketAddr,
    /// CA and client certificate.
    pub tls: Arc<ClientConfig>,
}

/// TLS of a client: this CA, this client certificate (PEM), `h2`, and one cipher suite, so that neither side's
/// preference decides the price of a byte.
pub fn client_tls(ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Arc<ClientConfig>> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut roots = RootCertStore::empty();
    for c in CertificateDer::pem_slice_iter(ca) {
        roots.add(c?)?;
    }
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>()?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A connection; clones share it. It closes when the last clone and stream are gone.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    open: Arc<AtomicBool>,
}

/// A whole answer.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
    /// Trailers, if any (gRPC says there whether it worked).
    pub trailers: Option<HeaderMap>,
}

impl Connection {
    /// Connects and shakes hands, all within `limit`.
    pub async fn open(endpoint: &Endpoint, limit: Duration) -> Result<Self> {
        tokio::time::timeout(limit, Self::handshake(endpoint))
            .await
            .with_context(|| format!("{}: no connection in time", endpoint.address))?
    }

    async fn handshake(endpoint: &Endpoint) -> Result<Self> {
        let tcp = TcpStream::connect(endpoint.address)
            .await
            .with_context(|| endpoint.address.to_string())?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(endpoint.address.ip().into());
        let tls = TlsConnector::from(endpoint.tls.clone())
            .connect(name, tcp)
            .await
            .with_context(|| format!("{}: TLS", endpoint.address))?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(tls)
            .await?;
        let open = Arc::new(AtomicBool::new(true));
        let closed = open.clone();
        tokio::spawn(async move {
            // How it ended is told to whoever waits on one of its streams.
            let _ = connection.await;
            closed.store(false, Ordering::Release);
        });
        Ok(Self { sender, open })
    }

    /// Whether it can still carry requests.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Sends a request with a whole body and waits for the whole answer.
    pub async fn call(&mut self, request: Request<()>, body: Bytes) -> Result<Answer> {
        poll_fn(|cx| self.sender.poll_ready(cx)).await?;
        let empty = body.is_empty();
        let (answer, mut stream) = self.sender.send_request(request, empty)?;
        if !empty {
            stream.send_data(body, true)?;
        }
        let (head, mut incoming) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = incoming.data().await {
            let chunk = chunk?;
            incoming.flow_control().release_capacity(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        let trailers = incoming.trailers().await?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            trailers,
        })
    }

    /// Opens a stream that stays: what is sent, and what comes once the server answers 200.
    pub async fn stream(
        &mut self,
        request: Request<()>,
        first: Vec<Bytes>,
        half_close: bool,
    ) -> Result<(SendStream<Bytes>, RecvStream)> {
        poll_fn(|cx| self.sender.poll_ready(cx)).await?;
        let (answer, mut stream) = self
            .sender
            .send_request(request, first.is_empty() && half_close)?;
        let last = first.len();
        for (i, message) in first.into_iter().enumerate() {
            stream.send_data(message, half_close && i + 1 == last)?;
        }
        let (head, incoming) = answer.await?.into_parts();
        ensure!(
            head.status == StatusCode::OK,
            "a stream was answered with {}",
            head.status
        );
        Ok((stream, incoming))
    }
}
