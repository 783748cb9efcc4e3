//! Every way Wasm is packed, and every refusal, as tables.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::digest::Algorithm;
use crate::manifest::{OCI_INDEX, OCI_MANIFEST, inspect};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

fn digest(of: &str) -> String {
    Algorithm::Sha256.digest(of.as_bytes()).to_string()
}

fn desc(media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": digest(media_type), "size": 3 })
}

fn titled(media_type: &str, title: &str) -> Value {
    let mut layer = desc(media_type);
    layer["annotations"] = json!({ TITLE: title });
    layer
}

fn image(config: &str, layers: &[&str]) -> Value {
    let layers: Vec<Value> = layers.iter().map(|layer| desc(layer)).collect();
    json!({ "schemaVersion": 2, "config": desc(config), "layers": layers })
}

fn chosen(manifest: &Value) -> Result<Choice, Unsupported> {
    choose(manifest.to_string().as_bytes(), None)
}

fn with_config(manifest: &Value, config: &Value) -> Result<Choice, Unsupported> {
    choose(
        manifest.to_string().as_bytes(),
        Some(config.to_string().as_bytes()),
    )
}

#[test]
fn what_we_write_we_accept_and_read() {
    let made = artifact(
        b"\0asm",
        "x.wasm",
        Kind::Component,
        vec!["wasi:io/poll@0.2.0".into()],
        vec![],
        Timestamp::UNIX_EPOCH,
    );
    inspect(&made.manifest, Some(OCI_MANIFEST)).unwrap();
    let Ok(Choice::Layer(layer)) = choose(&made.manifest, Some(&made.config)) else {
        panic!("no layer chosen");
    };
    assert_eq!(layer.digest, Algorithm::Sha256.digest(b"\0asm"));
    assert_eq!(layer.title.as_deref(), Some("x.wasm"));
    let config: Value = serde_json::from_slice(&made.config).unwrap();
    assert_eq!(config["os"], "wasip2");
    assert_eq!(config["architecture"], "wasm");
    assert_eq!(config["layerDigests"][0], made.layer_digest.to_string());
    assert_eq!(config["component"]["imports"][0], "wasi:io/poll@0.2.0");
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");
}

#[test]
fn every_layer_type_under_every_configuration() {
    let untyped = ["", "application/octet-stream"];
    for layer in LAYERS.into_iter().chain(untyped) {
        for config in [
            CONFIG,
            EMPTY,
            IMAGE_CONFIG,
            DOCKER_CONFIG,
            "application/vnd.unknown.config.v1+json",
            "",
        ] {
            let Ok(Choice::Layer(found)) = chosen(&image(config, &[layer])) else {
                panic!("{config} {layer}");
            };
            assert_eq!(found.media_type, layer);
            assert_eq!(found.size, 3);
        }
    }
    // Without a configuration at all, beside other layers, with parameters, by its name.
    for manifest in [
        json!({ "layers": [desc(LAYER)] }),
        image(EMPTY, &["text/markdown", LAYER, TAR]),
        image(EMPTY, &["Application/WASM; charset=binary"]),
        json!({ "layers": [titled("application/vnd.acme.thing", "a.wasm")] }),
    ] {
        let found = chosen(&manifest);
        assert!(matches!(found, Ok(Choice::Layer(_))), "{found:?}");
    }
}

