//! skopeo: streamed uploads, mounts between repositories, whole indexes.

use serde_json::json;

use super::*;

#[test]
fn skopeo_copies_in_and_out() {
    let Some(program) = client("skopeo") else {
        return;
    };
    let c = Cluster::up(None);
    let sk = Tool {
        program,
        cluster: &c,
    };
    let wasm = wasm();
    let manifest = layout(&c.dir.path().join("in"), &wasm);
    let image = format!("docker://{}/demo/sk:v1", c.registry());
    let policy = "--insecure-policy";
    sk.says(&[
        policy,
        "copy",
        "--dest-tls-verify=false",
        "oci:in:v1",
        &image,
    ]);
    sk.says(&[
        policy,
        "copy",
        "--src-tls-verify=false",
        &image,
        "oci:out:v1",
    ]);
    assert_eq!(sk.file(in_layout("out", &digest(&wasm))), wasm);
    assert_eq!(sk.file(in_layout("out", &digest(&manifest))), manifest);
    let raw = sk.bytes(&["inspect", "--raw", "--tls-verify=false", &image]);
    assert_eq!(raw, manifest);
    let repository = image.replace(":v1", "");
    let listed = sk.says(&["list-tags", "--tls-verify=false", &repository]);
    assert!(listed.contains("\"v1\""), "{listed}");
    // What skopeo pushed, Coracle runs.
    assert_eq!(
        c.coracle(&["run", "demo/sk:v1", "--", "10"]).ok(),
        "4 primes below 10\n"
    );
    sk.says(&["delete", "--tls-verify=false", &image]);
    sk.run(&["inspect", "--raw", "--tls-verify=false", &image])
        .fails_with(&["manifest unknown"]);
    assert!(tags(&c, "demo/sk").is_empty());
}

#[test]
fn skopeo_copies_between_repositories_and_whole_indexes() {
    let Some(program) = client("skopeo") else {
        return;
    };
    let c = Cluster::up(None);
    let sk = Tool {
        program,
        cluster: &c,
    };
    let mut layout = Layout::new(&c.dir.path().join("in"));
    let mut entries = Vec::new();
    let mut manifests = Vec::new();
    // Two megabytes each, so that a copy that does not mount shows in the store.
    for (architecture, len) in [("wasm", 2_000_000), ("wasm32", 2_000_001)] {
        let (bytes, mut descriptor) = layout.artifact(&noise(len));
        descriptor["platform"] = json!({"os": "wasip2", "architecture": architecture});
        entries.push(descriptor);
        manifests.push(bytes);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let index = index.to_string().into_bytes();
    let descriptor = layout.put(INDEX, &index);
    layout.name(descriptor, "all");

    let here = format!("docker://{}/demo/index:all", c.registry());
    let there = format!("docker://{}/other/place:all", c.registry());
    let copy = ["--insecure-policy", "copy", "--all", "--preserve-digests"];
    let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let run = |from: &str, to: &str| {
        sk.says(&[&copy[..], &plain[..], &[from, to]].concat());
    };
    run("oci:in:all", &here);
    run(&here, &there);
    run(&there, "oci:out:all");
    for name in ["demo/index", "other/place"] {
        assert_eq!(super::manifest(&c, name, "all"), index);
        for bytes in &manifests {
            assert_eq!(&super::manifest(&c, name, &digest(bytes)), bytes);
        }
    }
    for bytes in manifests.iter().chain([&index]) {
        assert_eq!(&sk.file(in_layout("out", &digest(bytes))), bytes);
    }
    for len in [2_000_000, 2_000_001] {
        let bytes = noise(len);
        assert_eq!(sk.file(in_layout("out", &digest(&bytes))), bytes);
    }
    // Deleting the index in one repository leaves the other as it is.
    sk.says(&["delete", "--tls-verify=false", &here]);
    assert_eq!(super::manifest(&c, "other/place", "all"), index);
}
