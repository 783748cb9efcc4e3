//! Images that pack their Wasm into tar layers, and one that is none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_agent::{PullFailure, PullPolicy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Images, Keyring, PullError, Pulled};
use crate::tests::fake::{self, Member, Root, text};

const WASM: &[u8] = b"\0asm\x0d\0\x01\0";

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A tar with one small file.
fn tar(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = header.to_vec();
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(512) + 1024, 0);
    all
}

/// Pulls an image of these layers and this configuration, twice if it can be had.
async fn pull(layers: &[Vec<u8>], config: &Value) -> Result<(Pulled, Vec<u8>), PullError> {
    let config = config.to_string().into_bytes();
    let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let manifest = json!({
        "schemaVersion": 2,
        "config": part("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|layer| part(tar, layer)).collect::<Vec<Value>>(),
    });
    let mut blobs: BTreeMap<String, Vec<u8>> =
        layers.iter().map(|l| (digest(l), l.clone())).collect();
    blobs.insert(digest(&config), config);
    let (blobs, manifest) = (Arc::new(blobs), manifest.to_string());
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let member = Member::start(&root, &[&root], move |asked| {
        let (blobs, manifest) = (blobs.clone(), manifest.clone());
        async move {
            match asked.path.rsplit_once('/') {
                Some(("/v2/demo/manifests", _)) => text(200, manifest),
                Some(("/v2/demo/blobs", digest)) => text(200, blobs[digest].clone()),
                _ => text(404, "{}"),
            }
        }
    })
    .await;
    let identity = root.node(Duration::from_secs(3_600), &[&root]);
    let (api, _, _) = fake::api(dir.path(), &[&member], identity);
    let images = Images::open(dir.path(), 1 << 30, api.clone()).unwrap();
    let always = PullPolicy::Always;
    let nobody = Keyring::new(api.clone(), "default", Vec::new());
    let pulled = images.pull("demo:v1", always, None, &nobody, || ());
    let pulled = pulled.await?;
    let again = images.pull("demo:v1", always, None, &nobody, || ());
    let again = again.await?;
    assert_eq!(again.image, pulled.image);
    assert_eq!(again.transfer, None, "what is here is not fetched again");
    let bytes = std::fs::read(images.wasm(&pulled.image.wasm)).unwrap();
    Ok((pulled, bytes))
}

fn wasi(entrypoint: &str) -> Value {
    json!({ "os": "wasip1", "architecture": "wasm", "config": { "Entrypoint": [entrypoint] } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_the_topmost_layer_is_the_image() {
    let layers = [tar("a.wasm", b"old"), tar("a.wasm", WASM), tar("x", b"y")];
    let (pulled, bytes) = pull(&layers, &wasi("/a.wasm")).await.unwrap();
    assert_eq!(bytes, WASM);
    assert_eq!(pulled.image.wasm, digest(WASM));
    let transfer = pulled.transfer.unwrap();
    assert_eq!(
        transfer.bytes,
        (layers[1].len() + layers[2].len()) as u64,
        "what lies below is not fetched"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_refused_with_a_reason() {
    let linux = json!({ "os": "linux", "architecture": "arm64", "config": { "Cmd": ["sh"] } });
    for (layers, config, want) in [
        (
            vec![tar("a.wasm", WASM), tar(".wh.a.wasm", b"")],
            wasi("/a.wasm"),
            "starts the file a.wasm, which none of its layers holds",
        ),
        (
            vec![b"no tar".repeat(100)],
            wasi("/a.wasm"),
            "is no tar archive",
        ),
        (
            vec![tar("a", b"")],
            linux,
            "is a Linux container image (linux/arm64)",
        ),
    ] {
        let Err((failure, problem)) = pull(&layers, &config).await else {
            panic!("{want}");
        };
        assert_eq!(failure, PullFailure::Unsupported);
        let shown = problem.to_string();
        assert!(shown.contains("demo:v1") && shown.contains(want), "{shown}");
    }
}
