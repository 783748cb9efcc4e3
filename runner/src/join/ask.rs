//! One request to a server that is not known yet, or known by one root only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::net::TcpStream;

use super::JoinError;
use crate::tls::provider;

/// Time for each request.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a connection: with several addresses the next one waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Largest answer taken: a certificate and a few roots.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Takes any certificate and remembers the chain. Used only to fetch public roots, which are then checked by hash.
#[derive(Debug)]
pub(super) struct Seen {
    chain: Mutex<Vec<CertificateDer<'static>>>,
    schemes: Vec<SignatureScheme>,
}

impl Seen {
    pub fn new() -> Self {
        let schemes = provider()
            .signature_verification_algorithms
            .supported_schemes();
        Self {
            chain: Mutex::default(),
            schemes,
        }
    }

    /// The chain that was shown.
    pub fn take(&self) -> Vec<CertificateDer<'static>> {
        std::mem::take(&mut self.chain.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        chain.extend(
            std::iter::once(leaf)
                .chain(more)
                .map(|c| c.clone().into_owned()),
        );
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// One request on a connection of its own.
pub(super) async fn ask(
    addr: &str,
    tls: rustls::ClientConfig,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Bytes), JoinError> {
    let unreachable = |why: String| JoinError::Unreachable {
        addr: addr.into(),
        why,
    };
    let work = async {
        let host = addr
            .rsplit_once(':')
            .map_or(addr, |(host, _)| host)
            .trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_string())
            .map_err(|_| unreachable("it is not HOST:PORT".into()))?;
        let tcp = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await {
            Ok(connected) => connected.map_err(|e| unreachable(e.to_string()))?,
            Err(_) => {
                let seconds = CONNECT_TIMEOUT.as_secs();
                return Err(unreachable(format!("no connection in {seconds} s")));
            }
        };
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
            .connect(name, tcp)
            .await;
        let stream = stream.map_err(|e| {
            match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(e)) if of_time(e) => JoinError::Clock {
                    addr: addr.into(),
                    now: coracle_api::Timestamp::now(),
                },
                Some(rustls::Error::InvalidCertificate(_)) => {
                    JoinError::WrongCluster { addr: addr.into() }
                }
                _ => unreachable(e.to_string()),
            }
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| unreachable(e.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, addr)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(
                body.map(Value::to_string).unwrap_or_default(),
            )))
            .map_err(|e| unreachable(e.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        Ok((
            status,
            body.map_err(|e| unreachable(e.to_string()))?.to_bytes(),
        ))
    };
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(unreachable(format!("no answer in {} s", TIMEOUT.as_secs()))))
}

/// Whether a certificate was refused because of its time.
fn of_time(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}
