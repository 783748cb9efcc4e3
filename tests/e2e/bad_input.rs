//! Bad input: a clear coded error with the fix, the process lives, nothing acknowledged is lost.

use std::process::Command;

use serde_json::json;

use crate::guests;
use crate::harness::cluster::LONG;
use crate::harness::program::{self, coracle, wait_for};
use crate::harness::{Cluster, http, kube};

/// A component that imports an interface nobody has.
fn stranger() -> Vec<u8> {
    let wit = "package test:stranger; interface secrets { get: func() -> u32; } world w { import secrets; export run: func() -> u32; }";
    guests::component_of(
        r#"(module (import "test:stranger/secrets" "get" (func $get (result i32))) (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0)) (func (export "run") (result i32) (call $get)))"#,
        wit,
        "w",
    )
}

#[test]
fn files_that_cannot_run_are_refused_by_name_before_anything_is_pushed() {
    let dir = tempfile::tempdir().unwrap();
    let core =
        wat::parse_str(r#"(module (import "env" "host_magic" (func)) (func (export "_start")))"#)
            .unwrap();
    let elf = std::fs::read(program::CORACLE).unwrap()[..4096].to_vec();
    for (name, bytes, words) in [
        ("text.wasm", b"just text".to_vec(), vec!["E_NOT_WASM"]),
        ("elf.wasm", elf, vec!["E_NOT_WASM", "ELF"]),
        ("empty.wasm", Vec::new(), vec!["E_NOT_WASM"]),
        (
            "stranger.wasm",
            stranger(),
            vec!["E_UNKNOWN_IMPORT", "test:stranger/secrets"],
        ),
        (
            "core.wasm",
            core,
            vec!["E_UNKNOWN_IMPORT", "env", "host_magic"],
        ),
        ("cut.wasm", guests::service()[..500].to_vec(), vec!["E_"]),
    ] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        coracle(dir.path(), &["deploy", name]).fails_with(&words);
        coracle(dir.path(), &["push", name, "x:v1"]).fails_with(&words);
    }
}

/// A pod of one image, and what its container waits for.
#[track_caller]
fn waits_for(c: &Cluster, name: &str, image: &str, reasons: &[&str], words: &[&str]) {
    let api = kube::Api::of(c);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": image}]}});
    api.create("/api/v1/namespaces/default/pods", &pod).unwrap();
    let message = wait_for("the container's waiting reason", LONG, || {
        let p = api
            .get(&format!("/api/v1/namespaces/default/pods/{name}"))
            .map_err(|e| e.to_string())?;
        let w = &p["status"]["containerStatuses"][0]["state"]["waiting"];
        match w["reason"].as_str() {
            Some(r) if reasons.contains(&r) => {
                Ok(w["message"].as_str().unwrap_or_default().to_string())
            }
            _ => Err(p["status"].to_string()),
        }
    });
    let events = c.coracle(&["describe", &format!("pod/{name}")]).ok();
    for w in words {
        assert!(
            message.contains(w) || events.contains(w),
            "{w:?} is neither in {message:?} nor in\n{events}"
        );
    }
    c.coracle(&["delete", &format!("pod/{name}")]).ok();
}

#[test]
fn images_that_cannot_run_say_so_in_status_and_events() {
    let c = Cluster::up(None);
    waits_for(
        &c,
        "absent",
        "no-such-image:v1",
        &["ErrImagePull", "ImagePullBackOff"],
        &["no-such-image"],
    );
    waits_for(
        &c,
        "badname",
        "UPPER/Case:v1",
        &["InvalidImageName"],
        &["UPPER/Case"],
    );
    // A Linux image, pushed as docker would.
    let registry = c.registry();
    let put = |bytes: &[u8]| {
        use sha2::Digest;
        let d = format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)));
        let r = http::send(
            &registry,
            "POST",
            &format!("/v2/linux/blobs/uploads/?digest={d}"),
            &[],
            bytes,
        )
        .unwrap();
        assert_eq!(r.status, 201, "{}", r.text());
        d
    };
    let config = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let layer = vec![0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0];
    let (cd, ld) = (put(config), put(&layer));
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": cd, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": ld, "size": layer.len()}]});
    let r = http::send(
        &registry,
        "PUT",
        "/v2/linux/manifests/v1",
        &[("content-type", "application/vnd.oci.image.manifest.v1+json")],
        manifest.to_string().as_bytes(),
    )
    .unwrap();
    assert_eq!(r.status, 201, "{}", r.text());
    waits_for(
        &c,
        "linux",
        "linux:v1",
        &["ErrImageUnsupported"],
        &["linux/amd64", "coracle push"],
    );
}

