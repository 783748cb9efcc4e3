//! Tags, catalog, referrers, and walking their pages.

use serde_json::{Value, json};

use super::client::{Reply, Rig};
use crate::digest::{Algorithm, Digest};
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};

/// The target of the `Link` header.
fn next(reply: &Reply) -> Option<String> {
    let link = reply.header("link");
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    assert_eq!(rest, "; rel=\"next\"");
    Some(target.to_owned())
}

/// Follows the pages from `uri`, collecting `field`.
async fn walk(rig: &Rig, uri: &str, field: &str) -> (Vec<Value>, usize) {
    let (mut all, mut pages, mut at) = (Vec::new(), 0, Some(uri.to_owned()));
    while let Some(uri) = at {
        let reply = rig.get(&uri).await.expect(200);
        all.extend(reply.json()[field].as_array().unwrap().clone());
        pages += 1;
        at = next(&reply);
    }
    (all, pages)
}

#[tokio::test]
async fn tags_page_in_order() {
    let rig = Rig::memory().await;
    rig.get("/v2/demo/a/tags/list")
        .await
        .refused(404, "NAME_UNKNOWN");
    let (_, manifest) = rig.push_image("demo/a", "b", "x").await;
    for tag in ["a", "B", "c", "1.0", "_x"] {
        rig.put_manifest("demo/a", tag, &manifest).await.expect(201);
    }
    rig.push_image("demo/a-b", "other", "x").await;
    let want = json!(["1.0", "B", "_x", "a", "b", "c"]);
    let all = rig.get("/v2/demo/a/tags/list").await.expect(200);
    assert_eq!(all.json(), json!({ "name": "demo/a", "tags": want }));
    assert!(next(&all).is_none());
    for (n, pages) in [(1, 6), (2, 3), (4, 2), (6, 1), (100, 1)] {
        let uri = format!("/v2/demo/a/tags/list?n={n}");
        let (tags, count) = walk(&rig, &uri, "tags").await;
        assert_eq!((Value::from(tags), count), (want.clone(), pages), "n={n}");
    }
    let after = rig.get("/v2/demo/a/tags/list?last=_x").await.expect(200);
    assert_eq!(after.json()["tags"], json!(["a", "b", "c"]));
    let between = rig.get("/v2/demo/a/tags/list?n=1&last=Z").await.expect(200);
    assert_eq!(between.json()["tags"], json!(["_x"]));
    let none = rig.get("/v2/demo/a/tags/list?n=0").await.expect(200);
    assert_eq!(none.json()["tags"], json!([]));
    assert!(next(&none).is_none());
    rig.get("/v2/demo/a/tags/list?n=x").await.expect(400);
}

#[tokio::test]
async fn more_tags_than_a_page_of_rows() {
    let rig = Rig::memory().await;
    let (digest, manifest) = rig.push_image("demo/a", "v", "x").await;
    for batch in 0..40 {
        let tags: Vec<String> = (0..60).map(|n| format!("tag=t{batch}-{n}")).collect();
        let reference = format!("{digest}?{}", tags.join("&"));
        rig.put_manifest("demo/a", &reference, &manifest)
            .await
            .expect(201);
    }
    let all = rig.get("/v2/demo/a/tags/list").await.expect(200);
    assert_eq!(all.json()["tags"].as_array().unwrap().len(), 2_401);
    let (tags, pages) = walk(&rig, "/v2/demo/a/tags/list?n=1200", "tags").await;
    assert_eq!((tags.len(), pages), (2_401, 3));
    rig.delete(&format!("/v2/demo/a/manifests/{digest}"))
        .await
        .expect(202);
    let none = rig.get("/v2/demo/a/tags/list").await.expect(200);
    assert_eq!(none.json()["tags"], json!([]));
}

#[tokio::test]
async fn catalog() {
    let rig = Rig::memory().await;
    assert_eq!(
        rig.get("/v2/_catalog").await.expect(200).json(),
        json!({ "repositories": [] })
    );
    for name in ["b", "a/x", "a"] {
        rig.push_image(name, "v1", "x").await;
    }
    rig.push_blob("only/blobs", b"x", Algorithm::Sha256).await;
    let (names, pages) = walk(&rig, "/v2/_catalog?n=2", "repositories").await;
    assert_eq!((Value::from(names), pages), (json!(["a", "a/x", "b"]), 2));
}

/// A signature-like manifest about `subject`.
fn about(subject: &Digest, config: &Digest, artifact_type: Option<&str>, note: &str) -> Value {
    let mut value = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config.to_string(), "size": 2 },
        "layers": [],
        "subject": { "mediaType": OCI_MANIFEST, "digest": subject.to_string(), "size": 1 },
        "annotations": { "note": note },
    });
    if let Some(kind) = artifact_type {
        value["artifactType"] = json!(kind);
    }
    value
}

