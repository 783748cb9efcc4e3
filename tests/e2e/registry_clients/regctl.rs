//! regctl: chunks as small as one likes, artifacts with subjects, layouts, indexes.

use super::*;

const SBOM: &str = "application/vnd.example.sbom";
/// Bytes of one chunk, and the size from which regctl cuts into chunks.
const CHUNK_BYTES: usize = 65_537;

/// A regctl that knows the registry and sends it small chunks.
fn regctl(program: PathBuf, cluster: &Cluster) -> Tool<'_> {
    let tool = Tool { program, cluster };
    let bytes = CHUNK_BYTES.to_string();
    let set = ["registry", "set", "--tls", "disabled", "--skip-check"];
    let sizes = [
        "--blob-chunk",
        &bytes,
        "--blob-max",
        &bytes,
        &cluster.registry(),
    ];
    tool.says(&[&set[..], &sizes[..]].concat());
    tool
}

#[test]
fn regctl_sends_blobs_in_chunks() {
    let Some(program) = client("regctl") else {
        return;
    };
    let c = Cluster::up(None);
    let regctl = regctl(program, &c);
    let repository = format!("{}/demo/chunks", c.registry());
    for len in [
        0,
        1,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        10 * CHUNK_BYTES + 7,
    ] {
        let bytes = noise(len);
        c.write("blob", &bytes);
        let put = regctl.fed("blob", &["blob", "put", &repository]);
        let said = put.ok();
        let d = digest(&bytes);
        assert!(said.contains(&d), "{len}: {said}");
        assert!(
            regctl.bytes(&["blob", "get", &repository, &d]) == bytes,
            "{len}"
        );
        regctl.says(&["blob", "head", &repository, &d]);
    }
    // The digest is known beforehand and so is the length: as one request if it is small, else in chunks again.
    let bytes = noise(3 * CHUNK_BYTES);
    c.write("known", &bytes);
    let d = digest(&bytes);
    regctl
        .fed("known", &["blob", "put", "--digest", &d, &repository])
        .ok();
    assert!(regctl.bytes(&["blob", "get", &repository, &d]) == bytes);
    let wrong = digest(b"something else");
    let refused = regctl.fed("known", &["blob", "put", "--digest", &wrong, &repository]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert_ne!(regctl.run(&["blob", "head", &repository, &wrong]).code, 0);
    regctl.says(&["blob", "delete", &repository, &d]);
    assert_ne!(regctl.run(&["blob", "head", &repository, &d]).code, 0);
}

#[test]
fn regctl_copies_tags_and_deletes() {
    let Some(program) = client("regctl") else {
        return;
    };
    let c = Cluster::up(None);
    let regctl = regctl(program, &c);
    let wasm = wasm();
    let stored = layout(&c.dir.path().join("in"), &wasm);
    let repository = format!("{}/demo/rg", c.registry());
    let image = format!("{repository}:v1");
    regctl.says(&["image", "copy", "ocidir://in:v1", &image]);
    assert_eq!(manifest(&c, "demo/rg", "v1"), stored);
    let shown = regctl.bytes(&["manifest", "get", "--format", "raw-body", &image]);
    assert_eq!(shown.trim_ascii_end(), stored);
    assert_eq!(regctl.says(&["manifest", "head", &image]), digest(&stored));
    let copy = format!("{}/other/rg:v2", c.registry());
    regctl.says(&["image", "copy", &image, &copy]);
    regctl.says(&["image", "copy", &copy, "ocidir://out:v1"]);
    assert_eq!(regctl.file(in_layout("out", &digest(&stored))), stored);
    assert_eq!(regctl.file(in_layout("out", &digest(&wasm))), wasm);

    regctl.says(&["image", "copy", &image, &format!("{repository}:v2")]);
    let listed = regctl.says(&["tag", "ls", &repository]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["v1", "v2"]);
    let repositories = regctl.says(&["repo", "ls", &c.registry()]);
    assert_eq!(
        repositories.lines().collect::<Vec<_>>(),
        ["demo/rg", "other/rg"]
    );
    regctl.says(&["tag", "delete", &image]);
    assert_eq!(tags(&c, "demo/rg"), ["v2"]);
    let by_digest = format!("{repository}@{}", digest(&stored));
    regctl.says(&["manifest", "delete", &by_digest]);
    assert!(tags(&c, "demo/rg").is_empty());
    assert_ne!(regctl.run(&["manifest", "head", &by_digest]).code, 0);
    assert_eq!(manifest(&c, "other/rg", "v2"), stored);
}

#[test]
fn regctl_puts_artifacts_and_indexes() {
    let Some(program) = client("regctl") else {
        return;
    };
    let c = Cluster::up(None);
    let regctl = regctl(program, &c);
    layout(&c.dir.path().join("in"), &wasm());
    let repository = format!("{}/demo/art", c.registry());
    let image = format!("{repository}:v1");
    regctl.says(&["image", "copy", "ocidir://in:v1", &image]);
    c.write("sbom.json", br#"{"packages":[]}"#);
    let put = [
        "artifact",
        "put",
        "--artifact-type",
        SBOM,
        "-f",
        "sbom.json",
    ];
    let about = [
        "-m",
        "application/json",
        "--annotation",
        "by=regctl",
        "--subject",
        &image,
    ];
    regctl.says(&[&put[..], &about[..]].concat());
    let listed = regctl.says(&["artifact", "list", "--format", "body", &image]);
    assert!(
        listed.contains(SBOM) && listed.contains("\"by\":\"regctl\""),
        "{listed}"
    );
    let filter = ["--filter-artifact-type", SBOM];
    let got = regctl.bytes(&[&["artifact", "get", "--subject", &image][..], &filter[..]].concat());
    assert_eq!(got, br#"{"packages":[]}"#);
    let none = ["--filter-artifact-type", "application/vnd.example.other"];
    let none = [
        &["artifact", "list", "--format", "body"][..],
        &none[..],
        &[image.as_str()],
    ]
    .concat();
    assert!(!regctl.says(&none).contains(SBOM));
    // No fallback tag: the registry lists referrers itself.
    assert_eq!(tags(&c, "demo/art"), ["v1"]);
    let moved = format!("{}/demo/moved:v1", c.registry());
    regctl.says(&["image", "copy", "--referrers", &image, &moved]);
    let listed = regctl.says(&["artifact", "list", "--format", "body", &moved]);
    assert!(listed.contains(SBOM), "{listed}");

    let all = format!("{repository}:all");
    regctl.says(&[
        "index",
        "create",
        &all,
        "--ref",
        &image,
        "--desc-platform",
        "wasip2/wasm",
    ]);
    let index: Value = serde_json::from_slice(&manifest(&c, "demo/art", "all")).unwrap();
    assert_eq!(index["mediaType"], INDEX);
    let child = digest(&manifest(&c, "demo/art", "v1"));
    assert_eq!(index["manifests"][0]["digest"], child);
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "wasm");
    // What the index names for Wasm is what runs.
    assert_eq!(
        c.coracle(&["run", "demo/art:all", "--", "10"]).ok(),
        "4 primes below 10\n"
    );
}
