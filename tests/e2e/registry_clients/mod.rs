//! Real clients against the registry, each as the process its users run, and the one library that others are built on.
//!
//! Every client pushes and pulls with bytes compared on both sides, lists, copies and deletes, and does what only it
//! does: curl plain requests, skopeo copies with mounts, oras referrers, crane images and indexes, regctl small chunks,
//! buildah and docker images with layers of files, oras-py one PUT, wkg Wasm packages, oci-client chunks of 4 MiB.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::program::{self, Output, root};
use crate::harness::{Cluster, client, http};

mod buildah;
mod crane;
mod curl;
mod docker;
mod oci_client;
mod oras;
mod oras_py;
mod regctl;
mod skopeo;
mod wkg;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A client with a registry to talk to. It runs in the cluster's folder, which is its home as well, so that it neither
/// reads nor writes anybody's configuration.
struct Tool<'a> {
    program: PathBuf,
    cluster: &'a Cluster,
}

impl Tool<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let dir = self.cluster.dir.path();
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .current_dir(dir)
            .env("HOME", dir)
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        for name in [
            "DOCKER_CONFIG",
            "REGISTRY_AUTH_FILE",
            "XDG_CONFIG_HOME",
            "XDG_RUNTIME_DIR",
        ] {
            command.env_remove(name);
        }
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        program::run(&mut self.command(args))
    }

    /// Standard output, trimmed, of a command that must succeed.
    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        self.run(args).ok().trim().to_owned()
    }

    /// Standard output as it is, of a command that must succeed.
    #[track_caller]
    fn bytes(&self, args: &[&str]) -> Vec<u8> {
        let out = self.command(args).stdin(Stdio::null()).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {err}");
        out.stdout
    }

    /// The same as [`Tool::run`] with a file of the cluster's folder as standard input.
    #[track_caller]
    fn fed(&self, file: &str, args: &[&str]) -> Output {
        let input = std::fs::File::open(self.cluster.dir.path().join(file)).unwrap();
        let out = self.command(args).stdin(input).output().unwrap();
        Output {
            code: out.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&out.stdout).into_owned(),
            err: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// A file of the cluster's folder.
    #[track_caller]
    fn file(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.cluster.dir.path().join(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

/// What [`client`] does for a program that is there but cannot be used: a printed skip, or a failure if `CORACLE_REQUIRE`
/// names it.
fn unusable(name: &str, why: &str) {
    let required = std::env::var("CORACLE_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|r| r == name),
        "{name} is required: {why}"
    );
    println!("SKIPPED: {name}: {why}");
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The file of a blob in an OCI layout.
fn in_layout(layout: &str, digest: &str) -> String {
    format!("{layout}/blobs/{}", digest.replace(':', "/"))
}

/// Bytes that do not compress and are not all alike.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A Wasm file that can be run.
fn wasm() -> Vec<u8> {
    std::fs::read(root().join("samples/job/prebuilt.wasm")).unwrap()
}

/// A request without a client.
#[track_caller]
fn ask(c: &Cluster, method: &str, path: &str) -> http::Response {
    http::send(&c.registry(), method, path, &[], &[]).unwrap()
}

/// The bytes of a manifest as the registry has them.
#[track_caller]
fn manifest(c: &Cluster, name: &str, reference: &str) -> Vec<u8> {
    let reply = ask(c, "GET", &format!("/v2/{name}/manifests/{reference}"));
    assert_eq!(reply.status, 200, "{name} {reference}: {}", reply.text());
    reply.body
}

/// The tags of a repository, as the registry lists them.
#[track_caller]
fn tags(c: &Cluster, name: &str) -> Vec<String> {
    let reply = ask(c, "GET", &format!("/v2/{name}/tags/list"));
    assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    let tags = body["tags"].as_array().unwrap().iter();
    tags.map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// An OCI layout being written.
struct Layout {
    dir: PathBuf,
    named: Vec<Value>,
}

impl Layout {
    fn new(dir: &Path) -> Layout {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout {
            dir: dir.to_owned(),
            named: Vec::new(),
        }
    }

    /// Puts content in; its descriptor.
    fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        std::fs::write(self.dir.join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Puts one Wasm artifact in; its manifest's bytes and descriptor.
    fn artifact(&self, wasm: &[u8]) -> (Vec<u8>, Value) {
        let config = br#"{"architecture":"wasm","os":"wasip2"}"#;
        let config = self.put("application/vnd.wasm.config.v0+json", config);
        let layer = self.put("application/wasm", wasm);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let bytes = manifest.to_string().into_bytes();
        let descriptor = self.put(MANIFEST, &bytes);
        (bytes, descriptor)
    }

    /// Gives a descriptor a name and writes the list of names.
    fn name(&mut self, mut descriptor: Value, name: &str) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.named.push(descriptor);
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.named});
        std::fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }
}

/// An OCI layout with one Wasm artifact under `v1`; answers the manifest's bytes.
fn layout(dir: &Path, wasm: &[u8]) -> Vec<u8> {
    let mut layout = Layout::new(dir);
    let (bytes, descriptor) = layout.artifact(wasm);
    layout.name(descriptor, "v1");
    bytes
}

/// A tar file of one file, in the cluster's folder.
fn tar(c: &Cluster, name: &str, file: &str, content: &[u8]) {
    c.write(file, content);
    let dir = c.dir.path();
    program::run(
        Command::new("tar")
            .args(["-cf", name, "--owner=0", "--group=0", file])
            .current_dir(dir),
    )
    .ok();
}
