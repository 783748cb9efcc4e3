//! Certificates that are renewed and roots that are replaced while everything runs.

use std::time::Duration;

use bytes::Bytes;
use coracle_api::{Key, Timestamp};
use http::{Method, StatusCode};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use super::members::{dirs, seen, stop, three, write};
use super::{config, scheduler};
use crate::pki::{Lives, ends, load_identity};
use crate::rotate::hashes;
use crate::{NodeIdentity, Role, Scheduler, start};

/// Bound on anything these tests wait for.
const PATIENCE: Duration = Duration::from_secs(60);
const STATUS: &str = "/coracle/v1/ca/status";
const ROTATE: &str = "/coracle/v1/ca/rotate";

async fn until<F>(what: &str, mut holds: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("{what} did not happen");
    }
}

async fn status(s: &Scheduler) -> Value {
    let (code, answer) = Client::admin(s).get(STATUS).await;
    assert_eq!(code, StatusCode::OK, "{answer}");
    answer
}

fn waiting_for(status: &Value) -> Vec<String> {
    let list = status["rotation"]["waitingFor"].as_array();
    let names = list.into_iter().flatten();
    names
        .map(|h| {
            format!(
                "{} {}",
                h["kind"].as_str().unwrap(),
                h["name"].as_str().unwrap()
            )
        })
        .collect()
}

/// A request for a certificate and its key.
fn request() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap();
    (key, csr)
}

/// What a runner does: asks for a certificate, and for nothing if it has one of the issuing root.
async fn renew(s: &Scheduler, with: &NodeIdentity) -> NodeIdentity {
    let (key, csr) = request();
    let answer = Client::node(s, with)
        .post("/coracle/v1/renew", &json!({"csr": csr}))
        .await;
    NodeIdentity {
        certificate: answer["certificate"].as_str().unwrap().into(),
        key: key.serialize_pem(),
        ca: answer["ca"].as_str().unwrap().into(),
    }
}

async fn report(s: &Scheduler, identity: &NodeIdentity, issuer: &str) {
    let body = json!({"issuer": issuer, "trusts": hashes(&identity.ca), "expires": "2030-01-01T00:00:00Z"});
    Client::node(s, identity)
        .post("/coracle/v1/renew", &body)
        .await;
}

