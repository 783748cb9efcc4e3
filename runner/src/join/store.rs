//! A node's identity on disk: `ca.pem`, `node.pem`, `node.key` in `DATA/pki`.
//!
//! Key and certificate are two files and must fit each other after a crash at any moment, so a new pair goes
//! `node.key.next`, `node.pem`, `node.key`: whichever key fits the certificate is the one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use coracle_api::Timestamp;
use rcgen::{KeyPair, PublicKeyData};

use super::JoinError;
use crate::tls::certificates;

/// A node's key and certificate, and whom it trusts; all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's roots.
    pub ca_pem: String,
    /// The node's certificate chain.
    pub cert_pem: String,
    /// The node's key.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// From when to when the certificate is valid; `None` if it does not read.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let chain = certificates(&self.cert_pem).ok()?;
        let (_, leaf) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
        let time = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).ok();
        let validity = leaf.validity();
        Some((time(validity.not_before)?, time(validity.not_after)?))
    }

    /// Whether the certificate's time is over at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.validity().is_some_and(|(_, end)| end <= now)
    }

    /// Whether the key is the one the certificate was made for.
    pub(crate) fn fits(&self) -> bool {
        let (Ok(key), Ok(chain)) = (
            KeyPair::from_pem(&self.key_pem),
            certificates(&self.cert_pem),
        ) else {
            return false;
        };
        chain.first().is_some_and(|leaf| {
            x509_parser::parse_x509_certificate(leaf)
                .is_ok_and(|(_, c)| c.public_key().raw == key.subject_public_key_info())
        })
    }
}

const ROOTS: &str = "ca.pem";
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node.key";
const KEY_NEXT: &str = "node.key.next";

/// The identity stored in `DATA/pki`; `None` if this node has not joined.
///
/// # Errors
/// [`JoinError::Store`] if a file is there and cannot be read.
pub fn load(data_dir: &Path) -> Result<Option<Identity>, JoinError> {
    let pki = data_dir.join("pki");
    let read = |name: &str| match fs::read_to_string(pki.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JoinError::Store {
            path: pki.join(name),
            source,
        }),
    };
    let (Some(ca_pem), Some(cert_pem)) = (read(ROOTS)?, read(CERTIFICATE)?) else {
        return Ok(None);
    };
    for name in [KEY, KEY_NEXT] {
        let Some(key_pem) = read(name)? else { continue };
        let identity = Identity {
            ca_pem: ca_pem.clone(),
            cert_pem: cert_pem.clone(),
            key_pem,
        };
        if identity.fits() {
            return Ok(Some(identity));
        }
    }
    Ok(None)
}

/// Stores an identity in `DATA/pki`: the directory 0700, the files 0600. Whenever it is interrupted, [`load`] gives the
/// identity of before or this one.
///
/// # Errors
/// [`JoinError::Store`].
pub fn save(data_dir: &Path, identity: &Identity) -> Result<(), JoinError> {
    let pki = data_dir.join("pki");
    let stored = (|| {
        fs::create_dir_all(&pki)?;
        fs::set_permissions(&pki, fs::Permissions::from_mode(0o700))?;
        write(&pki, KEY_NEXT, &identity.key_pem)?;
        write(&pki, ROOTS, &identity.ca_pem)?;
        write(&pki, CERTIFICATE, &identity.cert_pem)?;
        fs::rename(pki.join(KEY_NEXT), pki.join(KEY))?;
        fs::File::open(&pki)?.sync_all()
    })();
    stored.map_err(|source| JoinError::Store { path: pki, source })
}

fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temp = dir.join(format!(".{name}.new"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temp, dir.join(name))?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::CertificateParams;

    fn identity() -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity {
            ca_pem: "ca".into(),
            cert_pem: CertificateParams::default()
                .self_signed(&key)
                .unwrap()
                .pem(),
            key_pem: key.serialize_pem(),
        }
    }

    #[test]
    fn an_identity_is_stored_privately_and_survives_a_crash_between_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (identity(), identity());
        assert_eq!(load(dir.path()).unwrap(), None);
        save(dir.path(), &old).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(old.clone()));
        let pki = dir.path().join("pki");
        let mode = fs::metadata(pki.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // After the first, second and third step of a renewal.
        fs::write(pki.join(KEY_NEXT), &new.key_pem).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(old));
        fs::write(pki.join(CERTIFICATE), &new.cert_pem).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(new.clone()));
        fs::rename(pki.join(KEY_NEXT), pki.join(KEY)).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(new));
    }

    #[test]
    fn the_time_of_a_certificate_is_read() {
        let (_, end) = identity().validity().unwrap();
        assert!(!identity().is_expired(Timestamp::now()) && identity().is_expired(end));
    }
}
