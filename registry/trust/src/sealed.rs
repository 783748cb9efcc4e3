//! cosign's encrypted private keys: a JSON document in PEM, scrypt for the password and NaCl's secretbox for the key.
//!
//! The format is that of `go-securesystemslib/encrypted`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use serde::{Deserialize, Serialize};

use crate::keys::KeyError;

/// The label since cosign 2.
pub(crate) const SIGSTORE: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// The label of cosign 1.
pub(crate) const COSIGN: &str = "ENCRYPTED COSIGN PRIVATE KEY";

/// What is written: cosign's own parameters (64 MiB, some 0.2 s).
const WRITTEN: Params = Params {
    n: 65_536,
    r: 8,
    p: 1,
};
/// Most memory that opening a file may take, in bytes: N × r × 128. A file that asks for more is refused, since it may
/// come from anybody.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Most passes over that memory.
const PASSES_MAX: u32 = 16;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const SALT_BYTES: usize = 32;

#[derive(Serialize, Deserialize)]
struct Document {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

fn malformed(why: impl Into<String>) -> KeyError {
    KeyError::Malformed(why.into())
}

fn derive(password: &[u8], salt: &[u8], params: Params) -> Result<[u8; KEY_BYTES], KeyError> {
    let memory = params
        .n
        .saturating_mul(u64::from(params.r))
        .saturating_mul(128);
    if !params.n.is_power_of_two() || memory > MEMORY_BYTES_MAX || params.p > PASSES_MAX {
        return Err(malformed(format!(
            "its scrypt parameters (N={}, r={}, p={}) are not a power of two or ask for too much",
            params.n, params.r, params.p
        )));
    }
    let log_n = u8::try_from(params.n.trailing_zeros()).unwrap_or(u8::MAX);
    let params = scrypt::Params::new(log_n, params.r, params.p, KEY_BYTES)
        .map_err(|e| malformed(format!("its scrypt parameters: {e}")))?;
    let mut key = [0u8; KEY_BYTES];
    scrypt::scrypt(password, salt, &params, &mut key)
        .map_err(|e| malformed(format!("its scrypt parameters: {e}")))?;
    Ok(key)
}

/// Encrypts.
pub(crate) fn seal(
    plain: &[u8],
    password: &[u8],
    fill: &mut dyn FnMut(&mut [u8]),
) -> Result<Vec<u8>, KeyError> {
    let (mut salt, mut nonce) = ([0u8; SALT_BYTES], [0u8; NONCE_BYTES]);
    fill(&mut salt);
    fill(&mut nonce);
    let key = derive(password, &salt, WRITTEN)?;
    let ciphertext = XSalsa20Poly1305::new(Key::from_slice(&key))
        .encrypt(Nonce::from_slice(&nonce), plain)
        .map_err(|_| malformed("it cannot be encrypted"))?;
    let document = Document {
        kdf: Kdf {
            name: "scrypt".into(),
            params: WRITTEN,
            salt: STANDARD.encode(salt),
        },
        cipher: Cipher {
            name: "nacl/secretbox".into(),
            nonce: STANDARD.encode(nonce),
        },
        ciphertext: STANDARD.encode(ciphertext),
    };
    serde_json::to_vec(&document).map_err(|e| malformed(e.to_string()))
}

/// Decrypts.
pub(crate) fn open(document: &[u8], password: &[u8]) -> Result<Vec<u8>, KeyError> {
    let document: Document =
        serde_json::from_slice(document).map_err(|e| malformed(e.to_string()))?;
    if document.kdf.name != "scrypt" || document.cipher.name != "nacl/secretbox" {
        return Err(malformed(format!(
            "it is encrypted with {} and {}, and only scrypt and nacl/secretbox are known",
            document.kdf.name, document.cipher.name
        )));
    }
    let bytes = |field: &str, text: &str| {
        STANDARD
            .decode(text)
            .map_err(|e| malformed(format!("its {field} is not base64: {e}")))
    };
    let salt = bytes("salt", &document.kdf.salt)?;
    let nonce = bytes("nonce", &document.cipher.nonce)?;
    let ciphertext = bytes("ciphertext", &document.ciphertext)?;
    if nonce.len() != NONCE_BYTES {
        return Err(malformed(format!(
            "its nonce has {} bytes, not {NONCE_BYTES}",
            nonce.len()
        )));
    }
    let key = derive(password, &salt, document.kdf.params)?;
    XSalsa20Poly1305::new(Key::from_slice(&key))
        .decrypt(Nonce::from_slice(&nonce), ciphertext.as_slice())
        .map_err(|_| KeyError::WrongPassword)
}
