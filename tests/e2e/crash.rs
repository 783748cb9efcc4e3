//! kill -9 at any moment: what was acknowledged is there, and resourceVersions go on rising.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::cluster::LONG;
use crate::harness::{Cluster, http, kube};

/// Rounds of kill and restart: 50 by `CORACLE_CRASH_ROUNDS=50`, fewer in CI.
fn rounds() -> u64 {
    std::env::var("CORACLE_CRASH_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(8)
}

/// Pushes a blob and a manifest; `Ok` only if both were acknowledged with 201.
fn push(registry: &str, n: u64) -> std::io::Result<(String, String)> {
    let blob = format!("blob {n} {}", "x".repeat(4096));
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&blob)));
    let refused = |r: &http::Response| std::io::Error::other(format!("{} {}", r.status, r.text()));
    let r = http::send(registry, "POST", "/v2/crash/blobs/uploads/", &[], b"")?;
    if r.status != 202 {
        return Err(refused(&r));
    }
    let location = r.header("location").unwrap_or_default();
    let joiner = if location.contains('?') { '&' } else { '?' };
    let r = http::send(
        registry,
        "PUT",
        &format!("{location}{joiner}digest={digest}"),
        &[],
        blob.as_bytes(),
    )?;
    if r.status != 201 {
        return Err(refused(&r));
    }
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": blob.len()}, "layers": []});
    let r = http::send(
        registry,
        "PUT",
        &format!("/v2/crash/manifests/t{n}"),
        &[("content-type", "application/vnd.oci.image.manifest.v1+json")],
        manifest.to_string().as_bytes(),
    )?;
    if r.status != 201 {
        return Err(refused(&r));
    }
    Ok((digest, format!("t{n}")))
}

#[test]
fn kill_9_loses_nothing_acknowledged() {
    let mut c = Cluster::up(None);
    let mut objects: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut blobs: Vec<(String, String)> = Vec::new();
    let mut newest = 0u64;
    let mut n = 0u64;
    for round in 0..rounds() {
        let api = kube::Api::of(&c);
        // The moment differs from round to round; the writer is always in the middle of something.
        let until = Instant::now() + Duration::from_millis(40 + (round * 137) % 400);
        let registry = c.registry();
        let (killed, kill) = std::sync::mpsc::channel::<()>();
        let pid = c.pid();
        let killer = std::thread::spawn(move || {
            let _ = kill.recv_timeout(until.saturating_duration_since(Instant::now()));
            let _ = std::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status();
        });
        loop {
            n += 1;
            let name = format!("cm-{}", n % 40);
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": n.to_string()}});
            match api.apply("/api/v1/namespaces/default/configmaps", &object) {
                Ok(stored) => {
                    let revision: u64 = stored["metadata"]["resourceVersion"]
                        .as_str()
                        .unwrap()
                        .parse()
                        .unwrap();
                    assert!(
                        revision > newest,
                        "resourceVersion {revision} after {newest}"
                    );
                    newest = revision;
                    objects.insert(name, (revision, n.to_string()));
                }
                Err(_) => break,
            }
            match push(&registry, n) {
                Ok(pair) => blobs.push(pair),
                Err(_) => break,
            }
        }
        drop(killed);
        killer.join().unwrap();
        c.kill9();
        c.spawn();
        c.ready();
        let api = kube::Api::of(&c);
        let list = api.get("/api/v1/namespaces/default/configmaps").unwrap();
        let list_revision: u64 = list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(
            list_revision >= newest,
            "round {round}: the list is at {list_revision}, {newest} was acknowledged"
        );
        let found: BTreeMap<&str, &Value> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| (o["metadata"]["name"].as_str().unwrap(), o))
            .collect();
        for (name, (revision, value)) in &mut objects {
            let o = found
                .get(name.as_str())
                .unwrap_or_else(|| panic!("round {round}: {name} is gone"));
            let at: u64 = o["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!(
                at >= *revision,
                "round {round}: {name} is at {at}, {revision} was acknowledged"
            );
            if at == *revision {
                assert_eq!(
                    o["data"]["n"].as_str(),
                    Some(value.as_str()),
                    "round {round}: {name}"
                );
            }
            // A write whose answer was lost may have happened; from here on it counts.
            *revision = at;
            *value = o["data"]["n"].as_str().unwrap_or_default().to_string();
        }
        newest = newest.max(list_revision);
        let registry = c.registry();
        for (digest, tag) in &blobs {
            let r = http::send(
                &registry,
                "GET",
                &format!("/v2/crash/blobs/{digest}"),
                &[],
                b"",
            )
            .unwrap();
            assert_eq!(r.status, 200, "round {round}: blob {digest} is gone");
            assert_eq!(
                format!("sha256:{}", hex::encode(Sha256::digest(&r.body))),
                *digest
            );
            let r = http::send(
                &registry,
                "HEAD",
                &format!("/v2/crash/manifests/{tag}"),
                &[],
                b"",
            )
            .unwrap();
            assert_eq!(r.status, 200, "round {round}: tag {tag} is gone");
        }
    }
    println!(
        "crash: {} rounds, {} objects written, {} pushes acknowledged, none missing",
        rounds(),
        n,
        blobs.len()
    );
    assert!(
        n > rounds() && !blobs.is_empty(),
        "nothing was written: the test has shown nothing"
    );
    let _ = LONG;
}
