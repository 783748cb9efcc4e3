//! A real client pushes and pulls the canonical artifact.

use std::path::Path;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::Command;

use super::client::{Rig, noise};
use crate::digest::Digest;
use crate::manifest::OCI_MANIFEST;
use crate::{router, wasm};

/// An OCI layout directory that holds one artifact under the tag `v1`.
fn layout(dir: &Path, made: &wasm::Artifact, bytes: &[u8]) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |digest: &Digest, bytes: &[u8]| {
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
    };
    blob(&made.layer_digest, bytes);
    blob(&made.config_digest, &made.config);
    blob(&made.manifest_digest, &made.manifest);
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": OCI_MANIFEST,
        "digest": made.manifest_digest.to_string(),
        "size": made.manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": "v1" },
    }] });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    std::fs::write(dir.join("oci-layout"), version.to_string()).unwrap();
}

async fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo")
        .arg("--insecure-policy")
        .args(args)
        .output()
        .await
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn skopeo_copies_there_and_back() {
    let there = Command::new("skopeo").arg("--version").output().await;
    if there.is_err() {
        let required = std::env::var("CORACLE_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "skopeo"),
            "skopeo is required"
        );
        eprintln!("SKIPPED: skopeo is not installed");
        return;
    }
    let rig = Rig::disk().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(rig.registry.clone());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let bytes = noise(1_000_000, 11);
    let made = wasm::artifact(
        &bytes,
        "x.wasm",
        wasm::Kind::Component,
        vec![],
        vec![],
        jiff::Timestamp::UNIX_EPOCH,
    );
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    layout(&from, &made, &bytes);
    let image = |name: &str| format!("docker://{address}/demo/{name}:v1");
    let oci = |path: &Path| format!("oci:{}:v1", path.display());
    let (push, pull) = ("--dest-tls-verify=false", "--src-tls-verify=false");
    skopeo(&["copy", push, &oci(&from), &image("sk")]).await;
    // Again, and to a second repository: what is there is skipped or mounted.
    skopeo(&["copy", push, &oci(&from), &image("sk")]).await;
    skopeo(&["copy", pull, push, &image("sk"), &image("other")]).await;
    skopeo(&["copy", pull, &image("other"), &oci(&to)]).await;
    for digest in [
        &made.layer_digest,
        &made.config_digest,
        &made.manifest_digest,
    ] {
        let at = Path::new("blobs/sha256").join(digest.hex());
        assert_eq!(
            std::fs::read(from.join(&at)).unwrap(),
            std::fs::read(to.join(&at)).unwrap()
        );
    }
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &image("sk")]).await;
    assert_eq!(raw.as_bytes(), made.manifest);
    let repository = format!("docker://{address}/demo/sk");
    let tags = skopeo(&["list-tags", "--tls-verify=false", &repository]).await;
    assert!(tags.contains("\"v1\""), "{tags}");
    skopeo(&["delete", "--tls-verify=false", &image("sk")]).await;
    rig.get("/v2/demo/sk/manifests/v1").await.expect(404);
    rig.get("/v2/demo/other/manifests/v1").await.expect(200);
    server.abort();
}
