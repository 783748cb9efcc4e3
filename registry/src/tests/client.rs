//! A client without a socket, a clock that is told the time, and registries over every kind of store.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::authorise::{AllowAll, Authorise};
use crate::blobs::{Blobs, disk, memory};
use crate::digest::{Algorithm, Digest};
use crate::limits::Limits;
use crate::manifest::OCI_MANIFEST;
use crate::meta::{self, Meta};
use crate::{Clock, Parts, Registry, router};

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    /// It begins at the real time, because the disk stamps files with that.
    pub fn new() -> TestClock {
        TestClock(Arc::new(AtomicI64::new(Timestamp::now().as_millisecond())))
    }

    pub fn advance(&self, ms: i64) -> Timestamp {
        self.0.fetch_add(ms, Ordering::SeqCst);
        self.now()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// One registry under test.
#[derive(Clone)]
pub struct Rig {
    pub registry: Arc<Registry>,
    pub blobs: Arc<dyn Blobs>,
    pub meta: Arc<dyn Meta>,
    pub clock: TestClock,
    pub limits: Limits,
    pub kind: &'static str,
    /// Keeps the disk store's directory.
    pub dir: Option<Arc<tempfile::TempDir>>,
    router: Router,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code of the first error in the body.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Reply {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Reply {
        let reply = self.expect(status);
        assert_eq!(reply.code(), code, "{reply:?}");
        reply
    }
}

impl Rig {
    pub async fn over(
        blobs: Arc<dyn Blobs>,
        meta: Arc<dyn Meta>,
        clock: TestClock,
        limits: Limits,
        authorise: Arc<dyn Authorise>,
    ) -> Rig {
        let registry = Registry::open(Parts {
            blobs: blobs.clone(),
            meta: meta.clone(),
            limits: limits.clone(),
            clock: Arc::new(clock.clone()),
            authorise,
        })
        .await
        .unwrap();
        Rig {
            router: router(registry.clone()),
            registry,
            blobs,
            meta,
            clock,
            limits,
            kind: "given",
            dir: None,
        }
    }

    pub async fn memory() -> Rig {
        Rig::memory_with(Limits::default()).await
    }

    pub async fn memory_with(limits: Limits) -> Rig {
        let clock = TestClock::new();
        let blobs = Arc::new(memory::Memory::new(clock.clone()));
        let meta = Arc::new(meta::memory::Memory::new());
        let mut rig = Rig::over(blobs, meta, clock, limits, Arc::new(AllowAll)).await;
        rig.kind = "memory";
        rig
    }

    pub async fn disk() -> Rig {
        Rig::disk_with(Limits::default()).await
    }

    pub async fn disk_with(limits: Limits) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(disk::open(dir.path()).unwrap());
        let meta = Arc::new(meta::memory::Memory::new());
        let mut rig = Rig::over(blobs, meta, TestClock::new(), limits, Arc::new(AllowAll)).await;
        rig.kind = "disk";
        rig.dir = Some(Arc::new(dir));
        rig
    }

    /// One of each.
    pub async fn every() -> Vec<Rig> {
        vec![Rig::memory().await, Rig::disk().await]
    }

    /// A new process over the same stores.
    pub async fn restart(&self) -> Rig {
        let mut rig = Rig::over(
            self.blobs.clone(),
            self.meta.clone(),
            self.clock.clone(),
            self.limits.clone(),
            Arc::new(AllowAll),
        )
        .await;
        rig.kind = self.kind;
        rig.dir = self.dir.clone();
        rig
    }

    pub async fn send(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .router
            .clone()
            .oneshot(request.body(body.into()).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub async fn get(&self, uri: &str) -> Reply {
        self.send("GET", uri, &[], Body::empty()).await
    }

    pub async fn head(&self, uri: &str) -> Reply {
        self.send("HEAD", uri, &[], Body::empty()).await
    }

    pub async fn delete(&self, uri: &str) -> Reply {
        self.send("DELETE", uri, &[], Body::empty()).await
    }

    /// Starts a session, answers its location.
    pub async fn start(&self, name: &str) -> String {
        let uri = format!("/v2/{name}/blobs/uploads/");
        let reply = self.send("POST", &uri, &[], Body::empty()).await;
        reply.expect(202).header("location").to_owned()
    }

    /// Pushes a blob by POST and PUT.
    pub async fn push_blob(&self, name: &str, bytes: &[u8], algorithm: Algorithm) -> Digest {
        let digest = algorithm.digest(bytes);
        let location = self.start(name).await;
        let uri = format!("{location}?digest={digest}");
        self.send("PUT", &uri, &[], bytes.to_vec())
            .await
            .expect(201);
        digest
    }

    /// Pushes a manifest under a tag or digest.
    pub async fn put_manifest(&self, name: &str, reference: &str, manifest: &Value) -> Reply {
        let uri = format!("/v2/{name}/manifests/{reference}");
        let media_type = manifest["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
        let body = manifest.to_string();
        self.send("PUT", &uri, &[("content-type", media_type)], body)
            .await
    }

    /// Pushes an image of one configuration and one layer, whose content is `text`.
    pub async fn push_image(&self, name: &str, tag: &str, text: &str) -> (Digest, Value) {
        let config = self.push_blob(name, b"{}", Algorithm::Sha256).await;
        let layer = self
            .push_blob(name, text.as_bytes(), Algorithm::Sha256)
            .await;
        let manifest = image(&[&config], &[&layer]);
        let reply = self.put_manifest(name, tag, &manifest).await.expect(201);
        let digest = reply.header("docker-content-digest").parse().unwrap();
        (digest, manifest)
    }
}

/// An image manifest of these blobs.
pub fn image(config: &[&Digest], layers: &[&Digest]) -> Value {
    let desc = |digest: &Digest| json!({ "mediaType": "application/octet-stream", "digest": digest.to_string(), "size": 1 });
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": desc(config[0]),
        "layers": layers.iter().map(|layer| desc(layer)).collect::<Vec<_>>(),
    })
}

/// Bytes that are not all alike.
pub fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) | 0x1000;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as u8
        })
        .collect()
}
