//! cosign's signatures before version 3: a JSON payload as a layer, the signature in the layer's annotation, all under
//! the tag `sha256-<hex>.sig`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::keys::PrivateKey;

/// Media type of the payload.
pub const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation of the layer: the signature in base64.
pub const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What the payload calls itself.
const TYPE: &str = "cosign container image signature";
/// What payloads of other tools in the same form call themselves.
const TYPE_ATOMIC: &str = "atomic container signature";

/// The tag under which signatures of a manifest are.
pub fn tag(digest: &str) -> String {
    format!("{}.sig", digest.replacen(':', "-", 1))
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// The digest that a payload vouches for. The reference it names is not looked at, as cosign does not: what counts is
/// the digest. The error is a sentence about the payload.
pub fn digest(payload: &[u8]) -> Result<String, String> {
    let payload: Payload =
        serde_json::from_slice(payload).map_err(|e| format!("its payload cannot be read: {e}"))?;
    match payload.critical.kind.as_str() {
        TYPE | TYPE_ATOMIC => Ok(payload.critical.image.digest),
        other => Err(format!("its payload is of the unknown type {other:?}")),
    }
}

/// A payload and its signature in base64, for tools that read nothing newer.
pub fn sign(key: &PrivateKey, reference: &str, digest: &str) -> (Vec<u8>, String) {
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": reference },
            "image": { "docker-manifest-digest": digest },
            "type": TYPE,
        },
        "optional": null,
    })
    .to_string()
    .into_bytes();
    let signature = STANDARD.encode(key.sign(&payload));
    (payload, signature)
}