#[test]
fn manifests_with_mistakes_name_the_field() {
    let c = Cluster::up(None);
    let deployment = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut d = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bad"},
            "spec": {"selector": {"matchLabels": {"app": "bad"}}, "template": {"metadata": {"labels": {"app": "bad"}},
                "spec": {"containers": [{"name": "c", "image": "x:v1"}]}}}});
        change(&mut d);
        c.write("bad.json", d.to_string());
        c.coracle(&["apply", "-f", "bad.json"])
    };
    deployment(&|d| d["spec"]["template"]["spec"]["contaners"] = json!([]))
        .fails_with(&["contaners"]);
    deployment(&|d| d["spec"]["replicas"] = json!("three")).fails_with(&["replicas"]);
    deployment(&|d| d["metadata"]["labels"] = json!({"bad label!": "x"}))
        .fails_with(&["bad label!"]);
    deployment(&|d| drop(d["spec"].as_object_mut().unwrap().remove("selector")))
        .fails_with(&["spec.selector"]);
    deployment(&|d| d["spec"]["selector"]["matchLabels"]["app"] = json!("other"))
        .fails_with(&["selector", "does not match"]);
    deployment(&|d| d["metadata"]["name"] = json!("../etc")).fails_with(&["metadata.name"]);
    c.write(
        "twice.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  name: b\n",
    );
    c.coracle(&["apply", "-f", "twice.yaml"])
        .fails_with(&["E_MANIFEST"]);
    c.write(
        "kind.yaml",
        "apiVersion: v1\nkind: Pood\nmetadata:\n  name: a\n",
    );
    c.coracle(&["apply", "-f", "kind.yaml"])
        .fails_with(&["Pood"]);
    let api = kube::Api::of(&c);
    let big = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"x": "y".repeat(10 << 20)}});
    let e = api
        .create("/api/v1/namespaces/default/configmaps", &big)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("413") || e.contains("too large") || e.contains("TooLarge"),
        "{e}"
    );
    assert!(
        api.get("/api/v1/namespaces/default/configmaps").unwrap()["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|o| o["metadata"]["name"] != "big")
    );
}

#[test]
fn a_service_without_endpoints_answers_503_and_says_so() {
    let c = Cluster::up(None);
    let file = c.write("web.wasm", guests::service());
    c.coracle(&["deploy", file.to_str().unwrap(), "--name", "web"])
        .ok();
    c.coracle(&["scale", "deploy/web", "--replicas", "0"]).ok();
    let text = wait_for("503", LONG, || match c.get("web.localhost", "/h") {
        Ok(r) if r.status == 503 => Ok(r.text()),
        other => Err(format!("{other:?}")),
    });
    assert!(
        text.contains("no_endpoints") && text.contains("web"),
        "{text}"
    );
}

