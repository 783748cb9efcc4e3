//! skopeo and curl against the registry: bytes identical both ways.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::program::{self, root};
use crate::harness::{Cluster, client};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An OCI layout with one Wasm artifact; answers the manifest's bytes.
fn layout(dir: &Path, wasm: &[u8]) -> Vec<u8> {
    let config = br#"{"architecture":"wasm","os":"wasip2"}"#;
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": digest(config), "size": config.len()},
        "layers": [{"mediaType": "application/wasm", "digest": digest(wasm), "size": wasm.len()}]})
    .to_string()
    .into_bytes();
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    for bytes in [&config[..], wasm, &manifest] {
        std::fs::write(dir.join("blobs/sha256").join(&digest(bytes)[7..]), bytes).unwrap();
    }
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(&manifest), "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "v1"}}]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    manifest
}

#[test]
fn skopeo_copies_in_and_out() {
    let Some(skopeo) = client("skopeo") else {
        return;
    };
    let c = Cluster::up(None);
    let wasm = std::fs::read(root().join("samples/job/prebuilt.wasm")).unwrap();
    let manifest = layout(&c.dir.path().join("in"), &wasm);
    let image = format!("docker://{}/demo/sk:v1", c.registry());
    let sk = |args: &[&str]| {
        program::run(
            Command::new(&skopeo)
                .arg("--insecure-policy")
                .args(args)
                .current_dir(c.dir.path()),
        )
    };
    sk(&["copy", "--dest-tls-verify=false", "oci:in:v1", &image]).ok();
    sk(&["copy", "--src-tls-verify=false", &image, "oci:out:v1"]).ok();
    let out = c.dir.path().join("out/blobs/sha256");
    assert_eq!(std::fs::read(out.join(&digest(&wasm)[7..])).unwrap(), wasm);
    assert_eq!(
        std::fs::read(out.join(&digest(&manifest)[7..])).unwrap(),
        manifest
    );
    assert_eq!(
        sk(&["inspect", "--raw", "--tls-verify=false", &image])
            .ok()
            .into_bytes(),
        manifest
    );
    assert!(
        sk(&["list-tags", "--tls-verify=false", &image.replace(":v1", "")])
            .ok()
            .contains("\"v1\"")
    );
    // What skopeo pushed, Coracle runs.
    assert_eq!(
        c.coracle(&["run", "demo/sk:v1", "--", "10"]).ok(),
        "4 primes below 10\n"
    );
    sk(&["delete", "--tls-verify=false", &image]).ok();
    assert_ne!(
        sk(&["inspect", "--raw", "--tls-verify=false", &image]).code,
        0
    );
}

#[test]
fn curl_pushes_and_pulls() {
    let Some(curl) = client("curl") else { return };
    let c = Cluster::up(None);
    let base = format!("http://{}", c.registry());
    let blob = c.write("blob", vec![7u8; 3 << 20]);
    let bytes = std::fs::read(&blob).unwrap();
    let d = digest(&bytes);
    let run = |args: &[&str]| {
        program::run(
            Command::new(&curl)
                .args(["-sS", "--max-time", "60"])
                .args(args)
                .current_dir(c.dir.path()),
        )
    };
    assert_eq!(
        run(&["-o", "body", "-w", "%{http_code}", &format!("{base}/v2/")]).ok(),
        "200"
    );
    let head = run(&[
        "-D",
        "-",
        "-o",
        "body",
        "-X",
        "POST",
        &format!("{base}/v2/demo/c/blobs/uploads/"),
    ])
    .ok();
    let location = head
        .lines()
        .find_map(|l| {
            l.to_lowercase()
                .starts_with("location:")
                .then(|| l[9..].trim().to_string())
        })
        .unwrap();
    let joiner = if location.contains('?') { '&' } else { '?' };
    let wrong = format!("{base}{location}{joiner}digest={}", digest(b"other"));
    assert_eq!(
        run(&["-o", "body", "-w", "%{http_code}", "-T", "blob", &wrong]).ok(),
        "400"
    );
    assert!(
        std::fs::read_to_string(c.dir.path().join("body"))
            .unwrap()
            .contains("DIGEST_INVALID")
    );
    let head = run(&[
        "-D",
        "-",
        "-o",
        "body",
        "-X",
        "POST",
        &format!("{base}/v2/demo/c/blobs/uploads/"),
    ])
    .ok();
    let location = head
        .lines()
        .find_map(|l| {
            l.to_lowercase()
                .starts_with("location:")
                .then(|| l[9..].trim().to_string())
        })
        .unwrap();
    assert_eq!(
        run(&[
            "-o",
            "body",
            "-w",
            "%{http_code}",
            "-T",
            "blob",
            &format!("{base}{location}{joiner}digest={d}")
        ])
        .ok(),
        "201"
    );
    assert_eq!(
        run(&[
            "-o",
            "got",
            "-w",
            "%{http_code}",
            &format!("{base}/v2/demo/c/blobs/{d}")
        ])
        .ok(),
        "200"
    );
    assert_eq!(std::fs::read(c.dir.path().join("got")).unwrap(), bytes);
    assert_eq!(
        run(&[
            "-o",
            "part",
            "-w",
            "%{http_code}",
            "-r",
            "10-19",
            &format!("{base}/v2/demo/c/blobs/{d}")
        ])
        .ok(),
        "206"
    );
    assert_eq!(
        std::fs::read(c.dir.path().join("part")).unwrap(),
        bytes[10..20]
    );
    assert_eq!(
        run(&[
            "-o",
            "body",
            "-w",
            "%{http_code}",
            "--path-as-is",
            &format!("{base}/v2/../etc/blobs/{d}")
        ])
        .ok()
        .chars()
        .next(),
        Some('4')
    );
}
