//! Trust with real processes: what is signed runs, what is not does not, and cosign and Coracle read each other.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::cluster::LONG;
use crate::harness::program::{self, Output, root, wait_for};
use crate::harness::{Cluster, client};

/// Images pushed once, their names, and a key pair.
fn pushed(c: &Cluster, image: &str, sample: &str) -> String {
    let file = root().join(format!("samples/{sample}/prebuilt.wasm"));
    let out = c.coracle(&["push", file.to_str().unwrap(), image]).ok();
    out.trim().split_once('@').unwrap().1.to_string()
}

fn apply(c: &Cluster, objects: &[Value]) -> Output {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let file = c.write("objects.json", list.to_string());
    c.coracle(&["apply", "-f", file.to_str().unwrap()])
}

fn namespace(policy: Option<&Value>) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    if let Some(policy) = policy {
        object["metadata"]["annotations"] = json!({"trust.coracle.dev/policy": policy.to_string()});
    }
    object
}

fn deployment(name: &str, image: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "team"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": image, "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

fn signed_by(c: &Cluster, key: &str) -> Value {
    let pem = std::fs::read_to_string(c.dir.path().join(key)).unwrap();
    json!({"signatures": {"keys": [{"name": "release", "publicKey": pem}]}})
}

/// Ready pods of an application, and why the others wait.
fn pods(c: &Cluster, app: &str) -> (usize, String) {
    let selector = format!("app={app}");
    let out = c.coracle(&["get", "pods", "-n", "team", "-l", &selector, "-o", "json"]);
    let list: Value = serde_json::from_str(&out.ok()).unwrap();
    let mut ready = 0;
    let mut waits = String::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let status = &pod["status"]["containerStatuses"][0];
        ready += usize::from(status["ready"] == true);
        waits.push_str(
            status["state"]["waiting"]["message"]
                .as_str()
                .unwrap_or_default(),
        );
    }
    (ready, waits)
}

