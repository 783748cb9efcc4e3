//! Manifests, seen loosely: the bytes are stored as they came, this is only what the registry must know about them.
//!
//! Nothing here is ever written back. Unknown fields and unknown media types pass (see [`crate::opaque`] for what they
//! name); what is refused is what could not be pulled again (a reference that cannot be a digest, more references than a row may hold) and a Wasm artifact that
//! Wasm clients would reject.

mod loose;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::{opaque, wasm};
use loose::{null_is_empty, null_is_none, object, objects};

/// Most distinct digests one manifest may name: they stand in one metadata row, which has to fit a log entry
/// (16,384 × 72 bytes ≈ 1.2 MB). The largest real manifests have some hundred.
pub const REFERENCES_MAX: usize = 16_384;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A reference from a manifest to bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the target.
    #[serde(
        default,
        deserialize_with = "null_is_none",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    /// Digest of the target.
    pub digest: String,
    /// Length of the target in bytes.
    #[serde(default)]
    pub size: u64,
    /// Other places to fetch it from; with any, the target may be absent here.
    #[serde(
        default,
        deserialize_with = "null_is_none",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// Kind of artifact, in indexes and referrer lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The platform of an index entry.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "Option::is_none"
    )]
    pub platform: Option<Platform>,
}

/// The platform of an index entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, for Wasm `wasip1`, `wasip2` or `wasi`.
    #[serde(default)]
    pub os: String,
    /// Processor, for Wasm `wasm` or `wasm32`.
    #[serde(default)]
    pub architecture: String,
}

/// The fields of a manifest or index that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct View {
    /// 2 in everything current.
    pub schema_version: Option<Value>,
    /// The manifest's own idea of its type.
    pub media_type: Option<String>,
    /// Kind of artifact.
    pub artifact_type: Option<String>,
    /// Configuration blob.
    #[serde(deserialize_with = "object")]
    pub config: Option<Descriptor>,
    /// Layer blobs; `null`, which some writers use for none, is an empty list.
    #[serde(deserialize_with = "null_is_empty")]
    pub layers: Option<Vec<Descriptor>>,
    /// Blobs of the withdrawn artifact manifest, still pushed by old tools.
    #[serde(deserialize_with = "objects")]
    pub blobs: Option<Vec<Descriptor>>,
    /// Children of an index; `null` is an empty list.
    #[serde(deserialize_with = "null_is_empty")]
    pub manifests: Option<Vec<Descriptor>>,
    /// The manifest this one is about.
    #[serde(deserialize_with = "object")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What the registry keeps about an accepted manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The type it is served with, spelt as it was pushed, without parameters.
    pub media_type: String,
    /// The document itself says no type, though it should: clients then have only the header to go by.
    pub untyped: bool,
    /// Blobs it needs.
    pub blobs: BTreeSet<Digest>,
    /// Manifests it needs.
    pub children: BTreeSet<Digest>,
    /// Digests it names that may be absent (`urls`, non-distributable layers, whatever stands in a document of an
    /// unknown type): kept if present.
    pub optional: BTreeSet<Digest>,
    /// Those of them that live elsewhere by the document's own word.
    pub elsewhere: BTreeSet<Digest>,
    /// The manifest it is about.
    pub subject: Option<Digest>,
    /// What a referrer list shows.
    pub artifact_type: Option<String>,
    /// Copied into a referrer list.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Why a manifest was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not JSON, or fields of the wrong shape.
    #[error("the manifest cannot be read: {0}")]
    Unreadable(String),
    /// Neither a `Content-Type` nor a `mediaType` that could be one.
    #[error("the manifest has no type: send a Content-Type header")]
    NoType,
    /// The two differ.
    #[error("Content-Type is {header} but the manifest says mediaType {field}: send the same type")]
    TypeMismatch {
        /// From the request.
        header: String,
        /// From the body.
        field: String,
    },
    /// A field the type requires is missing.
    #[error("a manifest of type {media_type} needs the field {field}")]
    Missing {
        /// The manifest's type.
        media_type: String,
        /// The absent field.
        field: &'static str,
    },
    /// A field that belongs to the other kind of manifest.
    #[error("a manifest of type {media_type} may not have the field {field}")]
    Unexpected {
        /// The manifest's type.
        media_type: String,
        /// The field.
        field: &'static str,
    },
    /// `schemaVersion` is not 2.
    #[error("schemaVersion must be 2")]
    Schema,
    /// A descriptor's digest is not one.
    #[error("{field}: {reason}")]
    Digest {
        /// Where it stands.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// More than [`REFERENCES_MAX`].
    #[error("the manifest names more than {REFERENCES_MAX} digests")]
    TooMany,
    /// Not what Wasm clients can pull.
    #[error(
        "a Wasm artifact (config {config}) must have exactly one layer of type {layer}; this one has {found}: push the .wasm file itself as the only layer",
        config = wasm::CONFIG,
        layer = wasm::LAYER
    )]
    WasmLayers {
        /// The layers it has, in words.
        found: String,
    },
}

