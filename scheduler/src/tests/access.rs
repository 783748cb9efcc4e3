//! Who may use the registry, as clients meet it: challenges, tokens, bearer tokens, anonymous pull, isolation, TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_api::Timestamp;
use http::{HeaderMap, Method, StatusCode, header};
use jiff::SignedDuration;
use serde_json::{Value, json};
use sha2::Digest;
use tempfile::TempDir;

use super::client::Client;
use super::config;
use super::members::{dirs, stop, three};
use crate::{RegistryRole, Scheduler, SchedulerConfig, start};

const FORM: &str = "application/x-www-form-urlencoded";
const TOKENS: &str = "/coracle/v1/tokens";
const HOUR: Duration = Duration::from_secs(3_600);

/// A scheduler whose registry asks for credentials on loopback, too.
fn guarded(dir: &TempDir) -> SchedulerConfig {
    let mut config = config(dir.path());
    config.registry.auth = Some(true);
    config
}

async fn started(config: SchedulerConfig) -> (Scheduler, Client) {
    let s = start(config).await.unwrap_or_else(|e| panic!("{e}"));
    let plain = Client::plain(s.registry_url().unwrap());
    (s, plain)
}

fn basic(token: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("robot:{token}")))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(blob)))
}

async fn ask(client: &Client, method: Method, path: &str) -> (StatusCode, HeaderMap, String) {
    let answer = client.bytes(method, path, FORM, Bytes::new()).await;
    let (status, headers, body) = answer.unwrap_or_else(|e| panic!("{path}: {e}"));
    (status, headers, String::from_utf8_lossy(&body).into())
}

async fn get(client: &Client, path: &str) -> StatusCode {
    ask(client, Method::GET, path).await.0
}

/// The challenge of a 401.
async fn challenge(client: &Client, method: Method, path: &str) -> String {
    let (status, headers, body) = ask(client, method, path).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}: {body}");
    assert!(body.contains("\"UNAUTHORIZED\""), "{body}");
    let challenge = headers.get(header::WWW_AUTHENTICATE);
    challenge.unwrap().to_str().unwrap().to_string()
}

async fn push(client: &Client, repository: &str, blob: &'static [u8]) -> StatusCode {
    let path = format!("/v2/{repository}/blobs/uploads/?digest={}", digest(blob));
    let answer = client.bytes(
        Method::POST,
        &path,
        "application/octet-stream",
        Bytes::from_static(blob),
    );
    answer.await.unwrap().0
}

fn blob_path(repository: &str, blob: &[u8]) -> String {
    format!("/v2/{repository}/blobs/{}", digest(blob))
}

