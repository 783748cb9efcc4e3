//! crane: images of layers, indexes, streamed uploads.

use super::*;

#[test]
fn crane_pushes_pulls_copies_and_deletes() {
    let Some(program) = client("crane") else {
        return;
    };
    let c = Cluster::up(None);
    let crane = Tool {
        program,
        cluster: &c,
    };
    let wasm = wasm();
    let stored = layout(&c.dir.path().join("in"), &wasm);
    let repository = format!("{}/demo/cr", c.registry());
    let image = format!("{repository}:v1");
    let pushed = crane.says(&["push", "--insecure", "in", &image]);
    assert_eq!(pushed, format!("{repository}@{}", digest(&stored)));
    assert_eq!(manifest(&c, "demo/cr", "v1"), stored);
    assert_eq!(
        crane.says(&["digest", "--insecure", &image]),
        digest(&stored)
    );
    let shown = crane.bytes(&["manifest", "--insecure", &image]);
    assert_eq!(shown.trim_ascii_end(), stored);
    crane.says(&["pull", "--insecure", "--format", "oci", &image, "out"]);
    assert_eq!(crane.file(in_layout("out", &digest(&stored))), stored);
    assert_eq!(crane.file(in_layout("out", &digest(&wasm))), wasm);
    let blob = format!("{repository}@{}", digest(&wasm));
    assert!(crane.bytes(&["blob", "--insecure", &blob]) == wasm);

    crane.says(&["tag", "--insecure", &image, "v2"]);
    let copy = format!("{}/other/copy:v1", c.registry());
    crane.says(&["copy", "--insecure", &image, &copy]);
    assert_eq!(manifest(&c, "other/copy", "v1"), stored);
    let listed = crane.says(&["ls", "--insecure", &repository]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["v1", "v2"]);
    let repositories = crane.says(&["catalog", "--insecure", &c.registry()]);
    assert_eq!(
        repositories.lines().collect::<Vec<_>>(),
        ["demo/cr", "other/copy"]
    );

    // By tag the tag goes, by digest the manifest with what is left of its tags.
    crane.says(&["delete", "--insecure", &image]);
    assert_eq!(tags(&c, "demo/cr"), ["v2"]);
    crane.says(&["delete", "--insecure", &pushed]);
    assert!(tags(&c, "demo/cr").is_empty());
    crane
        .run(&["digest", "--insecure", &pushed])
        .fails_with(&["MANIFEST_UNKNOWN"]);
    assert_eq!(manifest(&c, "other/copy", "v1"), stored);
}

#[test]
fn crane_builds_images_and_indexes() {
    let Some(program) = client("crane") else {
        return;
    };
    let c = Cluster::up(None);
    let crane = Tool {
        program,
        cluster: &c,
    };
    let content = noise(3_000_000);
    tar(&c, "first.tar", "data.bin", &content);
    tar(&c, "second.tar", "hello.txt", b"hello");
    let repository = format!("{}/demo/built", c.registry());
    let (one, two) = (format!("{repository}:one"), format!("{repository}:two"));
    crane.says(&["append", "--insecure", "-f", "first.tar", "-t", &one]);
    crane.says(&[
        "append",
        "--insecure",
        "-b",
        &one,
        "-f",
        "second.tar",
        "-t",
        &two,
    ]);
    for image in [&one, &two] {
        crane.says(&["validate", "--insecure", "--remote", image]);
    }
    crane.says(&["export", "--insecure", &two, "fs.tar"]);
    program::run(
        Command::new("tar")
            .args(["-xf", "fs.tar", "--one-top-level=fs"])
            .current_dir(c.dir.path()),
    )
    .ok();
    assert!(crane.file("fs/data.bin") == content);
    assert_eq!(crane.file("fs/hello.txt"), b"hello");

    let all = format!("{repository}:all");
    crane.says(&[
        "index",
        "append",
        "--insecure",
        "-m",
        &one,
        "-m",
        &two,
        "-t",
        &all,
    ]);
    let index: Value = serde_json::from_slice(&manifest(&c, "demo/built", "all")).unwrap();
    assert_eq!(index["mediaType"], INDEX);
    let wanted = ["one", "two"].map(|tag| digest(&manifest(&c, "demo/built", tag)));
    let entries = index["manifests"].as_array().unwrap();
    let mut named: Vec<&str> = entries
        .iter()
        .filter_map(|one| one["digest"].as_str())
        .collect();
    named.sort_unstable();
    let mut sorted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(named, sorted);

    // A copy of the index brings its images, blobs and all.
    let copy = format!("{}/other/built:all", c.registry());
    crane.says(&["copy", "--insecure", &all, &copy]);
    for child in &wanted {
        let child = format!("{}/other/built@{child}", c.registry());
        crane.says(&["validate", "--insecure", "--remote", &child]);
    }
    // While an index names an image, nobody takes the image away by another tag's name.
    crane.says(&["delete", "--insecure", &one]);
    crane.says(&["validate", "--insecure", "--remote", &all]);
}
