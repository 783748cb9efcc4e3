//! The same cluster as separate processes: one scheduler, two runners; one of them dies.

use std::sync::Arc;

use crate::harness::cluster::LONG;
use crate::harness::program::{root, wait_for};
use crate::harness::{Cluster, http};

const ANY: &str = "127.0.0.1:0";

fn scheduler() -> Cluster {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let args = [
        "scheduler",
        "--api-addr",
        ANY,
        "--registry-addr",
        ANY,
        "--raft-addr",
        ANY,
    ];
    Cluster::start(dir, ".coracle-scheduler", args.map(String::from).to_vec())
}

fn runner(s: &Cluster, name: &str) -> Cluster {
    let token = s.coracle(&["token", "create", "--role", "runner"]).ok();
    let args = [
        "runner",
        "--join",
        &s.api(),
        "--token",
        token.trim(),
        "--name",
        name,
        "--ingress-addr",
        ANY,
        "--runner-addr",
        ANY,
    ];
    Cluster::start(
        s.dir.clone(),
        &format!(".coracle-{name}"),
        args.map(String::from).to_vec(),
    )
}

fn pods_by_node(s: &Cluster) -> Vec<(String, String)> {
    let text = s.coracle(&["get", "pods", "-o", "json"]).ok();
    let v: serde_json::Value = serde_json::from_str(&text).unwrap();
    v["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
        .map(|p| {
            let ready = p["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            (
                p["spec"]["nodeName"]
                    .as_str()
                    .unwrap_or_default()
                    .to_string(),
                if ready { "ready" } else { "not ready" }.to_string(),
            )
        })
        .collect()
}

/// Where images came from, by the Events of pulls that moved bytes.
fn pull_sources(s: &Cluster) -> Vec<String> {
    let text = s.coracle(&["get", "events", "-o", "json"]).ok();
    let v: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = v["items"].as_array().unwrap().iter();
    events
        .filter(|e| e["reason"] == "Pulled")
        .filter_map(|e| {
            let message = e["message"].as_str()?;
            let (_, rest) = message.split_once("ms from ")?;
            Some(rest.split_once(". Image size: ")?.0.to_string())
        })
        .collect()
}

#[test]
fn pods_land_on_both_runners_any_ingress_reaches_both_and_a_dead_runner_is_replaced() {
    let s = scheduler();
    assert!(
        s.info["ingress"].is_null(),
        "a scheduler has no ingress: {}",
        s.info
    );
    let one = runner(&s, "one");
    let mut two = runner(&s, "two");
    let file = root().join("samples/hello/prebuilt.wasm");
    s.coracle(&[
        "deploy",
        file.to_str().unwrap(),
        "--name",
        "web",
        "--replicas",
        "4",
    ])
    .ok();
    let mut nodes: Vec<String> = pods_by_node(&s).into_iter().map(|(n, _)| n).collect();
    nodes.sort();
    assert_eq!(nodes, ["one", "one", "two", "two"]);
    // Both pulled it, and it left the registry once.
    wait_for("both pulls in Events", LONG, || {
        let mut sources = pull_sources(&s);
        sources.sort();
        match sources.as_slice() {
            [a, b] if a.starts_with("node ") && b == "the cluster's registry" => Ok(()),
            _ => Err(format!("{sources:?}")),
        }
    });
    // From each ingress, both nodes' replicas answer: with one replica elsewhere only, the request must travel.
    s.coracle(&["scale", "deploy/web", "--replicas", "1"]).ok();
    wait_for("one pod", LONG, || {
        let pods = pods_by_node(&s);
        if pods.len() == 1 {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
    for ingress in [one.ingress(), two.ingress()] {
        wait_for("an answer", LONG, || {
            match http::get(&ingress, "web.localhost", "/") {
                Ok(r) if r.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    s.coracle(&["scale", "deploy/web", "--replicas", "4"]).ok();
    wait_for("four ready pods", LONG, || {
        let pods = pods_by_node(&s);
        if pods.iter().filter(|(_, r)| r == "ready").count() == 4 {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
    two.kill9();
    let begin = std::time::Instant::now();
    wait_for("four ready pods on the runner that lives", LONG, || {
        let pods = pods_by_node(&s);
        if pods.len() == 4 && pods.iter().all(|(n, r)| n == "one" && r == "ready") {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
    println!(
        "runners: replaced {:.1} s after the kill",
        begin.elapsed().as_secs_f64()
    );
    let r = http::get(&one.ingress(), "web.localhost", "/").unwrap();
    assert_eq!(r.status, 200);
    // It comes back under its own name without a new token.
    two.spawn();
    two.ready();
    wait_for("the node to be Ready again", LONG, || {
        let text = s.coracle(&["get", "nodes"]).ok();
        if text.matches(" Ready").count() == 2 {
            Ok(())
        } else {
            Err(text)
        }
    });
}

#[test]
fn a_wrong_token_and_a_used_one_are_refused_in_one_line() {
    let s = scheduler();
    let join = |token: &str| {
        s.coracle(&[
            "runner",
            "--join",
            &s.api(),
            "--token",
            token,
            "--data-dir",
            "r",
            "--ingress-addr",
            ANY,
            "--runner-addr",
            ANY,
        ])
    };
    join("nonsense").fails_with(&["E_JOIN_TOKEN", "coracle token create"]);
    let token = s.coracle(&["token", "create", "--role", "runner"]).ok();
    let other_ca = token.trim().replacen(&token.trim()[8..12], "0000", 1);
    if other_ca != token.trim() {
        join(&other_ca).fails_with(&["E_JOIN_CA"]);
    }
    let mut secret = token.trim().to_string();
    let last = if secret.ends_with('0') { '1' } else { '0' };
    secret.pop();
    secret.push(last);
    join(&secret).fails_with(&["E_JOIN_REFUSED"]);
}
