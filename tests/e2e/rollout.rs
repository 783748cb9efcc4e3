//! A rolling update under constant load loses no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::guests;
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;
use crate::harness::{Cluster, http};

/// The greeting service saying something else of the same length.
pub fn greeting(text: &str) -> Vec<u8> {
    assert_eq!(text.len(), 13);
    guests::component(
        &guests::SERVICE_WAT.replace("Hello, world!", text),
        "service",
    )
}

#[test]
fn a_rolling_update_under_load_loses_no_request() {
    let c = Cluster::up(None);
    let v1 = c.write("v1.wasm", greeting("Version  one!"));
    let v2 = c.write("v2.wasm", greeting("Version  two!"));
    c.coracle(&[
        "deploy",
        v1.to_str().unwrap(),
        "--name",
        "web",
        "--replicas",
        "3",
    ])
    .ok();
    let address = c.ingress();
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (address, stop, sent) = (address.clone(), stop.clone(), sent.clone());
            thread::spawn(move || {
                let mut lost = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match http::get(&address, "web.localhost", "/") {
                        Ok(r) if r.status == 200 => {}
                        other => lost.push(format!("{other:?}")),
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                lost
            })
        })
        .collect();
    // There and back again: two rollouts and a scale-down while requests arrive.
    for (file, text) in [(&v2, "Version  two!\n"), (&v1, "Version  one!\n")] {
        c.coracle(&[
            "deploy",
            file.to_str().unwrap(),
            "--name",
            "web",
            "--replicas",
            "3",
        ])
        .ok();
        wait_for("only the new version to answer", LONG, || {
            let texts: Vec<String> = (0..20)
                .map(|_| {
                    c.get("web.localhost", "/")
                        .map(|r| r.text())
                        .unwrap_or_default()
                })
                .collect();
            if texts.iter().all(|t| t == text) {
                Ok(())
            } else {
                Err(format!("{texts:?}"))
            }
        });
    }
    c.coracle(&["scale", "deployment/web", "--replicas", "1"])
        .ok();
    wait_for("one pod", LONG, || {
        let out = c.coracle(&["get", "pods", "-o", "name"]).ok();
        if out.lines().count() == 1 {
            Ok(())
        } else {
            Err(out)
        }
    });
    stop.store(true, Ordering::Relaxed);
    let lost: Vec<String> = load.into_iter().flat_map(|t| t.join().unwrap()).collect();
    let sent = sent.load(Ordering::Relaxed);
    println!("rollout: {sent} requests, {} lost", lost.len());
    assert!(
        lost.is_empty(),
        "{} of {sent} requests were lost, first: {}",
        lost.len(),
        lost[0]
    );
    assert!(
        sent > 200,
        "only {sent} requests were sent: the test has shown nothing"
    );
}

const NO_ROOM_FOR_TWO: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: IMAGE
        resources: {requests: {cpu: CPU}}
"#;

/// Files of a folder and those in it, by name.
fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => names(&path),
            path => vec![path.display().to_string()],
        })
        .collect()
}

#[test]
fn the_next_version_is_here_before_a_pod_can_be_placed() {
    let c = Cluster::up(None);
    let node = c.coracle(&["get", "nodes", "-o", "json"]).ok();
    let node: serde_json::Value = serde_json::from_str(&node).unwrap();
    let cpu = node["items"][0]["status"]["allocatable"]["cpu"]
        .as_str()
        .unwrap();
    // More than half of the node, so that there is no room for two.
    let millis = match cpu.strip_suffix('m') {
        Some(millis) => millis.parse::<u64>().unwrap(),
        None => cpu.parse::<u64>().unwrap() * 1000,
    };
    let request = format!("{}m", millis * 3 / 4);
    let apply = |image: &str| {
        let text = NO_ROOM_FOR_TWO.replace("IMAGE", image);
        c.write("web.yaml", text.replace("CPU", &request));
        c.coracle(&["apply", "-f", "web.yaml"]).ok();
    };
    for (version, text) in [("v1", "Version  one!"), ("v2", "Version  two!")] {
        let file = c.write(&format!("{version}.wasm"), greeting(text));
        let image = format!("team/web:{version}");
        c.coracle(&["push", file.to_str().unwrap(), &image]).ok();
    }
    let phases = || {
        let pods = c.coracle(&["get", "pods", "-o", "json"]).ok();
        let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
        let items = pods["items"].as_array().unwrap().clone();
        let mut phases: Vec<String> = items
            .iter()
            .map(|p| p["status"]["phase"].as_str().unwrap_or("none").to_string())
            .collect();
        phases.sort();
        phases
    };
    apply("team/web:v1");
    wait_for("the first version", LONG, || match phases().as_slice() {
        [one] if one == "Running" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    apply("team/web:v2");
    let wasm = greeting("Version  two!");
    let hex = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&wasm));
    wait_for("the second version's image", LONG, || {
        let files = names(&c.dir.path().join(&c.data));
        let here = files
            .iter()
            .any(|f| f.contains("/images/") && f.ends_with(&hex));
        if here {
            Ok(())
        } else {
            Err(format!("{files:#?}"))
        }
    });
    assert_eq!(phases(), ["Pending", "Running"]);
}