/// A media type without parameters, in lower case: for comparing.
pub fn bare_type(text: &str) -> String {
    plain_type(text).to_ascii_lowercase()
}

/// A media type without parameters, spelt as it is: for serving.
fn plain_type(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

/// Is this the type of an index?
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Is this the type of an image or artifact manifest?
pub fn is_image(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

fn no_object() -> Invalid {
    Invalid::Unreadable("it is not a JSON object".to_owned())
}

/// Parses the loose view.
pub fn view(bytes: &[u8]) -> Result<View, Invalid> {
    // A derived reader would take an array for a struct's fields in order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(no_object());
    }
    serde_json::from_slice(bytes).map_err(|error| Invalid::Unreadable(error.to_string()))
}

/// Judges a pushed manifest by its bytes and the `Content-Type` it came with.
pub fn inspect(bytes: &[u8], content_type: Option<&str>) -> Result<Facts, Invalid> {
    let view = match view(bytes) {
        Ok(view) => view,
        Err(invalid) => return unknown(bytes, content_type)?.ok_or(invalid),
    };
    let media_type = media_type(view.media_type.as_deref(), content_type)?;
    shape(&view, &media_type)?;
    strict_wasm(&view)?;

    let mut facts = Facts {
        untyped: view.media_type.is_none(),
        artifact_type: artifact_type(&view),
        annotations: view.annotations.clone(),
        media_type,
        elsewhere: BTreeSet::new(),
        blobs: BTreeSet::new(),
        children: BTreeSet::new(),
        optional: BTreeSet::new(),
        subject: None,
    };
    let blobs = view
        .config
        .iter()
        .map(|d| ("config", d))
        .chain(view.layers.iter().flatten().map(|d| ("layers", d)))
        .chain(view.blobs.iter().flatten().map(|d| ("blobs", d)));
    for (field, descriptor) in blobs {
        let digest = digest_of(descriptor, field)?;
        if may_be_absent(descriptor) {
            facts.elsewhere.insert(digest);
        } else {
            facts.blobs.insert(digest);
        }
    }
    for descriptor in view.manifests.iter().flatten() {
        let digest = digest_of(descriptor, "manifests")?;
        if may_be_absent(descriptor) {
            facts.elsewhere.insert(digest);
        } else {
            facts.children.insert(digest);
        }
    }
    if let Some(subject) = &view.subject {
        facts.subject = Some(digest_of(subject, "subject")?);
    }
    facts.optional = facts.elsewhere.clone();
    if !is_known(&facts.media_type) {
        let fields = opaque::fields(bytes).ok_or_else(no_object)?;
        let shown = |digest: &Digest| {
            facts.blobs.contains(digest)
                || facts.children.contains(digest)
                || facts.subject.as_ref() == Some(digest)
        };
        let named = opaque::digests(&fields).into_iter();
        let more: Vec<Digest> = named.filter(|digest| !shown(digest)).collect();
        facts.optional.extend(more);
    }
    bounded(facts)
}

/// A document of a type nobody here knows, whose fields are not ours. `None` if it is no such thing.
fn unknown(bytes: &[u8], content_type: Option<&str>) -> Result<Option<Facts>, Invalid> {
    let Some(fields) = opaque::fields(bytes) else {
        return Ok(None);
    };
    // If it can be read once every field stands once, then one stood twice: two readers would see two documents.
    if view(Value::from(fields.clone()).to_string().as_bytes()).is_ok() {
        return Ok(None);
    }
    let field = fields.get("mediaType").and_then(Value::as_str);
    let media_type = media_type(field, content_type)?;
    if is_known(&media_type) {
        return Ok(None);
    }
    bounded(Facts {
        media_type,
        untyped: field.is_none(),
        blobs: BTreeSet::new(),
        children: BTreeSet::new(),
        optional: opaque::digests(&fields),
        elsewhere: BTreeSet::new(),
        subject: None,
        artifact_type: None,
        annotations: None,
    })
    .map(Some)
}

/// Is this one of the four types whose fields we know?
fn is_known(media_type: &str) -> bool {
    let bare = bare_type(media_type);
    is_image(&bare) || is_index(&bare)
}

fn bounded(facts: Facts) -> Result<Facts, Invalid> {
    if facts.blobs.len() + facts.children.len() + facts.optional.len() > REFERENCES_MAX {
        return Err(Invalid::TooMany);
    }
    Ok(facts)
}

fn digest_of(descriptor: &Descriptor, field: &'static str) -> Result<Digest, Invalid> {
    descriptor
        .digest
        .parse()
        .map_err(|error: crate::digest::DigestError| Invalid::Digest {
            field,
            reason: error.to_string(),
        })
}

fn media_type(field: Option<&str>, content_type: Option<&str>) -> Result<String, Invalid> {
    let header = content_type.map(plain_type).filter(|text| !text.is_empty());
    match (header, said(field)) {
        (Some(header), Some(field)) if !header.eq_ignore_ascii_case(field) => {
            Err(Invalid::TypeMismatch {
                header: header.to_owned(),
                field: field.to_owned(),
            })
        }
        // Clients compare what they get with the field, which they get as a header, so it must be able to be one.
        (_, Some(field)) if HeaderValue::from_str(field).is_ok() => Ok(field.to_owned()),
        (Some(header), None) => Ok(header.to_owned()),
        _ => Err(Invalid::NoType),
    }
}

/// What a `mediaType` says, `None` if it says nothing.
fn said(field: Option<&str>) -> Option<&str> {
    field.map(plain_type).filter(|text| !text.is_empty())
}

/// Required and excluded fields of the four types we know; other types pass as they are.
fn shape(view: &View, media_type: &str) -> Result<(), Invalid> {
    let missing = |field| Invalid::Missing {
        media_type: media_type.to_owned(),
        field,
    };
    let unexpected = |field| Invalid::Unexpected {
        media_type: media_type.to_owned(),
        field,
    };
    if !is_known(media_type) {
        return Ok(());
    }
    let image = is_image(&bare_type(media_type));
    if view.schema_version != Some(Value::from(2)) {
        return Err(Invalid::Schema);
    }
    // A document that is a manifest to one client and an index to another is an attack, not an image.
    if image {
        if view.config.is_none() {
            return Err(missing("config"));
        }
        if view.layers.is_none() {
            return Err(missing("layers"));
        }
        if view.manifests.is_some() {
            return Err(unexpected("manifests"));
        }
    } else {
        if view.manifests.is_none() {
            return Err(missing("manifests"));
        }
        if view.layers.is_some() {
            return Err(unexpected("layers"));
        }
        if view.config.is_some() {
            return Err(unexpected("config"));
        }
    }
    Ok(())
}

/// The canonical Wasm artifact has one layer; its own clients refuse anything else, so we refuse it while pushing.
fn strict_wasm(view: &View) -> Result<(), Invalid> {
    let Some(config) = &view.config else {
        return Ok(());
    };
    if bare_type(&config.media_type) != wasm::CONFIG {
        return Ok(());
    }
    let layers = view.layers.as_deref().unwrap_or_default();
    match layers {
        [only] if bare_type(&only.media_type) == wasm::LAYER => Ok(()),
        [only] => Err(Invalid::WasmLayers {
            found: format!("one layer of type {}", only.media_type),
        }),
        [] => Err(Invalid::WasmLayers {
            found: "no layer".into(),
        }),
        many => Err(Invalid::WasmLayers {
            found: format!("{} layers", many.len()),
        }),
    }
}

fn artifact_type(view: &View) -> Option<String> {
    let own = view.artifact_type.clone().filter(|text| !text.is_empty());
    own.or_else(|| {
        let config = view.config.as_ref()?;
        (!config.media_type.is_empty()).then(|| config.media_type.clone())
    })
}

/// Non-distributable layers and descriptors with `urls` live elsewhere.
fn may_be_absent(descriptor: &Descriptor) -> bool {
    !descriptor.urls.is_empty()
        || descriptor.media_type.contains(".nondistributable.")
        || descriptor.media_type.contains(".foreign.")
}
