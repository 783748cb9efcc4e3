//! A node's key and certificate, and the three files of `DATA/pki` they live in.
//!
//! Key and certificate are two files and must fit each other after a crash at any moment, so a new pair goes
//! `node.key.next`, `node.crt`, `node.key`: whichever key fits the certificate is the one.

use std::fs;
use std::io;
use std::path::Path;

use coracle_api::Timestamp;
use coracle_raft::durable;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error::StartError;

/// A key and a certificate, both PEM, and the roots to trust.
#[derive(Clone)]
pub struct NodeIdentity {
    /// Certificate chain.
    pub certificate: String,
    /// Private key (PKCS#8).
    pub key: String,
    /// Roots.
    pub ca: String,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

const KEY: &str = "node.key";
const KEY_NEXT: &str = "node.key.next";
const CERTIFICATE: &str = "node.crt";
const ROOTS: &str = "ca.crt";

/// Stores an identity in a `pki` directory. On a full disk the files of an earlier start stay, which still work: reading
/// must go on.
pub(crate) fn store_identity(pki: &Path, identity: &NodeIdentity) -> Result<(), StartError> {
    let write =
        |name: &str, text: &str, mode| durable::write(&pki.join(name), text.as_bytes(), mode);
    let stored = write(KEY_NEXT, &identity.key, 0o600)
        .and_then(|()| write(ROOTS, &identity.ca, 0o644))
        .and_then(|()| write(CERTIFICATE, &identity.certificate, 0o644))
        .and_then(|()| fs::rename(pki.join(KEY_NEXT), pki.join(KEY)))
        .and_then(|()| durable::sync_dir(pki));
    match stored {
        Err(e) if e.kind() == io::ErrorKind::StorageFull && pki.join(CERTIFICATE).exists() => {
            tracing::warn!("the disk is full: the certificate files of the last start are kept");
            Ok(())
        }
        other => other.map_err(|e| StartError::io(pki, e)),
    }
}

/// The identity in a `pki` directory. `None` if there is none, or if no key there fits the certificate.
pub(crate) fn load_identity(pki: &Path) -> Result<Option<NodeIdentity>, StartError> {
    let read = |name: &str| match fs::read_to_string(pki.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StartError::io(&pki.join(name), e)),
    };
    let (Some(certificate), Some(ca)) = (read(CERTIFICATE)?, read(ROOTS)?) else {
        return Ok(None);
    };
    for name in [KEY, KEY_NEXT] {
        if let Some(key) = read(name)?
            && fits(&key, &certificate)
        {
            return Ok(Some(NodeIdentity {
                certificate,
                key,
                ca,
            }));
        }
    }
    tracing::warn!(pki = %pki.display(), "no key fits this node's certificate; a new one will be made");
    Ok(None)
}

/// When the first certificate of a PEM text ends.
pub(crate) fn ends(pem: &str) -> Option<Timestamp> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// Whether a key is the one a certificate was made for.
fn fits(key: &str, certificate: &str) -> bool {
    let (Ok(key), Ok(der)) = (
        KeyPair::from_pem(key),
        CertificateDer::from_pem_slice(certificate.as_bytes()),
    ) else {
        return false;
    };
    x509_parser::parse_x509_certificate(&der)
        .is_ok_and(|(_, c)| c.public_key().raw == key.subject_public_key_info())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::CertificateParams;
    use tempfile::TempDir;

    fn identity() -> NodeIdentity {
        let key = KeyPair::generate().unwrap();
        NodeIdentity {
            certificate: CertificateParams::default()
                .self_signed(&key)
                .unwrap()
                .pem(),
            key: key.serialize_pem(),
            ca: "roots".into(),
        }
    }

    #[test]
    fn a_crash_between_two_files_loses_no_identity() {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (old, new) = (identity(), identity());
        assert!(load_identity(dir.path()).unwrap().is_none());
        store_identity(dir.path(), &old).unwrap();
        let loaded = |text: &str| {
            let found = load_identity(dir.path()).unwrap().unwrap();
            assert_eq!(found.certificate, text);
        };
        loaded(&old.certificate);
        // After the first of three writes, after the second, after the third.
        fs::write(at(KEY_NEXT), &new.key).unwrap();
        loaded(&old.certificate);
        fs::write(at(CERTIFICATE), &new.certificate).unwrap();
        loaded(&new.certificate);
        fs::rename(at(KEY_NEXT), at(KEY)).unwrap();
        loaded(&new.certificate);
        fs::write(at(KEY), &old.key).unwrap();
        assert!(load_identity(dir.path()).unwrap().is_none());
    }
}
