//! oras: artifacts of any kind, and what refers to what.

use super::*;

const SBOM: &str = "application/vnd.example.sbom";
const NOTE: &str = "application/vnd.example.note";

/// A push or attach that answers the digest of what it made.
const DIGEST_ONLY: [&str; 2] = ["--format", "go-template={{.digest}}"];

#[test]
fn oras_pushes_pulls_copies_and_deletes() {
    let Some(program) = client("oras") else {
        return;
    };
    let c = Cluster::up(None);
    let oras = Tool {
        program,
        cluster: &c,
    };
    let (host, wasm) = (c.registry(), wasm());
    c.write("app.wasm", &wasm);
    let image = format!("{host}/demo/or:v1");
    let push = [
        "push",
        "--plain-http",
        "--artifact-type",
        "application/vnd.example.app",
    ];
    let what = [
        "--annotation",
        "key=value",
        &image,
        "app.wasm:application/wasm",
    ];
    let pushed = oras.says(&[&push[..], &DIGEST_ONLY[..], &what[..]].concat());
    let stored = manifest(&c, "demo/or", "v1");
    assert_eq!(pushed, digest(&stored));
    assert_eq!(oras.says(&["resolve", "--plain-http", &image]), pushed);
    assert_eq!(
        oras.bytes(&["manifest", "fetch", "--plain-http", &image]),
        stored
    );
    oras.says(&["pull", "--plain-http", "-o", "out", &image]);
    assert_eq!(oras.file("out/app.wasm"), wasm);
    assert_eq!(
        c.coracle(&["run", "demo/or:v1", "--", "10"]).ok(),
        "4 primes below 10\n"
    );

    oras.says(&["tag", "--plain-http", &image, "v2", "latest"]);
    let repository = format!("{host}/demo/or");
    let listed = oras.says(&["repo", "tags", "--plain-http", &repository]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["latest", "v1", "v2"]);
    let page = oras.says(&[
        "repo",
        "tags",
        "--plain-http",
        "--last",
        "latest",
        &repository,
    ]);
    assert_eq!(page.lines().collect::<Vec<_>>(), ["v1", "v2"]);
    let repositories = oras.says(&["repo", "ls", "--plain-http", &host]);
    assert!(
        repositories.lines().any(|line| line == "demo/or"),
        "{repositories}"
    );

    // Into another repository, into a folder, and back.
    let copy = format!("{host}/demo/copy:v1");
    oras.says(&["cp", "--from-plain-http", "--to-plain-http", &image, &copy]);
    oras.says(&[
        "cp",
        "--from-plain-http",
        "--to-oci-layout",
        &copy,
        "layout:v1",
    ]);
    let back = format!("{host}/demo/back:v1");
    oras.says(&[
        "cp",
        "--from-oci-layout",
        "--to-plain-http",
        "layout:v1",
        &back,
    ]);
    assert_eq!(oras.file(in_layout("layout", &pushed)), stored);
    for name in ["demo/copy", "demo/back"] {
        assert_eq!(manifest(&c, name, "v1"), stored);
    }

    oras.says(&["manifest", "delete", "--plain-http", "--force", &image]);
    oras.run(&["resolve", "--plain-http", &image])
        .fails_with(&["not found"]);
    assert!(tags(&c, "demo/or").is_empty());
    assert_eq!(manifest(&c, "demo/copy", "v1"), stored);
}

#[test]
fn oras_moves_many_files_and_blobs() {
    let Some(program) = client("oras") else {
        return;
    };
    let c = Cluster::up(None);
    let oras = Tool {
        program,
        cluster: &c,
    };
    let files = [
        ("large.bin", noise(9_000_001)),
        ("small.txt", b"hello".to_vec()),
        ("empty", Vec::new()),
    ];
    for (name, bytes) in &files {
        c.write(name, bytes);
    }
    let image = format!("{}/demo/many:v1", c.registry());
    oras.says(&[
        "push",
        "--plain-http",
        &image,
        "large.bin",
        "small.txt:text/plain",
        "empty",
    ]);
    oras.says(&["pull", "--plain-http", "-o", "out", &image]);
    for (name, bytes) in &files {
        assert!(&oras.file(format!("out/{name}")) == bytes, "{name}");
    }

    let blob = format!("{}/demo/blobs@{}", c.registry(), digest(&files[0].1));
    oras.says(&["blob", "push", "--plain-http", &blob, "large.bin"]);
    oras.says(&["blob", "fetch", "--plain-http", "-o", "fetched", &blob]);
    assert!(oras.file("fetched") == files[0].1);
    oras.says(&["blob", "delete", "--plain-http", "--force", &blob]);
    oras.run(&["blob", "fetch", "--plain-http", "-o", "fetched", &blob])
        .fails_with(&["not found"]);
    // The other repository still has it.
    oras.says(&["pull", "--plain-http", "-o", "again", &image]);
    assert!(oras.file("again/large.bin") == files[0].1);
}