fn wait_ready(c: &Cluster, app: &str, wanted: usize) {
    wait_for("ready pods", LONG, || match pods(c, app) {
        (ready, _) if ready == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_namespace_runs_what_its_key_signed() {
    let c = Cluster::up(None);
    c.coracle(&["key", "generate", "-o", "release"]).ok();
    let digest = pushed(&c, "team/web:v1", "hello");
    let policy = signed_by(&c, "release.pub");
    apply(&c, &[namespace(Some(&policy))]).ok();

    // Admission says no, by digest and with the fix.
    apply(&c, &[deployment("web", "team/web:v1", 1)]).fails_with(&[
        "E_TRUST_UNSIGNED",
        &digest,
        "coracle sign",
    ]);
    c.coracle(&["verify", "team/web:v1", "--key", "release.pub"])
        .fails_with(&["E_TRUST_UNSIGNED", "no signature"]);
    let out = c
        .coracle(&["sign", "team/web:v1", "--key", "release.key"])
        .ok();
    assert!(out.contains(&format!("team/web@{digest}")), "{out}");
    let again = c
        .coracle(&["sign", "team/web:v1", "--key", "release.key"])
        .ok();
    assert!(again.contains("signed before"), "{again}");
    c.coracle(&["verify", "team/web:v1", "--key", "release.pub"])
        .ok();
    apply(&c, &[deployment("web", "team/web:v1", 1)]).ok();
    wait_ready(&c, "web", 1);

    // Another key is none; the same image through the plain listener is the same image.
    c.coracle(&["key", "generate", "--type", "ed25519", "-o", "other"])
        .ok();
    c.coracle(&["verify", "team/web:v1", "--key", "other.pub"])
        .fails_with(&["none of the keys"]);
    let outside = format!("{}/team/web:v1", c.registry());
    c.coracle(&["sign", &outside, "--key", "other.key", "--legacy"])
        .ok();
    let out = c.coracle(&[
        "verify",
        &outside,
        "--key",
        "other.pub",
        "--key",
        "release.pub",
        "--all",
        "-o",
        "json",
    ]);
    let report: Value = serde_json::from_str(&out.ok()).unwrap();
    assert_eq!(report["verified"], true, "{report}");
    assert_eq!(
        report["signatures"].as_array().unwrap().len(),
        3,
        "{report}"
    );

    // A policy that does not read is refused where it is written.
    apply(&c, &[namespace(Some(&json!({"surces": []})))])
        .fails_with(&["E_TRUST_POLICY", "trust.coracle.dev/policy"]);
}

#[test]
fn the_node_judges_what_admission_did_not() {
    let c = Cluster::up(None);
    c.coracle(&["key", "generate", "-o", "release"]).ok();
    pushed(&c, "team/web:v1", "hello");
    // Admitted while there was no policy; the pod that a controller makes under one is judged by its node.
    apply(&c, &[namespace(None), deployment("web", "team/web:v1", 0)]).ok();
    let policy = signed_by(&c, "release.pub");
    apply(&c, &[namespace(Some(&policy))]).ok();
    c.coracle(&["scale", "deploy/web", "-n", "team", "--replicas", "1"])
        .ok();
    wait_for("a pod that waits for a signature", LONG, || {
        match pods(&c, "web") {
            (0, waits) if waits.contains("E_TRUST_UNSIGNED") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // The signature mends it.
    c.coracle(&["sign", "team/web:v1", "--key", "release.key"])
        .ok();
    wait_ready(&c, "web", 1);
}

#[test]
fn sources_and_imports_are_bounded() {
    let c = Cluster::up(None);
    pushed(&c, "team/web:v1", "hello");
    let policy = json!({"sources": ["cluster/team/*"], "imports": ["wasi:http/types"]});
    apply(&c, &[namespace(Some(&policy))]).ok();
    apply(&c, &[deployment("web", "ghcr.io/acme/web:1", 1)]).fails_with(&[
        "E_TRUST_SOURCE",
        "ghcr.io/acme/web",
        "cluster/team/*",
    ]);
    apply(&c, &[deployment("web", "team/web:v1", 1)]).fails_with(&["E_TRUST_IMPORT", "wasi:"]);
    let policy = json!({"sources": ["cluster/team/*"], "imports": ["wasi:*"]});
    apply(
        &c,
        &[
            namespace(Some(&policy)),
            deployment("web", "team/web:v1", 1),
        ],
    )
    .ok();
    wait_ready(&c, "web", 1);
}

#[test]
fn documents_are_attached_and_shown_and_versions_compared() {
    let c = Cluster::up(None);
    c.coracle(&["key", "generate", "-o", "release"]).ok();
    let digest = pushed(&c, "team/web:v1", "hello");
    c.write("web.spdx.json", r#"{"spdxVersion": "SPDX-2.3"}"#);
    c.write("web.cdx.json", r#"{"bomFormat": "CycloneDX"}"#);
    c.write(
        "provenance.json",
        r#"{"buildDefinition": {}, "runDetails": {}}"#,
    );
    c.coracle(&["attach", "team/web:v1", "--type", "spdx", "web.spdx.json"])
        .ok();
    c.coracle(&[
        "attach",
        "team/web:v1",
        "--type",
        "provenance",
        "provenance.json",
        "--key",
        "release.key",
    ])
    .ok();
    c.coracle(&["attach", "team/web:v1", "--type", "spdx", "web.cdx.json"])
        .fails_with(&["E_DOCUMENT", "spdxVersion"]);
    c.coracle(&["sign", "team/web:v1", "--key", "release.key"])
        .ok();
    let out = c.coracle(&[
        "inspect",
        "team/web:v1",
        "--key",
        "release.pub",
        "-o",
        "json",
    ]);
    let report: Value = serde_json::from_str(&out.ok()).unwrap();
    assert_eq!(report["digest"], digest.as_str());
    assert_eq!(report["component"]["kind"], "component", "{report}");
    assert_eq!(
        report["signatures"].as_array().unwrap().len(),
        1,
        "{report}"
    );
    assert_eq!(report["signatures"][0]["valid"], true);
    let what: Vec<(&str, bool)> = report["attached"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["what"].as_str().unwrap(), a["verifiedBy"].is_string()))
        .collect();
    assert!(what.contains(&("SBOM, SPDX", false)), "{what:?}");
    assert!(what.contains(&("provenance (signed)", true)), "{what:?}");
    assert_eq!(what.len(), 2);
    let text = c.coracle(&["inspect", "team/web:v1"]).ok();
    assert!(text.contains("not checked: give --key FILE"), "{text}");

    let gains = wat::parse_str(r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#);
    let file = c.write("new.wasm", gains.unwrap());
    let file = file.to_str().unwrap();
    let out = c.coracle(&["diff", "team/web:v1", file]);
    assert!(out.ok().contains("gains network"));
    let out = c.coracle(&["diff", "team/web:v1", file, "--fail-on-gain"]);
    assert_eq!(out.code, 1, "{out:?}");
    c.coracle(&["diff", "team/web:v1", "team/web:v1", "--fail-on-gain"])
        .ok();
}

#[test]
fn cosign_and_coracle_read_each_other() {
    let Some(cosign) = client("cosign") else {
        return;
    };
    let c = Cluster::up(None);
    let run = |args: &[&str]| {
        program::run(
            Command::new(&cosign)
                .args(args)
                .current_dir(c.dir.path())
                .env("COSIGN_PASSWORD", "")
                .env("HOME", c.dir.path()),
        )
    };
    let coracle = |args: &[&str]| {
        program::run(
            Command::new(program::CORACLE)
                .args(args)
                .current_dir(c.dir.path())
                .env("COSIGN_PASSWORD", "")
                .env("KUBECONFIG", c.kubeconfig())
                .env("HOME", c.dir.path()),
        )
    };
    coracle(&["key", "generate", "-o", "ours"]).ok();
    coracle(&["key", "generate", "--type", "ed25519", "-o", "edwards"]).ok();
    run(&["generate-key-pair", "--output-key-prefix", "theirs"]).ok();

    // Ours, read by theirs.
    for key in ["ours", "edwards"] {
        let image = format!("team/{key}:v1");
        let digest = pushed(&c, &image, "hello");
        let there = format!("{}/team/{key}@{digest}", c.registry());
        let verify = |public: &str, more: &[&str]| {
            let mut args = vec!["verify", "--key", public, "--insecure-ignore-tlog=true"];
            args.extend(["--allow-insecure-registry=true"]);
            args.extend(more);
            args.push(&there);
            run(&args)
        };
        assert_ne!(verify(&format!("{key}.pub"), &[]).code, 0);
        coracle(&["sign", &image, "--key", &format!("{key}.key")]).ok();
        let out = verify(&format!("{key}.pub"), &[]).ok();
        assert!(out.contains(&digest), "{out}");
        assert_ne!(verify("theirs.pub", &[]).code, 0);
    }
    c.write(
        "provenance.json",
        r#"{"buildDefinition": {}, "runDetails": {}}"#,
    );
    coracle(&[
        "attach",
        "team/ours:v1",
        "--type",
        "provenance",
        "provenance.json",
        "--key",
        "ours.key",
    ])
    .ok();
    let there = format!("{}/team/ours:v1", c.registry());
    run(&[
        "verify-attestation",
        "--key",
        "ours.pub",
        "--insecure-ignore-tlog=true",
        "--type",
        "slsaprovenance1",
        "--allow-insecure-registry=true",
        &there,
    ])
    .ok();

    // Theirs, read by ours: bundles with their key and with one that we made.
    for key in ["theirs", "ours", "edwards"] {
        let image = format!("team/by-{key}:v1");
        let digest = pushed(&c, &image, "hello");
        let there = format!("{}/team/by-{key}@{digest}", c.registry());
        let public = format!("{key}.pub");
        coracle(&["verify", &image, "--key", &public]).fails_with(&["E_TRUST_UNSIGNED"]);
        run(&[
            "sign",
            "--key",
            &format!("{key}.key"),
            "--tlog-upload=false",
            "--use-signing-config=false",
            "--allow-insecure-registry=true",
            "--yes",
            &there,
        ])
        .ok();
        coracle(&["verify", &image, "--key", &public]).ok();
    }
    // In the form of cosign 2.
    let digest = pushed(&c, "team/old:v1", "hello");
    let there = format!("{}/team/old@{digest}", c.registry());
    run(&[
        "sign",
        "--key",
        "theirs.key",
        "--tlog-upload=false",
        "--use-signing-config=false",
        "--new-bundle-format=false",
        "--allow-insecure-registry=true",
        "--yes",
        &there,
    ])
    .ok();
    let out = coracle(&["verify", "team/old:v1", "--key", "theirs.pub"]).ok();
    assert!(out.contains(".sig"), "{out}");
}
