//! Finding the Wasm in what somebody else pushed: one decision for the command line and for runners.
//!
//! Strict on what it is, lax on how it was packed: any configuration, four layer types, a single layer of no type at all,
//! a tar layer whose image says where the file is, an index with a Wasm platform among others.

use super::refuse::{broken, machine_code, nothing, several, spin, unsupported};
use super::{
    CONFIG_BYTES_MAX, DOCKER_CONFIG, IMAGE_CONFIG, LAYERS, Packed, SPIN_CONFIG, TITLE, Unsupported,
};
use super::{index, packed};
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, View, bare_type};

/// What a manifest or an index leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is an index: fetch this manifest of it and choose again, [`super::INDEX_DEPTH_MAX`] times at most.
    Manifest(Target),
    /// The configuration says where the Wasm is, or what the image is instead: fetch it and choose again with it.
    Config(Target),
    /// This layer is the Wasm.
    Layer(LayerRef),
    /// The Wasm is a file in a tar layer.
    Packed(Packed),
}

/// Something to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes as stated, 0 if it is not.
    pub size: u64,
}

/// The layer to fetch: the component or module as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// Digest of the Wasm bytes.
    pub digest: Digest,
    /// Length in bytes, as the manifest states it; never 0.
    pub size: u64,
    /// The layer's media type.
    pub media_type: String,
    /// The file name, if the manifest gives one.
    pub title: Option<String>,
}

/// Chooses from the bytes of a manifest or index, and of its configuration if they are at hand: without them the answer
/// may be [`Choice::Config`], with them it never is.
///
/// # Errors
/// [`Unsupported`] if what is there cannot run, with what it is and what to do.
pub fn choose(manifest: &[u8], config: Option<&[u8]>) -> Result<Choice, Unsupported> {
    let view = manifest::view(manifest)
        .map_err(|error| broken(format!("has no OCI manifest: {error}")))?;
    let layers = match (&view.manifests, &view.layers) {
        (Some(_), Some(_)) => {
            return Err(broken(
                "is an image to one client and an index to another, as its manifest has layers and manifests",
            ));
        }
        (Some(entries), None) => return index::choose(entries),
        (None, layers) => layers.as_deref().unwrap_or_default(),
    };
    if view.schema_version.as_ref().and_then(|v| v.as_u64()) == Some(1) {
        return Err(unsupported(
            "is in Docker's image format of before 2017 (schema 1)",
            "push it again with a current tool",
        ));
    }
    let config_type = view
        .config
        .as_ref()
        .map(|config| bare_type(&config.media_type))
        .unwrap_or_default();
    if config_type.starts_with(SPIN_CONFIG) {
        return Err(spin());
    }
    if layers.iter().any(is_machine_code) {
        return Err(machine_code());
    }
    let wasm: Vec<&Descriptor> = layers
        .iter()
        .filter(|layer| LAYERS.contains(&bare_type(&layer.media_type).as_str()))
        .collect();
    match (wasm.as_slice(), layers) {
        ([only], _) => return layer_ref(only).map(Choice::Layer),
        ([_, ..], _) => return Err(several(wasm.len())),
        // Pushed without a type: nothing says that it is something else.
        ([], [only]) if is_untyped(only) => return layer_ref(only).map(Choice::Layer),
        ([], _) => {}
    }
    let image = matches!(config_type.as_str(), IMAGE_CONFIG | DOCKER_CONFIG);
    if layers.is_empty() || !(image || packed::is_compat(&view)) {
        return Err(nothing(layers));
    }
    match config {
        Some(config) => packed::choose(&view, layers, config),
        None => ask_config(&view),
    }
}

fn ask_config(view: &View) -> Result<Choice, Unsupported> {
    let Some(config) = &view.config else {
        return Err(broken("is an image without a configuration"));
    };
    if config.size > CONFIG_BYTES_MAX as u64 {
        return Err(broken(format!(
            "has a configuration of {} bytes where {CONFIG_BYTES_MAX} are the limit",
            config.size
        )));
    }
    target(config).map(Choice::Config)
}

/// A layer that says by its type or name that it was compiled ahead of time.
fn is_machine_code(layer: &Descriptor) -> bool {
    let kind = bare_type(&layer.media_type);
    let named = title(layer).is_some_and(|title| title.ends_with(".cwasm"));
    named || kind.contains("cwasm") || kind.contains("precompiled")
}

/// A layer whose type says nothing, or whose name says Wasm where its type is a tool's own.
fn is_untyped(layer: &Descriptor) -> bool {
    let kind = bare_type(&layer.media_type);
    let named = title(layer).is_some_and(|title| title.ends_with(".wasm"));
    matches!(
        kind.as_str(),
        "" | "application/octet-stream" | "application/vnd.oci.image.layer.v1"
    ) || (named && !kind.contains("tar"))
}

fn title(layer: &Descriptor) -> Option<&String> {
    layer.annotations.as_ref()?.get(TITLE)
}

pub(super) fn target(descriptor: &Descriptor) -> Result<Target, Unsupported> {
    Ok(Target {
        digest: parsed(descriptor)?,
        size: descriptor.size,
    })
}

pub(super) fn parsed(descriptor: &Descriptor) -> Result<Digest, Unsupported> {
    descriptor
        .digest
        .parse()
        .map_err(|error: crate::digest::DigestError| {
            broken(format!("names a part of itself wrongly: {error}"))
        })
}

fn layer_ref(layer: &Descriptor) -> Result<LayerRef, Unsupported> {
    if layer.size == 0 {
        return Err(broken("names its Wasm layer without a size"));
    }
    Ok(LayerRef {
        digest: parsed(layer)?,
        size: layer.size,
        media_type: layer.media_type.clone(),
        title: title(layer).cloned(),
    })
}
