//! oci-client, the library under wkg, wash and Spin: chunks of 4 MiB with Content-Range, and no HEAD before them.

use oci_distribution::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client, Reference};

use super::*;

/// Two and a half of the library's chunks.
const LAYER_BYTES: usize = 10 << 20;

fn speaks_http(monolithic: bool) -> Client {
    // The library brings no provider of its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ClientConfig {
        protocol: ClientProtocol::Http,
        use_monolithic_push: monolithic,
        ..ClientConfig::default()
    };
    Client::try_from(config).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oci_client_pushes_pulls_and_mounts() {
    let c = Cluster::up(None);
    let auth = RegistryAuth::Anonymous;
    let bytes = noise(LAYER_BYTES);
    for (name, monolithic) in [("chunks", false), ("whole", true)] {
        let client = speaks_http(monolithic);
        let image: Reference = format!("{}/demo/{name}:v1", c.registry()).parse().unwrap();
        let layers = [
            ImageLayer::new(bytes.clone(), "application/octet-stream".into(), None),
            ImageLayer::new(b"small".to_vec(), "text/plain".into(), None),
        ];
        let config = Config::new(
            b"{}".to_vec(),
            "application/vnd.example.config".into(),
            None,
        );
        let pushed = client
            .push(&image, &layers, config, &auth, None)
            .await
            .unwrap();
        let stored = manifest(&c, &format!("demo/{name}"), "v1");
        let url = pushed.manifest_url;
        assert!(url.ends_with(&digest(&stored)), "{url}");

        let types = vec!["application/octet-stream", "text/plain"];
        let pulled = client.pull(&image, &auth, types).await.unwrap();
        assert_eq!(pulled.digest, Some(digest(&stored)));
        let mut found: Vec<&[u8]> = pulled
            .layers
            .iter()
            .map(|layer| layer.data.as_ref())
            .collect();
        found.sort_by_key(|data| data.len());
        assert!(found == [&b"small"[..], &bytes[..]], "{name}");
        let (raw, _) = client
            .pull_manifest_raw(&image, &auth, &[MANIFEST])
            .await
            .unwrap();
        assert_eq!(raw, stored);
        let listed = client.list_tags(&image, &auth, None, None).await.unwrap();
        assert_eq!(listed.tags, ["v1"]);

        // Shown in another repository without being sent again.
        let other: Reference = format!("{}/other/{name}:v1", c.registry()).parse().unwrap();
        let large = digest(&bytes);
        assert!(!client.blob_exists(&other, &large).await.unwrap());
        client.mount_blob(&other, &image, &large).await.unwrap();
        assert!(client.blob_exists(&other, &large).await.unwrap());
        let about = image.clone_with_digest(digest(&stored));
        let referrers = client.pull_referrers(&about, None).await.unwrap();
        assert!(referrers.manifests.is_empty());
    }
}
