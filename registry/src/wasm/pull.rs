//! Finding the Wasm in what somebody else pushed.
//!
//! Lax in what is accepted: any configuration, four layer types, an index with a Wasm platform among others. The sentence
//! in [`Unsupported`] is written to follow the image's name: "`nginx:latest` is a Linux container image …".

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    DOCKER_CONFIG, IMAGE_CONFIG, LAYER, LAYERS, PLATFORM_ARCHITECTURE, PLATFORM_OS, SPIN_CONFIG,
    TITLE,
};
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, OCI_MANIFEST, View, bare_type};

/// The layer to fetch: the component or module as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// Digest of the Wasm bytes.
    pub digest: Digest,
    /// Length in bytes, as the manifest states it.
    pub size: u64,
    /// The layer's media type.
    pub media_type: String,
    /// The file name, if the manifest gives one.
    pub title: Option<String>,
}

/// What was pulled is not something Coracle runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Unsupported {
    /// What it is and what to do instead; reads on after the image's name.
    pub sentence: String,
}

fn unsupported(sentence: impl Into<String>) -> Unsupported {
    Unsupported {
        sentence: sentence.into(),
    }
}

const FIX: &str =
    "Coracle runs WebAssembly: build a component and push the .wasm file with `coracle push`";

/// Is this document an index, by the type it was served with or by what it contains?
pub fn is_index(media_type: Option<&str>, json: &[u8]) -> bool {
    match media_type.map(bare_type) {
        Some(bare) if manifest::is_index(&bare) => true,
        Some(bare) if manifest::is_image(&bare) => false,
        _ => manifest::view(json).is_ok_and(|view| {
            view.media_type
                .is_some_and(|text| manifest::is_index(&text))
                || (view.manifests.is_some() && view.layers.is_none())
        }),
    }
}

/// Picks the manifest for Wasm out of an index. What it names may again be an index.
pub fn select_manifest(index_json: &[u8]) -> Result<Descriptor, Unsupported> {
    let view = read(index_json)?;
    let entries: Vec<Descriptor> = view
        .manifests
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| !is_attestation(entry))
        .collect();
    for os in PLATFORM_OS {
        let found = entries.iter().find(|entry| {
            entry.platform.as_ref().is_some_and(|platform| {
                platform.os == os && PLATFORM_ARCHITECTURE.contains(&platform.architecture.as_str())
            })
        });
        if let Some(found) = found {
            return checked(found);
        }
    }
    // An index of one thing that says nothing about platforms can only mean that thing.
    let bare: Vec<&Descriptor> = entries
        .iter()
        .filter(|entry| entry.platform.is_none())
        .collect();
    if let ([only], 1) = (bare.as_slice(), entries.len()) {
        return checked(only);
    }
    let platforms: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .map(|platform| format!("{}/{}", platform.os, platform.architecture))
        .collect();
    Err(unsupported(match platforms.as_slice() {
        [] if bare.is_empty() => "is an empty image index".to_owned(),
        [] => format!(
            "is an index of {} manifests without platforms: name one of them by its digest",
            bare.len()
        ),
        list => container(
            &list.join(", "),
            list.iter().any(|p| p.starts_with("linux/")),
        ),
    }))
}