/// A bearer token from the token service.
async fn issued(client: &Client, query: &str) -> String {
    let (status, answer) = client.get(&format!("/v2/token?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["token"], answer["access_token"]);
    assert_eq!(answer["expires_in"], 300);
    answer["issued_at"]
        .as_str()
        .unwrap()
        .parse::<Timestamp>()
        .unwrap();
    answer["token"].as_str().unwrap().to_string()
}

async fn token(s: &Scheduler, role: RegistryRole, namespaces: &[&str]) -> String {
    let namespaces = namespaces.iter().map(ToString::to_string).collect();
    s.create_registry_token(role, namespaces, HOUR)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_works_where_it_says_until_it_is_revoked() {
    let dir = TempDir::new().unwrap();
    let (s, nobody) = started(guarded(&dir)).await;
    let host = s.registry_url().unwrap();
    let realm = format!("Bearer realm=\"{host}/v2/token\",service=\"coracle\"");
    assert_eq!(challenge(&nobody, Method::GET, "/v2/").await, realm);
    let upload = challenge(&nobody, Method::POST, "/v2/a/x/blobs/uploads/").await;
    assert_eq!(
        upload,
        format!("{realm},scope=\"repository:a/x:pull,push\"")
    );
    let catalog = challenge(&nobody, Method::GET, "/v2/_catalog").await;
    assert_eq!(catalog, format!("{realm},scope=\"registry:catalog:*\""));

    // Made by the API, as the command does.
    let admin = Client::admin(&s);
    let made = admin
        .post(
            TOKENS,
            &json!({"role": "pusher", "namespaces": ["a"], "ttl_seconds": 60}),
        )
        .await;
    let pusher = made["token"].as_str().unwrap();
    let with = nobody.saying(&basic(pusher));
    assert_eq!(get(&with, "/v2/").await, StatusCode::OK);
    assert_eq!(push(&with, "a/x", b"one").await, StatusCode::CREATED);
    assert_eq!(push(&with, "b/x", b"one").await, StatusCode::FORBIDDEN);
    assert_eq!(get(&with, &blob_path("a/x", b"one")).await, StatusCode::OK);
    assert_eq!(get(&with, "/v2/_catalog").await, StatusCode::FORBIDDEN);
    let (status, _, why) = ask(&with, Method::DELETE, &blob_path("a/x", b"one")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        why.contains("DENIED") && why.contains("administrator"),
        "{why}"
    );
    let direct = nobody.saying(&bearer(pusher));
    assert_eq!(push(&direct, "a/x", b"two").await, StatusCode::CREATED);

    // The token service, both ways.
    let scope = "service=coracle&scope=repository:a/x:pull,push&scope=repository:b/x:pull";
    let short = issued(&with, scope).await;
    let short = nobody.saying(&bearer(&short));
    assert_eq!(get(&short, "/v2/").await, StatusCode::OK);
    assert_eq!(push(&short, "a/x", b"three").await, StatusCode::CREATED);
    let other = challenge(&short, Method::GET, &blob_path("a/y", b"one")).await;
    assert!(other.ends_with("error=\"insufficient_scope\""), "{other}");
    assert_eq!(push(&short, "b/x", b"one").await, StatusCode::FORBIDDEN);
    for form in [
        format!("grant_type=password&username=u&password={pusher}&scope=repository:a/x:pull"),
        format!(
            "grant_type=refresh_token&refresh_token={pusher}&scope=repository:a/x:pull&access_type=offline"
        ),
    ] {
        let keeps = form.contains("offline");
        let answer = nobody.bytes(Method::POST, "/v2/token", FORM, form.into());
        let (status, headers, body) = answer.await.unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["refresh_token"] == *pusher, keeps);
        let short = nobody.saying(&bearer(answer["access_token"].as_str().unwrap()));
        assert_eq!(get(&short, &blob_path("a/x", b"one")).await, StatusCode::OK);
        // It is good for the registry and not for another token.
        assert_eq!(get(&short, "/v2/token").await, StatusCode::UNAUTHORIZED);
    }
    for (form, status) in [
        ("grant_type=password&password=wrong", 401),
        ("grant_type=password", 400),
        ("grant_type=authorization_code&code=x", 400),
        ("", 400),
    ] {
        let answer = nobody.bytes(Method::POST, "/v2/token", FORM, form.into());
        assert_eq!(answer.await.unwrap().0.as_u16(), status, "{form}");
    }

    // A puller pulls.
    let puller = token(&s, RegistryRole::Puller, &[]).await;
    let pulls = nobody.saying(&basic(&puller));
    assert_eq!(get(&pulls, &blob_path("a/x", b"one")).await, StatusCode::OK);
    assert_eq!(get(&pulls, "/v2/_catalog").await, StatusCode::OK);
    assert_eq!(push(&pulls, "a/x", b"four").await, StatusCode::FORBIDDEN);

    // What is shown, and what revoking ends.
    let list = admin.get(TOKENS).await.1;
    let all = list["tokens"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    let shown = all.iter().find(|t| t["role"] == "pusher").unwrap();
    assert_eq!(shown["namespaces"], json!(["a"]));
    assert!(!list.to_string().contains(&pusher[pusher.len() - 64..]));
    let id = shown["id"].as_str().unwrap();
    let path = format!("{TOKENS}/{id}");
    assert_eq!(
        ask(&nobody, Method::GET, &path).await.0,
        StatusCode::NOT_FOUND,
        "the registry's listener"
    );
    let strange = Client::node(&s, &s.node_identity_for_local_runner("n1").unwrap());
    assert_eq!(
        ask(&strange, Method::DELETE, &path).await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(ask(&admin, Method::DELETE, &path).await.0, StatusCode::OK);
    assert_eq!(
        ask(&admin, Method::DELETE, &path).await.0,
        StatusCode::NOT_FOUND
    );
    for client in [&with, &direct, &short] {
        let why = challenge(client, Method::GET, &blob_path("a/x", b"one")).await;
        assert!(why.ends_with("error=\"invalid_token\""), "{why}");
    }
    assert_eq!(get(&with, "/v2/token").await, StatusCode::UNAUTHORIZED);
    assert_eq!(
        get(&pulls, "/v2/").await,
        StatusCode::OK,
        "the other one works"
    );
    for bad in [
        json!({"role": "baker"}),
        json!({"role": "puller", "namespaces": ["A"]}),
        json!({"role": "runner", "namespaces": ["a"]}),
        json!({"role": "puller", "ttl_seconds": 400 * 86_400}),
    ] {
        let (status, answer) = admin.send(Method::POST, TOKENS, &bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}: {answer}");
    }
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_pulls_where_the_namespace_says_so_and_only_while_it_does() {
    let dir = TempDir::new().unwrap();
    let (s, nobody) = started(guarded(&dir)).await;
    let admin = Client::admin(&s);
    let namespace = |value: &str| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "pub", "annotations": {"registry.coracle.dev/anonymous-pull": value}}})
    };
    admin.post("/api/v1/namespaces", &namespace("true")).await;
    let pusher = nobody.saying(&basic(&token(&s, RegistryRole::Pusher, &[]).await));
    assert_eq!(push(&pusher, "pub/x", b"one").await, StatusCode::CREATED);
    assert_eq!(push(&pusher, "own/x", b"one").await, StatusCode::CREATED);
    // Docker Hub's way: the ping asks for a token, and a token for nobody is had.
    challenge(&nobody, Method::GET, "/v2/").await;
    let scope = "scope=repository:pub/x:pull,push&scope=repository:own/x:pull";
    let short = nobody.saying(&bearer(&issued(&nobody, scope).await));
    assert_eq!(get(&short, "/v2/").await, StatusCode::OK);
    for client in [&nobody, &short] {
        assert_eq!(
            get(client, &blob_path("pub/x", b"one")).await,
            StatusCode::OK
        );
        challenge(client, Method::GET, &blob_path("own/x", b"one")).await;
        challenge(client, Method::POST, "/v2/pub/x/blobs/uploads/").await;
    }
    // A token of another namespace is at least everybody.
    let puller = token(&s, RegistryRole::Puller, &["own"]).await;
    let puller = nobody.saying(&basic(&puller));
    assert_eq!(
        get(&puller, &blob_path("pub/x", b"one")).await,
        StatusCode::OK
    );
    let (status, answer) = admin
        .send(Method::PATCH, "/api/v1/namespaces/pub", &namespace("false"))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for client in [&nobody, &short] {
        challenge(client, Method::GET, &blob_path("pub/x", b"one")).await;
    }
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_shown_only_where_it_was_pushed_or_mounted_by_one_who_reads_it() {
    let dir = TempDir::new().unwrap();
    let (s, nobody) = started(guarded(&dir)).await;
    let all = nobody.saying(&basic(&token(&s, RegistryRole::Pusher, &[]).await));
    let of_b = nobody.saying(&basic(&token(&s, RegistryRole::Pusher, &["b"]).await));
    assert_eq!(push(&all, "a/x", b"one").await, StatusCode::CREATED);
    for repository in ["a/y", "b/x"] {
        for method in [Method::GET, Method::HEAD] {
            let path = blob_path(repository, b"one");
            assert_eq!(ask(&all, method, &path).await.0, StatusCode::NOT_FOUND);
        }
    }
    // Whoever may not read the source does not learn that the blob is there: it is asked to send it.
    let mount = |from: &str| format!("/v2/b/x/blobs/uploads/?mount={}{from}", digest(b"one"));
    for from in ["&from=a/x", "&from=a%2Fx", ""] {
        let (status, headers, _) = ask(&of_b, Method::POST, &mount(from)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{from}");
        assert!(headers.contains_key(header::LOCATION));
    }
    // Neither does a bearer token that was not issued for the source.
    let narrow = issued(&all, "scope=repository:b/x:pull,push").await;
    let narrow = nobody.saying(&bearer(&narrow));
    let (status, _, _) = ask(&narrow, Method::POST, &mount("&from=a/x")).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(
        get(&of_b, &blob_path("b/x", b"one")).await,
        StatusCode::NOT_FOUND
    );
    let wide = issued(
        &all,
        "scope=repository:b/x:pull,push&scope=repository:a/x:pull",
    )
    .await;
    let wide = nobody.saying(&bearer(&wide));
    let (status, _, _) = ask(&wide, Method::POST, &mount("&from=a/x")).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(get(&of_b, &blob_path("b/x", b"one")).await, StatusCode::OK);
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bearer_token_is_over_after_five_minutes_and_a_minute_of_grace() {
    let dir = TempDir::new().unwrap();
    let mut config = guarded(&dir);
    let ahead = Arc::new(AtomicI64::new(0));
    let clock = ahead.clone();
    config.clock = Arc::new(move || {
        let ahead = SignedDuration::from_secs(clock.load(Ordering::SeqCst));
        Timestamp::now().checked_add(ahead).unwrap()
    });
    let (s, nobody) = started(config).await;
    let pusher = token(&s, RegistryRole::Pusher, &[]).await;
    let with = nobody.saying(&basic(&pusher));
    let short = nobody.saying(&bearer(&issued(&with, "").await));
    for (seconds, status) in [(0, 200), (330, 200), (370, 401)] {
        ahead.store(seconds, Ordering::SeqCst);
        assert_eq!(get(&short, "/v2/").await.as_u16(), status, "{seconds}");
    }
    // 401 and not 403, so that clients get a new one.
    let again = challenge(&short, Method::GET, &blob_path("a/x", b"one")).await;
    assert!(again.ends_with("error=\"invalid_token\""), "{again}");
    assert_eq!(get(&with, "/v2/").await, StatusCode::OK);
    ahead.store(3_700, Ordering::SeqCst);
    assert_eq!(
        get(&with, "/v2/").await,
        StatusCode::UNAUTHORIZED,
        "its hour is over"
    );
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_takes_what_any_member_issued() {
    let dirs = dirs();
    let members = three(&dirs).await;
    let token = token(&members[0], RegistryRole::Pusher, &[]).await;
    // Under the API the registry always asks who it is.
    let at = |n: usize| Client::anonymous(&members[n]);
    for member in &members {
        let client = Client::anonymous(member);
        let realm = challenge(&client, Method::GET, "/v2/").await;
        let expected = format!("Bearer realm=\"{}/v2/token\"", member.api_url());
        assert!(realm.starts_with(&expected), "{realm}");
    }
    let short = issued(&at(1).saying(&basic(&token)), "scope=registry:catalog:*").await;
    for n in 0..3 {
        let with = at(n).saying(&bearer(&short));
        assert_eq!(get(&with, "/v2/_catalog").await, StatusCode::OK, "{n}");
    }
    // It is asked at any member whether it was revoked.
    let id = token.split('.').nth(1).unwrap();
    let path = format!("{TOKENS}/{id}");
    let gone = ask(&Client::admin(&members[2]), Method::DELETE, &path).await;
    assert_eq!(gone.0, StatusCode::OK, "{}", gone.2);
    let with = at(2).saying(&bearer(&short));
    assert_eq!(get(&with, "/v2/").await, StatusCode::UNAUTHORIZED);
    stop(&members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_speaks_tls_with_the_clusters_or_its_own_certificate() {
    let dir = TempDir::new().unwrap();
    let mut tls = guarded(&dir);
    tls.registry.tls = Some(true);
    let s = start(tls.clone()).await.unwrap_or_else(|e| panic!("{e}"));
    let url = s.registry_url().unwrap().to_string();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let nobody = Client::with(&url, &s.ca_pem(), None);
    let realm = challenge(&nobody, Method::GET, "/v2/").await;
    assert!(
        realm.contains(&format!("realm=\"{url}/v2/token\"")),
        "{realm}"
    );
    let pusher = token(&s, RegistryRole::Pusher, &[]).await;
    let with = nobody.saying(&basic(&pusher));
    assert_eq!(push(&with, "a/x", b"one").await, StatusCode::CREATED);
    // A certificate of the cluster says who one is, too.
    let node = s.node_identity_for_local_runner("n1").unwrap();
    let node = Client::with(&url, &node.ca, Some(&node));
    assert_eq!(get(&node, &blob_path("a/x", b"one")).await, StatusCode::OK);
    assert_eq!(push(&node, "a/x", b"two").await, StatusCode::FORBIDDEN);
    s.shutdown().await;

    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    let own = params.self_signed(&key).unwrap().pem();
    let files = [dir.path().join("own.crt"), dir.path().join("own.key")];
    std::fs::write(&files[0], &own).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    tls.registry.tls = None;
    tls.registry.certificate = Some((files[0].clone(), files[1].clone()));
    let s = start(tls.clone()).await.unwrap_or_else(|e| panic!("{e}"));
    let nobody = Client::with(s.registry_url().unwrap(), &own, None);
    let with = nobody.saying(&basic(&pusher));
    assert_eq!(
        get(&with, &blob_path("a/x", b"one")).await,
        StatusCode::OK,
        "after a restart"
    );
    s.shutdown().await;

    std::fs::write(&files[1], "no key").unwrap();
    let error = start(tls).await.err().unwrap().to_string();
    assert!(error.starts_with("E_REGISTRY_CERT"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_stays_open_unless_it_is_asked_to_be_guarded() {
    let dir = TempDir::new().unwrap();
    let (s, nobody) = started(config(dir.path())).await;
    assert_eq!(get(&nobody, "/v2/").await, StatusCode::OK);
    assert_eq!(push(&nobody, "a/x", b"one").await, StatusCode::CREATED);
    // Credentials that nobody asked for do no harm, not even wrong ones.
    let wrong = nobody.saying(&basic("wrong"));
    assert_eq!(get(&wrong, &blob_path("a/x", b"one")).await, StatusCode::OK);
    s.shutdown().await;
}
