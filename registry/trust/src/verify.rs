//! Which of an image's signatures hold, and why the others do not.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::bundle::{self, Content};
use crate::dsse::{SIGNED, Statement};
use crate::keys::NamedKey;
use crate::{SIGNATURES_MAX, simple};

/// A signature as it lies in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// The bytes of a Sigstore bundle.
    Bundle(Vec<u8>),
    /// A payload of cosign's older form, and the annotation that signs it.
    Simple {
        /// The layer.
        payload: Vec<u8>,
        /// The signature in base64.
        signature: String,
    },
}

/// A signature and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// For messages: the digest of the referrer, or the tag.
    pub origin: String,
    /// The signature.
    pub signature: Signature,
}

/// A signature that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// Where it was found.
    pub origin: String,
    /// The name of the key that made it.
    pub key: String,
    /// The key's [`crate::PublicKey::id`].
    pub key_id: String,
    /// What it says, if it says more than "I vouch for this".
    pub statement: Option<Statement>,
}

/// A signature that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where it was found.
    pub origin: String,
    /// Why.
    pub why: Why,
}

/// Why a signature does not count. Reads on after "the signature at …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It cannot be understood; a sentence.
    Unreadable(String),
    /// It vouches for something else.
    OtherSubject(String),
    /// It is a statement of another kind, such as provenance: true perhaps, but no signature of the image.
    OtherStatement(String),
    /// It was made with a certificate, which only a transparency log can vouch for.
    Keyless,
    /// None of the keys made it.
    NoKey,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "cannot be used: {why}"),
            Self::OtherSubject(found) => write!(f, "is about {found}, not about this image"),
            Self::OtherStatement(kind) => {
                write!(
                    f,
                    "is a statement of type {kind}, not a signature of the image"
                )
            }
            Self::Keyless => f.write_str("was made with a certificate, not with a key"),
            Self::NoKey => f.write_str("was made with none of the keys"),
        }
    }
}

/// What became of all signatures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verified {
    /// Those that hold, in the order they were found.
    pub valid: Vec<Valid>,
    /// Those that do not count.
    pub refused: Vec<Refused>,
}

impl Verified {
    /// The distinct keys that vouch, by [`crate::PublicKey::id`]: a key that signs twice counts once, under however many names.
    pub fn keys(&self) -> BTreeSet<&str> {
        self.valid.iter().map(|v| v.key_id.as_str()).collect()
    }

    /// Why there is no signature, in one sentence without a full stop.
    pub fn reasons(&self) -> String {
        match self.refused.as_slice() {
            [] => "it has no signature".into(),
            [one] => format!("the signature at {} {}", one.origin, one.why),
            [one, more @ ..] => format!(
                "the signature at {} {}, and {} more do not count",
                one.origin,
                one.why,
                more.len()
            ),
        }
    }
}

/// Checks signatures of the manifest with this digest against keys. Only the first [`SIGNATURES_MAX`] are looked at.
pub fn verify(digest: &str, found: &[Found], keys: &[NamedKey]) -> Verified {
    let mut verified = Verified::default();
    for one in found.iter().take(SIGNATURES_MAX) {
        match check(digest, &one.signature, keys, Some(SIGNED)) {
            Ok((key, _)) => verified.valid.push(Valid {
                origin: one.origin.clone(),
                key: key.name.clone(),
                key_id: key.key.id(),
                statement: None,
            }),
            Err(why) => verified.refused.push(Refused {
                origin: one.origin.clone(),
                why,
            }),
        }
    }
    verified
}

/// As [`verify`], for statements of any type about the manifest: provenance, SBOMs, test results.
pub fn verify_statements(digest: &str, found: &[Found], keys: &[NamedKey]) -> Verified {
    let mut verified = Verified::default();
    for one in found.iter().take(SIGNATURES_MAX) {
        match check(digest, &one.signature, keys, None) {
            Ok((key, statement)) => verified.valid.push(Valid {
                origin: one.origin.clone(),
                key: key.name.clone(),
                key_id: key.key.id(),
                statement,
            }),
            Err(why) => verified.refused.push(Refused {
                origin: one.origin.clone(),
                why,
            }),
        }
    }
    verified
}

/// Checks one; gives the key that made it and the statement it makes.
fn check<'k>(
    digest: &str,
    signature: &Signature,
    keys: &'k [NamedKey],
    predicate_type: Option<&str>,
) -> Result<(&'k NamedKey, Option<Statement>), Why> {
    let by = |holds: &dyn Fn(&NamedKey) -> bool| keys.iter().find(|k| holds(k));
    match signature {
        Signature::Simple { payload, signature } => {
            let about = simple::digest(payload).map_err(Why::Unreadable)?;
            if about != digest {
                return Err(Why::OtherSubject(about));
            }
            let bytes = STANDARD
                .decode(signature)
                .map_err(|e| Why::Unreadable(format!("its signature is not base64: {e}")))?;
            let key = by(&|k| k.key.verifies(payload, &bytes)).ok_or(Why::NoKey)?;
            Ok((key, None))
        }
        Signature::Bundle(bytes) => {
            let bundle = bundle::parse(bytes).map_err(Why::Unreadable)?;
            if bundle.keyless {
                return Err(Why::Keyless);
            }
            match bundle.content {
                Content::Statement { statement, message } => {
                    // What it claims is only looked at to say why it does not count; it counts after the key has.
                    if !statement.names(digest) {
                        return Err(Why::OtherSubject(statement.subjects()));
                    }
                    if predicate_type.is_some_and(|wanted| statement.predicate_type != wanted) {
                        return Err(Why::OtherStatement(statement.predicate_type));
                    }
                    let key =
                        by(&|k| k.key.verifies(&message, &bundle.signature)).ok_or(Why::NoKey)?;
                    Ok((key, Some(statement)))
                }
                Content::Artifact { sha256: stated } => {
                    let sha256 = sha256_of(digest).ok_or_else(|| {
                        Why::Unreadable(
                            "it is over the bytes of the manifest, whose digest is not sha256"
                                .into(),
                        )
                    })?;
                    if let Some(stated) = stated
                        && stated != sha256
                    {
                        return Err(Why::OtherSubject(format!("sha256:{}", hex::encode(stated))));
                    }
                    let key = by(&|k| k.key.verifies_sha256(&sha256, &bundle.signature))
                        .ok_or(Why::NoKey)?;
                    Ok((key, None))
                }
            }
        }
    }
}

fn sha256_of(digest: &str) -> Option<[u8; 32]> {
    let hex = digest.strip_prefix("sha256:")?;
    hex::decode(hex).ok()?.try_into().ok()
}
