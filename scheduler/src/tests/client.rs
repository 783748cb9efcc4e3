//! A small HTTP client: one connection per request, TLS by the cluster's roots.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{NodeIdentity, Scheduler};

/// A client of one server.
#[derive(Clone)]
pub struct Client {
    host: String,
    tls: Option<Arc<ClientConfig>>,
    authorization: Option<String>,
}

fn roots(pem: &str) -> RootCertStore {
    let mut store = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        store.add(der.unwrap()).unwrap();
    }
    store
}

impl Client {
    /// Without a certificate.
    pub fn anonymous(s: &Scheduler) -> Self {
        Self::with(s.api_url(), &s.ca_pem(), None)
    }

    /// With the kubeconfig's certificate.
    pub fn admin(s: &Scheduler) -> Self {
        let text = std::fs::read_to_string(s.kubeconfig_path()).unwrap();
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|l| l.trim().strip_prefix(&format!("{name}: ")))
                .unwrap();
            line.to_string()
        };
        let pem = |name: &str| String::from_utf8(STANDARD.decode(field(name)).unwrap()).unwrap();
        let identity = NodeIdentity {
            certificate: pem("client-certificate-data"),
            key: pem("client-key-data"),
            ca: pem("certificate-authority-data"),
        };
        Self::with(&field("server"), &identity.ca.clone(), Some(&identity))
    }

    /// With a node's certificate.
    pub fn node(s: &Scheduler, identity: &NodeIdentity) -> Self {
        Self::with(s.api_url(), &identity.ca, Some(identity))
    }

    /// Over plain HTTP.
    pub fn plain(url: &str) -> Self {
        Self {
            host: url.strip_prefix("http://").unwrap().into(),
            tls: None,
            authorization: None,
        }
    }

    /// The same, with this in `Authorization`.
    pub fn saying(&self, authorization: &str) -> Self {
        Self {
            authorization: Some(authorization.into()),
            ..self.clone()
        }
    }

    /// For any server, roots and certificate.
    pub fn with(url: &str, ca: &str, identity: Option<&NodeIdentity>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = builder.with_root_certificates(roots(ca));
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(i) => {
                let chain = CertificateDer::pem_slice_iter(i.certificate.as_bytes())
                    .map(Result::unwrap)
                    .collect();
                builder
                    .with_client_auth_cert(
                        chain,
                        PrivateKeyDer::from_pem_slice(i.key.as_bytes()).unwrap(),
                    )
                    .unwrap()
            }
        };
        Self {
            host: url.strip_prefix("https://").unwrap().into(),
            tls: Some(Arc::new(config)),
            authorization: None,
        }
    }

    /// One request; the answer's bytes.
    pub async fn bytes(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<(StatusCode, http::HeaderMap, Bytes), Box<dyn std::error::Error>> {
        let tcp = TcpStream::connect(&self.host).await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, kind)
            .header(header::CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body))?;
        let answer = match &self.tls {
            None => {
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
                tokio::spawn(connection);
                sender.send_request(request).await?
            }
            Some(tls) => {
                let tls = TlsConnector::from(tls.clone())
                    .connect(ServerName::try_from("localhost")?, tcp)
                    .await?;
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
                tokio::spawn(connection);
                sender.send_request(request).await?
            }
        };
        let (parts, body) = answer.into_parts();
        Ok((
            parts.status,
            parts.headers,
            body.collect().await?.to_bytes(),
        ))
    }

    /// One request with a JSON body; the answer as JSON.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let bytes = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let (status, _, bytes) = self.bytes(method, path, kind, bytes).await.unwrap();
        (
            status,
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into())),
        )
    }

    /// A GET.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, &Value::Null).await
    }

    /// A POST that must succeed.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.send(Method::POST, path, body).await;
        assert!(status.is_success(), "POST {path}: {status} {answer}");
        answer
    }
}
