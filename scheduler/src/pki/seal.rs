//! The sealing key in `DATA/pki/seal.key` and what it seals.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use coracle_raft::durable;

use crate::error::StartError;

const NONCE_BYTES: usize = 24;

/// A key for sealing small secrets that lie in the replicated state.
pub struct Seal {
    path: PathBuf,
    cipher: XChaCha20Poly1305,
}

impl Seal {
    /// Reads the key, or makes one if `may_create` (nothing has been sealed yet).
    pub fn open(pki: &Path, may_create: bool) -> Result<Self, StartError> {
        let path = pki.join("seal.key");
        let key: [u8; 32] = match fs::read_to_string(&path) {
            Ok(text) => {
                let bytes = hex::decode(text.trim())
                    .ok()
                    .and_then(|b| b.try_into().ok());
                bytes.ok_or_else(|| StartError::Seal {
                    path: path.clone(),
                    why: "it is not 64 hex digits".into(),
                })?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && may_create => {
                let key: [u8; 32] = rand::random();
                durable::write(&path, format!("{}\n", hex::encode(key)).as_bytes(), 0o600)
                    .map_err(|e| StartError::io(&path, e))?;
                key
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StartError::Seal {
                    path,
                    why: "it is missing".into(),
                });
            }
            Err(e) => return Err(StartError::io(&path, e)),
        };
        Ok(Self {
            path,
            cipher: XChaCha20Poly1305::new(&key.into()),
        })
    }

    /// Seals `secret`; `about` must be the same when it is opened.
    pub fn seal(&self, secret: &[u8], about: &str) -> Result<String, StartError> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let sealed = self
            .cipher
            .encrypt(
                XNonce::from_slice(&nonce),
                Payload {
                    msg: secret,
                    aad: about.as_bytes(),
                },
            )
            .map_err(|_| StartError::Pki("a key could not be sealed".into()))?;
        Ok(STANDARD.encode([&nonce[..], &sealed].concat()))
    }

    /// Opens what [`Self::seal`] made.
    pub fn unseal(&self, text: &str, about: &str) -> Result<Vec<u8>, StartError> {
        let wrong = |why: &str| StartError::Seal {
            path: self.path.clone(),
            why: why.into(),
        };
        let raw = STANDARD
            .decode(text)
            .map_err(|_| wrong("the sealed record is no base64"))?;
        let (nonce, sealed) = raw
            .split_at_checked(NONCE_BYTES)
            .ok_or_else(|| wrong("the sealed record is too short"))?;
        self.cipher
            .decrypt(
                XNonce::from_slice(nonce),
                Payload {
                    msg: sealed,
                    aad: about.as_bytes(),
                },
            )
            .map_err(|_| wrong("it is another key"))
    }
}