#[test]
fn a_guest_that_traps_loops_eats_or_prints_harms_only_its_own_request() {
    let c = Cluster::up(None);
    let file = c.write("web.wasm", guests::service());
    c.coracle(&["deploy", file.to_str().unwrap(), "--name", "web"])
        .ok();
    let api = kube::Api::of(&c);
    let template = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "annotations": {}},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}, "annotations": {"coracle/request-timeout-ms": "1500"}},
            "spec": {"containers": [{"name": "web", "resources": {"limits": {"memory": "16Mi"}}}]}}}});
    api.apply("/apis/apps/v1/namespaces/default/deployments", &template)
        .unwrap();
    wait_for("the rollout", LONG, || {
        let d = api
            .get("/apis/apps/v1/namespaces/default/deployments/web")
            .map_err(|e| e.to_string())?;
        let s = &d["status"];
        let done = s["observedGeneration"] == d["metadata"]["generation"]
            && s["updatedReplicas"] == 1
            && s["replicas"] == 1
            && s["availableReplicas"] == 1;
        if done { Ok(()) } else { Err(d.to_string()) }
    });
    let fine = || {
        let r = c.get("web.localhost", "/h").unwrap();
        assert_eq!((r.status, r.text().as_str()), (200, "Hello, world!\n"));
    };
    fine();
    for (path, statuses, word) in [
        ("/t", [500, 502, 503], "trap"),
        ("/m", [500, 502, 503], "mem"),
        ("/l", [504, 504, 504], "deadline"),
        ("/n", [500, 502, 502], "without a response"),
        ("/p", [504, 504, 504], "deadline"),
    ] {
        // A neighbour is served while the bad request runs.
        let address = c.ingress();
        let bad = std::thread::spawn(move || http::get(&address, "web.localhost", path).unwrap());
        for _ in 0..20 {
            fine();
        }
        let r = bad.join().unwrap();
        assert!(
            statuses.contains(&r.status),
            "{path}: {} {}",
            r.status,
            r.text()
        );
        assert!(
            r.text().to_lowercase().contains(word),
            "{path}: {}",
            r.text()
        );
        fine();
    }
    let pod = c.coracle(&["get", "pods", "-o", "name"]).ok();
    let log = c.coracle(&["logs", pod.trim(), "--tail", "5"]).ok();
    assert!(log.contains("Hello, world!"), "{log}");
    let size: u64 = walk(&c.dir.path().join(".coracle"))
        .iter()
        .filter(|(p, _)| p.contains("log"))
        .map(|(_, n)| n)
        .sum();
    assert!(size < 200 << 20, "logs have {size} bytes");
}

fn walk(dir: &std::path::Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.path().is_dir() {
            all.extend(walk(&e.path()));
        } else if let Ok(m) = e.metadata() {
            all.push((e.path().to_string_lossy().into_owned(), m.len()));
        }
    }
    all
}

#[test]
fn a_process_that_cannot_start_says_why_in_one_line() {
    let c = Cluster::up(None);
    let free = [
        "--api-addr",
        "127.0.0.1:0",
        "--registry-addr",
        "127.0.0.1:0",
        "--ingress-addr",
        "127.0.0.1:0",
        "--runner-addr",
        "127.0.0.1:0",
    ];
    let up = |dir: &str, more: &[&str]| {
        let mut args = vec!["up", "--data-dir", dir];
        for pair in free.chunks(2) {
            if !more.contains(&pair[0]) {
                args.extend(pair);
            }
        }
        args.extend(more);
        coracle(c.dir.path(), &args)
    };
    // A port already taken, each listener by its flag.
    for (flag, address) in [
        ("--api-addr", c.api()),
        ("--registry-addr", c.registry()),
        ("--ingress-addr", c.ingress()),
    ] {
        up(&format!("busy{flag}"), &[flag, &address]).fails_with(&[
            "E_PORT_IN_USE",
            &address,
            flag,
        ]);
    }
    // The data directory of a running cluster.
    up(".coracle", &[]).fails_with(&["E_DATA_LOCKED", &c.pid().to_string()]);
    // A file where a directory is needed.
    c.write("file", "x");
    up("file", &[]).fails_with(&["E_DATA"]);
    up("file/below", &[]).fails_with(&["E_DATA"]);
    // Another version's data directory.
    std::fs::create_dir(c.dir.path().join("newer")).unwrap();
    c.write("newer/VERSION", "999\n");
    up("newer", &[]).fails_with(&["E_DATA", "999"]);
    // A registry open to everybody must be asked for.
    let others = ["--registry-addr", "0.0.0.0:0"];
    let with = |flag: &'static str| [&others[..], &[flag]].concat();
    up("open", &with("--registry-auth=off"))
        .fails_with(&["E_REGISTRY_OPEN", "--insecure-registry"]);
    up("clear", &with("--registry-tls=off"))
        .fails_with(&["E_REGISTRY_CLEAR", "--insecure-registry"]);
    up("flag", &["--api-addr", "nonsense"]).fails_with(&["E_ADDRESS", "--api-addr"]);
    // All the while the first cluster served.
    c.coracle(&["get", "nodes"]).ok();
}

