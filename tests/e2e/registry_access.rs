//! A registry that asks who one is, met by skopeo over HTTP and over TLS: log in, push, pull, be refused.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::cluster::LONG;
use crate::harness::program::{self, Output, root, wait_for};
use crate::harness::{Cluster, client, kube};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An OCI layout with one Wasm artifact under the tag `v1`.
fn layout(dir: &Path, wasm: &[u8]) {
    let config = br#"{"architecture":"wasm","os":"wasip2"}"#;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": digest(config), "size": config.len()},
        "layers": [{"mediaType": "application/wasm", "digest": digest(wasm), "size": wasm.len()}]})
    .to_string();
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    for bytes in [&config[..], wasm, manifest.as_bytes()] {
        std::fs::write(dir.join("blobs/sha256").join(&digest(bytes)[7..]), bytes).unwrap();
    }
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": kind,
        "digest": digest(manifest.as_bytes()), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v1"}}]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

/// A cluster whose registry asks for credentials on loopback, too.
#[track_caller]
fn guarded(tls: bool) -> Cluster {
    let mut args = Cluster::up_args(None);
    args.extend(["--registry-auth".into(), "on".into()]);
    if tls {
        args.push("--registry-tls".into());
    }
    let dir = Arc::new(tempfile::tempdir().unwrap());
    Cluster::start(dir, ".coracle", args)
}

/// A cluster whose registry is guarded, and skopeo as it must be called there.
struct Guarded {
    c: Cluster,
    skopeo: std::path::PathBuf,
    tls: bool,
}

impl Guarded {
    #[track_caller]
    fn start(skopeo: &Path, tls: bool) -> Self {
        let c = guarded(tls);
        let scheme = if tls { "https://" } else { "http://" };
        assert!(c.info["registry"].as_str().unwrap().starts_with(scheme));
        let certs = c.dir.path().join("certs");
        std::fs::create_dir(&certs).unwrap();
        let roots = c.dir.path().join(".coracle/pki/ca.crt");
        std::fs::copy(roots, certs.join("ca.crt")).unwrap();
        layout(
            &c.dir.path().join("in"),
            &std::fs::read(root().join("samples/job/prebuilt.wasm")).unwrap(),
        );
        Self {
            c,
            skopeo: skopeo.into(),
            tls,
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        program::run(
            Command::new(&self.skopeo)
                .arg("--insecure-policy")
                .args(args)
                .current_dir(self.c.dir.path())
                .env("HOME", self.c.dir.path())
                .env("XDG_RUNTIME_DIR", self.c.dir.path()),
        )
    }

    /// How the side of the registry is trusted, and with what it is asked; `creds` is `USER:TOKEN` or nothing.
    fn side(&self, side: &str, creds: &str) -> Vec<String> {
        let mut args = match self.tls {
            true => vec![format!("--{side}-cert-dir=certs")],
            false => vec![format!("--{side}-tls-verify=false")],
        };
        args.push(match creds {
            "" => format!("--{side}-no-creds"),
            creds => format!("--{side}-creds={creds}"),
        });
        args
    }

    fn copy(&self, side: &str, creds: &str, from: &str, to: &str) -> Output {
        let side = self.side(side, creds);
        let mut args = vec!["copy"];
        args.extend(side.iter().map(String::as_str));
        args.extend([from, to]);
        self.run(&args)
    }

    fn push(&self, creds: &str, image: &str) -> Output {
        self.copy("dest", creds, "oci:in:v1", &self.image(image))
    }

    fn pull(&self, creds: &str, image: &str, into: &str) -> Output {
        self.copy("src", creds, &self.image(image), &format!("oci:{into}:v1"))
    }

    fn image(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.c.registry())
    }

    #[track_caller]
    fn token(&self, args: &[&str]) -> String {
        let made = self.c.coracle(&[&["token", "create"][..], args].concat());
        format!("robot:{}", made.ok().trim())
    }
}

#[track_caller]
fn story(tls: bool) {
    let Some(skopeo) = client("skopeo") else {
        return;
    };
    let g = Guarded::start(&skopeo, tls);
    let pusher = g.token(&["--role", "pusher", "--namespace", "demo"]);
    let puller = g.token(&["--role", "puller", "--ttl", "10m"]);

    g.push("", "demo/x:v1").fails_with(&["unauthorized"]);
    g.push("robot:wrong", "demo/x:v1")
        .fails_with(&["unauthorized"]);
    g.push(&puller, "demo/x:v1").fails_with(&["denied"]);
    g.push(&pusher, "other/x:v1")
        .fails_with(&["403 (Forbidden)"]);
    g.push(&pusher, "demo/x:v1").ok();
    // What is there is found there, with a token for it.
    g.push(&pusher, "demo/x:v2").ok();

    g.pull("", "demo/x:v1", "none")
        .fails_with(&["unauthorized"]);
    g.pull(&puller, "demo/x:v1", "out").ok();
    let blobs = |dir: &str| {
        let dir = g.c.dir.path().join(dir).join("blobs/sha256");
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(blobs("in"), blobs("out"));

    // A login that is kept, as on a build machine.
    let (user, password) = pusher.split_once(':').unwrap();
    let host = g.c.registry();
    let trust = match tls {
        true => "--cert-dir=certs",
        false => "--tls-verify=false",
    };
    let login = |password: &str| {
        let args = ["login", trust, "--authfile=auth.json", "-u", user, "-p"];
        g.run(&[&args[..], &[password, &host]].concat())
    };
    assert_ne!(login("wrong").code, 0);
    login(password).ok();
    let image = g.image("demo/x");
    let tags = ["list-tags", trust, "--authfile=auth.json", &image];
    assert!(g.run(&tags).ok().contains("\"v2\""));

    // Everybody, where the namespace says so.
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "demo", "annotations": {"registry.coracle.dev/anonymous-pull": "true"}}});
    kube::Api::of(&g.c)
        .create("/api/v1/namespaces", &namespace)
        .unwrap();
    g.pull("", "demo/x:v1", "open").ok();
    assert_eq!(blobs("in"), blobs("open"));
    g.push("", "demo/x:v3").fails_with(&["unauthorized"]);

    // The cluster's own nodes need none of this.
    assert_eq!(
        g.c.coracle(&["run", "demo/x:v1", "--", "10"]).ok(),
        "4 primes below 10\n"
    );

    // What is revoked is over.
    let list = g.c.coracle(&["token", "list"]).ok();
    let line = list.lines().find(|l| l.contains("pusher")).unwrap();
    assert!(line.contains("demo"), "{list}");
    let id = line.split_whitespace().next().unwrap();
    g.c.coracle(&["token", "delete", id]).ok();
    g.push(&pusher, "demo/x:v4").fails_with(&["unauthorized"]);
    g.c.coracle(&["token", "delete", id])
        .fails_with(&["E_TOKEN_UNKNOWN", "token list"]);
}

