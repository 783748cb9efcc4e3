//! Certificates in and out: parsing, both sides of mutual TLS, and who the other side is.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

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

fn bad(what: &'static str) -> impl Fn(String) -> BadTls {
    move |why| BadTls { what, why }
}

/// The pieces of TLS, parsed.
pub(crate) struct Material {
    pub roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Material {
    pub fn parse(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Self, BadTls> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
        Ok(Self {
            roots: certificates(ca_pem).map_err(bad("the cluster's certificate authority"))?,
            chain: certificates(cert_pem).map_err(bad("this node's certificate"))?,
            key: key.map_err(|e| bad("this node's key")(e.to_string()))?,
        })
    }

    fn store(&self) -> Result<RootCertStore, BadTls> {
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store
                .add(root.clone())
                .map_err(|e| bad("the cluster's certificate authority")(e.to_string()))?;
        }
        Ok(store)
    }

    /// Our side when we connect.
    pub fn client(&self) -> Result<ClientConfig, BadTls> {
        ClientConfig::builder()
            .with_root_certificates(self.store()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|e| bad("this node's certificate")(e.to_string()))
    }

    /// Our side when others connect. A client without a certificate is let in and told apart later.
    pub fn server(&self) -> Result<ServerConfig, BadTls> {
        let verifier = WebPkiClientVerifier::builder(Arc::new(self.store()?))
            .allow_unauthenticated()
            .build();
        let verifier =
            verifier.map_err(|e| bad("the cluster's certificate authority")(e.to_string()))?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|e| bad("this node's certificate")(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
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

    /// Whether it may read metrics.
    pub fn may_read_metrics(&self) -> bool {
        self.any(&[NODES, MEMBERS, MASTERS])
    }
}
