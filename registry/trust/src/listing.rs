//! What is attached to an image, from the documents a registry gives: which referrers are signatures, and where their
//! bytes are. Fetching them is the caller's.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{SIGNATURE_BYTES_MAX, SIGNATURES_MAX, bundle, dsse, referrer, simple};

/// Something that refers to an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listed {
    /// Type of its manifest.
    pub media_type: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Length of its manifest in bytes.
    pub size: u64,
    /// What it is.
    pub artifact_type: Option<String>,
    /// What it says of itself; copied from its manifest, if the registry does that.
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Listed {
    /// An annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// What its statement says, if it is known to hold one.
    pub fn predicate_type(&self) -> Option<&str> {
        self.annotation(referrer::PREDICATE)
            .or_else(|| self.annotation(referrer::IN_TOTO_PREDICATE))
    }

    /// Whether it is a Sigstore bundle of any kind.
    pub fn is_bundle(&self) -> bool {
        self.artifact_type
            .as_deref()
            .is_some_and(|t| t.starts_with(bundle::MEDIA_TYPE_PREFIX))
    }
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Option<Vec<Layer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads a list of referrers: an image index. The error is a sentence about the list.
pub fn listed(index: &[u8]) -> Result<Vec<Listed>, String> {
    serde_json::from_slice::<Index>(index)
        .map(|index| index.manifests.unwrap_or_default())
        .map_err(|e| format!("the list of referrers cannot be read: {e}"))
}

/// Those that may be signatures of the image, [`SIGNATURES_MAX`] at most. Statements of another kind (provenance, SBOMs)
/// do not use up the number.
pub fn signatures(all: &[Listed]) -> Vec<&Listed> {
    all.iter()
        .filter(|one| one.is_bundle())
        .filter(|one| {
            one.annotation(referrer::PREDICATE)
                .is_none_or(|predicate| predicate == dsse::SIGNED)
        })
        .take(SIGNATURES_MAX)
        .collect()
}

/// The digest of the bundle that a manifest holds. The error is a sentence about the manifest.
pub fn bundle_layer(manifest: &[u8]) -> Result<String, String> {
    let layers = layers(manifest)?;
    let layer = layers
        .iter()
        .find(|l| l.media_type.starts_with(bundle::MEDIA_TYPE_PREFIX))
        .ok_or("it holds no bundle")?;
    bounded(layer)
}

/// The digest of the only layer of a document's manifest. The error is a sentence about the manifest.
pub fn only_layer(manifest: &[u8]) -> Result<String, String> {
    match layers(manifest)?.as_slice() {
        [one] => bounded(one),
        other => Err(format!(
            "it has {} layers where one is expected",
            other.len()
        )),
    }
}

/// Payloads and their signatures in a manifest of cosign's older form, [`SIGNATURES_MAX`] at most.
pub fn simple_layers(manifest: &[u8]) -> Result<Vec<(String, String)>, String> {
    Ok(layers(manifest)?
        .into_iter()
        .filter(|l| l.media_type == simple::MEDIA_TYPE)
        .filter(|l| bounded(l).is_ok())
        .filter_map(|l| {
            let signature = l.annotations?.get(simple::ANNOTATION)?.clone();
            Some((l.digest, signature))
        })
        .take(SIGNATURES_MAX)
        .collect())
}

fn layers(manifest: &[u8]) -> Result<Vec<Layer>, String> {
    serde_json::from_slice::<Manifest>(manifest)
        .map(|m| m.layers.unwrap_or_default())
        .map_err(|e| format!("its manifest cannot be read: {e}"))
}

fn bounded(layer: &Layer) -> Result<String, String> {
    if layer.size > SIGNATURE_BYTES_MAX as u64 {
        return Err(format!(
            "it has {} bytes, and {SIGNATURE_BYTES_MAX} are the limit",
            layer.size
        ));
    }
    Ok(layer.digest.clone())
}
