//! Mirrors of a registry of the test, which is one of ours behind a gate.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::to_bytes;
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_registry::authorise::{Access, Action, AllowAll, Authorise, Verdict};
use coracle_registry::blobs::memory as blobs;
use coracle_registry::digest::Algorithm;
use coracle_registry::meta::memory as meta;
use coracle_registry::{BoxFuture as Boxed, Limits, Parts as Made, Registry, SystemClock, router};
use coracle_server::Identity;
use coracle_server::identity::{MEMBERS, NODES};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Reads for nodes, everything for members.
struct Roles;

impl Authorise for Roles {
    fn authorise<'a>(&'a self, access: Access<'a>) -> Boxed<'a, Verdict> {
        let who = access.extensions.get::<Identity>();
        let is = |group| who.is_some_and(|who| who.in_group(group));
        let verdict = if is(MEMBERS) || (is(NODES) && access.action == Action::Pull) {
            Verdict::Allow
        } else {
            Verdict::Deny("not you".into())
        };
        Box::pin(std::future::ready(verdict))
    }
}

async fn registry(authorise: Arc<dyn Authorise>) -> Arc<Registry> {
    let parts = Made {
        blobs: Arc::new(blobs::Memory::new(SystemClock)),
        meta: Arc::new(meta::Memory::new()),
        limits: Limits::default(),
        clock: Arc::new(SystemClock),
        authorise,
    };
    Registry::open(parts).await.unwrap()
}

/// The registry outside.
struct Outside {
    router: Router,
    host: String,
    asked: Arc<Mutex<Vec<String>>>,
    broken: Arc<AtomicBool>,
    /// Blobs are sent when it is open.
    gate: watch::Sender<bool>,
    /// The only `Authorization` that is good, if there is one.
    login: Arc<Mutex<Option<String>>>,
    stop: CancellationToken,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Outside {
    async fn start() -> Self {
        // The binary does this in `main`. A second time is refused, which changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let inner = router(registry(Arc::new(AllowAll)).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outside = Self {
            router: inner.clone(),
            host: listener.local_addr().unwrap().to_string(),
            asked: Arc::default(),
            broken: Arc::default(),
            gate: watch::channel(true).0,
            login: Arc::default(),
            stop: CancellationToken::new(),
        };
        let (asked, broken) = (outside.asked.clone(), outside.broken.clone());
        let (gate, login) = (outside.gate.clone(), outside.login.clone());
        let gated = inner.layer(middleware::from_fn(move |request: Request, next: Next| {
            let (asked, broken) = (asked.clone(), broken.clone());
            let (mut gate, login) = (gate.subscribe(), login.lock().unwrap().clone());
            async move {
                let path = request.uri().path().to_string();
                asked
                    .lock()
                    .unwrap()
                    .push(format!("{} {path}", request.method()));
                if broken.load(Ordering::SeqCst) {
                    return StatusCode::SERVICE_UNAVAILABLE.into_response();
                }
                let shown = request.headers().get(header::AUTHORIZATION);
                if login.is_some() && shown.map(|v| v.to_str().unwrap()) != login.as_deref() {
                    let challenge = (header::WWW_AUTHENTICATE, "Basic realm=\"x\"");
                    return (StatusCode::UNAUTHORIZED, [challenge]).into_response();
                }
                if path.contains("/blobs/") {
                    gate.wait_for(|open| *open).await.unwrap();
                }
                next.run(request).await
            }
        }));
        tokio::spawn(crate::listeners::plain(
            listener,
            gated,
            outside.stop.clone(),
        ));
        outside
    }

    async fn put(&self, method: Method, path: &str, kind: &str, bytes: Bytes) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::CONTENT_LENGTH, bytes.len())
            .body(Body::from(bytes))
            .unwrap();
        let response = Store(self.router.clone()).run(request).await;
        assert_eq!(response.status(), 201, "{path}");
    }

    /// Pushes an image of one layer; answers the manifest's and the layer's digest.
    async fn push(&self, tag: &str, layer: &[u8]) -> (String, String) {
        let digest = Algorithm::Sha256.digest(layer).to_string();
        let path = format!("/v2/team/app/blobs/uploads/?digest={digest}");
        let layer = Bytes::copy_from_slice(layer);
        let size = layer.len();
        self.put(Method::POST, &path, "application/octet-stream", layer)
            .await;
        let descriptor = json!({"mediaType": "application/wasm", "digest": digest, "size": size});
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI, "config": descriptor, "layers": [descriptor]});
        let bytes = Bytes::from(manifest.to_string());
        let manifest = Algorithm::Sha256.digest(&bytes).to_string();
        let path = format!("/v2/team/app/manifests/{tag}");
        self.put(Method::PUT, &path, OCI, bytes).await;
        (manifest, digest)
    }

    /// How often something was asked for.
    fn count(&self, what: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|a| a.starts_with(what)).count()
    }
}

