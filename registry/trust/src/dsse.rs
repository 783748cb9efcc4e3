//! What is signed: an in-toto statement about a digest, in a DSSE envelope.
//!
//! DSSE signs the pre-authentication encoding ([`pae`]) of payload type and payload, so that a signature over one kind
//! of payload is never one over another. The predicate type says what the statement is: cosign's for "I vouch for this
//! image", SLSA's for provenance, and so on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The payload type of an in-toto statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The statement's own type.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// The predicate of a plain image signature (cosign 3).
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// A statement about artifacts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// [`STATEMENT`], or the type of version 0.1.
    #[serde(rename = "_type")]
    pub kind: String,
    /// What it is about.
    #[serde(default)]
    pub subject: Vec<Subject>,
    /// What it says.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// The rest, in the form its type defines.
    #[serde(default)]
    pub predicate: Value,
}

/// One artifact a statement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name, which proves nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its digests, by algorithm: hexadecimal.
    #[serde(default)]
    pub digest: BTreeMap<String, String>,
}

impl Statement {
    /// A statement about the artifact with this digest (`sha256:<hex>`).
    pub fn new(digest: &str, predicate_type: &str, predicate: Value) -> Self {
        let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
        Self {
            kind: STATEMENT.into(),
            subject: vec![Subject {
                name: String::new(),
                digest: BTreeMap::from([(algorithm.to_string(), hex.to_string())]),
            }],
            predicate_type: predicate_type.into(),
            predicate,
        }
    }

    /// "I vouch for this image."
    pub fn signed(digest: &str) -> Self {
        Self::new(digest, SIGNED, json!({}))
    }

    /// Whether it is about the artifact with this digest.
    pub fn names(&self, digest: &str) -> bool {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            self.subject
                .iter()
                .any(|s| s.digest.get(algorithm).is_some_and(|found| found == hex))
        })
    }

    /// The digests it is about, for messages; three at most.
    pub fn subjects(&self) -> String {
        let all: Vec<String> = self
            .subject
            .iter()
            .flat_map(|s| s.digest.iter().map(|(a, hex)| format!("{a}:{hex}")))
            .take(3)
            .collect();
        match all.is_empty() {
            true => "nothing".into(),
            false => all.join(", "),
        }
    }
}

/// The pre-authentication encoding of DSSE version 1: what is really signed.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    out.extend_from_slice(payload);
    out
}