#[test]
fn a_half_written_log_tail_is_cut_and_nothing_acknowledged_is_lost() {
    let mut c = Cluster::up(None);
    let api = kube::Api::of(&c);
    for i in 0..20 {
        api.create("/api/v1/namespaces/default/configmaps", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{i}")}})).unwrap();
    }
    c.kill9();
    // Behind the last group of the log comes the beginning of one that was never finished, as a crash in mid-write leaves
    // it: files are zero-filled ahead, groups begin at multiples of 4 KiB.
    let wal = c.dir.path().join(".coracle/raft/wal");
    let written = |bytes: &[u8]| bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let (newest, mut bytes) = walk(&wal)
        .into_iter()
        .filter(|(p, _)| p.ends_with(".seg"))
        .map(|(p, _)| (wal.join(&p), std::fs::read(wal.join(&p)).unwrap()))
        .filter(|(_, bytes)| written(bytes) > 4096)
        .max_by(|a, b| a.0.cmp(&b.0))
        .expect("a log file with a group in it");
    let end = written(&bytes).next_multiple_of(4096);
    let torn = [0x17, 0, 0, 0, 9, 9, 9];
    bytes[end..end + torn.len()].copy_from_slice(&torn);
    std::fs::write(&newest, bytes).unwrap();
    c.spawn();
    c.ready();
    let list = kube::Api::of(&c)
        .get("/api/v1/namespaces/default/configmaps")
        .unwrap();
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|o| o["metadata"]["name"].as_str())
        .collect();
    for i in 0..20 {
        assert!(
            names.contains(&format!("c{i}").as_str()),
            "c{i} is gone: {names:?}"
        );
    }
}

/// A small file system of its own; unmounted when dropped.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn new(path: std::path::PathBuf, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let out = program::run(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
                .arg(&path),
        );
        if out.code != 0 {
            println!("SKIPPED: cannot mount a tmpfs here: {}", out.err.trim());
            return None;
        }
        Some(Self(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let Some(disk) = Tmpfs::new(dir.path().join("small"), 192) else {
        return;
    };
    let args = [
        "up",
        "--api-addr",
        "127.0.0.1:0",
        "--registry-addr",
        "127.0.0.1:0",
        "--ingress-addr",
        "127.0.0.1:0",
        "--runner-addr",
        "127.0.0.1:0",
    ];
    let mut c = Cluster::start(dir.clone(), "small/data", args.map(String::from).to_vec());
    let api = kube::Api::of(&c);
    let config = |n: u32| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{n}")}});
    api.create("/api/v1/namespaces/default/configmaps", &config(0))
        .unwrap();
    // Somebody fills the disk.
    let filler = disk.0.join("filler");
    let _ = program::run(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=1M"])
            .arg(format!("of={}", filler.display())),
    );
    let e = wait_for("a refused write", LONG, || {
        match api.create(
            "/api/v1/namespaces/default/configmaps",
            &config(rand::random()),
        ) {
            Err(e) => Ok(e.to_string()),
            Ok(_) => Err("it was taken".into()),
        }
    });
    assert!(e.contains("E_DISK_FULL"), "{e}");
    let r =
        http::send(&c.registry(), "POST", "/v2/x/blobs/uploads/", &[], b"").and_then(|r| {
            match r.header("location") {
                Some(location) => {
                    http::send(&c.registry(), "PATCH", &location, &[], &vec![1u8; 1 << 20])
                }
                None => Ok(r),
            }
        });
    assert!(r.as_ref().is_ok_and(|r| r.status >= 500), "{r:?}");
    // Reads go on, the process lives, and once there is room again it writes without a restart.
    assert!(api.get("/api/v1/namespaces/default/configmaps/c0").is_ok());
    std::fs::remove_file(&filler).unwrap();
    wait_for("a write after room was made", LONG, || {
        api.create("/api/v1/namespaces/default/configmaps", &config(1))
            .map(drop)
            .or_else(|e| {
                if e.to_string().contains("AlreadyExists") {
                    Ok(())
                } else {
                    Err(e.to_string())
                }
            })
    });
    c.kill9();
}
