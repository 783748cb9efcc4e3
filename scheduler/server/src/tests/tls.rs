//! The listener with real sockets: identity from certificates, both HTTP versions, shutdown.

use std::net::SocketAddr;

use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;

pub struct Authority {
    pub der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn issue(
        &self,
        user: &str,
        group: &str,
        names: &[&str],
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|n| n.to_string()).collect::<Vec<_>>())
                .unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        Arc::new(roots)
    }
}

pub struct Listener {
    pub address: SocketAddr,
    pub authority: Authority,
    pub shutdown: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

pub async fn listen(server: &Server) -> Listener {
    let authority = Authority::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        authority.roots(),
        provider.clone(),
    )
    .allow_unauthenticated()
    .build()
    .unwrap();
    let (chain, key) = authority.issue("api", "x", &["localhost", "127.0.0.1"]);
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(crate::serve(
        listener,
        tls,
        server.router.clone(),
        shutdown.clone(),
    ));
    Listener {
        address,
        authority,
        shutdown,
        served,
    }
}

impl Listener {
    async fn get(
        &self,
        who: Option<(&str, &str)>,
        h2: bool,
        path: &str,
    ) -> http::Response<hyper::body::Incoming> {
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(self.authority.roots());
        let mut config = match who {
            Some((user, group)) => {
                let (chain, key) = self.authority.issue(user, group, &[]);
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![if h2 {
            b"h2".to_vec()
        } else {
            b"http/1.1".to_vec()
        }];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").unwrap(), tcp)
            .await
            .unwrap();
        let request = http::Request::builder()
            .uri(format!("https://localhost{path}"))
            .header("host", "localhost")
            .body(Full::<Bytes>::default())
            .unwrap();
        if h2 {
            let (mut send, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            send.send_request(request).await.unwrap()
        } else {
            let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
                .await
                .unwrap();
            tokio::spawn(connection);
            let mut request = request;
            *request.uri_mut() = path.parse().unwrap();
            send.send_request(request).await.unwrap()
        }
    }
}

async fn json_of(response: http::Response<hyper::body::Incoming>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn certificates_are_identities_on_both_protocols() {
    let s = Server::new().await;
    let l = listen(&s).await;
    for h2 in [false, true] {
        let response = l
            .get(
                Some(("coracle-admin", "system:masters")),
                h2,
                "/api/v1/namespaces/default",
            )
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(json_of(response).await["metadata"]["name"], "default");
        let response = l.get(None, h2, "/api/v1/namespaces").await;
        assert_eq!(response.status(), 401);
        assert_eq!(json_of(response).await["reason"], "Unauthorized");
        assert_eq!(l.get(None, h2, "/version").await.status(), 200);
        assert_eq!(
            l.get(Some(("x", "people")), h2, "/api/v1/namespaces")
                .await
                .status(),
            403
        );
    }
    l.shutdown.cancel();
    l.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_ends_watches_with_a_bookmark() {
    let s = Server::new().await;
    let l = listen(&s).await;
    let path = "/api/v1/configmaps?watch=true&allowWatchBookmarks=true&resourceVersion=";
    let watch = l
        .get(
            Some(("coracle-admin", "system:masters")),
            true,
            &format!("{path}{}", s.revision()),
        )
        .await;
    assert_eq!(watch.status(), 200);
    l.shutdown.cancel();
    let text = tokio::time::timeout(Duration::from_secs(10), watch.into_body().collect())
        .await
        .expect("the watch ends")
        .unwrap()
        .to_bytes();
    let frame: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(frame["type"], "BOOKMARK");
    tokio::time::timeout(Duration::from_secs(10), l.served)
        .await
        .expect("the listener ends")
        .unwrap()
        .unwrap();
    assert!(
        TcpStream::connect(l.address).await.is_err(),
        "nobody listens any more"
    );
}
