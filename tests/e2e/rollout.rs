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
