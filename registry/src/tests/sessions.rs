//! Upload sessions over time: restarts, races, cancelling, forgetting.

use axum::body::Body;
use futures_util::future::join_all;

use super::client::{Rig, noise};
use crate::digest::Algorithm;
use crate::limits::Limits;

#[tokio::test]
async fn sessions_survive_a_restart() {
    for rig in Rig::every().await {
        for algorithm in Algorithm::ALL {
            let bytes = noise(700_000, 3);
            let digest = algorithm.digest(&bytes);
            let location = rig.start("demo/a").await;
            let first = bytes[..600_000].to_vec();
            rig.send("PATCH", &location, &[], first).await.expect(202);
            let empty = rig.start("demo/a").await;

            let rig = rig.restart().await;
            let status = rig.get(&location).await.expect(204);
            assert_eq!(status.header("range"), "0-599999");
            assert_eq!(rig.get(&empty).await.expect(204).header("range"), "0-0");
            let other = location.replace("demo/a", "demo/b");
            rig.get(&other).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
            let range = [("content-range", "600000-699999")];
            let last = bytes[600_000..].to_vec();
            rig.send("PATCH", &location, &range, last).await.expect(202);
            let uri = format!("{location}?digest={digest}");
            rig.send("PUT", &uri, &[], Body::empty()).await.expect(201);
            let got = rig.get(&format!("/v2/demo/a/blobs/{digest}")).await;
            assert_eq!(got.expect(200).body, bytes, "{}", rig.kind);
            rig.delete(&empty).await.expect(204);
        }
    }
}

#[tokio::test]
async fn finishing_twice_gives_the_same_answer() {
    for rig in Rig::every().await {
        let bytes = noise(50_000, 4);
        let digest = Algorithm::Sha256.digest(&bytes);
        let location = rig.start("demo/a").await;
        rig.send("PATCH", &location, &[], bytes.clone())
            .await
            .expect(202);
        let uri = format!("{location}?digest={digest}");
        let both = join_all((0..8).map(|_| rig.send("PUT", &uri, &[], Body::empty()))).await;
        for reply in both {
            reply.expect(201);
        }
        rig.send("PUT", &uri, &[], Body::empty()).await.expect(201);
        let other = Algorithm::Sha256.digest(b"other");
        let wrong = format!("{location}?digest={other}");
        rig.send("PUT", &wrong, &[], Body::empty())
            .await
            .expect(400);
        rig.send("PATCH", &location, &[], "more").await.expect(400);
        rig.get(&location).await.expect(404);
        // The answer is about the blob, not about the past.
        rig.delete(&format!("/v2/demo/a/blobs/{digest}"))
            .await
            .expect(202);
        rig.send("PUT", &uri, &[], Body::empty())
            .await
            .refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_push_the_same_blob() {
    for rig in Rig::every().await {
        let bytes = noise(400_000, 5);
        let digest = Algorithm::Sha512.digest(&bytes);
        let tasks = (0..12).map(|n| {
            let (rig, bytes, digest) = (rig.clone(), bytes.clone(), digest.clone());
            tokio::spawn(async move {
                let name = format!("demo/r{}", n % 3);
                let location = rig.start(&name).await;
                let uri = format!("{location}?digest={digest}");
                rig.send("PUT", &uri, &[], bytes.clone()).await.expect(201);
                let got = rig.get(&format!("/v2/{name}/blobs/{digest}")).await;
                assert_eq!(got.expect(200).body, bytes);
            })
        });
        for done in join_all(tasks).await {
            done.unwrap();
        }
        assert_eq!(rig.blobs.list(None, 9).await.unwrap().len(), 1);
        assert!(rig.blobs.staged().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn cancelled_and_idle_sessions_are_gone() {
    for rig in Rig::every().await {
        let location = rig.start("demo/a").await;
        rig.send("PATCH", &location, &[], "abc").await.expect(202);
        rig.delete(&location).await.expect(204);
        rig.delete(&location)
            .await
            .refused(404, "BLOB_UPLOAD_UNKNOWN");
        rig.get(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");

        let idle = rig.start("demo/a").await;
        let age = rig.limits.upload_age_ms_max;
        rig.clock.advance(age - 1);
        let live = rig.start("demo/a").await;
        let now = rig.clock.advance(1);
        assert_eq!(rig.registry.expire_uploads(now).await.unwrap(), 1);
        rig.get(&idle).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
        rig.get(&live).await.expect(204);
        assert_eq!(rig.blobs.staged().await.unwrap().len(), 1);
        assert_eq!(rig.registry.counters().uploads_expired.get(), 1);
    }
}

#[tokio::test]
async fn bounds_on_blobs_and_sessions() {
    let limits = Limits {
        blob_bytes_max: 10,
        uploads_max: 2,
        ..Limits::default()
    };
    for rig in [
        Rig::memory_with(limits.clone()).await,
        Rig::disk_with(limits).await,
    ] {
        let digest = Algorithm::Sha256.digest(b"0123456789a");
        let location = rig.start("demo/a").await;
        let second = rig.start("demo/a").await;
        let post = rig.send("POST", "/v2/demo/a/blobs/uploads/", &[], "").await;
        let busy = post.refused(429, "TOOMANYREQUESTS");
        assert_eq!(busy.header("retry-after"), "1");
        rig.send("PATCH", &location, &[], "01234").await.expect(202);
        rig.send("PATCH", &location, &[], "56789a")
            .await
            .refused(413, "SIZE_INVALID");
        rig.get(&location).await.expect(404);
        let length = [("content-length", "11")];
        rig.send("PATCH", &second, &length, "0123456789a")
            .await
            .refused(413, "SIZE_INVALID");
        let uri = format!("/v2/demo/a/blobs/uploads/?digest={digest}");
        rig.send("POST", &uri, &[], "0123456789a")
            .await
            .refused(413, "SIZE_INVALID");
        assert!(rig.blobs.staged().await.unwrap().is_empty());
        rig.push_blob("demo/a", b"0123456789", Algorithm::Sha256)
            .await;
    }
}
