//! Bad input, one line each: the status, the code, and nothing changed.

use super::client::Rig;
use crate::digest::Algorithm;

#[tokio::test]
async fn refusals() {
    let rig = Rig::memory().await;
    let hex = "a".repeat(64);
    let d = format!("sha256:{hex}");
    let upper = format!("sha256:{}", hex.to_uppercase());
    let long = "a".repeat(300);
    let session = rig.start("demo/a").await;
    let rows: Vec<(&str, String, u16, &str)> = vec![
        // Names.
        ("GET", "/v2/../a/tags/list".into(), 400, "NAME_INVALID"),
        (
            "GET",
            "/v2/a/../../etc/tags/list".into(),
            400,
            "NAME_INVALID",
        ),
        ("GET", "/v2/a/%2e%2e/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", "/v2/Demo/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", format!("/v2/{long}/tags/list"), 400, "NAME_INVALID"),
        ("GET", "/v2/a%00b/tags/list".into(), 400, "NAME_INVALID"),
        (
            "POST",
            "/v2/../a/blobs/uploads/".into(),
            400,
            "NAME_INVALID",
        ),
        ("PUT", "/v2/a../manifests/v1".into(), 400, "NAME_INVALID"),
        (
            "PUT",
            "/v2/..%2f..%2fetc/manifests/v1".into(),
            400,
            "NAME_INVALID",
        ),
        // Digests.
        (
            "GET",
            "/v2/demo/a/blobs/sha256:abc".into(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            format!("/v2/demo/a/blobs/{upper}"),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            format!("/v2/demo/a/blobs/md5:{hex}"),
            400,
            "DIGEST_INVALID",
        ),
        ("GET", "/v2/demo/a/blobs/..".into(), 400, "DIGEST_INVALID"),
        ("DELETE", "/v2/demo/a/blobs/x".into(), 400, "DIGEST_INVALID"),
        (
            "GET",
            "/v2/demo/a/manifests/sha256:abc".into(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "PUT",
            "/v2/demo/a/manifests/sha256:abc".into(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "POST",
            "/v2/demo/a/blobs/uploads/?digest=x".into(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "POST",
            "/v2/demo/a/blobs/uploads/?mount=x".into(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "POST",
            "/v2/demo/a/blobs/uploads/?digest-algorithm=md5".into(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "POST",
            format!("/v2/demo/a/blobs/uploads/?mount={d}&from=.."),
            400,
            "NAME_INVALID",
        ),
        ("PUT", session.clone(), 400, "DIGEST_INVALID"),
        (
            "PUT",
            format!("{session}?digest=nonsense"),
            400,
            "DIGEST_INVALID",
        ),
        // Things that are not there.
        ("GET", format!("/v2/demo/a/blobs/{d}"), 404, "BLOB_UNKNOWN"),
        (
            "DELETE",
            format!("/v2/demo/a/blobs/{d}"),
            404,
            "BLOB_UNKNOWN",
        ),
        (
            "GET",
            "/v2/demo/a/manifests/v1".into(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "GET",
            "/v2/demo/a/manifests/.bad".into(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "GET",
            format!("/v2/demo/a/manifests/{d}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "DELETE",
            "/v2/demo/a/manifests/v1".into(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        ("GET", "/v2/demo/a/tags/list".into(), 404, "NAME_UNKNOWN"),
        (
            "PATCH",
            "/v2/demo/a/blobs/uploads/nope".into(),
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (
            "PATCH",
            format!("/v2/demo/a/blobs/uploads/{}", "0".repeat(32)),
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (
            "PATCH",
            session.replace("demo/a", "demo/b"),
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (
            "PUT",
            format!("/v2/demo/a/blobs/uploads/..?digest={d}"),
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        ("GET", "/v2/demo".into(), 404, "UNSUPPORTED"),
        ("GET", "/v2/demo/a/nothing/here".into(), 404, "UNSUPPORTED"),
        // Methods.
        ("POST", "/v2/".into(), 405, "UNSUPPORTED"),
        ("DELETE", "/v2/_catalog".into(), 405, "UNSUPPORTED"),
        ("PUT", "/v2/demo/a/tags/list".into(), 405, "UNSUPPORTED"),
        ("PUT", format!("/v2/demo/a/blobs/{d}"), 405, "UNSUPPORTED"),
        (
            "PATCH",
            "/v2/demo/a/manifests/v1".into(),
            405,
            "UNSUPPORTED",
        ),
        (
            "DELETE",
            "/v2/demo/a/blobs/uploads/".into(),
            405,
            "UNSUPPORTED",
        ),
        (
            "POST",
            format!("/v2/demo/a/referrers/{d}"),
            405,
            "UNSUPPORTED",
        ),
        // Queries.
        ("GET", "/v2/_catalog?n=-1".into(), 400, "UNSUPPORTED"),
        ("GET", "/v2/_catalog?n=%zz".into(), 400, "UNSUPPORTED"),
        // Manifests.
        (
            "PUT",
            "/v2/demo/a/manifests/.bad".into(),
            400,
            "MANIFEST_INVALID",
        ),
        (
            "PUT",
            "/v2/demo/a/manifests/v1?tag=.bad".into(),
            400,
            "MANIFEST_INVALID",
        ),
    ];
    for (method, uri, status, code) in &rows {
        let reply = rig.send(method, uri, &[], "").await;
        assert_eq!(reply.status.as_u16(), *status, "{method} {uri} {reply:?}");
        assert_eq!(reply.code(), *code, "{method} {uri}");
        assert_eq!(
            reply.header("docker-distribution-api-version"),
            "registry/2.0"
        );
    }
    let oci = [("content-type", crate::manifest::OCI_MANIFEST)];
    for body in [
        "",
        "x",
        "[]",
        "null",
        "{}",
        "{\"schemaVersion\":1}",
        "{\"schemaVersion\":2,\"layers\":3}",
        "{\"schemaVersion\":2,\"config\":{\"digest\":\"x\"},\"layers\":[]}",
        "{\"schemaVersion\":2,\"mediaType\":\"application/other\",\"layers\":[]}",
    ] {
        let reply = rig.send("PUT", "/v2/demo/a/manifests/v1", &oci, body).await;
        reply.refused(400, "MANIFEST_INVALID");
    }
    let nested = "[".repeat(100_000);
    let deep = format!("{{\"schemaVersion\":2,\"x\":{nested}");
    let reply = rig.send("PUT", "/v2/demo/a/manifests/v1", &oci, deep).await;
    reply.refused(400, "MANIFEST_INVALID");

    assert!(rig.blobs.list(None, 9).await.unwrap().is_empty());
    for table in crate::rows::TABLES {
        assert!(
            rig.meta.list(table, "", None, 9).await.unwrap().is_empty(),
            "{table}"
        );
    }
    // And the session that was shouted at still works.
    let digest = Algorithm::Sha256.digest(b"fine");
    let uri = format!("{session}?digest={digest}");
    rig.send("PUT", &uri, &[], "fine").await.expect(201);
}