/// The cluster's registry with its mirror.
struct Mirror {
    upstream: Arc<Upstream>,
    registry: Arc<Registry>,
    front: Store,
    secret: Arc<Mutex<Option<Value>>>,
}

#[derive(Debug)]
struct Got {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Got {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Mirror {
    async fn of(outside: &Outside) -> Self {
        let secret: Arc<Mutex<Option<Value>>> = Arc::default();
        let read = secret.clone();
        let secrets: Secrets = Arc::new(move |key| {
            assert_eq!(key.to_string(), "kube-system/registry-upstream");
            read.lock().unwrap().clone()
        });
        let upstream = Upstream::new(vec![outside.host.clone()], secrets);
        let registry = registry(Arc::new(Roles)).await;
        let front = upstream.wrap(router(registry.clone()));
        Self {
            upstream,
            registry,
            front: Store(front),
            secret,
        }
    }

    async fn ask(&self, method: Method, path: &str, who: Option<&str>) -> Got {
        let mut request = Request::builder().method(method).uri(path);
        if path.contains("/blobs/") {
            request = request.header(header::RANGE, "bytes=0-");
        }
        let mut request = request.body(Body::from("x")).unwrap();
        if let Some(group) = who {
            let identity = Identity::new("system:node:n1", &[group]);
            request.extensions_mut().insert(identity);
        }
        let response = self.front.run(request).await;
        let (parts, body) = response.into_parts();
        Got {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: to_bytes(body, 1 << 24).await.unwrap(),
        }
    }

    async fn get(&self, outside: &Outside, what: &str) -> Got {
        let path = format!("/v2/team/app/{what}?ns={}", outside.host);
        self.ask(Method::GET, &path, Some(NODES)).await
    }

