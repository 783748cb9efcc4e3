//! Keys: P-256 and Ed25519, in the PEM files that cosign and openssl write.
//!
//! Public keys are PKIX (`PUBLIC KEY`). Private keys are PKCS#8 (`PRIVATE KEY`), SEC 1 (`EC PRIVATE KEY`) or cosign's own
//! encrypted form ([`crate::sealed`]). The key decides how it is used: P-256 signs SHA-256 with ECDSA (RFC 6979, so no
//! randomness), Ed25519 signs the message.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::signature::{Signer, Verifier};
use p256::pkcs8::spki::SubjectPublicKeyInfoRef;
use p256::pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, PrivateKeyInfo,
};
use sha2::{Digest, Sha256, Sha512};

use crate::sealed;

/// Draws of random bytes until one is a P-256 key; a draw fails once in 2^32.
const DRAWS_MAX: usize = 16;

const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";
const EC_PRIVATE: &str = "EC PRIVATE KEY";

/// Signature algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// ECDSA over NIST P-256 with SHA-256; what cosign makes by default.
    P256,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// Why a key cannot be used. Reads on after the name of its file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM block.
    #[error("is not a PEM file: it must hold a block that begins with -----BEGIN")]
    NotPem,
    /// A PEM block of another kind.
    #[error("holds a {found}, where a {wanted} is expected")]
    Label {
        /// What is there.
        found: String,
        /// What should be.
        wanted: &'static str,
    },
    /// RSA, P-384 and the like.
    #[error("is a key of an algorithm that is not supported ({0}): use P-256 or Ed25519")]
    Algorithm(String),
    /// Broken inside.
    #[error("cannot be read: {0}")]
    Malformed(String),
    /// Encrypted, and no password was given.
    #[error("is encrypted, and no password was given")]
    Locked,
    /// The password does not open it.
    #[error("is encrypted with another password")]
    WrongPassword,
    /// The caller's random bytes never made a key.
    #[error("cannot be made: the random numbers are not random")]
    Entropy,
}

/// Text that holds a secret: it is never shown by accident.
pub struct SecretText(String);

impl SecretText {
    /// The text, to be written where only its owner can read.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Public {
    P256(p256::PublicKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

/// A key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: Public,
    /// PKIX, uncompressed: the same key always has the same bytes.
    der: Vec<u8>,
}

/// A public key and what people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey {
    /// For messages: the file's name, or the name in a policy.
    pub name: String,
    /// The key.
    pub key: PublicKey,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, {})", self.algorithm(), self.id())
    }
}

impl PublicKey {
    /// Reads the first `PUBLIC KEY` of a PEM text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (_, der) = block(text, &[PUBLIC], "PUBLIC KEY")?;
        Self::from_der(&der)
    }

    /// Reads PKIX bytes (SubjectPublicKeyInfo).
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(key) = p256::PublicKey::from_public_key_der(der) {
            return Self::new(Public::P256(key));
        }
        if let Ok(key) = ed25519_dalek::VerifyingKey::from_public_key_der(der) {
            return Self::new(Public::Ed25519(key));
        }
        Err(match SubjectPublicKeyInfoRef::try_from(der) {
            Ok(info) => unsupported(&info.algorithm.oid.to_string()),
            Err(e) => KeyError::Malformed(e.to_string()),
        })
    }

    fn new(key: Public) -> Result<Self, KeyError> {
        let der = match &key {
            Public::P256(key) => key.to_public_key_der(),
            Public::Ed25519(key) => key.to_public_key_der(),
        }
        .map_err(|e| KeyError::Malformed(e.to_string()))?
        .as_bytes()
        .to_vec();
        Ok(Self { key, der })
    }

    /// What it is for.
    pub fn algorithm(&self) -> Algorithm {
        match self.key {
            Public::P256(_) => Algorithm::P256,
            Public::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The PEM text, as `openssl pkey -pubout` writes it.
    pub fn pem(&self) -> String {
        armour(PUBLIC, self.der.clone())
    }

    /// `sha256:<hex>` of the PKIX bytes: tells keys apart whatever they are called.
    pub fn id(&self) -> String {
        crate::digest_of(&self.der)
    }

    /// The hint of a Sigstore bundle: the same hash in base64, as cosign writes it. It says which key to try, and proves
    /// nothing.
    pub fn hint(&self) -> String {
        STANDARD.encode(Sha256::digest(&self.der))
    }

    /// Whether this key's owner signed the message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Public::P256(key) => p256::ecdsa::Signature::from_der(signature).is_ok_and(|s| {
                p256::ecdsa::VerifyingKey::from(key)
                    .verify(message, &s)
                    .is_ok()
            }),
            Public::Ed25519(key) => {
                ed25519_dalek::Signature::from_slice(signature).is_ok_and(|s| {
                    // cosign signs with Ed25519ph where a transparency log could be asked to take the entry, and with
                    // plain Ed25519 elsewhere. The two cannot be mistaken for each other (RFC 8032, dom2).
                    key.verify_strict(message, &s).is_ok()
                        || key
                            .verify_prehashed_strict(Sha512::new().chain_update(message), None, &s)
                            .is_ok()
                })
            }
        }
    }

    /// Whether this key's owner signed the message with this SHA-256. Never true for Ed25519, which needs the message.
    pub fn verifies_sha256(&self, digest: &[u8; 32], signature: &[u8]) -> bool {
        match &self.key {
            Public::P256(key) => p256::ecdsa::Signature::from_der(signature).is_ok_and(|s| {
                p256::ecdsa::VerifyingKey::from(key)
                    .verify_prehash(digest, &s)
                    .is_ok()
            }),
            Public::Ed25519(_) => false,
        }
    }
}

