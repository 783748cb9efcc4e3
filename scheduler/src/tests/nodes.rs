//! Joining and talking to nodes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::Timestamp;
use coracle_server::{LogRequest, Runners};
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::client::Client;
use super::{config, scheduler};
use crate::pki::{Clients, Resolver, client_config, server_config};
use crate::{NodeIdentity, Role, Scheduler, start};

/// A key and a certificate request that asks for far too much.
fn greedy_request() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["kubernetes.default.svc".to_string()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:masters");
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, csr)
}

async fn join(s: &Scheduler, token: &str, name: &str, csr: &str) -> (StatusCode, Value) {
    Client::anonymous(s)
        .send(
            Method::POST,
            "/coracle/v1/join",
            &json!({"token": token, "name": name, "csr": csr}),
        )
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_joins_once_with_a_token_and_becomes_only_itself() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let made = Client::admin(&s)
        .post(
            "/coracle/v1/tokens",
            &json!({"role": "runner", "ttl_seconds": 60}),
        )
        .await;
    let token = made["token"].as_str().unwrap();
    let pinned = token.split('.').nth(1).unwrap();
    assert_eq!(pinned, s.ca.hash());
    let (key, csr) = greedy_request();

    let refusals = [
        (token, "Bad_Name", csr.as_str(), StatusCode::BAD_REQUEST),
        (
            token,
            "kubernetes.default.svc",
            csr.as_str(),
            StatusCode::BAD_REQUEST,
        ),
        (token, "10.0.0.1", csr.as_str(), StatusCode::BAD_REQUEST),
        (token, "worker-1", "no request", StatusCode::BAD_REQUEST),
        ("hello", "worker-1", csr.as_str(), StatusCode::FORBIDDEN),
    ];
    for (token, name, csr, code) in refusals {
        let (status, answer) = join(&s, token, name, csr).await;
        assert_eq!(status, code, "{name}: {answer}");
    }
    let foreign = token.replacen(pinned, &"0".repeat(64), 1);
    assert!(
        join(&s, &foreign, "worker-1", &csr).await.1["message"]
            .as_str()
            .unwrap()
            .starts_with("E_TOKEN_CA")
    );
    let wrong = format!("{}{}", &token[..token.len() - 4], "0000");
    assert_eq!(
        join(&s, &wrong, "worker-1", &csr).await.0,
        StatusCode::FORBIDDEN
    );

    // None of these mistakes has used the token up.
    let (status, answer) = join(&s, token, "worker-1", &csr).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["cluster"], s.cluster());
    assert_eq!(answer["id"].as_str().unwrap().len(), 16);
    let identity = NodeIdentity {
        certificate: answer["certificate"].as_str().unwrap().into(),
        key: key.serialize_pem(),
        ca: answer["ca"].as_str().unwrap().into(),
    };
    let node = Client::node(&s, &identity);
    assert_eq!(node.get("/api/v1/pods").await.0, StatusCode::OK);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "default"}});
    let (status, _) = node
        .send(Method::POST, "/api/v1/namespaces/default/configmaps", &map)
        .await;
    assert_eq!(
        status,
        StatusCode::FORBIDDEN,
        "what the request asked for beyond its key was not taken over"
    );
    assert_eq!(
        join(&s, token, "worker-2", &csr).await.0,
        StatusCode::FORBIDDEN,
        "a token works once"
    );

    // A joiner that has checked the hash may leave it out.
    let token = s
        .create_token(Role::Runner, Duration::from_secs(60))
        .await
        .unwrap();
    let short = token.splitn(3, '.').nth(2).unwrap();
    assert_eq!(join(&s, short, "worker-2", &csr).await.0, StatusCode::OK);
    let token = s
        .create_token(Role::Runner, Duration::from_secs(60))
        .await
        .unwrap();
    let alive = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    Client::admin(&s).post("/api/v1/nodes", &alive).await;
    let (status, answer) = join(&s, &token, "worker-1", &csr).await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    assert!(s.create_token(Role::Runner, Duration::ZERO).await.is_err());
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_expire_and_survive_restarts() {
    let dir = TempDir::new().unwrap();
    let late = Arc::new(Mutex::new(SignedDuration::ZERO));
    let with_clock = || {
        let late = late.clone();
        let mut config = config(dir.path());
        config.clock =
            Arc::new(move || Timestamp::now().checked_add(*late.lock().unwrap()).unwrap());
        config
    };
    let s = start(with_clock()).await.unwrap();
    let first = s
        .create_token(Role::Runner, Duration::from_secs(3600))
        .await
        .unwrap();
    let second = s
        .create_token(Role::Runner, Duration::from_secs(3600))
        .await
        .unwrap();
    s.shutdown().await;
    drop(s);
    let s = start(with_clock()).await.unwrap();
    let (_, csr) = greedy_request();
    assert_eq!(join(&s, &first, "worker-1", &csr).await.0, StatusCode::OK);
    *late.lock().unwrap() = SignedDuration::from_hours(2);
    let (status, answer) = join(&s, &second, "worker-2", &csr).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("coracle token create"),
        "{answer}"
    );
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_another_cluster_are_turned_away() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (s, stranger) = (scheduler(dir.path()).await, scheduler(other.path()).await);
    let mut identity = stranger.node_identity_for_local_runner("n1").unwrap();
    // It trusts our roots and shows a certificate of the other cluster.
    identity.ca = s.ca_pem();
    let answer = Client::node(&s, &identity)
        .bytes(Method::GET, "/version", "", Bytes::new())
        .await;
    assert!(answer.is_err(), "the handshake fails");
    stranger.shutdown().await;
    s.shutdown().await;
}

