//! What a scheduler refuses to start on: a code, the place, the fix, and nothing changed.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use tempfile::TempDir;

use super::{config, scheduler};
use crate::{SchedulerConfig, start};

async fn refused(config: SchedulerConfig) -> String {
    match start(config).await {
        Ok(_) => panic!("it started"),
        Err(e) => e.to_string(),
    }
}

fn expect(error: &str, code: &str, parts: &[&str]) {
    assert!(error.starts_with(code), "{error}");
    for part in parts {
        assert!(error.contains(part), "{error} lacks {part}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let error = refused(config(dir.path())).await;
    expect(
        &error,
        "E_DATA_LOCKED",
        &[&std::process::id().to_string(), "--data-dir"],
    );
    s.shutdown().await;
    // The lock goes with the shutdown, not with the value.
    scheduler(dir.path()).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_do_not_fit() {
    let dir = TempDir::new().unwrap();
    scheduler(dir.path()).await.shutdown().await;
    fs::write(dir.path().join("VERSION"), "7\n").unwrap();
    expect(
        &refused(config(dir.path())).await,
        "E_DATA_NEWER",
        &["7", "newer version"],
    );
    fs::write(dir.path().join("VERSION"), "1\n").unwrap();

    let identity = dir.path().join("identity");
    let kept = fs::read(&identity).unwrap();
    fs::write(&identity, "{").unwrap();
    expect(
        &refused(config(dir.path())).await,
        "E_DATA_UNREADABLE",
        &["identity"],
    );
    let text = String::from_utf8(kept.clone()).unwrap();
    let at = text.find("\"cluster\": \"").unwrap() + 12;
    fs::write(
        &identity,
        format!("{}{}{}", &text[..at], "00000000000000aa", &text[at + 16..]),
    )
    .unwrap();
    expect(
        &refused(config(dir.path())).await,
        "E_DATA_UNREADABLE",
        &["00000000000000aa"],
    );
    fs::write(&identity, kept).unwrap();

    let seal = dir.path().join("pki/seal.key");
    let kept = fs::read(&seal).unwrap();
    fs::remove_file(&seal).unwrap();
    expect(
        &refused(config(dir.path())).await,
        "E_PKI_SEAL",
        &["missing", "backup"],
    );
    fs::write(&seal, format!("{}\n", "ab".repeat(32))).unwrap();
    expect(
        &refused(config(dir.path())).await,
        "E_PKI_SEAL",
        &["another key"],
    );
    fs::write(&seal, kept).unwrap();
    scheduler(dir.path()).await.shutdown().await;

    let file = dir.path().join("a-file");
    fs::write(&file, "x").unwrap();
    expect(
        &refused(config(&file)).await,
        "E_DATA_DIR",
        &["a-file", "--data-dir"],
    );
    expect(
        &refused(config(&file.join("below"))).await,
        "E_DATA_DIR",
        &[],
    );
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("pki"), "x").unwrap();
    expect(&refused(config(dir.path())).await, "E_DATA_DIR", &["pki"]);
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("registry"), "x").unwrap();
    expect(
        &refused(config(dir.path())).await,
        "E_REGISTRY_DIR_NOT_A_DIRECTORY",
        &["registry"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_and_addresses() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = taken.local_addr().unwrap();
    let mut c = config(dir.path());
    c.api_addr = addr;
    expect(
        &refused(c).await,
        "E_PORT_IN_USE",
        &[&addr.to_string(), "--api-addr"],
    );
    let mut c = config(dir.path());
    c.registry_addr = Some(addr);
    expect(
        &refused(c).await,
        "E_PORT_IN_USE",
        &[&addr.to_string(), "--registry-addr"],
    );
    assert!(!dir.path().join("raft").exists(), "nothing was begun");
    let mut c = config(dir.path());
    c.registry_addr = Some((Ipv4Addr::UNSPECIFIED, 0).into());
    c.registry.tls = Some(false);
    expect(
        &refused(c.clone()).await,
        "E_REGISTRY_CLEAR",
        &["--insecure-registry"],
    );
    c.registry.tls = None;
    c.registry.auth = Some(false);
    expect(
        &refused(c.clone()).await,
        "E_REGISTRY_OPEN",
        &["--insecure-registry"],
    );
    c.registry.auth = None;
    c.registry.insecure = true;
    c.advertise = Some("cluster.example".into());
    let s = start(c).await.unwrap();
    assert!(s.api_url().starts_with("https://cluster.example:"));
    assert!(
        s.registry_url()
            .unwrap()
            .starts_with("http://cluster.example:")
    );
    s.shutdown().await;
    let mut c = config(dir.path());
    c.name = Some("Not A Name".into());
    expect(&refused(c).await, "E_BAD_NAME", &["--name"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_the_first_start_and_later() {
    let dir = TempDir::new().unwrap();
    let full = |path: &Path| {
        let mut c = config(path);
        c.limits.keep_free_bytes = Some(u64::MAX / 2);
        c
    };
    expect(
        &refused(full(dir.path())).await,
        "E_FIRST_START",
        &["E_DISK_FULL"],
    );
    scheduler(dir.path()).await.shutdown().await;
    let s = start(full(dir.path())).await.unwrap();
    let admin = super::client::Client::admin(&s);
    assert_eq!(
        admin.get("/api/v1/namespaces/default").await.0,
        200,
        "reads go on"
    );
    let map =
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    let (status, answer) = admin
        .send(
            http::Method::POST,
            "/api/v1/namespaces/default/configmaps",
            &map,
        )
        .await;
    assert_eq!(status, 503, "{answer}");
    assert!(
        answer["message"].as_str().unwrap().contains("E_DISK_FULL"),
        "{answer}"
    );
    s.shutdown().await;
}
