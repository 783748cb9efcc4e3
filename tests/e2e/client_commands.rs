//! The everyday commands of `coracle` itself.

use crate::guests;
use crate::harness::cluster::LONG;
use crate::harness::program::{coracle, root, wait_for};
use crate::harness::{Cluster, program};

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