#[test]
fn a_tar_layer_is_asked_where_the_file_is() {
    let wasi = |run: Value| json!({ "os": "wasip1", "architecture": "wasm", "config": run });
    for (layer, config, want) in [
        (
            TAR,
            wasi(json!({ "Entrypoint": ["/app.wasm"] })),
            "app.wasm",
        ),
        (
            TAR_GZIP,
            wasi(json!({ "Entrypoint": ["app.wasm"] })),
            "app.wasm",
        ),
        (TAR_ZSTD, wasi(json!({ "Cmd": ["./app.wasm"] })), "app.wasm"),
        (
            DOCKER_TAR,
            wasi(json!({ "Entrypoint": ["/a.wasm#run"], "Cmd": ["b.wasm"] })),
            "a.wasm",
        ),
        (
            TAR,
            wasi(json!({ "Entrypoint": ["app.wasm"], "WorkingDir": "/srv/x" })),
            "srv/x/app.wasm",
        ),
        (
            TAR,
            wasi(json!({ "Entrypoint": ["/../../etc/./a.wasm"], "WorkingDir": "/srv" })),
            "etc/a.wasm",
        ),
        (
            TAR,
            wasi(json!({ "Entrypoint": ["wasmtime", "--dir=/", "/app.wasm"] })),
            "app.wasm",
        ),
        (
            TAR,
            json!({ "os": "wasi", "architecture": "wasm32", "config": { "Entrypoint": ["/a.wasm"] } }),
            "a.wasm",
        ),
        // Built without naming the platform.
        (
            TAR,
            json!({ "os": "linux", "architecture": "amd64", "config": { "Entrypoint": ["/a.wasm"] } }),
            "a.wasm",
        ),
    ] {
        for kind in [IMAGE_CONFIG, DOCKER_CONFIG] {
            let manifest = image(kind, &["application/vnd.oci.image.layer.v1.tar", layer]);
            let ask = Choice::Config(Target {
                digest: digest(kind).parse().unwrap(),
                size: 3,
            });
            assert_eq!(chosen(&manifest), Ok(ask));
            let Ok(Choice::Packed(packed)) = with_config(&manifest, &config) else {
                panic!("{layer} {config}");
            };
            assert_eq!(packed.path, want);
            assert_eq!(packed.layers[0].digest.to_string(), digest(layer));
            assert_eq!(packed.layers.len(), 2, "topmost first");
        }
    }
}

#[test]
fn an_annotation_says_that_wasm_is_packed() {
    let linux = json!({ "os": "linux", "architecture": "amd64", "config": {} });
    for (variant, config) in [
        ("compat", &linux),
        ("compat-smart", &linux),
        ("compat", &json!({})),
    ] {
        let mut manifest = image(EMPTY, &[TAR, TAR_GZIP]);
        manifest["annotations"] = json!({ VARIANT: variant });
        assert!(matches!(chosen(&manifest), Ok(Choice::Config(_))));
        let Ok(Choice::Packed(packed)) = with_config(&manifest, config) else {
            panic!("{variant}");
        };
        assert_eq!(packed.path, COMPAT_FILE);
        assert_eq!(packed.layers[0].digest.to_string(), digest(TAR_GZIP));
    }
}

#[test]
fn what_cannot_run_is_named_and_a_way_is_shown() {
    let linux =
        json!({ "os": "linux", "architecture": "amd64", "config": { "Entrypoint": ["/nginx"] } });
    let windows = json!({ "os": "windows", "architecture": "amd64" });
    let wasi = json!({ "os": "wasip1", "architecture": "wasm", "config": { "Cmd": ["sh"] } });
    let native =
        json!({ "os": "wasip1", "architecture": "wasm", "config": { "Entrypoint": ["/a.cwasm"] } });
    let found =
        json!({ "os": "wasip1", "architecture": "wasm", "config": { "Entrypoint": ["/a.wasm"] } });
    let spin = "application/vnd.fermyon.spin.application.v1+config";
    let helm = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    let mut many = image(IMAGE_CONFIG, &[]);
    many["layers"] = Value::Array(vec![desc(TAR); TAR_LAYERS_MAX + 1]);
    let mut large = image(IMAGE_CONFIG, &[TAR]);
    large["config"]["size"] = json!(CONFIG_BYTES_MAX + 1);
    let mut evil = image(EMPTY, &[LAYER]);
    evil["layers"][0]["digest"] = json!("sha256:../../etc/passwd");
    let mut sizeless = image(EMPTY, &[LAYER]);
    sizeless["layers"][0]["size"] = json!(0);
    let mut both = image(EMPTY, &[LAYER]);
    both["manifests"] = json!([]);
    let of = |config: &str, layer: Value| json!({ "config": desc(config), "layers": [layer] });
    for (manifest, config, what, fix) in [
        (
            image(IMAGE_CONFIG, &[TAR_GZIP]),
            Some(&linux),
            "is a Linux container image (linux/amd64)",
            "build a WebAssembly component",
        ),
        (
            image(DOCKER_CONFIG, &[DOCKER_TAR]),
            Some(&windows),
            "is a container image (windows/amd64)",
            "build a WebAssembly component",
        ),
        (
            image(IMAGE_CONFIG, &[TAR]),
            Some(&wasi),
            "whose Entrypoint names no .wasm file",
            "set ENTRYPOINT",
        ),
        (
            image(IMAGE_CONFIG, &[TAR]),
            Some(&native),
            "machine code",
            "push the .wasm file it was compiled from",
        ),
        (
            image(
                IMAGE_CONFIG,
                &["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"],
            ),
            Some(&found),
            "+encrypted, which is not unpacked",
            "push the .wasm file itself",
        ),
        (
            many,
            Some(&found),
            "has 129 layers",
            "push the .wasm file itself",
        ),
        (
            large,
            None,
            "a configuration of 1048577 bytes",
            "push the image again",
        ),
        (
            image(spin, &[LAYER_CONTENT]),
            None,
            "is a Spin application",
            "one by one",
        ),
        (
            of(CONFIG, titled(LAYER, "app.cwasm")),
            None,
            "machine code compiled ahead of time",
            "push the .wasm file it was compiled from",
        ),
        (
            image(EMPTY, &["application/vnd.acme.precompiled-wasm"]),
            None,
            "machine code compiled ahead of time",
            "push the .wasm file it was compiled from",
        ),
        (
            image(EMPTY, &[LAYER, LAYER]),
            None,
            "has 2 Wasm layers",
            "under its own name",
        ),
        (
            image(EMPTY, &[LAYER, LAYER_CONTENT]),
            None,
            "has 2 Wasm layers",
            "under its own name",
        ),
        (
            image(EMPTY, &[]),
            None,
            "is an artifact without layers",
            "coracle push",
        ),
        (
            image("x", &[helm]),
            None,
            "its layer is application/vnd.cncf.helm",
            "coracle push",
        ),
        (
            image("x", &["a/b", "c/d"]),
            None,
            "its layers are a/b, c/d",
            "coracle push",
        ),
        (
            evil,
            None,
            "names a part of itself wrongly",
            "push the image again",
        ),
        (sizeless, None, "without a size", "push the image again"),
        (both, None, "an index to another", "push the image again"),
        (
            json!({ "schemaVersion": 1, "fsLayers": [] }),
            None,
            "schema 1",
            "current tool",
        ),
        (
            json!([]),
            None,
            "has no OCI manifest",
            "push the image again",
        ),
    ] {
        let answer = match config {
            Some(config) => with_config(&manifest, config),
            None => chosen(&manifest),
        };
        let refused = answer.expect_err(what);
        assert!(refused.what.contains(what), "{refused}");
        assert!(refused.fix.contains(fix), "{refused}");
    }
    assert!(precompiled(b"\x7fELF\x02").is_err());
    assert!(precompiled(b"\0asm\x0d\0\x01\0").is_ok());
}