#[derive(Clone)]
enum Private {
    P256(p256::SecretKey),
    Ed25519(ed25519_dalek::SigningKey),
}

/// A key that signatures are made with. It wipes itself when it goes.
#[derive(Clone)]
pub struct PrivateKey {
    key: Private,
    public: PublicKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, ..)", self.public.algorithm())
    }
}

impl PrivateKey {
    /// Makes a key out of random bytes, which `fill` writes.
    pub fn generate(
        algorithm: Algorithm,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Self, KeyError> {
        for _ in 0..DRAWS_MAX {
            let mut seed = [0u8; 32];
            fill(&mut seed);
            let key = match algorithm {
                Algorithm::Ed25519 => {
                    Private::Ed25519(ed25519_dalek::SigningKey::from_bytes(&seed))
                }
                Algorithm::P256 => match p256::SecretKey::from_slice(&seed) {
                    Ok(key) => Private::P256(key),
                    Err(_) => continue,
                },
            };
            return Self::new(key);
        }
        Err(KeyError::Entropy)
    }

    /// Reads the private key of a PEM text. The password opens cosign's encrypted files; others need none.
    pub fn parse(text: &str, password: Option<&[u8]>) -> Result<Self, KeyError> {
        let labels = [PRIVATE, EC_PRIVATE, sealed::SIGSTORE, sealed::COSIGN];
        let (label, der) = block(text, &labels, "private key")?;
        if label == EC_PRIVATE {
            let key = p256::SecretKey::from_sec1_der(&der)
                .map_err(|_| KeyError::Malformed("it is not a key on the curve P-256".into()))?;
            return Self::new(Private::P256(key));
        }
        if label != PRIVATE {
            let opened = sealed::open(&der, password.ok_or(KeyError::Locked)?)?;
            return Self::from_pkcs8(&opened);
        }
        Self::from_pkcs8(&der)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(key) = p256::SecretKey::from_pkcs8_der(der) {
            return Self::new(Private::P256(key));
        }
        if let Ok(key) = ed25519_dalek::SigningKey::from_pkcs8_der(der) {
            return Self::new(Private::Ed25519(key));
        }
        Err(match PrivateKeyInfo::try_from(der) {
            Ok(info) => unsupported(&info.algorithm.oid.to_string()),
            Err(e) => KeyError::Malformed(e.to_string()),
        })
    }

    fn new(key: Private) -> Result<Self, KeyError> {
        let public = PublicKey::new(match &key {
            Private::P256(key) => Public::P256(key.public_key()),
            Private::Ed25519(key) => Public::Ed25519(key.verifying_key()),
        })?;
        Ok(Self { key, public })
    }

    /// The other half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// An unencrypted PKCS#8 PEM text, as `openssl genpkey` writes it.
    pub fn pem(&self) -> Result<SecretText, KeyError> {
        Ok(SecretText(armour(PRIVATE, self.pkcs8()?)))
    }

    /// The encrypted PEM text that `cosign generate-key-pair` writes and `cosign sign --key` wants. The password may be
    /// empty; `fill` writes random bytes.
    pub fn sealed_pem(
        &self,
        password: &[u8],
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<SecretText, KeyError> {
        let sealed = sealed::seal(&self.pkcs8()?, password, fill)?;
        Ok(SecretText(armour(sealed::SIGSTORE, sealed)))
    }

    fn pkcs8(&self) -> Result<Vec<u8>, KeyError> {
        match &self.key {
            Private::P256(key) => key.to_pkcs8_der(),
            // Without the public half (version 1 of PKCS#8): older readers do not know version 2.
            Private::Ed25519(key) => ed25519_dalek::pkcs8::KeypairBytes {
                secret_key: key.to_bytes(),
                public_key: None,
            }
            .to_pkcs8_der(),
        }
        .map(|document| document.as_bytes().to_vec())
        .map_err(|e| KeyError::Malformed(e.to_string()))
    }

    /// Signs: DER (ECDSA) or 64 bytes (Ed25519). The same message always gets the same signature.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            Private::P256(key) => {
                let signature: p256::ecdsa::Signature =
                    p256::ecdsa::SigningKey::from(key).sign(message);
                signature.to_der().as_bytes().to_vec()
            }
            Private::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
        }
    }
}

/// The first block with one of the labels.
fn block(text: &str, labels: &[&str], wanted: &'static str) -> Result<(String, Vec<u8>), KeyError> {
    let blocks = pem::parse_many(text).map_err(|e| KeyError::Malformed(e.to_string()))?;
    let found = blocks.iter().find(|b| labels.contains(&b.tag()));
    match (found, blocks.first()) {
        (Some(block), _) => Ok((block.tag().to_string(), block.contents().to_vec())),
        (None, Some(other)) => Err(KeyError::Label {
            found: other.tag().to_string(),
            wanted,
        }),
        (None, None) => Err(KeyError::NotPem),
    }
}

fn armour(label: &str, der: Vec<u8>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}

/// An algorithm by its object identifier, in a name people know.
fn unsupported(oid: &str) -> KeyError {
    KeyError::Algorithm(
        match oid {
            "1.2.840.113549.1.1.1" => "RSA",
            "1.2.840.10045.2.1" => "ECDSA on a curve other than P-256",
            "1.3.101.113" => "Ed448",
            other => other,
        }
        .to_string(),
    )
}
