//! Certificates in and out: parsing, and who the other side is.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Group of runners.
pub(crate) const NODES: &str = "system:nodes";
/// Group of scheduler members.
pub(crate) const MEMBERS: &str = "system:members";
/// Group of administrators.
const MASTERS: &str = "system:masters";

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be used: {why}")]
pub struct BadTls {
    what: &'static str,
    why: String,
}

pub(crate) fn bad(what: &'static str) -> impl Fn(String) -> BadTls {
    move |why| BadTls { what, why }
}

/// The only cryptography in the product; named here, so that no process default is needed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
        .clone()
}

/// The certificates of a PEM text; at least one.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|e| e.to_string())?;
    if all.is_empty() {
        Err("it holds no certificate".into())
    } else {
        Ok(all)
    }
}

/// Who connected, by a verified certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Common name, empty without a certificate.
    pub name: String,
    /// Organisations.
    pub groups: Vec<String>,
}

impl Peer {
    /// From the certificate chain of a connection; a client without one is in no group.
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let found = chain.and_then(<[_]>::first).and_then(|leaf| {
            let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
            let subject = certificate.subject();
            let name = subject
                .iter_common_name()
                .find_map(|n| n.as_str().ok())
                .unwrap_or_default()
                .to_string();
            let groups = subject
                .iter_organization()
                .filter_map(|o| o.as_str().ok().map(String::from))
                .collect();
            Some(Self { name, groups })
        });
        found.unwrap_or_default()
    }

    fn any(&self, groups: &[&str]) -> bool {
        self.groups.iter().any(|g| groups.contains(&g.as_str()))
    }

    /// Whether it is the API server: the only one that may read logs.
    pub fn is_api_server(&self) -> bool {
        self.any(&[MEMBERS])
    }

    /// Whether it may read layers of images.
    pub fn may_read_blobs(&self) -> bool {
        self.any(&[NODES, MEMBERS])
    }

    /// Whether it may read metrics.
    pub fn may_read_metrics(&self) -> bool {
        self.any(&[NODES, MEMBERS, MASTERS])
    }
}
