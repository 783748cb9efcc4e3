//! The collector, alone and against pushes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::json;

use super::client::{Rig, image};
use crate::Report;
use crate::digest::{Algorithm, Digest};
use crate::limits::Limits;
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};

async fn collect(rig: &Rig) -> Report {
    let now = crate::Clock::now(&rig.clock);
    rig.registry.collect(now).await.unwrap()
}

fn age(rig: &Rig) -> i64 {
    rig.limits.garbage_age_ms
}

async fn stored(rig: &Rig) -> Vec<Digest> {
    let all = rig.blobs.list(None, 1_000).await.unwrap();
    all.into_iter().map(|stored| stored.digest).collect()
}

#[tokio::test]
async fn what_nobody_names_goes_when_it_is_old() {
    for rig in Rig::every().await {
        let (_, manifest) = rig.push_image("demo/a", "v1", "kept").await;
        let orphan = rig.push_blob("demo/a", b"orphan", Algorithm::Sha512).await;
        let uri = format!("/v2/demo/a/blobs/{orphan}");
        rig.clock.advance(age(&rig) - 1);
        assert_eq!(collect(&rig).await.links_removed, 0);
        rig.get(&uri).await.expect(200);
        rig.clock.advance(1);
        let report = collect(&rig).await;
        assert_eq!(
            (
                report.links_removed,
                report.blobs_removed,
                report.bytes_removed
            ),
            (1, 1, 6),
            "{report:?}"
        );
        rig.get(&uri).await.expect(404);
        rig.get("/v2/demo/a/manifests/v1").await.expect(200);
        let layer = manifest["layers"][0]["digest"].as_str().unwrap();
        rig.get(&format!("/v2/demo/a/blobs/{layer}"))
            .await
            .expect(200);
        assert_eq!(collect(&rig).await, Report::default());

        // Deleted, collected, pushed again: all there.
        let digest = Algorithm::Sha256.digest(manifest.to_string().as_bytes());
        rig.delete(&format!("/v2/demo/a/manifests/{digest}"))
            .await
            .expect(202);
        rig.clock.advance(age(&rig));
        let report = collect(&rig).await;
        assert_eq!(
            (report.links_removed, report.blobs_removed),
            (2, 3),
            "{report:?}"
        );
        assert!(stored(&rig).await.is_empty());
        rig.push_image("demo/a", "v1", "kept").await;
        rig.get("/v2/demo/a/manifests/v1").await.expect(200);
        rig.get(&format!("/v2/demo/a/blobs/{layer}"))
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn shared_blobs_stay_while_one_repository_needs_them() {
    let rig = Rig::memory().await;
    let (first, _) = rig.push_image("demo/a", "v1", "shared").await;
    let (_, second) = rig.push_image("demo/b", "v1", "shared").await;
    rig.delete(&format!("/v2/demo/a/manifests/{first}"))
        .await
        .expect(202);
    rig.clock.advance(age(&rig));
    let report = collect(&rig).await;
    assert_eq!(
        (report.links_removed, report.blobs_removed),
        (2, 0),
        "{report:?}"
    );
    let layer = second["layers"][0]["digest"].as_str().unwrap();
    rig.get(&format!("/v2/demo/a/blobs/{layer}"))
        .await
        .expect(404);
    rig.get(&format!("/v2/demo/b/blobs/{layer}"))
        .await
        .expect(200);
    rig.get("/v2/demo/b/manifests/v1").await.expect(200);
}

/// Two members over the same rows: the one that collects has not heard what the other told a client.
#[tokio::test]
async fn what_one_member_promised_no_other_collects() {
    let here = Rig::memory().await;
    let there = here.restart().await;
    let blob = here
        .push_blob("demo/a", b"promised", Algorithm::Sha256)
        .await;
    let other = here
        .push_blob("demo/a", b"not promised", Algorithm::Sha256)
        .await;
    // Past the lease that each of them begins with.
    here.clock.advance(age(&here) - 1);
    here.head(&format!("/v2/demo/a/blobs/{blob}"))
        .await
        .expect(200);
    here.clock.advance(age(&here) / 2);
    let report = collect(&there).await;
    assert_eq!(report.links_removed, 1, "{report:?}");
    here.get(&format!("/v2/demo/a/blobs/{other}"))
        .await
        .expect(404);
    let manifest = image(&[&blob], &[&blob]);
    here.put_manifest("demo/a", "v1", &manifest)
        .await
        .expect(201);
}

#[tokio::test]
async fn indexes_children_and_referrers_stay() {
    let rig = Rig::memory().await;
    let (child, _) = rig.push_image("demo/a", "tmp", "child").await;
    let entry = json!({ "mediaType": OCI_MANIFEST, "digest": child.to_string(), "size": 1 });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] });
    rig.put_manifest("demo/a", "idx", &index).await.expect(201);
    rig.delete("/v2/demo/a/manifests/tmp").await.expect(202);
    let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
    let signature = rig
        .push_blob("demo/a", b"signature", Algorithm::Sha256)
        .await;
    let mut about = image(&[&config], &[&signature]);
    about["subject"] = entry;
    let digest = Algorithm::Sha256.digest(about.to_string().as_bytes());
    rig.put_manifest("demo/a", &digest.to_string(), &about)
        .await
        .expect(201);
    rig.clock.advance(2 * age(&rig));
    assert_eq!(collect(&rig).await, Report::default());
    rig.get(&format!("/v2/demo/a/manifests/{child}"))
        .await
        .expect(200);
    rig.get(&format!("/v2/demo/a/blobs/{signature}"))
        .await
        .expect(200);
    let list = rig
        .get(&format!("/v2/demo/a/referrers/{child}"))
        .await
        .expect(200)
        .json();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_head_or_a_mount_is_a_promise() {
    let rig = Rig::memory().await;
    let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
    let layer = rig.push_blob("demo/a", b"layer", Algorithm::Sha256).await;
    let lost = rig.push_blob("demo/a", b"lost", Algorithm::Sha256).await;
    rig.clock.advance(age(&rig));
    for digest in [&config, &layer] {
        rig.head(&format!("/v2/demo/a/blobs/{digest}"))
            .await
            .expect(200);
    }
    let report = collect(&rig).await;
    assert_eq!(
        (report.links_removed, report.promised),
        (1, 2),
        "{report:?}"
    );
    rig.get(&format!("/v2/demo/a/blobs/{lost}"))
        .await
        .expect(404);
    let value = image(&[&config], &[&layer]);
    rig.put_manifest("demo/a", "v1", &value).await.expect(201);
    rig.clock.advance(age(&rig));
    assert_eq!(collect(&rig).await, Report::default());
    let mount = format!("/v2/demo/b/blobs/uploads/?mount={layer}&from=demo/a");
    rig.send("POST", &mount, &[], "").await.expect(201);
    rig.clock.advance(age(&rig) - 1);
    assert_eq!(collect(&rig).await.links_removed, 0);
    rig.clock.advance(1);
    let report = collect(&rig).await;
    assert_eq!(
        (report.links_removed, report.blobs_removed),
        (1, 0),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_restart_forgets_no_promise() {
    let rig = Rig::memory().await;
    let layer = rig.push_blob("demo/a", b"layer", Algorithm::Sha256).await;
    rig.clock.advance(age(&rig));
    rig.head(&format!("/v2/demo/a/blobs/{layer}"))
        .await
        .expect(200);
    let rig = rig.restart().await;
    let report = collect(&rig).await;
    assert_eq!((report.links_removed, report.promised), (0, 1));
    rig.clock.advance(age(&rig));
    assert_eq!(collect(&rig).await.blobs_removed, 1);
}

#[tokio::test]
async fn files_without_rows_go_too() {
    let rig = Rig::disk().await;
    let digest = Algorithm::Sha256.digest(b"left by a crash");
    let id = crate::upload::UploadId::from_bits(1);
    rig.blobs.begin(&id, bytes::Bytes::new()).await.unwrap();
    rig.blobs
        .append(&id, 0, "left by a crash".into())
        .await
        .unwrap();
    rig.blobs.finish(&id, 15, &digest).await.unwrap();
    assert_eq!(collect(&rig).await.blobs_removed, 0);
    // The disk stamps with its own clock, which may be a little ahead of the test's.
    rig.clock.advance(age(&rig) + 60_000);
    assert_eq!(collect(&rig).await.blobs_removed, 1);
    assert!(stored(&rig).await.is_empty());
}

/// Rounds of one pusher if the collector should never get a turn.
const ROUNDS_MAX: usize = 150;

/// Zero grace, four pushers, a deleter and a collector that never rests: every image that was acknowledged and not
/// deleted is whole, and in the end only those are left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collector_against_pushers() {
    let limits = Limits {
        garbage_age_ms: 0,
        ..Limits::default()
    };
    for rig in [
        Rig::memory_with(limits.clone()).await,
        Rig::disk_with(limits).await,
    ] {
        let stop = Arc::new(AtomicBool::new(false));
        let removed = Arc::new(AtomicUsize::new(0));
        let collector = {
            let (rig, stop, removed) = (rig.clone(), stop.clone(), removed.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let report = collect(&rig).await;
                    removed.fetch_add(report.links_removed, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        };
        let pushers = (0..4).map(|pusher| {
            let (rig, removed) = (rig.clone(), removed.clone());
            tokio::spawn(async move {
                let mut acknowledged = 0;
                for round in 0..ROUNDS_MAX {
                    if round >= 25 && removed.load(Ordering::SeqCst) >= 20 {
                        break;
                    }
                    rig.clock.advance(1);
                    let name = format!("demo/r{}", round % 2);
                    // Every third layer is everybody's, the others are this image's own.
                    let layer = match round % 3 {
                        0 => format!("shared {}", round % 5),
                        _ => format!("own {pusher} {round}"),
                    };
                    if try_image(&rig, &name, &format!("t{pusher}-{round}"), &layer).await {
                        acknowledged += 1;
                    }
                    if round % 4 != 0 {
                        let tag = format!("/v2/{name}/manifests/t{pusher}-{round}");
                        let head = rig.head(&tag).await;
                        if head.status.is_success() {
                            let digest = head.header("docker-content-digest").to_owned();
                            let uri = format!("/v2/{name}/manifests/{digest}");
                            rig.delete(&uri).await;
                        }
                    }
                }
                acknowledged
            })
        });
        let mut acknowledged = 0;
        for done in join_all(pushers).await {
            acknowledged += done.unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        collector.await.unwrap();
        assert!(acknowledged > 0, "nothing got through");
        assert!(
            removed.load(Ordering::SeqCst) > 0,
            "the collector never found anything"
        );
        // Manifests that lost their race left files without rows; the disk's clock is ahead of the test's.
        rig.clock.advance(600_000);
        collect(&rig).await;
        let mut needed = std::collections::BTreeSet::new();
        for repository in ["demo/r0", "demo/r1"] {
            let tags = rig
                .get(&format!("/v2/{repository}/tags/list"))
                .await
                .expect(200)
                .json();
            for tag in tags["tags"].as_array().unwrap() {
                let uri = format!("/v2/{repository}/manifests/{}", tag.as_str().unwrap());
                let got = rig.get(&uri).await.expect(200);
                needed.insert(Algorithm::Sha256.digest(&got.body).to_string());
                let manifest = got.json();
                for digest in [
                    &manifest["config"]["digest"],
                    &manifest["layers"][0]["digest"],
                ] {
                    let digest = digest.as_str().unwrap();
                    rig.get(&format!("/v2/{repository}/blobs/{digest}"))
                        .await
                        .expect(200);
                    needed.insert(digest.to_owned());
                }
            }
        }
        let left: Vec<String> = stored(&rig).await.iter().map(ToString::to_string).collect();
        let lost: Vec<_> = needed
            .iter()
            .filter(|digest| !left.contains(digest))
            .collect();
        let extra: Vec<_> = left
            .iter()
            .filter(|digest| !needed.contains(*digest))
            .collect();
        assert!(
            lost.is_empty() && extra.is_empty(),
            "{}: lost {lost:?}, extra {extra:?}",
            rig.kind
        );
    }
}

/// Pushes an image; with no grace at all the collector may take a blob before its manifest, which is then refused.
async fn try_image(rig: &Rig, name: &str, tag: &str, layer: &str) -> bool {
    for _ in 0..50 {
        let config = rig.push_blob(name, b"{}", Algorithm::Sha256).await;
        let layer = rig
            .push_blob(name, layer.as_bytes(), Algorithm::Sha256)
            .await;
        let mut value = image(&[&config], &[&layer]);
        value["annotations"] = json!({ "tag": tag });
        let reply = rig.put_manifest(name, tag, &value).await;
        if reply.status.as_u16() == 201 {
            // Acknowledged: from here on it must be whole.
            for digest in [&config, &layer] {
                rig.get(&format!("/v2/{name}/blobs/{digest}"))
                    .await
                    .expect(200);
            }
            return true;
        }
        assert!(matches!(reply.status.as_u16(), 400 | 429), "{reply:?}");
    }
    false
}