/// A runner that answers with what it was asked.
async fn fake_runner(s: &Scheduler, identity: &NodeIdentity) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let acceptor = TlsAcceptor::from(Arc::new(
        server_config(
            Clients::new(&s.ca_pem()).unwrap(),
            Resolver::new(identity).unwrap(),
        )
        .unwrap(),
    ));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let peer = coracle_server::Identity::from_certificate(
                    &tls.get_ref().1.peer_certificates().unwrap()[0],
                )
                .unwrap();
                let service = service_fn(move |request: Request<Incoming>| {
                    let (status, text) = match request.uri().path() {
                        "/logs/default/gone/main" => {
                            (404, "{\"message\":\"no such pod here\"}".to_string())
                        }
                        _ => (200, format!("{} {}", peer.user, request.uri())),
                    };
                    let answer = Response::builder()
                        .status(status)
                        .body(Full::new(Bytes::from(text)))
                        .unwrap();
                    std::future::ready(Ok::<_, std::convert::Infallible>(answer))
                });
                drop(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await,
                );
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_come_from_the_runner_that_was_asked() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let addr = fake_runner(&s, &s.node_identity_for_local_runner("n1").unwrap()).await;
    let member =
        s.ca.identity(
            &crate::pki::Profile::Member {
                name: s.name(),
                id: s.id(),
                hosts: &[],
            },
            Timestamp::now(),
        )
        .unwrap();
    let client = crate::runners::client(client_config(&s.ca_pem(), &member).unwrap());
    let request = |node: &str, pod: &str| LogRequest {
        node: node.into(),
        address: addr.clone(),
        namespace: "default".into(),
        pod: pod.into(),
        container: "main".into(),
        follow: true,
        tail_lines: Some(5),
        ..LogRequest::default()
    };
    let read: Vec<Bytes> = client
        .logs(request("n1", "web"))
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let text = String::from_utf8(read.concat()).unwrap();
    assert_eq!(
        text,
        format!(
            "system:member:{} /logs/default/web/main?follow=true&previous=false&timestamps=false&tailLines=5",
            s.name()
        )
    );
    let error = client.logs(request("n1", "gone")).await.err().unwrap();
    assert_eq!(
        (error.code, error.message.as_str()),
        (404, "no such pod here")
    );
    let error = client.logs(request("n2", "web")).await.err().unwrap();
    assert_eq!(
        error.code, 502,
        "another node answered at that address: {error}"
    );
    s.shutdown().await;
}