#[test]
fn oras_attaches_and_discovers() {
    let Some(program) = client("oras") else {
        return;
    };
    let c = Cluster::up(None);
    let oras = Tool {
        program,
        cluster: &c,
    };
    c.write("app.wasm", wasm());
    c.write("sbom.json", br#"{"packages":[]}"#);
    c.write("note.txt", "looks good");
    let image = format!("{}/demo/refers:v1", c.registry());
    oras.says(&["push", "--plain-http", &image, "app.wasm:application/wasm"]);
    let attach = |to: &str, kind: &str, file: &str| {
        let start = ["attach", "--plain-http", "--artifact-type", kind];
        oras.says(
            &[
                &start[..],
                &DIGEST_ONLY[..],
                &["--annotation", "by=oras", to, file],
            ]
            .concat(),
        )
    };
    let sbom = attach(&image, SBOM, "sbom.json:application/json");
    let note = attach(&image, NOTE, "note.txt:text/plain");
    // About what is about the image.
    let about_sbom = format!("{}/demo/refers@{sbom}", c.registry());
    let nested = attach(&about_sbom, NOTE, "note.txt:text/plain");

    let discover = |of: &str, more: &[&str]| {
        let start = ["discover", "--plain-http", "--format", "json"];
        oras.says(&[&start[..], more, &[of]].concat())
    };
    let all = discover(&image, &[]);
    for digest in [&sbom, &note, &nested] {
        assert!(all.contains(digest.as_str()), "{digest} is not in {all}");
    }
    assert!(all.contains("\"by\": \"oras\""), "{all}");
    let notes = discover(&image, &["--artifact-type", NOTE]);
    assert!(notes.contains(&note) && !notes.contains(&sbom), "{notes}");
    let on_sbom = discover(&about_sbom, &[]);
    assert!(
        on_sbom.contains(&nested) && !on_sbom.contains(&note),
        "{on_sbom}"
    );
    // The registry lists them itself: no fallback tag was written.
    assert_eq!(tags(&c, "demo/refers"), ["v1"]);

    // A recursive copy takes them along.
    let copy = format!("{}/demo/moved:v1", c.registry());
    oras.says(&[
        "cp",
        "-r",
        "--from-plain-http",
        "--to-plain-http",
        &image,
        &copy,
    ]);
    let moved = discover(&copy, &[]);
    for digest in [&sbom, &note, &nested] {
        assert!(
            moved.contains(digest.as_str()),
            "{digest} is not in {moved}"
        );
    }
    let gone = format!("{}/demo/refers@{note}", c.registry());
    oras.says(&["manifest", "delete", "--plain-http", "--force", &gone]);
    let left = discover(&image, &[]);
    assert!(left.contains(&sbom) && !left.contains(&note), "{left}");
    assert!(discover(&copy, &[]).contains(&note));
}

#[test]
fn oras_makes_an_index() {
    let Some(program) = client("oras") else {
        return;
    };
    let c = Cluster::up(None);
    let oras = Tool {
        program,
        cluster: &c,
    };
    let repository = format!("{}/demo/both", c.registry());
    for tag in ["one", "two"] {
        c.write(tag, tag);
        oras.says(&["push", "--plain-http", &format!("{repository}:{tag}"), tag]);
    }
    let all = format!("{repository}:all");
    oras.says(&[
        "manifest",
        "index",
        "create",
        "--plain-http",
        &all,
        "one",
        "two",
    ]);
    let index: Value = serde_json::from_slice(&manifest(&c, "demo/both", "all")).unwrap();
    assert_eq!(index["mediaType"], INDEX);
    for (n, tag) in ["one", "two"].into_iter().enumerate() {
        let want = digest(&manifest(&c, "demo/both", tag));
        assert_eq!(index["manifests"][n]["digest"], want);
    }
    oras.says(&[
        "manifest",
        "index",
        "update",
        "--plain-http",
        &all,
        "--remove",
        "one",
    ]);
    let index: Value = serde_json::from_slice(&manifest(&c, "demo/both", "all")).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
}
