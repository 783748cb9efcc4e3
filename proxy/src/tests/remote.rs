//! Hops between nodes: two proxies over mutual TLS on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::support::*;
use crate::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(
        &self,
        node: &str,
    ) -> (
        Vec<rustls_pki_types::CertificateDer<'static>>,
        PrivateKeyDer<'static>,
    ) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![node.to_string()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("system:node:{node}"));
        let cert = params.signed_by(&key, &self.0).unwrap();
        (
            vec![cert.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    fn client(&self, node: &str) -> PeerConfig {
        let (chain, key) = self.issue(node);
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(self.roots())
        .with_client_auth_cert(chain, key)
        .unwrap();
        PeerConfig::new(Arc::new(config))
    }

    fn server(&self, node: &str) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()),
            provider.clone(),
        )
        .build()
        .unwrap();
        let (chain, key) = self.issue(node);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What the runner does with its node-to-node listener.
async fn listen(proxy: Proxy, tls: TlsAcceptor, group: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (proxy, tls) = (proxy.clone(), tls.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |req| {
                    let peer = PeerIdentity {
                        name: "system:node:n1".into(),
                        groups: vec![group.into()],
                    };
                    let answer = proxy.serve_peer(req, peer);
                    async move { Ok::<_, std::convert::Infallible>(answer.await) }
                });
                drop(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reaches_a_replica_on_another_node() {
    let ca = Authority::new();
    let far = Arc::new(Node::default());
    far.put("u9", echo());
    let n2 = proxy(&far, |_| {});
    let addr = listen(n2.clone(), ca.server("n2"), NODES_GROUP).await;
    let n1 = proxy(&Arc::default(), |c| {
        c.peers = Some(ca.client("n1"));
        c.request_timeout = Some(PATIENCE);
    });
    let mut world = World::new("n1");
    world.0.set_node_address("n2", addr);
    n1.swap(world.service("web", &[("u9", "n2")]).table());
    let mut client = Client::new(n1.ingress_addr()).await;
    for i in 0..3 {
        client
            .send(&format!(
                "POST /p?q={i} HTTP/1.1\r\nhost: web.test\r\ncontent-length: 2\r\n\r\nhi"
            ))
            .await;
        let seen = client.answer().await.unwrap();
        assert_eq!(seen.status, 200, "{seen:?}");
        let request = seen.json();
        assert_eq!(request["uri"], format!("/p?q={i}"));
        assert_eq!(
            (request["body"].as_str(), request["port"].as_u64()),
            (Some("hi"), Some(8080))
        );
        assert_eq!(
            (
                request["headers"]["host"].as_str(),
                request["has_deadline"].as_bool()
            ),
            (Some("web.test"), Some(true))
        );
        assert_eq!(
            seen.header("x-request-id"),
            request["headers"]["x-request-id"].as_str()
        );
        let ours = request["headers"]
            .as_object()
            .unwrap()
            .keys()
            .any(|name| name.starts_with("coracle-"));
        assert!(!ours, "{request}");
    }
    assert!(
        metrics(&n2)
            .contains("coracle_proxy_requests_total{service=\"(from peers)\",code=\"200\"} 3")
    );
    n1.shutdown(PATIENCE).await;
    n2.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_or_a_dead_peer_is_tried_elsewhere() {
    let ca = Authority::new();
    // n2 knows no pod; n3's port is closed; u0 is here.
    let n2 = proxy(&Arc::default(), |_| {});
    let n2_addr = listen(n2.clone(), ca.server("n2"), NODES_GROUP).await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let here = Arc::new(Node::default());
    let n1 = proxy(&here, |c| c.peers = Some(ca.client("n1")));
    let mut world = World::new("n1");
    world.0.set_node_address("n2", n2_addr);
    world.0.set_node_address("n3", closed);
    world
        .service("gone", &[("u2", "n2")])
        .service("dead", &[("u3", "n3")]);
    world.service("both", &[("u2", "n2"), ("u3", "n3")]);
    world.service("stale", &[("u0", "n1"), ("u4", "n1")]);
    n1.swap(world.table());

    let gone = get(&n1, "gone.test", "/").await;
    assert_eq!(
        (gone.status, gone.json()["code"].as_str()),
        (503, Some("pod_unknown")),
        "{gone:?}"
    );
    let dead = get(&n1, "dead.test", "/").await;
    assert_eq!(
        (dead.status, dead.json()["code"].as_str()),
        (502, Some("upstream_connect_failed")),
        "{dead:?}"
    );

    // Two endpoints on this node, one of which has just gone: every request is answered, also one with a body.
    here.put("u4", echo());
    let mut client = Client::new(n1.ingress_addr()).await;
    for _ in 0..20 {
        client
            .send("POST / HTTP/1.1\r\nhost: stale.test\r\ncontent-length: 3\r\n\r\nabc")
            .await;
        let seen = client.answer().await.unwrap();
        assert_eq!(
            (seen.status, seen.json()["body"].as_str()),
            (200, Some("abc")),
            "{seen:?}"
        );
    }
    // Once n2 has its pod, requests drawn to the closed port of n3 end up there, bodies included: nothing was sent.
    let far = Arc::new(Node::default());
    far.put("u2", echo());
    let n2b = proxy(&far, |_| {});
    world.0.set_node_address(
        "n2",
        listen(n2b.clone(), ca.server("n2"), NODES_GROUP).await,
    );
    n1.swap(world.table());
    for _ in 0..20 {
        client
            .send("POST / HTTP/1.1\r\nhost: both.test\r\ncontent-length: 3\r\n\r\nxyz")
            .await;
        let seen = client.answer().await.unwrap();
        assert_eq!(
            (seen.status, seen.json()["body"].as_str()),
            (200, Some("xyz")),
            "{seen:?}"
        );
    }
    assert!(!metrics(&n1).contains("coracle_proxy_retries_total 0"));
    for p in [n1, n2, n2b] {
        p.shutdown(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_replica_on_a_peer_sends_the_request_elsewhere() {
    let ca = Authority::new();
    let far = Arc::new(Node::default());
    far.put(
        "u2",
        fake(|_, _, _| {
            Box::pin(async { Err(ReplicaError::refused("draining", "the replica is leaving")) })
        }),
    );
    far.put("u3", says("answered"));
    let n2 = proxy(&far, |_| {});
    let addr = listen(n2.clone(), ca.server("n2"), NODES_GROUP).await;
    let n1 = proxy(&Arc::default(), |c| c.peers = Some(ca.client("n1")));
    let mut world = World::new("n1");
    world.0.set_node_address("n2", addr);
    n1.swap(world.service("web", &[("u2", "n2"), ("u3", "n2")]).table());
    for _ in 0..20 {
        assert_eq!(get(&n1, "web.test", "/").await.body, "answered");
    }
    n1.shutdown(PATIENCE).await;
    n2.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_nonsense_are_refused_by_the_receiving_end() {
    let far = Arc::new(Node::default());
    far.put("u1", echo());
    let p = proxy(&far, |_| {});
    let request = |depth: &str, port: &str| {
        Request::builder()
            .uri("/x")
            .header("coracle-pod-uid", "u1")
            .header("coracle-port", port)
            .header("coracle-depth", depth)
            .header("coracle-authority", "web")
            .body(empty())
            .unwrap()
    };
    let node = PeerIdentity {
        name: "system:node:n1".into(),
        groups: vec![NODES_GROUP.into()],
    };
    for (peer, req, status) in [
        (
            PeerIdentity {
                name: "coracle-admin".into(),
                groups: vec!["system:masters".into()],
            },
            request("0", "80"),
            StatusCode::FORBIDDEN,
        ),
        (
            PeerIdentity::default(),
            request("0", "80"),
            StatusCode::FORBIDDEN,
        ),
        (node.clone(), request("x", "80"), StatusCode::BAD_REQUEST),
        (node.clone(), request("0", "99999"), StatusCode::BAD_REQUEST),
        (node.clone(), request("9", "80"), StatusCode::LOOP_DETECTED),
        (node.clone(), request("0", "80"), StatusCode::OK),
    ] {
        assert!(Proxy::is_from_peer(&req));
        let response = p.serve_peer(req, peer.clone()).await;
        assert_eq!(response.status(), status, "{peer:?}");
        assert!(!response.headers().contains_key("coracle-refused"));
    }
    p.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_a_strange_certificate_is_not_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let far = Arc::new(Node::default());
    far.put("u2", says("secret"));
    let n2 = proxy(&far, |_| {});
    let stranger = listen(n2.clone(), theirs.server("n2"), NODES_GROUP).await;
    // Right authority, wrong node.
    let other = listen(n2.clone(), ours.server("n3"), NODES_GROUP).await;
    let n1 = proxy(&Arc::default(), |c| {
        c.peers = Some(ours.client("n1"));
        c.connect_timeout = Duration::from_secs(5);
    });
    for addr in [stranger, other] {
        let mut world = World::new("n1");
        world.0.set_node_address("n2", addr);
        n1.swap(world.service("web", &[("u2", "n2")]).table());
        let seen = get(&n1, "web.test", "/").await;
        assert_eq!(
            (seen.status, seen.json()["code"].as_str()),
            (502, Some("upstream_connect_failed")),
            "{seen:?}"
        );
        assert!(
            seen.json()["message"]
                .as_str()
                .unwrap()
                .contains("certificate"),
            "{seen:?}"
        );
    }
    n1.shutdown(PATIENCE).await;
    n2.shutdown(PATIENCE).await;
}
