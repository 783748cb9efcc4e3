//! Rot: found, moved aside, never served with a clean end, healed from another copy or by a push.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::client::{Rig, TestClock, image, noise};
use crate::BoxFuture;
use crate::authorise::AllowAll;
use crate::blobs::{
    BlobError, Blobs, Opened, QUARANTINE_BLOBS_MAX, Source, Staged, Stored, memory,
};
use crate::digest::{Algorithm, Digest};
use crate::limits::Limits;
use crate::meta;
use crate::scrub::ScrubReport;
use crate::upload::UploadId;

async fn scrub(rig: &Rig) -> ScrubReport {
    let run = rig.registry.begin_scrub().unwrap();
    run.run(u64::MAX).await.unwrap()
}

fn file(rig: &Rig, digest: &Digest) -> PathBuf {
    let dir = rig.dir.as_ref().unwrap().path();
    let hex = digest.hex();
    let algorithm = digest.algorithm().name();
    dir.join("blobs").join(algorithm).join(&hex[..2]).join(hex)
}

/// Flips one bit in the middle of a stored blob.
fn rot(rig: &Rig, digest: &Digest) {
    let path = file(rig, digest);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn quarantined(rig: &Rig) -> usize {
    let dir = rig.dir.as_ref().unwrap().path().join("quarantine");
    std::fs::read_dir(dir).unwrap().count()
}

/// Bytes that came, and whether the body ended well.
async fn body(rig: &Rig, uri: &str, range: Option<&str>) -> (Vec<u8>, bool) {
    let mut request = Request::get(uri);
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let response = crate::router(rig.registry.clone())
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert!(response.status().is_success(), "{response:?}");
    let mut body = response.into_body();
    let mut all = Vec::new();
    loop {
        match body.frame().await {
            None => return (all, true),
            Some(Err(_)) => return (all, false),
            Some(Ok(frame)) => all.extend_from_slice(&frame.into_data().unwrap()),
        }
    }
}

#[tokio::test]
async fn a_damaged_blob_counts_as_absent_until_it_is_pushed_again() {
    for algorithm in Algorithm::ALL {
        let rig = Rig::disk().await;
        let bytes = noise(300_000, 1);
        let layer = rig.push_blob("demo/a", &bytes, algorithm).await;
        let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
        let value = image(&[&config], &[&layer]);
        rig.put_manifest("demo/a", "v1", &value).await.expect(201);
        let report = scrub(&rig).await;
        let size = value.to_string().len() as u64 + 300_002;
        let sound = ScrubReport {
            checked: 3,
            bytes: size,
            ..ScrubReport::default()
        };
        assert_eq!(report, sound);

        rot(&rig, &layer);
        let report = scrub(&rig).await;
        assert_eq!(
            (report.checked, report.corrupt, report.healed, report.lost),
            (3, 1, 0, 1),
            "{report:?}"
        );
        assert_eq!(report.lost_blobs[0].digest, layer);
        assert_eq!(report.lost_blobs[0].size, 300_000);
        assert_eq!(report.lost_blobs[0].repositories, ["demo/a"]);
        assert_eq!(quarantined(&rig), 1);
        assert_eq!(rig.registry.counters().blobs_corrupt.get(), 1);

        // Every way in which a client may hear that it need not send the bytes says no.
        let uri = format!("/v2/demo/a/blobs/{layer}");
        rig.head(&uri).await.expect(404);
        rig.get(&uri).await.refused(404, "BLOB_UNKNOWN");
        let mount = format!("/v2/demo/b/blobs/uploads/?mount={layer}&from=demo/a");
        rig.send("POST", &mount, &[], Body::empty())
            .await
            .expect(202);
        let anonymous = format!("/v2/demo/b/blobs/uploads/?mount={layer}");
        rig.send("POST", &anonymous, &[], Body::empty())
            .await
            .expect(202);
        rig.put_manifest("demo/a", "v2", &value)
            .await
            .refused(400, "MANIFEST_BLOB_UNKNOWN");

        // It stays lost, and is reported as often as somebody looks.
        let report = scrub(&rig).await;
        assert_eq!(
            (report.checked, report.corrupt, report.missing, report.lost),
            (2, 0, 1, 1),
            "{report:?}"
        );

        rig.push_blob("demo/b", &bytes, algorithm).await;
        assert_eq!(rig.get(&uri).await.expect(200).body, bytes);
        assert_eq!(scrub(&rig).await, sound);
    }
}

#[tokio::test]
async fn wrong_bytes_never_have_a_clean_end() {
    let rig = Rig::disk().await;
    let bytes = noise(300_000, 2);
    let layer = rig.push_blob("demo/a", &bytes, Algorithm::Sha256).await;
    let uri = format!("/v2/demo/a/blobs/{layer}");
    assert_eq!(body(&rig, &uri, None).await, (bytes.clone(), true));

    // Only a whole body can be checked.
    rot(&rig, &layer);
    let (part, clean) = body(&rig, &uri, Some("bytes=149000-151000")).await;
    assert!(clean && part != bytes[149_000..=151_000]);
    let (got, clean) = body(&rig, &uri, Some("bytes=0-")).await;
    assert!(!clean && got.len() < bytes.len(), "{}", got.len());
    assert_eq!(quarantined(&rig), 1);
    assert_eq!(rig.registry.counters().blobs_corrupt.get(), 1);
    rig.get(&uri).await.refused(404, "BLOB_UNKNOWN");

    // A manifest is a blob, too; so small that nothing of it is handed out.
    let (digest, value) = rig.push_image("demo/a", "v1", "content").await;
    rot(&rig, &digest);
    let uri = "/v2/demo/a/manifests/v1";
    assert_eq!(body(&rig, uri, None).await, (Vec::new(), false));
    rig.head(uri).await.expect(404);
    rig.put_manifest("demo/a", "v1", &value).await.expect(201);
    rig.get(uri).await.expect(200);
    assert_eq!(quarantined(&rig), 2);
}

#[tokio::test]
async fn what_nobody_needs_is_not_lost() {
    let rig = Rig::disk().await;
    let digest = Algorithm::Sha256.digest(b"left by a crash");
    let id = UploadId::from_bits(1);
    rig.blobs.begin(&id, Bytes::new()).await.unwrap();
    rig.blobs
        .append(&id, 0, "left by a crash".into())
        .await
        .unwrap();
    rig.blobs.finish(&id, 15, &digest).await.unwrap();
    rot(&rig, &digest);
    // Deleted, but the collector has not come yet.
    let deleted = rig.push_blob("demo/a", b"deleted", Algorithm::Sha256).await;
    rig.delete(&format!("/v2/demo/a/blobs/{deleted}"))
        .await
        .expect(202);
    rot(&rig, &deleted);
    let report = scrub(&rig).await;
    assert_eq!((report.corrupt, report.lost), (2, 0), "{report:?}");
}

#[tokio::test]
async fn the_quarantine_is_bounded() {
    let rig = Rig::disk().await;
    let many = QUARANTINE_BLOBS_MAX + 3;
    for n in 0..many {
        let bytes = format!("blob {n}");
        let digest = rig
            .push_blob("demo/a", bytes.as_bytes(), Algorithm::Sha256)
            .await;
        rot(&rig, &digest);
    }
    let report = scrub(&rig).await;
    assert_eq!((report.corrupt, report.lost), (many as u64, many as u64));
    assert_eq!(quarantined(&rig), QUARANTINE_BLOBS_MAX);
}

#[tokio::test]
async fn one_scrub_at_a_time() {
    let rig = Rig::memory().await;
    assert!(!rig.registry.scrub_status().running);
    let run = rig.registry.begin_scrub().unwrap();
    assert!(rig.registry.begin_scrub().is_none());
    assert!(rig.registry.scrub_status().running);
    drop(run);
    let status = rig.registry.scrub_status();
    assert!(!status.running && status.error.is_some(), "{status:?}");
    scrub(&rig).await;
    let status = rig.registry.scrub_status();
    assert!(!status.running && status.error.is_none(), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn reading_keeps_to_its_bound() {
    let rig = Rig::memory().await;
    for seed in 0..8 {
        let bytes = noise(1 << 20, seed);
        rig.push_blob("demo/a", &bytes, Algorithm::Sha256).await;
    }
    let began = tokio::time::Instant::now();
    let run = rig.registry.begin_scrub().unwrap();
    assert_eq!(run.run(1 << 20).await.unwrap().checked, 8);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(7), "{took:?}");
}

/// A member's store beside another one's: what is absent here is brought from there, if that one answers.
struct Pair {
    here: memory::Memory,
    there: memory::Memory,
    silent: AtomicBool,
}

impl Pair {
    async fn open_anywhere(&self, source: &Source) -> Result<Option<Opened>, BlobError> {
        let here = self.here.open(source).await?;
        let Source::Blob(digest) = source else {
            return Ok(here);
        };
        if here.is_some() {
            return Ok(here);
        }
        if self.silent.load(Ordering::SeqCst) {
            return Err(BlobError::Unavailable("the other member is silent".into()));
        }
        let Some(there) = self.there.open(source).await? else {
            return Ok(None);
        };
        let body = (there.body)(0..there.size);
        let bytes: Vec<Bytes> = futures_util::TryStreamExt::try_collect(body).await.unwrap();
        let bytes = Bytes::from(bytes.concat());
        if digest.algorithm().digest(&bytes) != *digest {
            return Ok(None);
        }
        self.here.plant(digest, bytes);
        self.here.open(source).await
    }
}

impl Blobs for Pair {
    fn begin<'a>(&'a self, id: &'a UploadId, note: Bytes) -> BoxFuture<'a, Result<(), BlobError>> {
        self.here.begin(id, note)
    }
    fn append<'a>(
        &'a self,
        id: &'a UploadId,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        self.here.append(id, offset, bytes)
    }
    fn finish<'a>(
        &'a self,
        id: &'a UploadId,
        size: u64,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        self.here.finish(id, size, digest)
    }
    fn discard<'a>(&'a self, id: &'a UploadId) -> BoxFuture<'a, Result<(), BlobError>> {
        self.here.discard(id)
    }
    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, BlobError>> {
        self.here.staged()
    }
    fn open<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<Option<Opened>, BlobError>> {
        Box::pin(self.open_anywhere(source))
    }
    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        self.here.remove(digest)
    }
    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        self.here.quarantine(digest)
    }
    fn list<'a>(
        &'a self,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, BlobError>> {
        self.here.list(after, limit)
    }
}

