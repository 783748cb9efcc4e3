//! buildah: a container image made from nothing, pushed and pulled. It shares its code with podman and CRI-O.

use super::*;

/// buildah with stores of its own in the cluster's folder, and without namespaces or overlay mounts.
fn buildah(tool: &Tool<'_>, store: &str, args: &[&str]) -> Output {
    let dir = tool.cluster.dir.path().join(store);
    let (root, run) = (dir.join("root"), dir.join("run"));
    let (root, run) = (root.to_str().unwrap(), run.to_str().unwrap());
    let start = ["--root", root, "--runroot", run, "--storage-driver", "vfs"];
    let mut command = tool.command(&[&start[..], args].concat());
    program::run(command.env("BUILDAH_ISOLATION", "chroot"))
}

#[test]
fn buildah_pushes_and_pulls_an_image() {
    let Some(program) = client("buildah") else {
        return;
    };
    let c = Cluster::up(None);
    let tool = Tool {
        program,
        cluster: &c,
    };
    c.write(
        "policy.json",
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    );
    let content = noise(1_500_000);
    c.write("data.bin", &content);
    let here = |args: &[&str]| buildah(&tool, "one", args).ok().trim().to_owned();
    let container = here(&["from", "scratch"]);
    here(&["copy", &container, "data.bin", "/data.bin"]);
    here(&[
        "config",
        "--label",
        "made-by=buildah",
        "--entrypoint",
        r#"["/data.bin"]"#,
        &container,
    ]);
    let plain = ["--signature-policy", "policy.json", "--tls-verify=false"];
    let commit = [
        "commit",
        "--signature-policy",
        "policy.json",
        &container,
        "localhost/made",
    ];
    here(&commit);
    let image = format!("docker://{}/demo/bu:v1", c.registry());
    here(&[&["push"][..], &plain[..], &["localhost/made", &image]].concat());
    let stored: Value = serde_json::from_slice(&manifest(&c, "demo/bu", "v1")).unwrap();
    let layers = stored["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1, "{stored}");

    // As Docker's kind of image, under another name: the layer is mounted or known, not sent again.
    let docker = format!("docker://{}/demo/bu-docker:v1", c.registry());
    let format = ["--format", "v2s2", "localhost/made", &docker];
    here(&[&["push"][..], &plain[..], &format[..]].concat());
    let other: Value = serde_json::from_slice(&manifest(&c, "demo/bu-docker", "v1")).unwrap();
    let docker_type = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(other["mediaType"], docker_type, "{other}");

    // Another store, which has seen nothing of it.
    let there = |args: &[&str]| buildah(&tool, "two", args).ok().trim().to_owned();
    for pulled in [&image, &docker] {
        let id = there(&[&["pull"][..], &plain[..], &[pulled.as_str()]].concat());
        let id = id.lines().last().unwrap();
        let container = there(&[
            "from",
            "--signature-policy",
            "policy.json",
            "--pull-never",
            id,
        ]);
        let mounted = there(&["mount", &container]);
        assert!(tool.file(PathBuf::from(mounted).join("data.bin")) == content);
        let label = "{{index .OCIv1.Config.Labels \"made-by\"}}";
        assert_eq!(
            there(&["inspect", "--format", label, &container]),
            "buildah"
        );
    }
    // Coracle says what it is instead of trying to run it.
    c.coracle(&["run", "demo/bu:v1"])
        .fails_with(&["container image"]);
}
