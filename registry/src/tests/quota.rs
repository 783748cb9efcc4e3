//! Quotas: what does not fit is refused wherever it comes in, and leaves nothing.

use axum::body::Body;

use super::client::{Rig, image, noise};
use crate::digest::{Algorithm, Digest};
use crate::usage::NamespaceUsage;

async fn used(rig: &Rig, namespace: &str) -> NamespaceUsage {
    let usage = rig.registry.usage().await.unwrap();
    let mut all = usage.namespaces.into_iter();
    all.find(|n| n.namespace == namespace).unwrap()
}

/// Logical bytes and those of open uploads.
async fn sizes(rig: &Rig, namespace: &str) -> (u64, u64) {
    let used = used(rig, namespace).await;
    (used.held.logical_bytes, used.upload_bytes)
}

async fn quota(rig: &Rig, bytes: u64) {
    rig.registry.set_quota("demo", Some(bytes)).await.unwrap();
}

fn blob(len: usize, seed: u8) -> (Vec<u8>, Digest) {
    let bytes = noise(len, seed);
    let digest = Algorithm::Sha256.digest(&bytes);
    (bytes, digest)
}

#[tokio::test]
async fn what_does_not_fit_is_refused_on_every_way_in() {
    for rig in Rig::every().await {
        quota(&rig, 1_000).await;
        let (first, digest) = blob(600, 1);
        rig.push_blob("demo/a", &first, Algorithm::Sha256).await;
        assert_eq!(sizes(&rig, "demo").await, (600, 0));
        // Another namespace is not concerned.
        let (large, large_digest) = blob(5_000, 2);
        rig.push_blob("other/a", &large, Algorithm::Sha256).await;

        let (second, second_digest) = blob(500, 3);
        // In one request, its length known or not; in a session, at the end and in the middle.
        for length in [Some("500"), None] {
            let headers: Vec<_> = length.map(|l| ("content-length", l)).into_iter().collect();
            let whole = format!("/v2/demo/b/blobs/uploads/?digest={second_digest}");
            let reply = rig.send("POST", &whole, &headers, second.clone()).await;
            let message = reply.refused(403, "DENIED").json()["errors"][0].clone();
            let text = message["message"].as_str().unwrap();
            for part in [
                "namespace demo",
                "1000 bytes",
                "holds 600",
                "500 more",
                "quota set demo",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert_eq!(message["detail"]["limit"], 1_000);

            let location = rig.start("demo/b").await;
            let uri = format!("{location}?digest={second_digest}");
            let reply = rig.send("PUT", &uri, &headers, second.clone()).await;
            reply.refused(403, "DENIED");
            rig.get(&location).await.expect(404);

            let location = rig.start("demo/d").await;
            rig.send("PATCH", &location, &[], second[..300].to_vec())
                .await
                .expect(202);
            assert_eq!(sizes(&rig, "demo").await, (600, 300));
            let reply = rig.send("PATCH", &location, &[], second[300..].to_vec());
            reply.await.refused(403, "DENIED");
            rig.get(&location).await.expect(404);
            assert_eq!(sizes(&rig, "demo").await, (600, 0));
        }
        assert_eq!(rig.registry.uploads(), 2, "the two that went through");

        // A mount brings bytes, too, unless the namespace has them.
        let mount = format!("/v2/demo/b/blobs/uploads/?mount={large_digest}&from=other/a");
        rig.send("POST", &mount, &[], Body::empty())
            .await
            .refused(403, "DENIED");
        let mount = format!("/v2/demo/c/d/blobs/uploads/?mount={digest}&from=demo/a");
        rig.send("POST", &mount, &[], Body::empty())
            .await
            .expect(201);
        assert_eq!(sizes(&rig, "demo").await, (600, 0));

        // Up to the last byte.
        let (rest, _) = blob(400, 4);
        rig.push_blob("demo/b", &rest, Algorithm::Sha256).await;
        assert_eq!(sizes(&rig, "demo").await, (1_000, 0));
        let start = rig.send("POST", "/v2/demo/a/blobs/uploads/", &[], Body::empty());
        start.await.refused(403, "DENIED");
        assert_eq!(rig.registry.uploads(), 3);

        rig.registry.set_quota("demo", None).await.unwrap();
        rig.push_blob("demo/b", &second, Algorithm::Sha256).await;
        assert_eq!(used(&rig, "demo").await.quota_bytes, None);
        assert_eq!(sizes(&rig, "demo").await, (1_500, 0));
    }
}

#[tokio::test]
async fn a_manifest_without_room_is_refused_and_costs_nothing() {
    let rig = Rig::memory().await;
    let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
    let (bytes, _) = blob(1_000, 1);
    let layer = rig.push_blob("demo/a", &bytes, Algorithm::Sha256).await;
    let value = image(&[&config], &[&layer]);
    let size = value.to_string().len() as u64;
    quota(&rig, 1_002 + size - 1).await;
    let before = used(&rig, "demo").await;
    rig.put_manifest("demo/a", "v1", &value)
        .await
        .refused(403, "DENIED");
    rig.get("/v2/demo/a/manifests/v1").await.expect(404);
    assert_eq!(used(&rig, "demo").await, before);
    quota(&rig, 1_002 + size).await;
    rig.put_manifest("demo/a", "v1", &value).await.expect(201);
    // What is there already needs no room: another tag, the same push again.
    quota(&rig, 1).await;
    rig.put_manifest("demo/a", "v2", &value).await.expect(201);
    rig.put_manifest("demo/a", "v1", &value).await.expect(201);
    assert_eq!(sizes(&rig, "demo").await, (1_002 + size, 0));

    // The blobs of the refused push were linked for a while; the collector takes what no manifest names.
    let (bytes, _) = blob(700, 2);
    quota(&rig, 5_000).await;
    let orphan = rig.push_blob("demo/b", &bytes, Algorithm::Sha256).await;
    quota(&rig, 1_702 + size).await;
    rig.put_manifest("demo/b", "v1", &image(&[&orphan], &[]))
        .await
        .refused(403, "DENIED");
    let now = rig.clock.advance(rig.limits.garbage_age_ms);
    rig.registry.collect(now).await.unwrap();
    assert_eq!(sizes(&rig, "demo").await, (1_002 + size, 0));
    rig.push_blob("demo/b", &bytes, Algorithm::Sha256).await;
}

#[tokio::test]
async fn uploads_share_what_is_left_and_a_restart_forgets_none() {
    let rig = Rig::disk().await;
    quota(&rig, 1_000).await;
    let (bytes, digest) = blob(600, 1);
    let (one, other) = (rig.start("demo/a").await, rig.start("demo/b").await);
    rig.send("PATCH", &one, &[], bytes.clone())
        .await
        .expect(202);
    let rig = rig.restart().await;
    assert_eq!(sizes(&rig, "demo").await, (0, 600));
    let reply = rig.send("PATCH", &other, &[], noise(600, 2)).await;
    reply.refused(403, "DENIED");
    rig.get(&other).await.expect(404);
    rig.send("PUT", &format!("{one}?digest={digest}"), &[], "")
        .await
        .expect(201);
    assert_eq!(sizes(&rig, "demo").await, (600, 0));

    // A cancelled and an expired one give back what they held.
    for end in ["cancel", "expire"] {
        let location = rig.start("demo/a").await;
        rig.send("PATCH", &location, &[], noise(400, 3))
            .await
            .expect(202);
        let start = rig.send("POST", "/v2/demo/a/blobs/uploads/", &[], Body::empty());
        start.await.refused(403, "DENIED");
        if end == "cancel" {
            rig.delete(&location).await.expect(204);
        } else {
            let now = rig.clock.advance(rig.limits.upload_age_ms_max + 1);
            rig.registry.expire_uploads(now).await.unwrap();
        }
        assert_eq!(sizes(&rig, "demo").await, (600, 0), "{end}");
    }
}

#[tokio::test]
async fn many_at_once_never_exceed_it() {
    let rig = Rig::memory().await;
    quota(&rig, 10_000).await;
    let pushes = (0..40).map(|n| {
        let rig = rig.clone();
        tokio::spawn(async move {
            let (bytes, digest) = blob(1_000, n);
            let name = format!("demo/r{}", n % 3);
            let uri = format!("/v2/{name}/blobs/uploads/?digest={digest}");
            rig.send("POST", &uri, &[], bytes).await.status.as_u16()
        })
    });
    let answers = futures_util::future::join_all(pushes).await;
    let answers: Vec<u16> = answers.into_iter().map(Result::unwrap).collect();
    let taken = answers.iter().filter(|status| **status == 201).count();
    assert!(answers.iter().all(|status| matches!(status, 201 | 403)));
    assert_eq!(taken, 10, "{answers:?}");
    assert_eq!(sizes(&rig, "demo").await, (10_000, 0));
}

#[tokio::test]
async fn a_quota_belongs_to_a_first_segment() {
    let rig = Rig::memory().await;
    for bad in ["", "demo/a", "Demo", "demo:x", "../x"] {
        let error = rig.registry.set_quota(bad, Some(1)).await.unwrap_err();
        assert_eq!(error.status.as_u16(), 400, "{bad}");
    }
    quota(&rig, 7).await;
    quota(&rig, 8).await;
    let quotas = rig.registry.quotas().await.unwrap();
    assert_eq!(quotas, [("demo".to_owned(), 8)].into());
}
