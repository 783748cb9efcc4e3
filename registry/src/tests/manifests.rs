//! Manifests and tags.

use serde_json::json;

use super::client::{Rig, image};
use crate::digest::Algorithm;
use crate::limits::Limits;
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::wasm;

#[tokio::test]
async fn served_byte_for_byte() {
    for rig in Rig::every().await {
        let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
        let odd = format!(
            "{{ \"schemaVersion\": 2,\n\t\"mediaType\":\"{OCI_MANIFEST}\", \"zz\": 1.50, \"config\": {{\"mediaType\":\"a/b\",\"digest\":\"{config}\",\"size\":2}},\"layers\":[ ] }}\n"
        );
        for algorithm in Algorithm::ALL {
            let digest = algorithm.digest(odd.as_bytes());
            let uri = format!("/v2/demo/a/manifests/{digest}");
            let header = [(
                "content-type",
                "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            )];
            let put = rig
                .send("PUT", &uri, &header, odd.clone())
                .await
                .expect(201);
            assert_eq!(put.header("location"), uri);
            let got = rig.get(&uri).await.expect(200);
            assert_eq!(got.body, odd);
            assert_eq!(got.header("content-type"), OCI_MANIFEST);
            assert_eq!(got.header("docker-content-digest"), digest.to_string());
            let head = rig.head(&uri).await.expect(200);
            assert_eq!(head.header("content-length"), odd.len().to_string());
            assert!(head.body.is_empty());
            let wrong = format!("/v2/demo/a/manifests/{}", algorithm.digest(b"x"));
            rig.send("PUT", &wrong, &header, odd.clone())
                .await
                .refused(400, "DIGEST_INVALID");
        }
        let put = rig
            .send("PUT", "/v2/demo/a/manifests/v1", &[], odd.clone())
            .await
            .expect(201);
        let digest = Algorithm::Sha256.digest(odd.as_bytes());
        assert_eq!(
            put.header("location"),
            format!("/v2/demo/a/manifests/{digest}")
        );
        let accept = [("accept", "text/plain")];
        let got = rig
            .send("GET", "/v2/demo/a/manifests/v1", &accept, "")
            .await;
        assert_eq!(got.expect(200).body, odd);
    }
}

#[tokio::test]
async fn tags_move_and_go_with_their_manifest() {
    let rig = Rig::memory().await;
    let (one, _) = rig.push_image("demo/a", "v1", "one").await;
    let (two, manifest) = rig.push_image("demo/a", "v1", "two").await;
    let got = rig.get("/v2/demo/a/manifests/v1").await.expect(200);
    assert_eq!(got.header("docker-content-digest"), two.to_string());
    rig.get(&format!("/v2/demo/a/manifests/{one}"))
        .await
        .expect(200);
    for tag in ["x", "y"] {
        rig.put_manifest("demo/a", tag, &manifest).await.expect(201);
    }
    rig.delete("/v2/demo/a/manifests/x").await.expect(202);
    rig.get("/v2/demo/a/manifests/x")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    rig.get("/v2/demo/a/manifests/y").await.expect(200);
    let by_digest = format!("/v2/demo/a/manifests/{two}");
    rig.delete(&by_digest).await.expect(202);
    for uri in [
        by_digest.as_str(),
        "/v2/demo/a/manifests/v1",
        "/v2/demo/a/manifests/y",
    ] {
        rig.get(uri).await.refused(404, "MANIFEST_UNKNOWN");
        rig.delete(uri).await.refused(404, "MANIFEST_UNKNOWN");
    }
    let list = rig.get("/v2/demo/a/tags/list").await.expect(200);
    assert_eq!(list.json(), json!({ "name": "demo/a", "tags": [] }));
    rig.put_manifest("demo/a", "v1", &manifest)
        .await
        .expect(201);
    rig.get("/v2/demo/a/manifests/v1").await.expect(200);
}

#[tokio::test]
async fn several_tags_in_one_push() {
    let rig = Rig::memory().await;
    let (digest, manifest) = rig.push_image("demo/a", "v1", "x").await;
    let tags: Vec<String> = (0..12).map(|n| format!("t{n:02}")).collect();
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let reference = format!("{digest}?{}&tag=t00", query.join("&"));
    let reply = rig
        .put_manifest("demo/a", &reference, &manifest)
        .await
        .expect(201);
    let told = reply.headers.get_all("oci-tag").iter();
    let told: Vec<&str> = told.map(|value| value.to_str().unwrap()).collect();
    assert_eq!(told, tags);
    for tag in &tags {
        rig.get(&format!("/v2/demo/a/manifests/{tag}"))
            .await
            .expect(200);
    }
    let many: Vec<String> = (0..100).map(|n| format!("tag=t{n}")).collect();
    let reference = format!("{digest}?{}", many.join("&"));
    rig.put_manifest("demo/a", &reference, &manifest)
        .await
        .expect(414);
}

#[tokio::test]
async fn references_must_be_there() {
    let rig = Rig::memory().await;
    let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
    let elsewhere = rig.push_blob("demo/b", b"x", Algorithm::Sha256).await;
    let value = image(&[&config], &[&elsewhere]);
    let reply = rig.put_manifest("demo/a", "v1", &value).await;
    let reply = reply.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let missing = &reply.json()["errors"][0]["detail"]["missing"];
    assert_eq!(*missing, json!([elsewhere.to_string()]));
    rig.get("/v2/demo/a/manifests/v1").await.expect(404);

    let mut far = image(&[&config], &[&elsewhere]);
    far["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    rig.put_manifest("demo/a", "far", &far).await.expect(201);
    let mut foreign = image(&[&config], &[&elsewhere]);
    foreign["layers"][0]["mediaType"] =
        json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    rig.put_manifest("demo/a", "foreign", &foreign)
        .await
        .expect(201);

    let child = Algorithm::Sha256.digest(b"no such manifest");
    let index = |digest: &str| {
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [{ "mediaType": OCI_MANIFEST, "digest": digest, "size": 1 }] })
    };
    let reply = rig
        .put_manifest("demo/a", "idx", &index(&child.to_string()))
        .await;
    reply.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let (real, _) = rig.push_image("demo/a", "v1", "x").await;
    let inner = rig
        .put_manifest("demo/a", "idx", &index(&real.to_string()))
        .await
        .expect(201);
    let inner = inner.header("docker-content-digest").to_owned();
    rig.put_manifest("demo/a", "outer", &index(&inner))
        .await
        .expect(201);
    let empty = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
    rig.put_manifest("demo/a", "empty", &empty)
        .await
        .expect(201);
    let got = rig.get("/v2/demo/a/manifests/outer").await.expect(200);
    assert_eq!(got.header("content-type"), OCI_INDEX);
}

#[tokio::test]
async fn big_manifests() {
    let limits = Limits {
        manifest_bytes_max: 5 * 1024 * 1024,
        ..Limits::default()
    };
    let rig = Rig::disk_with(limits).await;
    let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
    let mut value = image(&[&config], &[]);
    value["annotations"] = json!({ "big": "x".repeat(4 * 1024 * 1024) });
    rig.put_manifest("demo/a", "v1", &value).await.expect(201);
    let got = rig.get("/v2/demo/a/manifests/v1").await.expect(200);
    assert_eq!(got.body, value.to_string());
    value["annotations"] = json!({ "big": "x".repeat(5 * 1024 * 1024) });
    rig.put_manifest("demo/a", "v2", &value)
        .await
        .refused(413, "SIZE_INVALID");
    let length = [("content-length", "99999999")];
    let uri = "/v2/demo/a/manifests/v2";
    rig.send("PUT", uri, &length, "{}")
        .await
        .refused(413, "SIZE_INVALID");
    rig.get(uri).await.expect(404);
}

#[tokio::test]
async fn wasm_artifacts_are_strict() {
    let rig = Rig::memory().await;
    let bytes = b"\0asm\x0d\0\x01\0";
    let made = wasm::artifact(
        bytes,
        "hello.wasm",
        wasm::Kind::Component,
        vec![],
        vec!["wasi:http/incoming-handler@0.2.0".into()],
        jiff::Timestamp::UNIX_EPOCH,
    );
    rig.push_blob("demo/hello", bytes, Algorithm::Sha256).await;
    rig.push_blob("demo/hello", &made.config, Algorithm::Sha256)
        .await;
    let header = [("content-type", OCI_MANIFEST)];
    let uri = "/v2/demo/hello/manifests/v1";
    let put = rig
        .send("PUT", uri, &header, made.manifest.clone())
        .await
        .expect(201);
    assert_eq!(
        put.header("docker-content-digest"),
        made.manifest_digest.to_string()
    );
    let got = rig.get(uri).await.expect(200);
    let Ok(wasm::Choice::Layer(layer)) = wasm::choose(&got.body, None) else {
        panic!("no layer chosen");
    };
    let got = rig
        .get(&format!("/v2/demo/hello/blobs/{}", layer.digest))
        .await;
    assert_eq!(got.expect(200).body, bytes.as_slice());

    let mut two: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    let layer = two["layers"][0].clone();
    two["layers"] = json!([layer, layer]);
    rig.put_manifest("demo/hello", "v2", &two)
        .await
        .refused(400, "MANIFEST_INVALID");
    two["layers"] = json!([]);
    rig.put_manifest("demo/hello", "v2", &two)
        .await
        .refused(400, "MANIFEST_INVALID");
}

#[tokio::test]
async fn no_manifest_survives_a_blob_that_leaves_at_the_same_time() {
    // Whatever the order, a manifest that is served names blobs that are there.
    for round in 0..30 {
        let rig = Rig::memory().await;
        let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
        let layer = rig.push_blob("demo/a", b"layer", Algorithm::Sha256).await;
        let value = image(&[&config], &[&layer]);
        let uri = format!("/v2/demo/a/blobs/{layer}");
        let (put, _) = if round % 2 == 0 {
            tokio::join!(rig.put_manifest("demo/a", "v1", &value), rig.delete(&uri))
        } else {
            let (deleted, put) =
                tokio::join!(rig.delete(&uri), rig.put_manifest("demo/a", "v1", &value));
            (put, deleted)
        };
        assert!(matches!(put.status.as_u16(), 201 | 400), "{put:?}");
    }
}

#[tokio::test]
async fn conditional_pushes_lose_no_update() {
    // What clients do to an index under a tag: read it, add to it, push it if nobody was faster.
    let rig = Rig::memory().await;
    let uri = "/v2/demo/a/manifests/list";
    let index = |entries: serde_json::Value| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "annotations": entries });
    let created = [("if-none-match", "*"), ("content-type", OCI_INDEX)];
    let empty = index(json!({})).to_string();
    rig.send("PUT", uri, &created, empty.clone())
        .await
        .expect(201);
    rig.send("PUT", uri, &created, empty)
        .await
        .refused(412, "DENIED");
    let clients = (0..8).map(|client| {
        let rig = rig.clone();
        async move {
            let mut refused = 0;
            for round in 0..5 {
                loop {
                    let before = rig.get(uri).await.expect(200);
                    let mut entries = before.json()["annotations"].clone();
                    entries[format!("{client}-{round}")] = json!("here");
                    let etag = before.header("etag").to_owned();
                    let headers = [("if-match", etag.as_str()), ("content-type", OCI_INDEX)];
                    tokio::task::yield_now().await;
                    let put = rig
                        .send("PUT", uri, &headers, index(entries).to_string())
                        .await;
                    match put.status.as_u16() {
                        201 => break,
                        412 => refused += 1,
                        _ => panic!("{put:?}"),
                    }
                }
            }
            refused
        }
    });
    let refused: usize = futures_util::future::join_all(clients)
        .await
        .into_iter()
        .sum();
    assert!(refused > 0, "the clients never met");
    let all = rig.get(uri).await.expect(200).json();
    assert_eq!(all["annotations"].as_object().unwrap().len(), 40);
}

#[tokio::test]
async fn what_a_manifest_of_an_unknown_type_names_is_kept() {
    let rig = Rig::memory().await;
    let named = rig.push_blob("demo/a", b"named", Algorithm::Sha512).await;
    let other = rig.push_blob("demo/a", b"other", Algorithm::Sha512).await;
    let odd = json!({ "mediaType": "application/vnd.example+json", "config": "no descriptor",
        "parts": [{ "inside": { "digest": named.to_string() } }] });
    rig.put_manifest("demo/a", "odd", &odd).await.expect(201);
    let now = rig.clock.advance(2 * rig.limits.garbage_age_ms);
    rig.registry.collect(now).await.unwrap();
    rig.get(&format!("/v2/demo/a/blobs/{named}"))
        .await
        .expect(200);
    rig.get(&format!("/v2/demo/a/blobs/{other}"))
        .await
        .expect(404);
    assert_eq!(
        rig.get("/v2/demo/a/manifests/odd").await.expect(200).json(),
        odd
    );
}