/// Picks the Wasm layer of a manifest. `config_json` is the configuration blob if it is at hand: it only makes the
/// sentence of a refusal better.
pub fn select_layer(
    manifest_json: &[u8],
    config_json: Option<&[u8]>,
) -> Result<LayerRef, Unsupported> {
    let view = read(manifest_json)?;
    if view.manifests.is_some() && view.layers.is_none() {
        return Err(unsupported(
            "is an image index, not a manifest: pick one of its manifests first",
        ));
    }
    let config_type = view
        .config
        .as_ref()
        .map(|config| bare_type(&config.media_type))
        .unwrap_or_default();
    if config_type == SPIN_CONFIG {
        return Err(unsupported(
            "is a Spin application, which needs Spin's own host; push its component alone with `coracle push`",
        ));
    }
    let layers = view.layers.unwrap_or_default();
    let wasm: Vec<&Descriptor> = layers
        .iter()
        .filter(|layer| LAYERS.contains(&bare_type(&layer.media_type).as_str()))
        .collect();
    match wasm.as_slice() {
        [only] => layer_ref(only),
        // Old and new layer types side by side: the canonical one decides if it stands there once.
        [_, ..] => {
            let exact: Vec<&&Descriptor> = wasm
                .iter()
                .filter(|layer| bare_type(&layer.media_type) == LAYER)
                .collect();
            match exact.as_slice() {
                [only] => layer_ref(only),
                _ => Err(unsupported(format!(
                    "has {} Wasm layers where one is expected: push each component under its own name",
                    wasm.len()
                ))),
            }
        }
        [] => Err(refuse(&layers, &config_type, config_json)),
    }
}

/// No Wasm layer: what is it then?
fn refuse(layers: &[Descriptor], config_type: &str, config_json: Option<&[u8]>) -> Unsupported {
    let platform = config_json.and_then(platform_of);
    let tar = layers
        .iter()
        .any(|layer| layer.media_type.contains(".tar") || layer.media_type.contains("+tar"));
    if let Some((os, architecture)) = &platform {
        let wasm = PLATFORM_OS.contains(&os.as_str())
            || PLATFORM_ARCHITECTURE.contains(&architecture.as_str());
        if wasm && tar {
            return unsupported(
                "is a container image with the Wasm file inside a tar layer, which Coracle does not unpack: push the .wasm file itself with `coracle push`",
            );
        }
        if tar || layers.is_empty() {
            return unsupported(container(&format!("{os}/{architecture}"), os == "linux"));
        }
    }
    if tar && matches!(config_type, IMAGE_CONFIG | DOCKER_CONFIG) {
        return unsupported(format!("is a container image with tar layers; {FIX}"));
    }
    match layers {
        [] => unsupported(format!("is an artifact without layers; {FIX}")),
        [first, ..] => unsupported(format!(
            "holds no Wasm: its first layer is {}; {FIX}",
            if first.media_type.is_empty() {
                "of no stated type"
            } else {
                &first.media_type
            }
        )),
    }
}

fn container(platforms: &str, linux: bool) -> String {
    let what = if linux {
        "a Linux container image"
    } else {
        "a container image"
    };
    format!("is {what} ({platforms}); {FIX}")
}

fn platform_of(config_json: &[u8]) -> Option<(String, String)> {
    let config: Value = serde_json::from_slice(config_json).ok()?;
    let text = |key: &str| config.get(key)?.as_str().map(str::to_owned);
    Some((text("os")?, text("architecture")?))
}

fn read(json: &[u8]) -> Result<View, Unsupported> {
    manifest::view(json).map_err(|error| unsupported(format!("is not an OCI manifest: {error}")))
}

/// Build attestations sit in an index as manifests of their own.
fn is_attestation(entry: &Descriptor) -> bool {
    let marked = entry
        .annotations
        .as_ref()
        .is_some_and(|all: &BTreeMap<String, String>| {
            all.contains_key("vnd.docker.reference.type")
        });
    let unknown = entry
        .platform
        .as_ref()
        .is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown");
    marked || unknown
}

/// A descriptor whose digest can be fetched; an untyped one is taken for a manifest.
fn checked(entry: &Descriptor) -> Result<Descriptor, Unsupported> {
    let _: Digest = parsed(entry)?;
    let mut entry = entry.clone();
    if entry.media_type.is_empty() {
        entry.media_type = OCI_MANIFEST.to_owned();
    }
    Ok(entry)
}

fn parsed(descriptor: &Descriptor) -> Result<Digest, Unsupported> {
    descriptor
        .digest
        .parse()
        .map_err(|error: crate::digest::DigestError| {
            unsupported(format!("names something by a bad digest: {error}"))
        })
}

