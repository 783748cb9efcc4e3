//! Blobs in object storage: members over one bucket of a server that speaks S3 (moto), nothing on their disks.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::harness::cluster::LONG;
use crate::harness::program::{CORACLE, run, wait_for};
use crate::harness::{Cluster, client};

/// More than one part of a multipart upload.
const LARGE: usize = 20 << 20;

/// A server that speaks S3, with one bucket.
struct Bucket {
    server: Child,
    address: String,
    curl: PathBuf,
}

impl Bucket {
    /// `None` after saying that the test is skipped.
    fn start(dir: &Path) -> Option<Self> {
        let (moto, curl) = (client("moto_server")?, client("curl")?);
        // It cannot be handed a listener, nor does it say which port it was given.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let log = std::fs::File::create(dir.join("moto.log")).unwrap();
        let server = Command::new(moto)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let bucket = Self {
            server,
            address: address.to_string(),
            curl,
        };
        let url = format!("http://{address}/images");
        wait_for("the bucket", LONG, || {
            let made = run(Command::new(&bucket.curl).args(["-sSf", "-X", "PUT", &url]));
            if made.code == 0 {
                Ok(())
            } else {
                Err(made.err)
            }
        });
        Some(bucket)
    }

    /// What the storage's own tools read.
    fn environment(&self) -> Vec<(String, String)> {
        let url = format!("http://{}", self.address);
        [
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &url),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .to_vec()
    }

    /// Keys in the bucket.
    fn keys(&self) -> usize {
        let url = format!(
            "http://{}/images?list-type=2&prefix=prod/blobs/",
            self.address
        );
        let listed = run(Command::new(&self.curl).args(["-sSf", &url])).ok();
        listed.matches("<Key>").count()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn member(dir: &Arc<tempfile::TempDir>, name: &str, bucket: &Bucket, join: &[&str]) -> Cluster {
    let mut args: Vec<String> = ["scheduler", "--name", name].map(String::from).to_vec();
    for flag in ["--api-addr", "--registry-addr", "--raft-addr"] {
        args.extend([flag.to_string(), "127.0.0.1:0".to_string()]);
    }
    args.extend(["--registry-storage".into(), "s3://images/prod".into()]);
    args.extend(join.iter().map(ToString::to_string));
    Cluster::start_in(dir.clone(), name, args, bucket.environment())
}

/// Pushes a file in one request; answers its digest.
fn push(member: &Cluster, curl: &Path, file: &Path) -> String {
    let digest = format!(
        "sha256:{}",
        hex::encode(Sha256::digest(std::fs::read(file).unwrap()))
    );
    let url = format!(
        "http://{}/v2/demo/a/blobs/uploads/?digest={digest}",
        member.registry()
    );
    let body = format!("@{}", file.display());
    let code = run(Command::new(curl).args([
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-X",
        "POST",
        "--data-binary",
        &body,
        &url,
    ]))
    .ok();
    assert_eq!(code, "201", "{}", member.log());
    digest
}

fn pull(member: &Cluster, curl: &Path, digest: &str) -> Vec<u8> {
    let out = member.dir.path().join("pulled");
    let url = format!("http://{}/v2/demo/a/blobs/{digest}", member.registry());
    run(Command::new(curl).args(["-sSf", "-o", &out.display().to_string(), &url])).ok();
    std::fs::read(out).unwrap()
}

#[test]
fn members_share_a_bucket() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let Some(bucket) = Bucket::start(dir.path()) else {
        return;
    };
    let curl = bucket.curl.clone();
    let large: Vec<u8> = (0..LARGE).map(|i| (i / 4099) as u8).collect();
    let (small_file, large_file) = (dir.path().join("small"), dir.path().join("large"));
    std::fs::write(&small_file, b"small").unwrap();
    std::fs::write(&large_file, &large).unwrap();

    let mut first = member(&dir, "m1", &bucket, &[]);
    let small_digest = push(&first, &curl, &small_file);
    let large_digest = push(&first, &curl, &large_file);
    assert_eq!(bucket.keys(), 2);
    assert!(pull(&first, &curl, &large_digest) == large);

    // A member that died has lost nothing, and one that joins has everything at once.
    first.kill9();
    first.spawn();
    first.ready();
    assert_eq!(pull(&first, &curl, &small_digest), b"small");
    let token = first
        .coracle(&["token", "create", "--role", "scheduler"])
        .ok();
    let join = ["--join", &first.api(), "--token", token.trim()];
    let second = member(&dir, "m2", &bucket, &join);
    assert!(pull(&second, &curl, &large_digest) == large);
    std::fs::write(&small_file, b"through the second").unwrap();
    let other = push(&second, &curl, &small_file);
    assert_eq!(pull(&first, &curl, &other), b"through the second");
    for name in ["m1", "m2"] {
        let blobs = dir.path().join(name).join("registry/blobs");
        let kept = std::fs::read_dir(&blobs).unwrap().count();
        assert_eq!(kept, 0, "{} holds blobs", blobs.display());
    }
}

#[test]
fn a_bucket_that_cannot_be_used_is_told_at_the_start() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let start = |storage: &str, environment: Vec<(String, String)>| {
        run(Command::new(CORACLE)
            .args([
                "scheduler",
                "--data-dir",
                "m",
                "--registry-storage",
                storage,
            ])
            .args([
                "--api-addr",
                "127.0.0.1:0",
                "--registry-addr",
                "127.0.0.1:0",
            ])
            .args(["--raft-addr", "127.0.0.1:0"])
            .envs(environment)
            .current_dir(dir.path())
            .env("HOME", dir.path()))
    };
    start("images/prod", Vec::new()).fails_with(&["E_REGISTRY_STORAGE_URL", "s3://BUCKET/PREFIX"]);
    let Some(bucket) = Bucket::start(dir.path()) else {
        return;
    };
    start("s3://absent/prod", bucket.environment()).fails_with(&[
        "E_REGISTRY_STORAGE",
        "cannot write to s3://absent/prod",
        "check the name of the bucket",
    ]);
}
