//! The manifests that attach signatures and documents to an image.
//!
//! An artifact of one layer with a `subject`, as the image specification 1.1 and cosign's bundle specification say.

use serde_json::{Map, Value, json};

use crate::{bundle, digest_of, dsse, simple};

/// Media type of what is written.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of a configuration that says nothing.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of that configuration.
pub const EMPTY_BYTES: &[u8] = b"{}";
/// Annotation of a bundle's manifest: what it holds.
pub const CONTENT: &str = "dev.sigstore.bundle.content";
/// Annotation of a bundle's manifest: the predicate of the statement in it.
pub const PREDICATE: &str = "dev.sigstore.bundle.predicateType";
/// Annotation of an unsigned in-toto statement's manifest: its predicate.
pub const IN_TOTO_PREDICATE: &str = "in-toto.io/predicate-type";
/// Annotation: when it was made, RFC 3339.
pub const CREATED: &str = "org.opencontainers.image.created";
/// Annotation of a layer: its file name.
pub const TITLE: &str = "org.opencontainers.image.title";

/// A manifest as another manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its type.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Documents that are attached to images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// An SBOM in SPDX.
    Spdx,
    /// An SBOM in CycloneDX.
    CycloneDx,
    /// SLSA provenance: an in-toto statement.
    Provenance,
    /// Any other in-toto statement.
    InToto,
}

impl Document {
    /// Its artifact type and the type of its layer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Spdx => "application/spdx+json",
            Self::CycloneDx => "application/vnd.cyclonedx+json",
            Self::Provenance | Self::InToto => dsse::IN_TOTO,
        }
    }

    /// The predicate type of a statement that carries it.
    pub fn predicate_type(self) -> Option<&'static str> {
        match self {
            Self::Spdx => Some("https://spdx.dev/Document"),
            Self::CycloneDx => Some("https://cyclonedx.org/bom"),
            Self::Provenance => Some("https://slsa.dev/provenance/v1"),
            Self::InToto => None,
        }
    }
}

/// What a referrer is, in words, from its artifact type and annotations.
pub fn describe(artifact_type: &str, predicate_type: Option<&str>) -> &'static str {
    match (artifact_type, predicate_type) {
        (t, Some(dsse::SIGNED)) if t.starts_with(bundle::MEDIA_TYPE_PREFIX) => "signature",
        (t, p) if t.starts_with(bundle::MEDIA_TYPE_PREFIX) => match p {
            Some(p) if p.starts_with("https://slsa.dev/provenance") => "provenance (signed)",
            Some(p) if p.starts_with("https://spdx.dev/Document") => "SBOM, SPDX (signed)",
            Some(p) if p.starts_with("https://cyclonedx.org/bom") => "SBOM, CycloneDX (signed)",
            Some(_) => "statement (signed)",
            None => "signature",
        },
        ("application/spdx+json", _) => "SBOM, SPDX",
        ("application/vnd.cyclonedx+json", _) => "SBOM, CycloneDX",
        (t, Some(p)) if t == dsse::IN_TOTO && p.starts_with("https://slsa.dev/provenance") => {
            "provenance"
        }
        (t, _) if t == dsse::IN_TOTO => "in-toto statement",
        ("application/vnd.cncf.notary.signature", _) => "signature of notation (not checked)",
        (simple::MEDIA_TYPE, _) => "signature",
        _ => "attachment",
    }
}

/// The manifest of a bundle. `created` is a time in RFC 3339.
pub fn bundle_manifest(
    subject: &Descriptor,
    bundle: &[u8],
    predicate_type: &str,
    created: &str,
) -> Vec<u8> {
    let digest = digest_of(bundle);
    let title = format!("{}.sigstore.json", digest.replacen(':', "-", 1));
    attach(
        subject,
        bundle::MEDIA_TYPE,
        (bundle::MEDIA_TYPE, bundle),
        &[(TITLE, &title)],
        &[
            (CONTENT, "dsse-envelope"),
            (PREDICATE, predicate_type),
            (CREATED, created),
        ],
    )
}

/// The manifest of a document. `predicate` is set for in-toto statements, so that lists can tell them apart.
pub fn document_manifest(
    subject: &Descriptor,
    document: Document,
    bytes: &[u8],
    (title, predicate, created): (&str, Option<&str>, &str),
) -> Vec<u8> {
    let mut annotations = vec![(CREATED, created)];
    annotations.extend(predicate.map(|p| (IN_TOTO_PREDICATE, p)));
    attach(
        subject,
        document.media_type(),
        (document.media_type(), bytes),
        &[(TITLE, title)],
        &annotations,
    )
}

/// The manifest under the tag `sha256-<hex>.sig` of cosign's older form, with these payloads and their signatures.
pub fn simple_manifest(signatures: &[(Vec<u8>, String)]) -> Vec<u8> {
    let layers: Vec<Value> = signatures
        .iter()
        .map(|(payload, signature)| {
            json!({
                "mediaType": simple::MEDIA_TYPE,
                "digest": digest_of(payload),
                "size": payload.len(),
                "annotations": { simple::ANNOTATION: signature },
            })
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": EMPTY,
            "digest": digest_of(EMPTY_BYTES),
            "size": EMPTY_BYTES.len(),
        },
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

fn attach(
    subject: &Descriptor,
    artifact_type: &str,
    (layer_type, layer): (&str, &[u8]),
    layer_annotations: &[(&str, &str)],
    annotations: &[(&str, &str)],
) -> Vec<u8> {
    let map = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_string(), Value::from(*v)))
            .collect::<Map<_, _>>()
    };
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": {
            "mediaType": EMPTY,
            "digest": digest_of(EMPTY_BYTES),
            "size": EMPTY_BYTES.len(),
        },
        "layers": [{
            "mediaType": layer_type,
            "digest": digest_of(layer),
            "size": layer.len(),
            "annotations": map(layer_annotations),
        }],
        "subject": {
            "mediaType": subject.media_type,
            "digest": subject.digest,
            "size": subject.size,
        },
        "annotations": map(annotations),
    })
    .to_string()
    .into_bytes()
}