#[test]
fn skopeo_logs_in_over_http() {
    story(false);
}

#[test]
fn skopeo_logs_in_over_tls() {
    story(true);
}

#[test]
fn tokens_that_make_no_sense_are_refused() {
    let c = Cluster::up(None);
    for (args, words) in [
        (&["--role", "baker"][..], &["baker", "pusher"][..]),
        (&["--role", "runner", "-n", "demo"], &["namespaces"]),
        (&["--role", "puller", "-n", "No"], &["namespaces", "No"]),
        (&["--role", "puller", "--ttl", "400d"], &["E_TTL", "365"]),
    ] {
        let args = [&["token", "create"][..], args].concat();
        c.coracle(&args).fails_with(words);
    }
}

#[test]
fn a_pod_pulls_from_a_registry_outside_with_the_secret_it_names() {
    let outside = guarded(false);
    let job = root().join("samples/job/prebuilt.wasm");
    outside
        .coracle(&["push", &job.to_string_lossy(), "demo/job:v1"])
        .ok();
    let puller = ["--role", "puller", "--namespace", "demo"];
    let puller = outside.coracle(&[&["token", "create"][..], &puller].concat());
    let (puller, host) = (puller.ok(), outside.registry());

    let c = Cluster::up(None);
    let api = kube::Api::of(&c);
    let create = |kind: &str, object: Value| {
        let path = format!("/api/v1/namespaces/default/{kind}");
        api.create(&path, &object).unwrap();
    };
    let secret = |name: &str, config: &Value| {
        create(
            "secrets",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": config.to_string()}}),
        );
    };
    let auth = |password: &str| json!({"username": "robot", "password": password});
    let place = format!("{host}/demo");
    secret("good", &json!({"auths": {&place: auth(puller.trim())}}));
    secret(
        "other",
        &json!({"auths": {"ghcr.io": auth("for another registry")}}),
    );
    secret("wrong", &json!({"auths": {&host: auth("wrong")}}));
    let pod = |name: &str, secrets: &[&str]| {
        let secrets: Vec<Value> = secrets.iter().map(|s| json!({"name": s})).collect();
        create(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                "spec": {"restartPolicy": "Never", "imagePullSecrets": secrets,
                    "containers": [{"name": "job", "image": format!("{host}/demo/job:v1"),
                        "imagePullPolicy": "Always", "args": ["10"]}]}}),
        );
    };
    let look = |name: &str| {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        api.get(&path).unwrap()["status"].take()
    };
    let waits = |name: &str, word: &str| {
        wait_for(&format!("{name}: {word}"), LONG, || {
            let status = look(name);
            let why = status["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
            match why.contains("E_IMAGE_DENIED") && why.contains(word) {
                true => Ok(()),
                false => Err(status.to_string()),
            }
        });
    };
    // Before anybody has it, so that it is not on the node.
    pod("bare", &[]);
    waits("bare", "imagePullSecrets");
    pod("astray", &["other"]);
    waits("astray", "Secret default/other");
    pod("refused", &["wrong"]);
    waits("refused", "the login in the Secret wrong");
    pod("lost", &["gone", "other"]);
    waits(
        "lost",
        "Secret default/gone of imagePullSecrets does not exist",
    );
    let event = wait_for("an Event", LONG, || {
        let events = api.get("/api/v1/namespaces/default/events").unwrap();
        let found = events["items"].as_array().unwrap().iter().find(|e| {
            e["reason"] == "FailedToRetrieveImagePullSecret"
                && e["involvedObject"]["name"] == "lost"
        });
        found.cloned().ok_or_else(|| events.to_string())
    });
    assert_eq!(event["type"], "Warning");
    assert!(event["message"].to_string().contains("default/gone"));

    // The longer path goes before the host alone, wherever it stands.
    pod("fine", &["wrong", "good"]);
    wait_for("the job", LONG, || {
        let status = look("fine");
        match status["phase"] == "Succeeded" {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    });
    assert_eq!(c.coracle(&["logs", "fine"]).ok(), "4 primes below 10\n");
    for log in [c.log(), outside.log()] {
        assert!(!log.contains(puller.trim()), "a token is in a log");
    }
}