    /// As if so much time had passed.
    fn forget_ages(&self) {
        self.upstream.tags().clear();
    }
}

#[tokio::test]
async fn an_image_outside_is_fetched_once_and_served_from_here() {
    let outside = Outside::start().await;
    let (manifest, layer) = outside.push("v1", b"some wasm").await;
    let mirror = Mirror::of(&outside).await;
    for round in 0..2 {
        let got = mirror.get(&outside, "manifests/v1").await;
        assert_eq!(got.status, 200, "{got:?}");
        assert_eq!(got.headers["oci-namespace"], *outside.host);
        assert_eq!(got.headers["docker-content-digest"], *manifest);
        assert!(!got.headers.contains_key("warning"));
        let got = mirror.get(&outside, &format!("blobs/{layer}")).await;
        assert_eq!(
            (got.status, got.body.as_ref()),
            (206, &b"some wasm"[..]),
            "{round}"
        );
    }
    assert_eq!(
        outside.count("HEAD /v2/team/app/manifests/"),
        1,
        "the tag is believed for a while"
    );
    assert_eq!(outside.count("GET /v2/team/app/manifests/"), 1);
    assert_eq!(outside.count("GET /v2/team/app/blobs/"), 1);
    let path = format!(
        "/v2/coracle.upstream/{}/team/app/tags/list",
        outside.host.replace(':', "--")
    );
    let tags = mirror.ask(Method::GET, &path, Some(NODES)).await;
    assert!(tags.text().contains("\"v1\""), "{tags:?}");
}

#[tokio::test]
async fn mirrors_hold_what_the_quota_of_their_namespace_lets_them() {
    let outside = Outside::start().await;
    let (_, small) = outside.push("v1", b"some wasm").await;
    let (_, large) = outside.push("v2", &[7; 2_000]).await;
    let mirror = Mirror::of(&outside).await;
    let set = mirror.registry.set_quota(MIRRORS, Some(1_000));
    set.await.unwrap();
    let got = mirror.get(&outside, &format!("blobs/{small}")).await;
    assert_eq!(got.status, 206, "{got:?}");
    let got = mirror.get(&outside, &format!("blobs/{large}")).await;
    assert_eq!(got.status, 507, "{got:?}");
    let text = got.text();
    assert!(
        text.contains("E_REGISTRY_QUOTA") && text.contains("quota set coracle.upstream SIZE"),
        "{text}"
    );
    mirror.registry.set_quota(MIRRORS, None).await.unwrap();
    let got = mirror.get(&outside, &format!("blobs/{large}")).await;
    assert_eq!((got.status, got.body.len()), (206, 2_000), "{got:?}");
}

#[tokio::test]
async fn those_who_ask_at_once_share_a_transfer() {
    let outside = Outside::start().await;
    let (_, layer) = outside.push("v1", &vec![7; 1 << 20]).await;
    outside.gate.send_replace(false);
    let mirror = Mirror::of(&outside).await;
    let what = format!("blobs/{layer}");
    let all = join_all((0..50).map(|_| mirror.get(&outside, &what)));
    let open = async {
        let waiting = || {
            let flights = mirror.upstream.flights();
            flights
                .values()
                .next()
                .and_then(Shared::strong_count)
                .unwrap_or(0)
        };
        // Each waits with a handle of its own, and one is in the list.
        while waiting() < 51 {
            tokio::task::yield_now().await;
        }
        outside.gate.send_replace(true);
    };
    let (all, ()) = futures_util::future::join(all, open).await;
    assert!(
        all.iter()
            .all(|got| got.status == 206 && got.body.len() == 1 << 20)
    );
    assert_eq!(outside.count("GET /v2/team/app/blobs/"), 1);
    assert!(mirror.upstream.flights().is_empty());
}

#[tokio::test]
async fn a_tag_that_moved_is_seen_when_it_is_old() {
    let outside = Outside::start().await;
    let (one, _) = outside.push("v1", b"one").await;
    let mirror = Mirror::of(&outside).await;
    let digest = |got: &Got| {
        got.headers["docker-content-digest"]
            .to_str()
            .unwrap()
            .to_string()
    };
    assert_eq!(digest(&mirror.get(&outside, "manifests/v1").await), one);
    let (two, _) = outside.push("v1", b"two").await;
    assert_eq!(digest(&mirror.get(&outside, "manifests/v1").await), one);
    mirror.forget_ages();
    assert_eq!(digest(&mirror.get(&outside, "manifests/v1").await), two);
    // The same as before: only looked at.
    mirror.forget_ages();
    assert_eq!(digest(&mirror.get(&outside, "manifests/v1").await), two);
    assert_eq!(outside.count("GET /v2/team/app/manifests/"), 2);
}

#[tokio::test]
async fn what_is_here_is_served_with_a_warning_while_the_upstream_is_down() {
    let outside = Outside::start().await;
    let (manifest, _) = outside.push("v1", b"one").await;
    let mirror = Mirror::of(&outside).await;
    assert_eq!(mirror.get(&outside, "manifests/v1").await.status, 200);
    outside.broken.store(true, Ordering::SeqCst);
    mirror.forget_ages();
    for _ in 0..2 {
        let got = mirror.get(&outside, "manifests/v1").await;
        assert_eq!(got.status, 200);
        let warning = got.headers["warning"].to_str().unwrap();
        assert!(
            warning.starts_with("299 - \"") && warning.len() < 4_096,
            "{warning}"
        );
    }
    assert_eq!(outside.count("HEAD "), 2, "it is left alone for a while");
    let got = mirror.get(&outside, &format!("manifests/{manifest}")).await;
    assert_eq!(got.status, 200, "content does not age");
    assert!(!got.headers.contains_key("warning"));
    let got = mirror.get(&outside, "manifests/v2").await;
    assert_eq!(got.status, 502, "{}", got.text());
    assert!(got.text().contains("E_REGISTRY_UPSTREAM"));
}

#[tokio::test]
async fn an_index_comes_without_what_nobody_asked_for() {
    let outside = Outside::start().await;
    let (manifest, layer) = outside.push("one", b"one").await;
    let (other, _) = outside.push("two", b"two").await;
    let entry = |digest: &str| json!({"mediaType": OCI, "digest": digest, "size": 1});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&manifest), entry(&other)]});
    let path = "/v2/team/app/manifests/multi";
    outside
        .put(Method::PUT, path, INDEX, Bytes::from(index.to_string()))
        .await;
    let mirror = Mirror::of(&outside).await;
    let got = mirror.get(&outside, "manifests/multi").await;
    assert_eq!((got.status, got.text()), (200, index.to_string()));
    assert_eq!(got.headers["content-type"], INDEX);
    assert_eq!(
        mirror
            .get(&outside, &format!("manifests/{manifest}"))
            .await
            .status,
        200
    );
    assert_eq!(
        mirror.get(&outside, &format!("blobs/{layer}")).await.status,
        206
    );
    assert_eq!(
        outside.count(&format!("GET /v2/team/app/manifests/{other}")),
        0
    );
}