#[tokio::test]
async fn referrers_are_never_404_and_filter_and_page() {
    for algorithm in Algorithm::ALL {
        let rig = Rig::memory().await;
        let subject = algorithm.digest(b"pushed later or never");
        let uri = format!("/v2/demo/a/referrers/{subject}");
        let empty = rig.get(&uri).await.expect(200);
        assert_eq!(empty.header("content-type"), OCI_INDEX);
        assert_eq!(empty.json()["manifests"], json!([]));
        rig.get("/v2/demo/a/referrers/nonsense")
            .await
            .refused(400, "DIGEST_INVALID");

        let config = rig.push_blob("demo/a", b"{}", Algorithm::Sha256).await;
        let long = "x".repeat(20_000);
        let mut digests = Vec::new();
        for (kind, note) in [
            (Some("application/x+json"), "one"),
            (Some("application/x+json"), long.as_str()),
            (None, "three"),
        ] {
            let value = about(&subject, &config, kind, note);
            let digest = Algorithm::Sha256.digest(value.to_string().as_bytes());
            let put = rig
                .put_manifest("demo/a", &digest.to_string(), &value)
                .await
                .expect(201);
            assert_eq!(put.header("oci-subject"), subject.to_string());
            digests.push(digest);
        }
        let all = rig.get(&uri).await.expect(200).json();
        let listed = all["manifests"].as_array().unwrap();
        assert_eq!(listed.len(), 3);
        for entry in listed {
            let at = digests
                .iter()
                .position(|d| entry["digest"] == d.to_string())
                .unwrap();
            assert_eq!(entry["annotations"]["note"], ["one", &long, "three"][at]);
            let kind = [
                "application/x+json",
                "application/x+json",
                "application/vnd.oci.empty.v1+json",
            ][at];
            assert_eq!(entry["artifactType"], kind);
            assert_eq!(entry["mediaType"], OCI_MANIFEST);
        }
        for query in [
            "artifactType=application/x+json",
            "artifactType=application%2Fx%2Bjson",
        ] {
            let some = rig.get(&format!("{uri}?{query}")).await.expect(200);
            assert_eq!(some.header("oci-filters-applied"), "artifactType");
            assert_eq!(some.json()["manifests"].as_array().unwrap().len(), 2);
        }
        let paged = format!("{uri}?n=1&artifactType=application/x%2Bjson");
        let (found, pages) = walk(&rig, &paged, "manifests").await;
        assert_eq!((found.len(), pages), (2, 2));

        rig.delete(&format!("/v2/demo/a/manifests/{}", digests[0]))
            .await
            .expect(202);
        let rest = rig.get(&uri).await.expect(200).json();
        assert_eq!(rest["manifests"].as_array().unwrap().len(), 2);
    }
}

/// Pushes `count` referrers of `subject`, each as the index `of` makes it, and answers their digests in order.
async fn refer(rig: &Rig, count: usize, of: impl Fn(usize) -> Value) -> Vec<String> {
    let mut digests = Vec::new();
    for n in 0..count {
        let value = of(n);
        let digest = Algorithm::Sha256
            .digest(value.to_string().as_bytes())
            .to_string();
        rig.put_manifest("demo/a", &digest, &value)
            .await
            .expect(201);
        digests.push(digest);
    }
    digests.sort();
    digests
}

#[tokio::test]
async fn more_referrers_than_a_page_of_rows() {
    let rig = Rig::memory().await;
    let subject = Algorithm::Sha256.digest(b"subject");
    let to = json!({ "mediaType": OCI_MANIFEST, "digest": subject.to_string(), "size": 1 });
    let index = |n: usize| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": to, "n": n });
    let digests = refer(&rig, 1_203, index).await;
    // Every seventh was pushed before there was a referrers API, and every second stands under the fallback tag too.
    let entry = |digest: &String| json!({ "mediaType": OCI_INDEX, "digest": digest, "size": 1 });
    let old: Vec<&String> = digests.iter().step_by(7).collect();
    let listed = digests.iter().enumerate();
    let listed = listed.filter(|(n, _)| n % 2 == 0 || n % 7 == 0);
    let listed: Vec<Value> = listed.map(|(_, digest)| entry(digest)).collect();
    let fallback = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed });
    let tag = format!("sha256-{}", subject.hex());
    rig.put_manifest("demo/a", &tag, &fallback)
        .await
        .expect(201);
    let forget = old.iter().map(|digest| {
        let key = crate::rows::referrer_key(
            &"demo/a".parse().unwrap(),
            &subject,
            &digest.parse().unwrap(),
        );
        crate::rows::delete(crate::rows::REFERRERS, key, crate::meta::Precondition::Any)
    });
    rig.meta.batch(forget.collect()).await.unwrap();

    let uri = format!("/v2/demo/a/referrers/{subject}");
    for (query, pages) in [("", 2), ("?n=500", 3), ("?n=5000", 2)] {
        let (found, count) = walk(&rig, &format!("{uri}{query}"), "manifests").await;
        let found: Vec<&str> = found
            .iter()
            .map(|entry| entry["digest"].as_str().unwrap())
            .collect();
        assert_eq!(found, digests, "{query}");
        assert_eq!(count, pages, "{query}");
    }
}

#[tokio::test]
async fn a_page_of_referrers_is_bounded_in_bytes() {
    let rig = Rig::memory().await;
    let subject = Algorithm::Sha256.digest(b"subject");
    let to = json!({ "mediaType": OCI_MANIFEST, "digest": subject.to_string(), "size": 1 });
    let long = "x".repeat(3 << 20);
    let index = |n: usize| {
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": to,
            "annotations": { "long": long, "n": n.to_string() } })
    };
    let digests = refer(&rig, 3, index).await;
    let uri = format!("/v2/demo/a/referrers/{subject}");
    let (found, pages) = walk(&rig, &uri, "manifests").await;
    assert_eq!((found.len(), pages), (3, 3));
    for (entry, digest) in found.iter().zip(digests) {
        assert_eq!(entry["digest"], digest);
        assert_eq!(entry["annotations"]["long"], long);
    }
}
