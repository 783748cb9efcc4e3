//! A store that fails at the n-th call, for every n until a push goes through: no fault leaves half of anything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Body;
use bytes::Bytes;
use serde_json::Value;

use super::client::{Rig, TestClock, image};
use crate::BoxFuture;
use crate::authorise::AllowAll;
use crate::blobs::{BlobError, Blobs, Opened, Source, Staged, Stored, disk};
use crate::digest::{Algorithm, Digest};
use crate::limits::Limits;
use crate::meta::{self, Meta, MetaError, Row, Write};
use crate::upload::UploadId;

/// Counts down; at zero something fails, once.
#[derive(Default)]
struct Fuse(AtomicI64);

impl Fuse {
    fn set(&self, calls: i64) {
        self.0.store(calls, Ordering::SeqCst);
    }

    fn blows(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

struct FaultyBlobs {
    inner: Arc<dyn Blobs>,
    fuse: Fuse,
    full: bool,
}

impl FaultyBlobs {
    fn guard(&self) -> Result<(), BlobError> {
        if !self.fuse.blows() {
            return Ok(());
        }
        let kind = if self.full {
            io::ErrorKind::StorageFull
        } else {
            io::ErrorKind::Other
        };
        Err(BlobError::io("testing", kind.into()))
    }
}

macro_rules! guarded {
    ($self:ident, $call:expr) => {
        Box::pin(async move {
            $self.guard()?;
            $call.await
        })
    };
}

impl Blobs for FaultyBlobs {
    fn begin<'a>(&'a self, id: &'a UploadId, note: Bytes) -> BoxFuture<'a, Result<(), BlobError>> {
        guarded!(self, self.inner.begin(id, note))
    }
    fn append<'a>(
        &'a self,
        id: &'a UploadId,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        guarded!(self, self.inner.append(id, offset, bytes))
    }
    fn finish<'a>(
        &'a self,
        id: &'a UploadId,
        size: u64,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        guarded!(self, self.inner.finish(id, size, digest))
    }
    fn discard<'a>(&'a self, id: &'a UploadId) -> BoxFuture<'a, Result<(), BlobError>> {
        self.inner.discard(id)
    }
    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, BlobError>> {
        self.inner.staged()
    }
    fn open<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<Option<Opened>, BlobError>> {
        guarded!(self, self.inner.open(source))
    }
    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        guarded!(self, self.inner.remove(digest))
    }
    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        guarded!(self, self.inner.quarantine(digest))
    }
    fn list<'a>(
        &'a self,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, BlobError>> {
        guarded!(self, self.inner.list(after, limit))
    }
}

struct FaultyMeta {
    inner: meta::memory::Memory,
    fuse: Fuse,
    /// Fail after the batch has happened: the reply is lost.
    late: bool,
}

impl Meta for FaultyMeta {
    fn get<'a>(
        &'a self,
        table: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Row>, MetaError>> {
        self.inner.get(table, key)
    }
    fn list<'a>(
        &'a self,
        table: &'static str,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, MetaError>> {
        self.inner.list(table, prefix, after, limit)
    }
    fn batch(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(async move {
            let blows = self.fuse.blows();
            if blows && !self.late {
                return Err(MetaError::Unavailable("no leader".into()));
            }
            self.inner.batch(writes).await?;
            match blows {
                true => Err(MetaError::Unavailable("reply lost".into())),
                false => Ok(()),
            }
        })
    }
}

