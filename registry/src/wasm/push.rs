//! The canonical Wasm artifact, made from bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{CONFIG, CREATED, LAYER, TITLE};
use crate::digest::{Algorithm, Digest};
use crate::manifest::OCI_MANIFEST;

/// What a Wasm file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A core module (preview 1).
    Module,
    /// A component.
    Component,
}

impl Kind {
    /// The `os` clients expect for it. It says nothing about the world: only the bytes do.
    pub fn os(self) -> &'static str {
        match self {
            Kind::Module => "wasip1",
            Kind::Component => "wasip2",
        }
    }
}

/// The configuration blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmConfig {
    /// When the artifact was made.
    pub created: Timestamp,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Always `wasm`.
    pub architecture: String,
    /// `wasip1` for modules, `wasip2` for components.
    pub os: String,
    /// Digests of the layers, in order.
    pub layer_digests: Vec<String>,
    /// What a component imports and exports; absent for modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<WasmComponent>,
}

/// The outside of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasmComponent {
    /// Exported interfaces, as `ns:package/interface@version`.
    #[serde(default)]
    pub exports: Vec<String>,
    /// Imported interfaces.
    #[serde(default)]
    pub imports: Vec<String>,
    /// The world it was built for, if it says so.
    #[serde(default)]
    pub target: Option<String>,
}

/// An artifact ready to be pushed: layer, then configuration, then manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Digest of the Wasm bytes.
    pub layer_digest: Digest,
    /// Their length.
    pub layer_size: u64,
    /// The configuration blob.
    pub config: Bytes,
    /// Its digest.
    pub config_digest: Digest,
    /// The manifest, to be pushed as [`OCI_MANIFEST`].
    pub manifest: Bytes,
    /// Its digest: the artifact's name.
    pub manifest_digest: Digest,
}

/// The canonical artifact around `bytes`: `title` is the file name a puller writes. Equal arguments give equal bytes.
pub fn artifact(
    bytes: &[u8],
    title: &str,
    kind: Kind,
    imports: Vec<String>,
    exports: Vec<String>,
    created: Timestamp,
) -> Artifact {
    let annotations = BTreeMap::from([(CREATED.to_owned(), created.to_string())]);
    artifact_with(bytes, title, kind, imports, exports, created, annotations)
}

/// The same with the manifest annotations given (version, description, licenses, source … from the Wasm's metadata).
pub fn artifact_with(
    bytes: &[u8],
    title: &str,
    kind: Kind,
    imports: Vec<String>,
    exports: Vec<String>,
    created: Timestamp,
    annotations: BTreeMap<String, String>,
) -> Artifact {
    let layer_digest = Algorithm::Sha256.digest(bytes);
    let layer_size = bytes.len() as u64;
    let component = (kind == Kind::Component).then_some(WasmComponent {
        exports,
        imports,
        target: None,
    });
    let config = json!(WasmConfig {
        created,
        author: None,
        architecture: "wasm".to_owned(),
        os: kind.os().to_owned(),
        layer_digests: vec![layer_digest.to_string()],
        component,
    });
    let config = Bytes::from(config.to_string());
    let config_digest = Algorithm::Sha256.digest(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": CONFIG,
            "digest": config_digest.to_string(),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": LAYER,
            "digest": layer_digest.to_string(),
            "size": layer_size,
            "annotations": { TITLE: title },
        }],
        "annotations": annotations,
    });
    let manifest = Bytes::from(manifest.to_string());
    Artifact {
        manifest_digest: Algorithm::Sha256.digest(&manifest),
        layer_digest,
        layer_size,
        config,
        config_digest,
        manifest,
    }
}
