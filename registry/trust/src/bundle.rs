//! Sigstore bundles, version 0.3: the JSON document that carries a signature.
//!
//! Written are DSSE bundles with a public-key hint and nothing from a transparency log, which `cosign verify --key`
//! takes with `--insecure-ignore-tlog=true`. Read are these, and those that carry a plain signature over the manifest.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dsse::{self, IN_TOTO, Statement};
use crate::keys::PrivateKey;

/// Media type of a bundle, as a layer and as the artifact type of its manifest.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What media types of bundles begin with, whatever their version.
pub const MEDIA_TYPE_PREFIX: &str = "application/vnd.dev.sigstore.bundle";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    verification_material: Material,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dsse_envelope: Option<Envelope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_signature: Option<Message>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<Hint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x509_certificate_chain: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct Hint {
    #[serde(default)]
    hint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    sig: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    #[serde(default)]
    message_digest: Option<MessageDigest>,
    signature: String,
}

#[derive(Serialize, Deserialize)]
struct MessageDigest {
    #[serde(default)]
    algorithm: String,
    #[serde(default)]
    digest: String,
}

/// A bundle taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// Which key to try, if it was made with a key.
    pub hint: Option<String>,
    /// Whether it was made with a certificate ("keyless") instead.
    pub keyless: bool,
    /// What was signed.
    pub content: Content,
    /// The signature.
    pub signature: Vec<u8>,
}

/// What a bundle's signature is over.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A statement in an envelope; `message` is what was signed.
    Statement {
        /// The statement.
        statement: Statement,
        /// Its pre-authentication encoding.
        message: Vec<u8>,
    },
    /// The bytes of the artifact; the digest the bundle states, if it does.
    Artifact {
        /// SHA-256 of the artifact.
        sha256: Option<Vec<u8>>,
    },
}

/// Signs a statement; gives the bundle's bytes.
pub fn sign(key: &PrivateKey, statement: &Statement) -> Result<Vec<u8>, serde_json::Error> {
    let payload = serde_json::to_vec(statement)?;
    let signature = key.sign(&dsse::pae(IN_TOTO, &payload));
    serde_json::to_vec(&Wire {
        media_type: MEDIA_TYPE.into(),
        verification_material: Material {
            public_key: Some(Hint {
                hint: key.public().hint(),
            }),
            ..Material::default()
        },
        dsse_envelope: Some(Envelope {
            payload: STANDARD.encode(&payload),
            payload_type: IN_TOTO.into(),
            signatures: vec![Signed {
                sig: STANDARD.encode(signature),
            }],
        }),
        message_signature: None,
    })
}

/// Takes a bundle apart without checking it. The error is a sentence about the bundle.
pub fn parse(bytes: &[u8]) -> Result<Bundle, String> {
    let wire: Wire =
        serde_json::from_slice(bytes).map_err(|e| format!("it is not a Sigstore bundle: {e}"))?;
    if !wire.media_type.starts_with(MEDIA_TYPE_PREFIX) {
        return Err(format!(
            "it is not a Sigstore bundle: its mediaType is {:?}",
            wire.media_type
        ));
    }
    let material = &wire.verification_material;
    let hint = material.public_key.as_ref().map(|key| key.hint.clone());
    let keyless = material.certificate.is_some() || material.x509_certificate_chain.is_some();
    let (content, signature) = match (wire.dsse_envelope, wire.message_signature) {
        (Some(envelope), None) => open(&envelope)?,
        (None, Some(message)) => {
            let sha256 = match &message.message_digest {
                Some(d) if d.algorithm == "SHA2_256" => Some(decode("digest", &d.digest)?),
                Some(d) => return Err(format!("it is over a digest of kind {:?}", d.algorithm)),
                None => None,
            };
            (
                Content::Artifact { sha256 },
                decode("signature", &message.signature)?,
            )
        }
        (None, None) => return Err("it holds no signature".into()),
        (Some(_), Some(_)) => return Err("it holds two contents where one is allowed".into()),
    };
    Ok(Bundle {
        hint,
        keyless,
        content,
        signature,
    })
}

fn open(envelope: &Envelope) -> Result<(Content, Vec<u8>), String> {
    let [signed] = envelope.signatures.as_slice() else {
        return Err(format!(
            "its envelope has {} signatures where one is allowed",
            envelope.signatures.len()
        ));
    };
    if envelope.payload_type != IN_TOTO {
        return Err(format!(
            "its envelope holds {:?}, not an in-toto statement",
            envelope.payload_type
        ));
    }
    let payload = decode("payload", &envelope.payload)?;
    let statement: Statement = serde_json::from_slice(&payload)
        .map_err(|e| format!("its statement cannot be read: {e}"))?;
    if !statement.kind.starts_with("https://in-toto.io/Statement/") {
        return Err(format!(
            "its statement is of the unknown type {:?}",
            statement.kind
        ));
    }
    let message = dsse::pae(IN_TOTO, &payload);
    Ok((
        Content::Statement { statement, message },
        decode("signature", &signed.sig)?,
    ))
}

fn decode(what: &str, text: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(text)
        .map_err(|e| format!("its {what} is not base64: {e}"))
}
