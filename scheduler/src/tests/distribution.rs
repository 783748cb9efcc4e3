//! Who gives a blob to whom, asked of real members by nodes with real certificates.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::Client;
use super::members::{dirs, stop, three};
use super::{config, scheduler};
use crate::{Scheduler, start};

const BLOB: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn path(blob: &str) -> String {
    format!("/coracle/v1/holders/{blob}")
}

fn node(s: &Scheduler, name: &str) -> Client {
    Client::node(s, &s.node_identity_for_local_runner(name).unwrap())
}

async fn say(s: &Scheduler, name: &str, what: Value) -> Value {
    say_of(s, name, BLOB, what).await
}

async fn say_of(s: &Scheduler, name: &str, blob: &str, what: Value) -> Value {
    let (status, answer) = node(s, name).send(Method::POST, &path(blob), &what).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

async fn register(s: &Scheduler, name: &str, port: u16) {
    let admin = Client::admin(s);
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    admin.post("/api/v1/nodes", &object).await;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.7"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let path = format!("/api/v1/nodes/{name}/status");
    let (status, answer) = admin.send(Method::PATCH, &path, &status).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_knows_what_the_leader_knows_and_a_new_leader_begins_anew() {
    let dirs = dirs();
    let members = three(&dirs).await;
    let leader = members.iter().position(|m| m.replica.is_leader()).unwrap();
    let other = &members[(leader + 1) % 3];
    // There, so that it has applied them.
    register(other, "n1", 7_001).await;
    register(other, "n2", 7_002).await;
    let fetch = || json!({"state": "fetch"});
    let parent = |name: &str, port: u16, depth: u32| json!({"node": name, "address": format!("10.0.0.7:{port}"), "depth": depth});
    let none = json!({});
    // On a busy machine leadership may move in the middle, and with it what was known: then the story is told again, of
    // another blob.
    let terms = || {
        members
            .iter()
            .map(|m| m.replica.leader_changes().borrow().term)
    };
    let term = || terms().max();
    let mut attempt = 0;
    loop {
        let (before, blob) = (term(), format!("sha256:{attempt:064x}"));
        let trouble = json!({"state": "fetch", "trouble": {"node": "n1", "what": "gone"}});
        let avoid = json!({"state": "fetch", "avoid": ["n2", "n1"]});
        let (through, direct) = (other, &members[leader]);
        let mut told = Vec::new();
        for (member, name, what) in [
            (through, "n1", fetch()),
            (through, "n2", fetch()),
            (direct, "n1", json!({"state": "have"})),
            (through, "n3", fetch()),
            (through, "n3", trouble),
            (through, "n4", avoid),
        ] {
            told.push(say_of(member, name, &blob, what).await);
        }
        if term() != before {
            attempt += 1;
            assert!(attempt < 10, "leadership does not settle");
            continue;
        }
        let expected = [
            none.clone(),
            // It is only fetching it.
            parent("n1", 7_001, 2),
            none.clone(),
            parent("n1", 7_001, 1),
            parent("n2", 7_002, 3),
            // No node registered as n3: nobody is sent there.
            none.clone(),
        ];
        assert_eq!(told, expected);
        break;
    }

    let leader = (members.iter().position(|m| m.replica.is_leader())).unwrap_or(leader);
    members[leader].shutdown().await;
    let rest: Vec<&Scheduler> = (1..3).map(|n| &members[(leader + n) % 3]).collect();
    let mut leads = rest[0].replica.leader_changes();
    let away = members[leader].replica.id();
    let led = leads
        .wait_for(|l| l.leader.is_some_and(|id| id != away))
        .await;
    drop(led.unwrap());
    let knows = say(rest[0], "n5", fetch()).await;
    assert_eq!(knows, json!({}), "what is not known comes from the members");
    assert_eq!(
        say(rest[1], "n2", fetch()).await,
        json!({}),
        "n5 is no node"
    );
    stop(&members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_runners_ask_and_only_sensible_things() {
    let dir = tempfile::tempdir().unwrap();
    let s = scheduler(dir.path()).await;
    let good = json!({"state": "have"});
    for (client, blob, body, status) in [
        (Client::anonymous(&s), BLOB, &good, StatusCode::FORBIDDEN),
        (Client::admin(&s), BLOB, &good, StatusCode::FORBIDDEN),
        (node(&s, "n1"), "sha256:12", &good, StatusCode::BAD_REQUEST),
        (
            node(&s, "n1"),
            BLOB,
            &json!({"state": "eat"}),
            StatusCode::BAD_REQUEST,
        ),
        (node(&s, "n1"), BLOB, &json!({}), StatusCode::BAD_REQUEST),
        (
            node(&s, "n1"),
            BLOB,
            &json!({"state": "have", "avoid": [ "x".repeat(40_000) ]}),
            StatusCode::BAD_REQUEST,
        ),
        (node(&s, "n1"), BLOB, &good, StatusCode::OK),
    ] {
        let (got, answer) = client.send(Method::POST, &path(blob), body).await;
        assert_eq!(got, status, "{blob} {answer}");
    }
    let (got, _) = node(&s, "n1").get(&path(BLOB)).await;
    assert_eq!(got, StatusCode::METHOD_NOT_ALLOWED);
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_outside_are_named_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = config(dir.path());
    bad.registry_upstreams = vec!["https://ghcr.io".into()];
    let error = start(bad).await.err().unwrap().to_string();
    assert!(error.starts_with("E_REGISTRY_UPSTREAM: "), "{error}");
    let s = scheduler(dir.path()).await;
    let plain = Client::plain(s.registry_url().unwrap());
    for client in [plain, node(&s, "n1")] {
        let (status, answer) = client.get("/v2/a/manifests/v1?ns=ghcr.io").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let message = answer["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("--registry-upstream"), "{message}");
    }
    s.shutdown().await;
}
