//! Content digests: the only names bytes have here.
//!
//! A `Digest` can only be made from a well-formed string or from hashed bytes, so it is safe as part of a path and as a
//! row key: lower-case hex of exactly the algorithm's length, nothing else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// The hash functions the OCI specification registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, what every client uses.
    Sha256,
    /// SHA-512, registered too and used by some.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, in listing order.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Number of hex digits after the colon.
    pub fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hash = Hash::new(self);
        hash.update(bytes);
        hash.digest()
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| DigestError::Algorithm(shown(text)))
    }
}

/// `algorithm:hex`, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

/// Why a string is not a digest we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` in front.
    #[error(
        "\"{0}\" is not a digest: write it as sha256:<64 hex digits> or sha512:<128 hex digits>"
    )]
    Form(String),
    /// The algorithm is not one of ours.
    #[error("digest algorithm \"{0}\" is not supported: use sha256 or sha512")]
    Algorithm(String),
    /// The part after the colon is not the right number of lower-case hex digits.
    #[error("{algorithm} needs {want} lower-case hex digits after the colon", algorithm = .0.name(), want = .0.hex_len())]
    Hex(Algorithm),
}

/// Text from a request, cut to a length that is fit for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Digest {
    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The lower-case hex digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text
            .split_once(':')
            .ok_or_else(|| DigestError::Form(shown(text)))?;
        let algorithm: Algorithm = algorithm.parse()?;
        let well_formed = hex.len() == algorithm.hex_len()
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !well_formed {
            return Err(DigestError::Hex(algorithm));
        }
        Ok(Digest {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// A running hash; cheap to clone, so an upload can go back to where a refused chunk began.
#[derive(Clone)]
pub enum Hash {
    /// SHA-256 state.
    Sha256(Sha256),
    /// SHA-512 state.
    Sha512(Sha512),
}

impl Hash {
    /// The hash of no bytes so far.
    pub fn new(algorithm: Algorithm) -> Hash {
        match algorithm {
            Algorithm::Sha256 => Hash::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hash::Sha512(Sha512::new()),
        }
    }

    /// Which function this is.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Hash::Sha256(_) => Algorithm::Sha256,
            Hash::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha256(hash) => hash.update(bytes),
            Hash::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of everything taken so far; the state is untouched.
    pub fn digest(&self) -> Digest {
        let hex = match self {
            Hash::Sha256(hash) => hex::encode(hash.clone().finalize()),
            Hash::Sha512(hash) => hex::encode(hash.clone().finalize()),
        };
        Digest {
            algorithm: self.algorithm(),
            hex,
        }
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({})", self.algorithm().name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(
            Algorithm::Sha256.digest(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            Algorithm::Sha256.digest(b"{}").to_string(),
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
        let long = Algorithm::Sha512.digest(b"abc").to_string();
        assert!(long.starts_with("sha512:ddaf35a193617aba"), "{long}");
        assert_eq!(long.parse::<Digest>().unwrap().to_string(), long);
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let hex = "a".repeat(64);
        for text in [
            String::new(),
            "sha256".into(),
            "sha256:".into(),
            hex.clone(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{hex}a"),
            format!("sha512:{hex}"),
            format!("md5:{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256:{}/../..", &hex[..58]),
            format!("sha256:{hex}\n"),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