#[tokio::test]
async fn it_is_no_open_proxy() {
    let outside = Outside::start().await;
    outside.push("v1", b"one").await;
    let mirror = Mirror::of(&outside).await;
    let listed = &outside.host;
    let absent = format!("blobs/sha256:{}", "0".repeat(64));
    for (method, path, who, status, code) in [
        (
            Method::GET,
            "/v2/a/manifests/v1?ns=169.254.169.254".into(),
            Some(NODES),
            404,
            "NAME_UNKNOWN",
        ),
        (
            Method::GET,
            format!("/v2/a/manifests/v1?ns={listed}.evil.example"),
            Some(NODES),
            404,
            "NAME_UNKNOWN",
        ),
        (
            Method::GET,
            format!("/v2/a/manifests/v1?ns=user@{listed}"),
            Some(NODES),
            404,
            "NAME_UNKNOWN",
        ),
        (
            Method::GET,
            "/v2/a/manifests/v1?ns=".into(),
            Some(NODES),
            404,
            "NAME_UNKNOWN",
        ),
        (
            Method::GET,
            format!("/v2/team/app/manifests/v1?ns={listed}"),
            None,
            403,
            "DENIED",
        ),
        (
            Method::GET,
            format!("/v2/team/app/tags/list?ns={listed}"),
            Some(NODES),
            405,
            "UNSUPPORTED",
        ),
        (
            Method::PUT,
            format!("/v2/team/app/manifests/v1?ns={listed}"),
            Some(MEMBERS),
            405,
            "UNSUPPORTED",
        ),
        (
            Method::PUT,
            "/v2/coracle.upstream/ghcr.io/a/manifests/v1".into(),
            Some(MEMBERS),
            403,
            "DENIED",
        ),
        (
            Method::POST,
            "/v2/coracle.upstream/ghcr.io/a/blobs/uploads/".into(),
            Some(MEMBERS),
            403,
            "DENIED",
        ),
    ] {
        let got = mirror.ask(method.clone(), &path, who).await;
        assert_eq!(got.status, status, "{method} {path}: {}", got.text());
        assert!(got.text().contains(code), "{method} {path}: {}", got.text());
    }
    assert_eq!(
        outside.count(""),
        0,
        "nothing of it reached the registry outside"
    );
    let got = mirror.get(&outside, &absent).await;
    assert_eq!(got.status, 404, "{}", got.text());
    assert_eq!(mirror.get(&outside, "manifests/none").await.status, 404);
}

/// Refused before a byte of the body was needed; the body is larger than all socket buffers.
#[tokio::test]
async fn a_client_that_is_still_sending_gets_to_read_the_refusal() {
    let outside = Outside::start().await;
    let front = Mirror::of(&outside).await.front.0;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, front).await });
    let body = vec![b'x'; 6 << 20];
    for (target, status) in [
        ("coracle.upstream/ghcr.io/a/blobs/uploads/1", "403"),
        ("a/blobs/uploads/1?ns=elsewhere.example", "404"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PATCH /v2/{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{reply}");
        assert!(reply.contains("\"errors\""), "{reply}");
    }
    server.abort();
}

#[tokio::test]
async fn credentials_come_from_the_secret() {
    let outside = Outside::start().await;
    let (_, layer) = outside.push("v1", b"one").await;
    let mirror = Mirror::of(&outside).await;
    *outside.login.lock().unwrap() = Some(format!("Basic {}", STANDARD.encode("me:secret")));
    let got = mirror.get(&outside, "manifests/v1").await;
    assert_eq!(got.status, 403, "{}", got.text());
    assert!(got.text().contains("kube-system/registry-upstream"));
    let config = json!({"auths": {outside.host.clone(): {"username": "me", "password": "secret"}}});
    let data = STANDARD.encode(config.to_string());
    *mirror.secret.lock().unwrap() = Some(json!({"data": {".dockerconfigjson": data}}));
    assert_eq!(mirror.get(&outside, "manifests/v1").await.status, 200);
    assert_eq!(
        mirror.get(&outside, &format!("blobs/{layer}")).await.status,
        206
    );
}

#[test]
fn only_hosts_can_be_listed() {
    let check = |host: &str| check_hosts(&[host.to_string()]);
    for good in ["ghcr.io", "docker.io", "localhost:5001", "127.0.0.1:5000"] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "https://ghcr.io",
        "ghcr.io/",
        "GHCR.io",
        "a b",
        "x:0",
        "x:99999",
        "*",
        "u@x",
    ] {
        assert!(check(bad).is_err(), "{bad}");
    }
}