fn layer_ref(layer: &Descriptor) -> Result<LayerRef, Unsupported> {
    Ok(LayerRef {
        digest: parsed(layer)?,
        size: layer.size,
        media_type: layer.media_type.clone(),
        title: layer
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(TITLE).cloned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::manifest::{OCI_INDEX, inspect};
    use crate::wasm::{CONFIG, Kind, artifact};
    use jiff::Timestamp;
    use serde_json::json;

    fn desc(media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": Algorithm::Sha256.digest(media_type.as_bytes()).to_string(), "size": 3 })
    }

    fn image(config: &str, layers: &[&str]) -> Vec<u8> {
        let layers: Vec<Value> = layers.iter().map(|layer| desc(layer)).collect();
        json!({ "schemaVersion": 2, "config": desc(config), "layers": layers })
            .to_string()
            .into_bytes()
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
        let layer = select_layer(&made.manifest, Some(&made.config)).unwrap();
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
    fn every_layer_type_in_use() {
        for layer in LAYERS {
            for config in [
                CONFIG,
                "application/vnd.oci.empty.v1+json",
                IMAGE_CONFIG,
                "application/vnd.unknown.config.v1+json",
            ] {
                let found = select_layer(&image(config, &[layer]), None).unwrap();
                assert_eq!(found.media_type, layer);
            }
        }
        let mixed = image("x", &["text/plain", "application/wasm; charset=binary"]);
        assert!(select_layer(&mixed, None).is_ok());
    }

    #[test]
    fn refusals_say_what_it_is() {
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        let linux = br#"{"os":"linux","architecture":"amd64"}"#.as_slice();
        let wasi = br#"{"os":"wasip1","architecture":"wasm"}"#.as_slice();
        for (manifest, config, want) in [
            (
                image(IMAGE_CONFIG, &[tar]),
                Some(linux),
                "is a Linux container image (linux/amd64)",
            ),
            (
                image(IMAGE_CONFIG, &[tar]),
                Some(wasi),
                "inside a tar layer",
            ),
            (
                image(IMAGE_CONFIG, &[tar]),
                None,
                "container image with tar layers",
            ),
            (image(SPIN_CONFIG, &[LAYERS[1]]), None, "Spin application"),
            (image("x", &[]), None, "without layers"),
            (image("x", &["text/plain"]), None, "text/plain"),
            (image("x", &[LAYER, LAYER]), None, "2 Wasm layers"),
            (b"no".to_vec(), None, "not an OCI manifest"),
        ] {
            let sentence = select_layer(&manifest, config).unwrap_err().sentence;
            assert!(sentence.contains(want), "{sentence}");
        }
    }

    #[test]
    fn picks_from_an_index() {
        let entry = |os: &str, architecture: &str, kind: &str| {
            let mut entry = desc(&format!("{os}{kind}"));
            entry["platform"] = json!({ "os": os, "architecture": architecture });
            entry
        };
        let attestation = {
            let mut entry = entry("unknown", "unknown", "");
            entry["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
            entry
        };
        let index = |entries: Vec<Value>| {
            json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries })
                .to_string()
                .into_bytes()
        };
        let both = index(vec![
            entry("linux", "amd64", ""),
            attestation.clone(),
            entry("wasip1", "wasm", ""),
            entry("wasip2", "wasm", ""),
        ]);
        assert!(is_index(None, &both));
        assert_eq!(
            select_manifest(&both).unwrap().platform.unwrap().os,
            "wasip2"
        );
        let linux = index(vec![
            entry("linux", "amd64", ""),
            entry("linux", "arm64", "v8"),
            attestation,
        ]);
        let sentence = select_manifest(&linux).unwrap_err().sentence;
        assert!(
            sentence.contains("Linux container image (linux/amd64, linux/arm64)"),
            "{sentence}"
        );
        let single = index(vec![desc(OCI_MANIFEST)]);
        assert_eq!(select_manifest(&single).unwrap().media_type, OCI_MANIFEST);
        assert!(
            select_manifest(&index(vec![]))
                .unwrap_err()
                .sentence
                .contains("empty")
        );
    }
}