/// POST, PATCH, PATCH, PUT, then a manifest. Stops at the first 5xx.
async fn push(rig: &Rig) -> Result<(), u16> {
    let config = b"{}";
    let layer = vec![7_u8; 600_000];
    let digests =
        [config.as_slice(), layer.as_slice()].map(|bytes| Algorithm::Sha256.digest(bytes));
    for (bytes, digest) in [
        (config.as_slice(), &digests[0]),
        (layer.as_slice(), &digests[1]),
    ] {
        let reply = rig
            .send("POST", "/v2/demo/a/blobs/uploads/", &[], Body::empty())
            .await;
        ok(reply.status.as_u16())?;
        let location = reply.header("location").to_owned();
        let reply = rig.send("PATCH", &location, &[], bytes.to_vec()).await;
        ok(reply.status.as_u16())?;
        let reply = rig
            .send("PUT", &format!("{location}?digest={digest}"), &[], "")
            .await;
        if reply.status.is_server_error() {
            // A client may repeat its last request; whatever it hears, a 201 must be true.
            let again = rig
                .send("PUT", &format!("{location}?digest={digest}"), &[], "")
                .await;
            assert!(matches!(again.status.as_u16(), 201 | 404), "{again:?}");
            if again.status.as_u16() == 201 {
                let got = rig
                    .get(&format!("/v2/demo/a/blobs/{digest}"))
                    .await
                    .expect(200);
                assert_eq!(got.body, bytes);
            }
        }
        ok(reply.status.as_u16())?;
    }
    let value = image(&[&digests[0]], &[&digests[1]]);
    let reply = rig.put_manifest("demo/a", "v1", &value).await;
    ok(reply.status.as_u16())
}

fn ok(status: u16) -> Result<(), u16> {
    if status < 300 { Ok(()) } else { Err(status) }
}

/// What is shown is whole: a served manifest's blobs are all there, with the bytes they should have.
async fn check(rig: &Rig) {
    let reply = rig.get("/v2/demo/a/manifests/v1").await;
    if reply.status.as_u16() == 404 {
        return;
    }
    let manifest: Value = reply.expect(200).json();
    for digest in [
        &manifest["config"]["digest"],
        &manifest["layers"][0]["digest"],
    ] {
        let digest: Digest = digest.as_str().unwrap().parse().unwrap();
        let got = rig
            .get(&format!("/v2/demo/a/blobs/{digest}"))
            .await
            .expect(200);
        assert_eq!(Algorithm::Sha256.digest(&got.body), digest);
    }
}

#[tokio::test]
async fn every_call_of_the_store_may_fail() {
    for full in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(FaultyBlobs {
            inner: Arc::new(disk::open(dir.path()).unwrap()),
            fuse: Fuse::default(),
            full,
        });
        let mut faults = 0;
        loop {
            let meta = Arc::new(meta::memory::Memory::new());
            blobs.fuse.set(0);
            let rig = Rig::over(
                blobs.clone(),
                meta,
                TestClock::new(),
                Limits::default(),
                Arc::new(AllowAll),
            )
            .await;
            blobs.fuse.set(faults + 1);
            let done = push(&rig).await;
            blobs.fuse.set(0);
            check(&rig).await;
            match done {
                Ok(()) => break,
                Err(status) => assert_eq!(status, if full { 507 } else { 500 }),
            }
            // The disk is well again: the same push goes through.
            push(&rig).await.unwrap();
            check(&rig).await;
            rig.get("/v2/demo/a/manifests/v1").await.expect(200);
            faults += 1;
        }
        assert!(faults >= 10, "only {faults} faults");
    }
}

#[tokio::test]
async fn every_batch_may_fail_or_lose_its_reply() {
    for late in [false, true] {
        let mut faults = 0;
        loop {
            let meta = Arc::new(FaultyMeta {
                inner: meta::memory::Memory::new(),
                fuse: Fuse::default(),
                late,
            });
            let dir = tempfile::tempdir().unwrap();
            let blobs = Arc::new(disk::open(dir.path()).unwrap());
            let rig = Rig::over(
                blobs,
                meta.clone(),
                TestClock::new(),
                Limits::default(),
                Arc::new(AllowAll),
            )
            .await;
            meta.fuse.set(faults + 1);
            let done = push(&rig).await;
            meta.fuse.set(0);
            check(&rig).await;
            match done {
                Ok(()) => break,
                Err(status) => assert_eq!(status, 503),
            }
            push(&rig).await.unwrap();
            check(&rig).await;
            faults += 1;
        }
        assert_eq!(faults, 3);
    }
}
