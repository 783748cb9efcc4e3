//! Every sample, run as its manifest says, from the component that `up` would take.

use crate::harness::Cluster;
use crate::harness::cluster::LONG;
use crate::harness::program::{root, wait_for};

#[test]
fn counter_shares_a_volume_between_two_containers() {
    let c = Cluster::up(Some(&root().join("samples/counter")));
    let field = |text: &str, name: &str| -> u64 {
        let v: serde_json::Value =
            serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        v[name].as_u64().unwrap()
    };
    let first = c.get("counter.localhost", "/").unwrap();
    assert_eq!(first.status, 200, "{}", first.text());
    let second = c.get("counter.localhost", "/").unwrap();
    assert_eq!(
        field(&second.text(), "hits"),
        field(&first.text(), "hits") + 1
    );
    wait_for("ticks of the other container", LONG, || {
        let r = c.get("counter.localhost", "/").map_err(|e| e.to_string())?;
        if field(&r.text(), "ticks") > 1 {
            Ok(())
        } else {
            Err(r.text())
        }
    });
    let pod = c.coracle(&["get", "pods", "-o", "name"]).ok();
    let logs = c.coracle(&["logs", pod.trim(), "-c", "ticker"]).ok();
    assert!(logs.contains("ticker: writing"), "{logs}");
}

#[test]
fn front_reaches_the_back_end_service_by_name() {
    let c = Cluster::up(Some(&root().join("samples/front")));
    let r = c.get("front.localhost", "/").unwrap();
    assert_eq!(
        (r.status, r.text().as_str()),
        (200, "front: hello says: Hello from Coracle!\n")
    );
}

#[test]
fn job_runs_to_its_end_with_its_exit_code() {
    let c = Cluster::up(Some(&root().join("samples/job")));
    wait_for("the job's output", LONG, || {
        let out = c.coracle(&["logs", "job"]);
        if out.out == "669 primes below 5000\n" {
            Ok(())
        } else {
            Err(format!("{out:?}"))
        }
    });
    let file = root().join("samples/job/prebuilt.wasm");
    let file = file.to_str().unwrap();
    assert_eq!(
        c.coracle(&["run", file, "--", "100"]).ok(),
        "25 primes below 100\n"
    );
    let failed = c.coracle(&["run", file, "--", "fail"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.out.contains("asked to fail"), "{failed:?}");
}