/// A handshake that is refused is an error, and so is a connection that ends after it (TLS 1.3 tells a client late).
async fn is_refused(client: &Client) -> bool {
    client
        .bytes(Method::GET, "/version", "", Bytes::new())
        .await
        .is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_before_their_end_without_a_restart() {
    let dir = TempDir::new().unwrap();
    let mut short = config(dir.path());
    short.lives = Lives {
        leaf: Duration::from_secs(6),
        ..Lives::default()
    };
    let s = start(short).await.unwrap();
    let pki = dir.path().join("pki");
    let first = load_identity(&pki).unwrap().unwrap();
    let admin = Client::admin(&s);
    let node = s.node_identity_for_local_runner("n1").unwrap();
    assert_eq!(
        renew(&s, &node).await.ca,
        s.ca_pem(),
        "a runner renews with what it has"
    );
    // Members and administrators get theirs elsewhere.
    let (_, csr) = request();
    let (code, _) = admin
        .send(Method::POST, "/coracle/v1/renew", &json!({"csr": csr}))
        .await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    let bad = [
        json!({"csr": "x"}),
        json!({"csr": 1}),
        json!({"issuer": "x", "expires": "2030-01-01T00:00:00Z"}),
        json!({"trusts": ["x"]}),
    ];
    for body in bad {
        let (code, answer) = Client::node(&s, &node)
            .send(Method::POST, "/coracle/v1/renew", &body)
            .await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{body}: {answer}");
    }

    // The administrator's first certificate ends, the member's is shown no more; the kubeconfig has a new one.
    until("the first certificates end", || is_refused(&admin)).await;
    let second = load_identity(&pki).unwrap().unwrap();
    assert_ne!(first.certificate, second.certificate);
    assert_eq!(
        Client::admin(&s).get("/api/v1/namespaces").await.0,
        StatusCode::OK
    );
    let expires = status(&s).await["certificates"][0]["expires"].clone();
    assert!(expires.is_string(), "the member has reported: {expires}");
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runners_are_told_where_api_and_registry_are() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let node = s.node_identity_for_local_runner("n1").unwrap();
    let own = s.registry_url().unwrap().trim_start_matches("http://");
    let port = own.rsplit(':').next().unwrap();
    let registry = json!([own, format!("localhost:{port}")]);
    until("the registry is known", || async {
        let (_, answer) = Client::node(&s, &node).get("/coracle/v1/endpoints").await;
        assert_eq!(answer["api"], json!([s.api_url()]));
        answer["registry"] == registry
    })
    .await;
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_waits_for_every_runner_and_locks_nobody_out() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let old = s.ca.hash();
    let old_bundle = s.ca_pem();
    let node = s.node_identity_for_local_runner("n1").unwrap();
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    Client::node(&s, &node).post("/api/v1/nodes", &object).await;
    report(&s, &node, &old).await;
    let ttl = Duration::from_secs(600);
    let [early, late] = [
        s.create_token(Role::Runner, ttl).await.unwrap(),
        s.create_token(Role::Runner, ttl).await.unwrap(),
    ];

    let (code, answer) = Client::admin(&s)
        .send(Method::POST, ROTATE, &json!({"finish": true}))
        .await;
    assert_eq!(code, StatusCode::CONFLICT, "{answer}");
    Client::admin(&s).post(ROTATE, &json!({})).await;
    until("only the runner is missing", || async {
        waiting_for(&status(&s).await) == ["node n1"]
    })
    .await;
    assert_eq!(status(&s).await["rotation"]["phase"], "spreading");
    let (code, answer) = Client::admin(&s)
        .send(Method::POST, ROTATE, &json!({}))
        .await;
    assert_eq!(code, StatusCode::CONFLICT, "{answer}");
    assert!(
        answer["message"].as_str().unwrap().contains("node n1"),
        "{answer}"
    );
    assert_eq!(s.ca.hash(), old, "the old root issues");

    // The runner learns the new root.
    let (_, _, bundle) = Client::anonymous(&s)
        .bytes(Method::GET, "/coracle/v1/ca", "", Bytes::new())
        .await
        .unwrap();
    let mut node = node;
    node.ca = String::from_utf8(bundle.to_vec()).unwrap();
    assert_eq!(hashes(&node.ca).len(), 2);
    report(&s, &node, &old).await;
    until("the new root issues", || async { s.ca.hash() != old }).await;
    let new = s.ca.hash();
    until("the member has renewed", || async {
        waiting_for(&status(&s).await) == ["node n1"]
    })
    .await;

    // Whoever knows only the old root (a token of before, a copied kubeconfig) still verifies the server.
    let only_old = Client::with(s.api_url(), &old_bundle, None);
    assert_eq!(only_old.get("/version").await.0, StatusCode::OK);
    let (_, csr) = request();
    let body = json!({"token": early, "name": "n2", "csr": csr});
    let joined = only_old.post("/coracle/v1/join", &body).await;
    assert_eq!(
        hashes(joined["ca"].as_str().unwrap()),
        [new.clone(), old.clone()]
    );

    // A restart changes nothing.
    s.shutdown().await;
    drop(s);
    let s = scheduler(dir.path()).await;
    assert_eq!((s.ca.hash(), s.ca.hashes().len()), (new.clone(), 2));

    let renewed = renew(&s, &node).await;
    report(&s, &renewed, &new).await;
    until("the rotation is complete", || async {
        status(&s).await["rotation"].is_null()
    })
    .await;
    assert_eq!(s.ca.hashes(), std::slice::from_ref(&new));
    until("the listener trusts the new root alone", || async {
        is_refused(&Client::with(s.api_url(), &renewed.ca, Some(&node))).await
    })
    .await;
    let mut alone = renewed.clone();
    alone.ca = s.ca_pem();
    assert_eq!(
        Client::node(&s, &alone).get("/api/v1/pods").await.0,
        StatusCode::OK
    );
    assert!(
        is_refused(&only_old).await,
        "the cross signature went with the old root"
    );
    let (code, answer) = Client::anonymous(&s)
        .send(
            Method::POST,
            "/coracle/v1/join",
            &json!({"token": late, "name": "n3", "csr": csr}),
        )
        .await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{answer}");
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .starts_with("E_TOKEN_CA")
    );
    // Pods are told too.
    until("the ConfigMap has the new root", || async {
        let view = s.views().view();
        let map = view.get("configmaps", &Key::new("default", "kube-root-ca.crt"));
        map.unwrap().value()["data"]["ca.crt"] == s.ca_pem()
    })
    .await;
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_is_gone_holds_a_rotation_up_until_it_is_given_up() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gone"}});
    Client::admin(&s).post("/api/v1/nodes", &object).await;
    Client::admin(&s).post(ROTATE, &json!({})).await;
    for phase in ["spreading", "renewing"] {
        until(phase, || async {
            let status = status(&s).await;
            status["rotation"]["phase"] == phase && waiting_for(&status) == ["node gone"]
        })
        .await;
        Client::admin(&s)
            .post(ROTATE, &json!({"finish": true}))
            .await;
    }
    until("the end", || async {
        status(&s).await["rotation"].is_null()
    })
    .await;
    // The next one begins at once, and waits for nobody once the Node is deleted.
    Client::admin(&s)
        .send(Method::DELETE, "/api/v1/nodes/gone", &Value::Null)
        .await;
    let before = s.ca.hash();
    Client::admin(&s).post(ROTATE, &json!({})).await;
    until("the end", || async {
        status(&s).await["rotation"].is_null() && s.ca.hash() != before
    })
    .await;
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_rotate_together_and_go_on_writing() {
    let dirs = dirs();
    let members = three(&dirs).await;
    let old = members[0].ca.hash();
    // Through a member that may not lead: any takes the order.
    Client::admin(&members[2]).post(ROTATE, &json!({})).await;
    let mut n = 0;
    loop {
        let name = format!("during-{n}");
        write(&members[n % 3], &name).await;
        n += 1;
        let done = members
            .iter()
            .all(|s| s.ca.hash() != old && s.ca.hashes().len() == 1);
        if done {
            break;
        }
        assert!(n < 2_000, "{}", status(&members[0]).await);
    }
    for s in &members {
        for i in 0..n {
            seen(s, &format!("during-{i}")).await;
        }
        assert_eq!(s.ca.hash(), members[0].ca.hash());
        until("its certificate is under the new root", || async {
            let own = load_identity(&dirs_of(s, &members, &dirs))
                .unwrap()
                .unwrap();
            own.ca == s.ca_pem()
                && CertificateDer::pem_slice_iter(own.certificate.as_bytes()).count() == 1
        })
        .await;
    }
    // A member that restarts speaks raft with what is on its disk.
    let [a, b, c] = members;
    b.shutdown().await;
    drop(b);
    write(&a, "without-b").await;
    let b = scheduler(dirs[1].path()).await;
    seen(&b, "without-b").await;
    write(&b, "through-b").await;
    seen(&c, "through-b").await;
    stop(&[a, b, c]).await;
}

/// All of a cluster again, with certificates of this life.
async fn again(dirs: &[TempDir; 3], leaf: Duration) -> Vec<Scheduler> {
    let starting = dirs.iter().map(|dir| {
        let mut config = config(dir.path());
        config.lives.leaf = leaf;
        start(config)
    });
    futures_util::future::join_all(starting)
        .await
        .into_iter()
        .map(|s| s.unwrap_or_else(|e| panic!("{e}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_were_off_past_the_end_of_their_certificates_find_together_again() {
    let dirs = dirs();
    let members = three(&dirs).await;
    write(&members[0], "before").await;
    stop(&members).await;
    drop(members);
    let members = again(&dirs, Duration::from_secs(10)).await;
    stop(&members).await;
    drop(members);
    until("every certificate ends", || async {
        dirs.iter().all(|dir| {
            let own = load_identity(&dir.path().join("pki")).unwrap().unwrap();
            ends(&own.certificate).unwrap() < Timestamp::now()
        })
    })
    .await;
    let members = again(&dirs, Lives::default().leaf).await;
    write(&members[1], "after").await;
    for s in &members {
        seen(s, "before").await;
        seen(s, "after").await;
    }
    stop(&members).await;
}

/// `DATA/pki` of a member.
fn dirs_of(s: &Scheduler, members: &[Scheduler], dirs: &[TempDir; 3]) -> std::path::PathBuf {
    let at = members.iter().position(|m| m.id() == s.id()).unwrap();
    dirs[at].path().join("pki")
}
