//! Which layer of an image is the component. Strict on what it is, lax on how it was packed: every tool that pushes
//! Wasm does it a little differently.

use serde_json::Value;

use super::reference::check_digest;

/// Media types that say "this layer is Wasm".
const WASM_TYPES: [&str; 4] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];
/// Configuration of a container image, which names the platform.
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
/// Operating systems of an index's entries that mean Wasm, best first.
const WASM_OS: [&str; 3] = ["wasip2", "wasip1", "wasi"];

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Get this layer; it is the component.
    Layer { digest: String, size: u64 },
    /// This is an index; go on with that manifest.
    Manifest { digest: String },
    /// No layer is Wasm; the configuration says what the image is instead.
    AskConfig { digest: String },
}

/// Chooses from a manifest or index. The error is a clause that says what the image is.
pub(super) fn choose(manifest: &[u8]) -> Result<Choice, String> {
    let m: Value =
        serde_json::from_slice(manifest).map_err(|e| format!("its manifest is not JSON: {e}"))?;
    if let Some(entries) = m["manifests"].as_array() {
        return index(entries);
    }
    let layers = m["layers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let config = text(&m["config"]["mediaType"]);
    if config.starts_with("application/vnd.fermyon.spin.application") {
        return Err("it is a Spin application; deploy its components one by one".into());
    }
    let wasm: Vec<&Value> = layers
        .iter()
        .filter(|l| WASM_TYPES.contains(&base(text(&l["mediaType"]))))
        .collect();
    match wasm.as_slice() {
        [one] => return layer(one),
        [] => {}
        several => {
            return Err(format!(
                "it has {} Wasm layers, and exactly one is expected",
                several.len()
            ));
        }
    }
    // Pushed without a type: one layer, and nothing says that it is something else.
    if let [one] = layers {
        let kind = base(text(&one["mediaType"]));
        let named = text(&one["annotations"]["org.opencontainers.image.title"]).ends_with(".wasm");
        let generic = matches!(
            kind,
            "" | "application/octet-stream" | "application/vnd.oci.image.layer.v1"
        );
        if generic || (named && !kind.contains("tar")) {
            return layer(one);
        }
    }
    if layers.is_empty() {
        return Err("it has no layers".into());
    }
    if IMAGE_CONFIGS.contains(&base(config)) {
        return Ok(Choice::AskConfig {
            digest: check_digest(text(&m["config"]["digest"]))?,
        });
    }
    let kinds: Vec<&str> = layers
        .iter()
        .map(|l| text(&l["mediaType"]))
        .take(3)
        .collect();
    Err(format!(
        "none of its layers is Wasm (they are {})",
        kinds.join(", ")
    ))
}

fn layer(l: &Value) -> Result<Choice, String> {
    let size = l["size"]
        .as_u64()
        .ok_or("its manifest names a layer without a size")?;
    Ok(Choice::Layer {
        digest: check_digest(text(&l["digest"]))?,
        size,
    })
}

fn index(entries: &[Value]) -> Result<Choice, String> {
    // Attestations sit in indexes as manifests of an unknown platform.
    let attestation =
        |e: &&Value| text(&e["annotations"]["vnd.docker.reference.type"]) == "attestation-manifest";
    let entries: Vec<&Value> = entries.iter().filter(|e| !attestation(e)).collect();
    let os = |e: &Value| text(&e["platform"]["os"]).to_string();
    let best = |e: &&&Value| WASM_OS.iter().position(|w| *w == os(e));
    if let Some(found) = entries
        .iter()
        .filter(|e| best(e).is_some())
        .min_by_key(best)
    {
        return Ok(Choice::Manifest {
            digest: check_digest(text(&found["digest"]))?,
        });
    }
    match entries.as_slice() {
        [one] if os(one).is_empty() => Ok(Choice::Manifest {
            digest: check_digest(text(&one["digest"]))?,
        }),
        [] => Err("its index is empty".into()),
        some => {
            let names: Vec<String> = some
                .iter()
                .map(|e| platform(&e["platform"]))
                .take(6)
                .collect();
            Err(format!(
                "it is a container image for {}, not WebAssembly",
                names.join(", ")
            ))
        }
    }
}

/// Says what a container image is for, from its configuration.
pub(super) fn describe(config: &[u8]) -> String {
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    if WASM_OS.contains(&text(&config["os"])) || text(&config["architecture"]).starts_with("wasm") {
        return "it packs its Wasm into a tar layer; push the .wasm file itself".into();
    }
    format!(
        "it is a container image for {}, not WebAssembly",
        platform(&config)
    )
}

fn platform(p: &Value) -> String {
    let or = |v: &Value, word: &str| {
        v.as_str()
            .filter(|s| !s.is_empty())
            .unwrap_or(word)
            .to_string()
    };
    format!(
        "{}/{}",
        or(&p["os"], "unknown"),
        or(&p["architecture"], "unknown")
    )
}

/// A media type without parameters.
fn base(kind: &str) -> &str {
    kind.split(';').next().unwrap_or(kind).trim()
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sha(c: &str) -> String {
        format!("sha256:{}", c.repeat(64))
    }

    fn chosen(manifest: &Value) -> Result<Choice, String> {
        choose(manifest.to_string().as_bytes())
    }

    #[test]
    fn every_way_to_pack_wasm_is_understood() {
        for (config, kind) in [
            ("application/vnd.wasm.config.v0+json", "application/wasm"),
            ("application/vnd.oci.empty.v1+json", "application/wasm"),
            (
                "application/vnd.oci.image.config.v1+json",
                "application/wasm; charset=binary",
            ),
            (
                "application/vnd.wasm.config.v1+json",
                "application/vnd.wasm.content.layer.v1+wasm",
            ),
            ("x", "application/vnd.module.wasm.content.layer.v1+wasm"),
            (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
            ),
            ("x", "application/octet-stream"),
        ] {
            let m = json!({"config": {"mediaType": config, "digest": sha("c")},
                "layers": [{"mediaType": kind, "digest": sha("a"), "size": 7}]});
            assert_eq!(
                chosen(&m),
                Ok(Choice::Layer {
                    digest: sha("a"),
                    size: 7
                }),
                "{config} {kind}"
            );
        }
        let m = json!({"layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha("b"), "size": 1},
            {"mediaType": "application/wasm", "digest": sha("a"), "size": 7}]});
        assert_eq!(
            chosen(&m),
            Ok(Choice::Layer {
                digest: sha("a"),
                size: 7
            }),
            "a readme may lie beside it"
        );
    }

    #[test]
    fn an_index_leads_to_its_wasm_entry() {
        let m = json!({"manifests": [
            {"digest": sha("1"), "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": sha("2"), "platform": {"os": "wasip1", "architecture": "wasm"}},
            {"digest": sha("3"), "platform": {"os": "wasip2", "architecture": "wasm"}},
            {"digest": sha("4"), "platform": {"os": "unknown", "architecture": "unknown"},
             "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}]});
        assert_eq!(chosen(&m), Ok(Choice::Manifest { digest: sha("3") }));
    }

    #[test]
    fn a_linux_image_is_called_one() {
        let m = json!({"manifests": [
            {"digest": sha("1"), "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": sha("2"), "platform": {"os": "linux", "architecture": "arm64"}}]});
        assert_eq!(
            chosen(&m).unwrap_err(),
            "it is a container image for linux/amd64, linux/arm64, not WebAssembly"
        );
        let m = json!({"config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": sha("c")},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": sha("a"), "size": 7}]});
        assert_eq!(chosen(&m), Ok(Choice::AskConfig { digest: sha("c") }));
        assert_eq!(
            describe(br#"{"os":"linux","architecture":"arm64"}"#),
            "it is a container image for linux/arm64, not WebAssembly"
        );
        assert!(describe(br#"{"os":"wasip1","architecture":"wasm"}"#).contains("tar layer"));
        assert!(describe(b"junk").contains("unknown/unknown"));
    }

    #[test]
    fn what_cannot_be_chosen_from_is_refused_with_a_reason() {
        assert!(choose(b"<html>").unwrap_err().contains("not JSON"));
        assert!(
            chosen(&json!({"layers": []}))
                .unwrap_err()
                .contains("no layers")
        );
        assert!(
            chosen(&json!({"manifests": []}))
                .unwrap_err()
                .contains("empty")
        );
        let two = json!({"layers": [{"mediaType": "application/wasm", "digest": sha("a"), "size": 1},
            {"mediaType": "application/wasm", "digest": sha("b"), "size": 1}]});
        assert!(chosen(&two).unwrap_err().contains("2 Wasm layers"));
        let evil = json!({"layers": [{"mediaType": "application/wasm", "digest": "sha256:../../etc", "size": 1}]});
        assert!(chosen(&evil).is_err());
        let chart = json!({"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json"},
            "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": sha("a"), "size": 1}]});
        assert!(chosen(&chart).unwrap_err().contains("helm"));
    }
}