#[test]
fn picks_from_an_index() {
    let entry = |os: &str, architecture: &str| {
        let mut entry = desc(&format!("{os}/{architecture}"));
        entry["platform"] = json!({ "os": os, "architecture": architecture });
        entry
    };
    let attestation = || {
        let mut entry = entry("unknown", "unknown");
        entry["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
        entry
    };
    let artifact = || {
        let mut entry = desc("artifact");
        entry["artifactType"] = json!(CONFIG);
        entry
    };
    let index = |entries: Vec<Value>| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let amd64 = || entry("linux", "amd64");
    for (entries, want) in [
        (
            vec![
                amd64(),
                attestation(),
                entry("wasip1", "wasm"),
                entry("wasip2", "wasm"),
            ],
            "wasip2/wasm",
        ),
        (
            vec![amd64(), entry("wasi", "wasm32"), entry("wasip1", "wasm")],
            "wasip1/wasm",
        ),
        (vec![amd64(), entry("wasi", "wasm32")], "wasi/wasm32"),
        (vec![entry("wasip2", "")], "wasip2/"),
        // Only by the mark, as other tools write no platform for it.
        (vec![artifact(), amd64()], "artifact"),
        (vec![desc("only"), attestation()], "only"),
        (vec![desc("only"), entry("unknown", "unknown")], "only"),
    ] {
        let target = Target {
            digest: digest(want).parse().unwrap(),
            size: 3,
        };
        assert_eq!(
            chosen(&index(entries)),
            Ok(Choice::Manifest(target)),
            "{want}"
        );
    }
    for (entries, what) in [
        (
            vec![amd64(), entry("linux", "arm64"), attestation()],
            "is a Linux container image (linux/amd64, linux/arm64)",
        ),
        (
            vec![entry("wasip1", "amd64")],
            "is a container image (wasip1/amd64)",
        ),
        (vec![], "is an empty image index"),
        (vec![attestation()], "is an empty image index"),
        (
            vec![desc("a"), desc("b")],
            "is an index of 2 manifests without platforms",
        ),
        (
            vec![artifact(), artifact()],
            "is an index of 2 manifests without platforms",
        ),
    ] {
        let refused = chosen(&index(entries)).expect_err(what);
        assert_eq!(refused.what, what);
    }
}
