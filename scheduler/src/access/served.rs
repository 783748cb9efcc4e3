//! A certificate of the operator's own for the registry's listener, read from files that are renewed from outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::StartError;
use crate::pki::{NodeIdentity, Resolver};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The files and what is shown of them.
pub(crate) struct Served {
    chain: PathBuf,
    key: PathBuf,
    shown: NodeIdentity,
    pub resolver: Arc<Resolver>,
}

fn read(chain: &Path, key: &Path) -> Result<NodeIdentity, StartError> {
    let text =
        |path: &Path| std::fs::read_to_string(path).map_err(|e| refused(path, &e.to_string()));
    Ok(NodeIdentity {
        certificate: text(chain)?,
        key: text(key)?,
        ca: String::new(),
    })
}

fn refused(path: &Path, why: &str) -> StartError {
    StartError::Registry(format!(
        "E_REGISTRY_CERT: {} cannot be used: {why}; give --registry-cert the chain and --registry-key its key, both PEM",
        path.display()
    ))
}

impl Served {
    /// Reads the files.
    pub fn read(chain: PathBuf, key: PathBuf) -> Result<Self, StartError> {
        let shown = read(&chain, &key)?;
        let resolver = Resolver::new(&shown).map_err(|e| refused(&chain, &e.to_string()))?;
        Ok(Self {
            chain,
            key,
            shown,
            resolver,
        })
    }

    /// Shows what is in the files from then on when that changed; what cannot be used is said and not shown.
    fn look(&mut self) {
        let found = match read(&self.chain, &self.key) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the registry goes on with the certificate it has");
                return;
            }
        };
        if (&found.certificate, &found.key) == (&self.shown.certificate, &self.shown.key) {
            return;
        }
        match self.resolver.replace(&found) {
            Ok(()) => {
                tracing::info!(path = %self.chain.display(), "the registry shows a new certificate");
                self.shown = found;
            }
            // One file may be ahead of the other for a moment.
            Err(error) => {
                tracing::warn!(%error, path = %self.chain.display(), "the registry goes on with the certificate it has");
            }
        }
    }

    /// Looks at the files until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            // Two small files, once a minute.
            self.look();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn made() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn renewed_files_are_shown_and_broken_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = (dir.path().join("c"), dir.path().join("k"));
        let write = |(c, k): &(String, String)| {
            std::fs::write(&chain, c).unwrap();
            std::fs::write(&key, k).unwrap();
        };
        let error = |served: Result<Served, StartError>| match served {
            Ok(_) => panic!("it was read"),
            Err(e) => e.to_string(),
        };
        let absent = error(Served::read(chain.clone(), key.clone()));
        assert!(absent.starts_with("E_REGISTRY_CERT"), "{absent}");
        let (first, second) = (made(), made());
        write(&(first.0.clone(), "x".into()));
        let broken = error(Served::read(chain.clone(), key.clone()));
        assert!(broken.starts_with("E_REGISTRY_CERT"), "{broken}");
        write(&first);
        let mut served = Served::read(chain.clone(), key.clone()).unwrap();
        write(&(second.0.clone(), "x".into()));
        served.look();
        assert_eq!(served.shown.certificate, first.0);
        std::fs::remove_file(&key).unwrap();
        served.look();
        assert_eq!(served.shown.certificate, first.0);
        write(&second);
        served.look();
        assert_eq!(served.shown.certificate, second.0);
    }
}
