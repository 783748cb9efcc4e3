//! `coracle registry`: what it holds, collection, scrub, quotas and retention, as an administrator meets them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::program::root;
use crate::harness::{Cluster, http};

/// The largest blob under a folder.
fn largest(dir: &Path) -> PathBuf {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let size = path.metadata().unwrap().len();
            if path.is_dir() {
                folders.push(path);
            } else if found.as_ref().is_none_or(|(most, _)| size > *most) {
                found = Some((size, path));
            }
        }
    }
    found.unwrap().1
}

fn usage(c: &Cluster) -> Value {
    let out = c.coracle(&["registry", "usage", "-n", "demo", "-o", "json"]);
    serde_json::from_str(&out.ok()).unwrap()
}

#[test]
fn an_administrator_looks_after_the_registry() {
    let c = Cluster::up(None);
    let push = |sample: &str, image: &str| {
        let file = root().join(format!("samples/{sample}/prebuilt.wasm"));
        c.coracle(&["push", file.to_str().unwrap(), image])
    };
    push("job", "demo/app:v1").ok();
    push("hello", "demo/app:v2").ok();
    push("job", "other/app:v1").ok();

    // Commands in order: arguments, whether they succeed, what they say.
    let table: &[(&str, bool, &[&str])] = &[
        ("usage", true, &["NAMESPACE", "demo/app", "other/app"]),
        ("usage -n other", true, &["other/app"]),
        ("quota set demo much", false, &["E_SIZE", "10Gi"]),
        ("quota set demo/app 1Gi", false, &["first segment"]),
        ("quota set demo 1Ki", true, &["demo may hold 1.0 KiB"]),
        ("quota get", true, &["demo", "1.0 KiB"]),
        ("gc --dry-run", true, &["would be removed", "MEMBER"]),
        ("gc", true, &["removed", "MEMBER"]),
        ("scrub", true, &["CORRUPT", "LOST"]),
        (
            "scrub --rate 1Gi -o json",
            true,
            &["\"corrupt\": 0", "\"lost\": 0"],
        ),
        (
            "retention set versions --repositories demo/*",
            false,
            &["newest"],
        ),
        (
            "retention set versions --repositories de(mo --newest 1",
            false,
            &["pattern"],
        ),
        (
            "retention set versions --repositories demo/* --newest 1",
            true,
            &["versions set"],
        ),
        ("retention get", true, &["versions", "demo/*"]),
        ("gc --dry-run", true, &["would remove demo/app:v1"]),
        (
            "retention remove nothing",
            false,
            &["E_REGISTRY_POLICY", "nothing"],
        ),
    ];
    for (line, succeeds, words) in table {
        let args: Vec<&str> = std::iter::once("registry").chain(line.split(' ')).collect();
        let out = c.coracle(&args);
        let said = match succeeds {
            true => out.ok(),
            false => out.fails_with(&[]),
        };
        for word in *words {
            assert!(said.contains(word), "{line}: {word:?} is not in:\n{said}");
        }
    }

    // The quota is in force, and says how to raise it.
    let push_blob = || {
        let path = "/v2/demo/new/blobs/uploads/";
        http::send(&c.registry(), "POST", path, &[], &[]).unwrap()
    };
    let refused = push_blob();
    assert_eq!(refused.status, 403, "{}", refused.text());
    let text = refused.text();
    assert!(
        text.contains("DENIED") && text.contains("quota set demo"),
        "{text}"
    );
    let out = push("counter", "demo/new:v1");
    assert_ne!(out.code, 0, "{out:?}");
    let used = usage(&c);
    assert_eq!(used["namespaces"][0]["quotaBytes"], 1024);
    assert_eq!(used["namespaces"][0]["repositories"], 1, "{used}");
    c.coracle(&["registry", "quota", "set", "demo", "none"])
        .ok();
    assert_eq!(push_blob().status, 202);

    // The policy is carried out.
    assert_eq!(used["repositories"][0]["tags"], 2);
    let said = c.coracle(&["registry", "gc"]).ok();
    assert!(said.contains("removed demo/app:v1"), "{said}");
    assert_eq!(usage(&c)["repositories"][0]["tags"], 1);
    c.coracle(&["registry", "retention", "remove", "versions"])
        .ok();
    c.coracle(&["pull", "demo/app:v2", "-o", "kept.wasm"]).ok();

    // Rot is found, named, and healed by another push.
    let blob = largest(&c.dir.path().join(".coracle/registry/blobs"));
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let hex = blob.file_name().unwrap().to_str().unwrap().to_owned();
    let out = c.coracle(&["registry", "scrub"]);
    assert_eq!(out.code, 1, "{out:?}");
    out.fails_with(&["E_REGISTRY_LOST", &hex, "needed by"]);
    assert!(!blob.exists(), "it is out of its place");
    for (sample, image) in [("hello", "demo/app:v2"), ("job", "other/app:v1")] {
        push(sample, image).ok();
    }
    assert!(blob.exists());
    c.coracle(&["registry", "scrub"]).ok();
}