#[tokio::test]
async fn another_member_heals() {
    let clock = TestClock::new();
    let pair = Arc::new(Pair {
        here: memory::Memory::new(clock.clone()),
        there: memory::Memory::new(clock.clone()),
        silent: AtomicBool::new(false),
    });
    let meta = Arc::new(meta::memory::Memory::new());
    let limits = Limits::default();
    let rig = Rig::over(pair.clone(), meta, clock, limits, Arc::new(AllowAll)).await;
    let mut blobs = Vec::new();
    for text in ["rotten here", "gone here", "rotten in both", "sound"] {
        let digest = rig
            .push_blob("demo/a", text.as_bytes(), Algorithm::Sha256)
            .await;
        pair.there.plant(&digest, Bytes::from(text));
        blobs.push(digest);
    }
    let bad = Bytes::from_static(b"other bytes");
    pair.here.plant(&blobs[0], bad.clone());
    pair.here.remove(&blobs[1]).await.unwrap();
    pair.here.plant(&blobs[2], bad.clone());
    pair.there.plant(&blobs[2], bad);

    pair.silent.store(true, Ordering::SeqCst);
    let report = scrub(&rig).await;
    assert_eq!(
        (report.corrupt, report.missing, report.pending, report.lost),
        (2, 1, 3, 0),
        "{report:?}"
    );

    pair.silent.store(false, Ordering::SeqCst);
    let report = scrub(&rig).await;
    assert_eq!(
        (report.missing, report.healed, report.pending, report.lost),
        (3, 2, 0, 1),
        "{report:?}"
    );
    assert_eq!(report.lost_blobs[0].digest, blobs[2]);
    for (digest, text) in blobs.iter().zip(["rotten here", "gone here"]) {
        let uri = format!("/v2/demo/a/blobs/{digest}");
        assert_eq!(rig.get(&uri).await.expect(200).body, text);
    }
    assert_eq!(rig.registry.counters().blobs_healed.get(), 2);
    let report = scrub(&rig).await;
    assert_eq!((report.checked, report.missing), (3, 1), "{report:?}");
}
