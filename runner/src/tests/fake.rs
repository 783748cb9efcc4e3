//! A cluster of the test: roots, certificates, and API servers that can die, fall silent and refuse.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::endpoints::Endpoints;
use crate::join::Identity;
use crate::live::Live;
use crate::tls::{certificates, provider};

/// A root of the test.
pub struct Root {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(),
            pem,
        }
    }

    pub fn hash(&self) -> String {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(&certificates(&self.pem).unwrap()[0]))
    }

    /// A certificate that lives `life` from now on.
    pub fn issue(
        &self,
        user: &str,
        names: &[&str],
        key: &impl PublicKeyData,
        life: Duration,
    ) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let now = Duration::from_secs(coracle_api::Timestamp::now().as_second().unsigned_abs());
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now;
        params.not_after = epoch + now + life;
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    pub fn node(&self, life: Duration, trusted: &[&Root]) -> Identity {
        self.node_named("n1", life, trusted)
    }

    pub fn node_named(&self, name: &str, life: Duration, trusted: &[&Root]) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity {
            ca_pem: trusted.iter().map(|r| r.pem.as_str()).collect(),
            cert_pem: self.issue(&format!("system:node:{name}"), &[name], &key, life),
            key_pem: key.serialize_pem(),
        }
    }
}

/// A request as a handler sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub range: Option<String>,
    pub body: Value,
    /// SHA-256 of the client's certificate.
    pub client: Option<String>,
}

pub type Answer = Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, String>>>>;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Handler = Arc<dyn Fn(Asked) -> Answering + Send + Sync>;

/// An answer that streams; `Err` breaks it off.
pub fn streaming(status: u16, chunks: BoxStream<'static, Result<Bytes, String>>) -> Answer {
    let mut answer = Response::new(StreamBody::new(chunks.map(|c| c.map(Frame::data)).boxed()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

/// A whole answer.
pub fn text(status: u16, text: impl Into<Bytes>) -> Answer {
    streaming(status, stream::iter([Ok(text.into())]).boxed())
}

/// An API server. Dropping it is its death.
pub struct Member {
    pub addr: SocketAddr,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    /// Accepts and reads nothing: a stopped process.
    stopped: Arc<AtomicBool>,
    freeze: CancellationToken,
    stop: CancellationToken,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Member {
    /// Serves under `root`, trusting `trusted`.
    pub async fn start<F>(
        root: &Root,
        trusted: &[&Root],
        handler: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |asked| Box::pin(handler(asked)));
        let key = KeyPair::generate().unwrap();
        let names = ["kubernetes", "localhost"];
        let certificate = root.issue("system:member:m", &names, &key, Duration::from_secs(3_600));
        let mut store = rustls::RootCertStore::empty();
        for root in trusted {
            store
                .add(certificates(&root.pem).unwrap()[0].clone())
                .unwrap();
        }
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(store),
            provider(),
        )
        .allow_unauthenticated()
        .build()
        .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = Self {
            addr: listener.local_addr().unwrap(),
            asked: Arc::default(),
            stopped: Arc::default(),
            freeze: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        let (stop, freeze, stopped, asked) = (
            member.stop.clone(),
            member.freeze.clone(),
            member.stopped.clone(),
            member.asked.clone(),
        );
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let tcp = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                if stopped.load(Ordering::SeqCst) {
                    held.push(tcp);
                    continue;
                }
                let serving = serve(
                    tcp,
                    acceptor.clone(),
                    handler.clone(),
                    asked.clone(),
                    freeze.clone(),
                );
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = serving => {}
                    }
                });
            }
        });
        member
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// From now on nothing is read and nothing answered; connections stay open.
    pub fn freeze(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.freeze.cancel();
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|a| a.path.starts_with(path)).count()
    }
}

async fn serve(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    handler: Handler,
    asked: Arc<Mutex<Vec<Asked>>>,
    freeze: CancellationToken,
) {
    let Ok(tls) = acceptor.accept(tcp).await else {
        return;
    };
    let client = tls.get_ref().1.peer_certificates().map(|c| {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(&c[0]))
    });
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let (handler, asked, client) = (handler.clone(), asked.clone(), client.clone());
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            let range = parts.headers.get("range");
            let one = Asked {
                method: parts.method,
                path: parts.uri.path_and_query().unwrap().to_string(),
                range: range.map(|r| r.to_str().unwrap().to_string()),
                body: serde_json::from_slice(&bytes).unwrap_or_default(),
                client,
            };
            asked.lock().unwrap().push(one.clone());
            Ok::<_, std::convert::Infallible>(handler(one).await)
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        // As the real one.
        .max_concurrent_streams(1_000)
        .serve_connection(TokioIo::new(tls), service);
    tokio::pin!(connection);
    tokio::select! {
        done = connection.as_mut() => drop(done),
        // Held, and not polled any more.
        () = freeze.cancelled() => std::future::pending().await,
    }
}

/// A client of these members.
pub fn api(
    dir: &std::path::Path,
    members: &[&Member],
    identity: Identity,
) -> (Api, Arc<Endpoints>, Arc<Live>) {
    let urls: Vec<String> = members.iter().map(|m| m.url()).collect();
    let endpoints = Endpoints::open(&urls, &[], &dir.join("endpoints.json")).unwrap();
    let live = Live::new(identity).unwrap();
    let api = Api::new(endpoints.clone(), &live).unwrap();
    (api, endpoints, live)
}

/// Waits until something holds; the time is for a busy machine.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
