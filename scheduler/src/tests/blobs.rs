//! Blobs of the registry on several members: copied at the push, fetched when asked for, refused when damaged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Digest;
use tempfile::TempDir;

use super::client::Client;
use super::members::{dirs, stop, three};
use super::{config, scheduler};
use crate::pki::load_identity;
use crate::{Role, Scheduler, start};

/// Bound on anything these tests wait for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Above what is sent without asking first.
const LARGE: usize = 3 << 20;

fn bytes(seed: u8, length: usize) -> Bytes {
    (0..length)
        .map(|i| seed.wrapping_add((i / 7) as u8))
        .collect()
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(blob)))
}

/// Where a member keeps a blob.
fn file(dir: &TempDir, blob: &[u8]) -> PathBuf {
    let digest = digest(blob);
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blobs: &Path = dir.path();
    blobs
        .join("registry/blobs/sha256")
        .join(&hex[..2])
        .join(hex)
}

fn copies(dirs: &[TempDir], blob: &[u8]) -> usize {
    dirs.iter().filter(|dir| file(dir, blob).exists()).count()
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    body: Bytes,
) -> (StatusCode, http::HeaderMap, Bytes) {
    client
        .bytes(method, path, "application/octet-stream", body)
        .await
        .unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn plain(s: &Scheduler) -> Client {
    Client::plain(s.registry_url().unwrap())
}

async fn push(s: &Scheduler, blob: &Bytes) -> (StatusCode, http::HeaderMap, String) {
    let path = format!("/v2/demo/blobs/uploads/?digest={}", digest(blob));
    let (status, headers, body) = send(&plain(s), Method::POST, &path, blob.clone()).await;
    let body = String::from_utf8(body.to_vec()).unwrap();
    (status, headers, body)
}

async fn pushed(s: &Scheduler, blob: &Bytes) {
    let (status, _, body) = push(s, blob).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

async fn pull(s: &Scheduler, blob: &[u8]) -> (StatusCode, Bytes) {
    let path = format!("/v2/demo/blobs/{}", digest(blob));
    let (status, _, body) = send(&plain(s), Method::GET, &path, Bytes::new()).await;
    (status, body)
}

/// Pulls a blob that was acknowledged before, through whichever member.
async fn pulled(s: &Scheduler, blob: &Bytes) {
    let (status, body) = pull(s, blob).await;
    let text = String::from_utf8_lossy(&body[..body.len().min(400)]).to_string();
    assert_eq!(status, StatusCode::OK, "{}: {text}", s.name());
    assert!(body == *blob, "{} serves other bytes", s.name());
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let happened = tokio::time::timeout(PATIENCE, waiting).await;
    happened.unwrap_or_else(|_| panic!("{what} did not happen"));
}

fn peer_path(blob: &[u8]) -> String {
    format!("/coracle/v1/blobs/{}", digest(blob))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_outlives_its_member_and_needs_a_majority() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    let (large, small) = (bytes(1, LARGE), bytes(2, 100));
    for blob in [&large, &small] {
        pushed(&a, blob).await;
        assert!(copies(&dirs, blob) >= 2, "a 201 means a majority");
    }
    a.shutdown().await;
    for blob in [&large, &small] {
        pulled(&b, blob).await;
        pulled(&c, blob).await;
    }
    drop(a);

    // Two of three go on.
    let two = bytes(3, LARGE);
    pushed(&b, &two).await;
    pulled(&c, &two).await;

    // One of three takes nothing, and shows nothing of what it did not take.
    c.shutdown().await;
    drop(c);
    let refused = bytes(4, LARGE);
    let (status, headers, body) = push(&b, &refused).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(headers.contains_key("retry-after"), "{headers:?}");
    assert!(
        body.contains("UNAVAILABLE") && body.contains("E_REGISTRY_MAJORITY"),
        "{body}"
    );
    // Whether another member took it nobody can say here, so the answer is "try again", not "not there".
    assert_eq!(pull(&b, &refused).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let staged = dirs[1].path().join("registry/uploads");
    assert_eq!(std::fs::read_dir(staged).unwrap().count(), 0);
    // What was acknowledged before is still served.
    pulled(&b, &two).await;

    let a = scheduler(dirs[0].path()).await;
    pushed(&b, &refused).await;
    pulled(&a, &refused).await;
    // Pushed while it was away, asked for by nobody.
    until("the healing", || file(&dirs[0], &two).exists()).await;
    stop(&[a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_fetches_what_it_misses_and_takes_nothing_damaged() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    let blob = bytes(5, LARGE);
    pushed(&a, &blob).await;
    until("the third copy", || copies(&dirs, &blob) == 3).await;
    std::fs::remove_file(file(&dirs[1], &blob)).unwrap();
    let readers = (0..8).map(|_| pulled(&b, &blob));
    futures_util::future::join_all(readers).await;
    assert_eq!(copies(&dirs, &blob), 3, "it is kept");

    // One copy is damaged and one is gone: no member gives out other bytes under this name.
    let mut wrong = blob.to_vec();
    wrong[LARGE / 2] ^= 1;
    std::fs::write(file(&dirs[0], &blob), &wrong).unwrap();
    for dir in &dirs[1..] {
        std::fs::remove_file(file(dir, &blob)).unwrap();
    }
    let (status, _) = pull(&b, &blob).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(!file(&dirs[1], &blob).exists());

    // The endpoint: members only, and only what is what its name says.
    let member = load_identity(&dirs[0].path().join("pki")).unwrap().unwrap();
    let member = Client::node(&b, &member);
    let node = Client::node(&b, &b.node_identity_for_local_runner("n1").unwrap());
    let path = peer_path(&blob);
    for stranger in [&node, &Client::admin(&b), &Client::anonymous(&b)] {
        for method in [Method::GET, Method::HEAD, Method::PUT] {
            let (status, _, _) = send(stranger, method, &path, Bytes::from_static(b"x")).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
        }
    }
    let (status, _, body) = send(&member, Method::PUT, &path, wrong.into()).await;
    let body = String::from_utf8_lossy(&body).to_string();
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert!(body.contains("DIGEST_INVALID"), "{body}");
    assert!(!file(&dirs[1], &blob).exists());
    let (status, _, _) = send(&member, Method::GET, &path, Bytes::new()).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "it asks nobody else");
    let bad = "/coracle/v1/blobs/sha256:xyz";
    let (status, _, _) = send(&member, Method::GET, bad, Bytes::new()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _, _) = send(&member, Method::DELETE, &path, Bytes::new()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);

    // A good copy comes back: it is found behind the damaged one.
    let (status, _, _) = send(&member, Method::PUT, &path, blob.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
    pulled(&b, &blob).await;
    pulled(&c, &blob).await;
    // A push asks first whether the blob is there; one just written may not be durable yet.
    let (status, _, _) = send(&member, Method::HEAD, &path, Bytes::new()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let stored = std::fs::File::open(file(&dirs[1], &blob)).unwrap();
    let before = std::time::SystemTime::now() - Duration::from_secs(120);
    stored.set_modified(before).unwrap();
    let (status, headers, _) = send(&member, Method::HEAD, &path, Bytes::new()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-length"], LARGE.to_string());
    // A push through the damaged member heals it.
    pushed(&a, &blob).await;
    assert!(std::fs::read(file(&dirs[0], &blob)).unwrap() == blob);
    let kept = std::fs::metadata(file(&dirs[1], &blob)).unwrap();
    assert_eq!(kept.modified().unwrap(), before, "it was not sent again");
    stop(&[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_joins_gets_all_blobs() {
    let (home, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let a = scheduler(home.path()).await;
    let blobs = [bytes(6, LARGE), bytes(7, 10)];
    for blob in &blobs {
        pushed(&a, blob).await;
    }
    let mut joining = config(dir.path());
    joining.name = Some("b".into());
    joining.join = Some(a.api_addr().to_string());
    let ttl = Duration::from_secs(600);
    joining.token = Some(a.create_token(Role::Scheduler, ttl).await.unwrap());
    let b = start(joining).await.unwrap_or_else(|e| panic!("{e}"));
    until("the healing", || {
        blobs.iter().all(|blob| file(&dir, blob).exists())
    })
    .await;
    // One voter is a majority: its learner gets a copy all the same.
    let later = bytes(8, LARGE);
    pushed(&a, &later).await;
    until("the copy", || file(&dir, &later).exists()).await;
    // Through the learner: the voter must have it.
    let through = bytes(9, LARGE);
    pushed(&b, &through).await;
    assert!(file(&home, &through).exists());
    stop(&[b, a]).await;
}

const ADMIN: &str = "/coracle/v1/registry";

/// Asks for a scrub of every member and waits for its end; what each found, in the order of their names.
async fn scrubbed(s: &Scheduler) -> Vec<Value> {
    let client = Client::admin(s);
    let path = format!("{ADMIN}/scrub");
    let body = json!({"bytesPerSecond": 1 << 30});
    let (status, mut answer) = client.send(Method::POST, &path, &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let waiting = async {
        loop {
            let mut members = answer["members"].as_array().unwrap().clone();
            if members.iter().all(|m| m["status"]["running"] == false) {
                members.sort_by_key(|m| m["member"].to_string());
                return members;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = client.get(&path).await.1;
        }
    };
    let members = tokio::time::timeout(PATIENCE, waiting).await;
    members.unwrap_or_else(|_| panic!("the scrub does not end"))
}

fn found(members: &[Value], field: &str) -> Vec<u64> {
    let of = |m: &Value| m["status"]["report"][field].as_u64();
    let all = members
        .iter()
        .map(|m| of(m).unwrap_or_else(|| panic!("{m}")));
    all.collect()
}

fn rot(dir: &TempDir, blob: &Bytes) {
    let mut wrong = blob.to_vec();
    wrong[blob.len() / 2] ^= 1;
    std::fs::write(file(dir, blob), wrong).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_heals_from_another_member() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    let blobs = [bytes(10, LARGE), bytes(11, 100)];
    for blob in &blobs {
        pushed(&a, blob).await;
        until("the third copy", || copies(&dirs, blob) == 3).await;
        for s in [&a, &b, &c] {
            pulled(s, blob).await;
        }
    }
    let members = scrubbed(&b).await;
    assert_eq!(found(&members, "checked"), [2, 2, 2]);
    assert_eq!(found(&members, "corrupt"), [0, 0, 0]);

    // One of three copies; two of the other blob.
    rot(&dirs[1], &blobs[0]);
    rot(&dirs[0], &blobs[1]);
    rot(&dirs[2], &blobs[1]);
    let members = scrubbed(&b).await;
    assert_eq!(found(&members, "corrupt"), [1, 1, 1], "{members:?}");
    assert_eq!(found(&members, "healed"), [1, 1, 1], "{members:?}");
    assert_eq!(found(&members, "lost"), [0, 0, 0]);
    for blob in &blobs {
        for dir in &dirs {
            assert!(std::fs::read(file(dir, blob)).unwrap() == *blob);
        }
    }

    // All three: lost for every member, until it is pushed again to any.
    for dir in &dirs {
        rot(dir, &blobs[0]);
    }
    let members = scrubbed(&c).await;
    assert_eq!(found(&members, "corrupt"), [1, 1, 1], "{members:?}");
    assert_eq!(found(&members, "lost"), [1, 1, 1], "{members:?}");
    let lost = &members[0]["status"]["report"]["lostBlobs"][0];
    assert_eq!(lost["digest"], digest(&blobs[0]));
    assert_eq!(lost["repositories"], json!(["demo"]));
    assert_eq!(pull(&a, &blobs[0]).await.0, StatusCode::NOT_FOUND);
    pushed(&b, &blobs[0]).await;
    for s in [&a, &b, &c] {
        pulled(s, &blobs[0]).await;
    }
    assert_eq!(found(&scrubbed(&a).await, "lost"), [0, 0, 0]);
    stop(&[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_is_looked_after_by_administrators() {
    let dirs = dirs();
    let [a, b, c] = three(&dirs).await;
    let blob = bytes(12, 100);
    pushed(&a, &blob).await;
    let member = load_identity(&dirs[0].path().join("pki")).unwrap().unwrap();
    let member = Client::node(&b, &member);
    let node = Client::node(&b, &b.node_identity_for_local_runner("n1").unwrap());
    let anonymous = Client::anonymous(&b);
    let admin = Client::admin(&b);
    for (method, path) in [
        (Method::GET, "usage"),
        (Method::POST, "gc"),
        (Method::POST, "scrub"),
        (Method::GET, "quotas"),
        (Method::PUT, "quotas/default"),
        (Method::PUT, "retention/x"),
    ] {
        let path = format!("{ADMIN}/{path}");
        for stranger in [&node, &member, &anonymous] {
            let (status, answer) = stranger.send(method.clone(), &path, &Value::Null).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {answer}");
            assert_eq!(answer["kind"], "Status", "{answer}");
        }
    }
    for (method, path, body, want) in [
        (Method::PUT, "quotas/default", json!({}), 400),
        (Method::PUT, "quotas/default", json!({"bytes": -1}), 400),
        (Method::PUT, "quotas/Demo", json!({"bytes": 1}), 400),
        (Method::PUT, "quotas/default", json!({"bytes": 100}), 200),
        (
            Method::PUT,
            "retention/x",
            json!({"repositories": ["demo"]}),
            400,
        ),
        (
            Method::PUT,
            "retention/x",
            json!({"repositories": ["demo"], "newest": 1}),
            200,
        ),
        (Method::DELETE, "retention/y", Value::Null, 404),
        (Method::DELETE, "retention/x", Value::Null, 200),
        (Method::GET, "nothing", Value::Null, 404),
        (Method::POST, "local/gc", Value::Null, 403),
    ] {
        let path = format!("{ADMIN}/{path}");
        let (status, answer) = admin.send(method.clone(), &path, &body).await;
        assert_eq!(status.as_u16(), want, "{method} {path} {body}: {answer}");
    }
    // A quota that was set through one member is in force on every one.
    let (status, _, body) = push(&c, &bytes(13, 100)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    assert!(body.contains("E_REGISTRY_QUOTA"), "{body}");
    let (_, usage) = admin.get(&format!("{ADMIN}/usage")).await;
    assert_eq!(usage["namespaces"][0]["namespace"], "default");
    assert_eq!(usage["namespaces"][0]["logicalBytes"], 100);
    assert_eq!(usage["namespaces"][0]["quotaBytes"], 100);
    let (status, collected) = admin
        .send(Method::POST, &format!("{ADMIN}/gc"), &Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK, "{collected}");
    let mut names: Vec<&str> = Vec::new();
    for m in collected["members"].as_array().unwrap() {
        assert!(m["report"].is_object(), "{m}");
        names.push(m["member"].as_str().unwrap());
    }
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
    stop(&[a, b, c]).await;
}
