//! The everyday commands of `coracle` itself.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::guests;
use crate::harness::cluster::LONG;
use crate::harness::program::{coracle, root, wait_for};
use crate::harness::{Cluster, http, program};

#[test]
fn deploy_scale_get_logs_delete() {
    let c = Cluster::up(None);
    assert!(
        c.info["url"].is_null(),
        "no application, no URL: {}",
        c.info
    );
    let file = root().join("samples/hello/prebuilt.wasm");
    let out = c.coracle(&[
        "deploy",
        file.to_str().unwrap(),
        "--name",
        "web",
        "--replicas",
        "3",
        "--env",
        "GREETING=Hi",
    ]);
    let url = out.ok();
    assert!(url.starts_with("http://web.localhost:"), "{url}");
    let r = c.get("web.localhost", "/x").unwrap();
    assert_eq!(
        (r.status, r.text().as_str()),
        (200, "Hi! You asked for /x\n")
    );
    let table = c.coracle(&["get", "pods"]).ok();
    assert_eq!(table.matches("Running").count(), 3, "{table}");
    let wide = c.coracle(&["get", "deploy,svc", "-o", "wide"]).ok();
    assert!(
        wide.contains("deployment.apps/web") && wide.contains("service/web"),
        "{wide}"
    );
    let yaml = c.coracle(&["get", "deployment/web", "-o", "yaml"]).ok();
    assert!(
        yaml.contains("kind: Deployment") && yaml.contains("@sha256:"),
        "{yaml}"
    );
    assert!(
        c.coracle(&["scale", "deploy/web", "--replicas", "1"])
            .ok()
            .contains("scaled")
    );
    wait_for("one replica", LONG, || {
        let out = c.coracle(&["get", "pods", "-o", "name"]).ok();
        if out.lines().count() == 1 {
            Ok(())
        } else {
            Err(out)
        }
    });
    let text = c.coracle(&["describe", "deployment/web"]).ok();
    assert!(
        text.contains("Conditions:")
            && text.contains("Available")
            && text.contains("ScalingReplicaSet"),
        "{text}"
    );
    assert!(
        c.coracle(&["delete", "deploy/web", "svc/web", "ingress/web"])
            .ok()
            .contains("deployment.apps/web deleted")
    );
    let gone = wait_for("404 for a host that nothing serves", LONG, || {
        match c.get("web.localhost", "/") {
            Ok(r) if r.status == 404 => Ok(r.text()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(
        gone.contains("\"code\"") && gone.contains("\"message\""),
        "{gone}"
    );
}

#[test]
fn push_pull_and_run_by_image() {
    let c = Cluster::up(None);
    let file = root().join("samples/job/prebuilt.wasm");
    let pushed = c
        .coracle(&["push", file.to_str().unwrap(), "team/job:v1"])
        .ok();
    assert!(pushed.starts_with("team/job:v1@sha256:"), "{pushed}");
    c.coracle(&["pull", "team/job:v1", "-o", "out.wasm"]).ok();
    assert_eq!(
        std::fs::read(c.dir.path().join("out.wasm")).unwrap(),
        std::fs::read(&file).unwrap()
    );
    assert_eq!(
        c.coracle(&["run", "team/job:v1", "--", "10"]).ok(),
        "4 primes below 10\n"
    );
    let core = wat::parse_str(guests::PREVIEW_1_EXIT_3).unwrap();
    let core = c.write("core.wasm", core);
    let out = c.coracle(&["run", core.to_str().unwrap(), "--", "argument"]);
    assert_eq!((out.code, out.out.as_str()), (3, "argument"), "{out:?}");
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[test]
fn push_and_pull_at_a_registry_by_its_address() {
    let c = Cluster::up(None);
    let file = root().join("samples/job/prebuilt.wasm");
    let (file, wasm) = (file.to_str().unwrap(), std::fs::read(&file).unwrap());
    let image = format!("{}/team/job:v1", c.registry());
    // Nobody's login is looked at, and no cache but the test's is written.
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(program::CORACLE);
        command.args(args).current_dir(c.dir.path());
        for name in ["HOME", "XDG_CACHE_HOME", "DOCKER_CONFIG"] {
            command.env(name, c.dir.path());
        }
        program::run(&mut command)
    };
    let pushed = run(&["push", "-q", file, &image]).ok();
    assert!(
        pushed.starts_with(&format!("{image}@sha256:")) && pushed.lines().count() == 1,
        "{pushed}"
    );
    assert_eq!(run(&["push", file, &image]).ok(), pushed, "a second time");
    // What a broken pull left is gone on with and goes.
    let partial = format!(".out.wasm.{}.partial", &digest(&wasm)[7..23]);
    c.write(&partial, &wasm[..1_000]);
    let out = run(&[
        "pull",
        "--quiet",
        "--parallel",
        "2",
        &image,
        "-o",
        "out.wasm",
    ]);
    assert_eq!((out.code, out.out.as_str(), out.err.as_str()), (0, "", ""));
    assert_eq!(std::fs::read(c.dir.path().join("out.wasm")).unwrap(), wasm);
    assert!(!c.dir.path().join(&partial).exists());
    let none = format!("{}/team/none:v1", c.registry());
    run(&["pull", &none, "-o", "none.wasm"]).fails_with(&["UNKNOWN", "none:v1", "coracle push"]);
    let nobody = "127.0.0.1:1/team/job:v1";
    run(&["pull", nobody, "-o", "none.wasm"]).fails_with(&["E_REGISTRY", "tried 5 times"]);
    run(&["push", file, &image, "--parallel", "0"]).fails_with(&["--parallel"]);
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

#[test]
fn an_image_that_docker_built_runs_and_is_pulled() {
    let c = Cluster::up(None);
    let registry = c.registry();
    let wasm = std::fs::read(root().join("samples/job/prebuilt.wasm")).unwrap();
    let put = |bytes: &[u8]| {
        let d = digest(bytes);
        let path = format!("/v2/docker/blobs/uploads/?digest={d}");
        let r = http::send(&registry, "POST", &path, &[], bytes).unwrap();
        assert_eq!(r.status, 201, "{}", r.text());
        d
    };
    let push = |tag: &str, config: serde_json::Value| {
        let (config, layer) = (config.to_string(), tar("job.wasm", &wasm));
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(config.as_bytes()), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": put(&layer), "size": layer.len()}]});
        let path = format!("/v2/docker/manifests/{tag}");
        let (headers, body) = ([("content-type", kind)], manifest.to_string());
        let r = http::send(&registry, "PUT", &path, &headers, body.as_bytes()).unwrap();
        assert_eq!(r.status, 201, "{}", r.text());
    };
    let config = |os: &str, entrypoint: &str| json!({"os": os, "architecture": "wasm", "config": {"Entrypoint": [entrypoint]}});
    push("v1", config("wasip1", "/job.wasm"));
    assert_eq!(
        c.coracle(&["run", "docker:v1", "--", "10"]).ok(),
        "4 primes below 10\n"
    );
    c.coracle(&["pull", "docker:v1", "-o", "out.wasm"]).ok();
    assert_eq!(std::fs::read(c.dir.path().join("out.wasm")).unwrap(), wasm);
    push("v2", config("wasip1", "/other.wasm"));
    c.coracle(&["pull", "docker:v2", "-o", "none.wasm"])
        .fails_with(&["E_IMAGE_UNSUPPORTED", "other.wasm", "ENTRYPOINT"]);
}

#[test]
fn the_cli_says_what_is_wrong_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    coracle(dir.path(), &["get", "pods"]).fails_with(&["E_NO_CLUSTER", "coracle up"]);
    coracle(dir.path(), &["deploy", "nothing.wasm"]).fails_with(&[
        "E_FILE",
        "nothing.wasm",
        "no such file",
    ]);
    std::fs::write(dir.path().join("text.wasm"), "hello").unwrap();
    coracle(dir.path(), &["deploy", "text.wasm"]).fails_with(&["E_NOT_WASM", "text.wasm"]);
    let job = root().join("samples/job/prebuilt.wasm");
    coracle(dir.path(), &["deploy", job.to_str().unwrap()])
        .fails_with(&["E_NOT_A_SERVICE", "coracle run"]);
    coracle(dir.path(), &["push", job.to_str().unwrap(), "../x"]).fails_with(&["E_IMAGE_NAME"]);
    coracle(dir.path(), &["descibe"]).fails_with(&["describe"]);
    let help = coracle(dir.path(), &["--help"]).ok();
    assert!(
        help.contains("deploy") && !help.contains("compile-child"),
        "{help}"
    );
    let version = coracle(dir.path(), &["version", "--client"]).ok();
    assert!(version.starts_with("coracle 0."), "{version}");
    let _ = program::CORACLE;
}
