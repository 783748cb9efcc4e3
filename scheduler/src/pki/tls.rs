//! rustls configurations over the cluster's CA. The provider is named here, so that no process default is needed.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::ca::NodeIdentity;
use crate::error::StartError;

fn tls(e: impl std::fmt::Display) -> StartError {
    StartError::Pki(e.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn parts(
    identity: &NodeIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), StartError> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(tls)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(tls)?;
    Ok((chain, key))
}

fn certified(identity: &NodeIdentity) -> Result<CertifiedKey, StartError> {
    let (chain, key) = parts(identity)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(tls)
}

/// The certificate a listener shows; replaced at renewal without touching connections.
#[derive(Debug)]
pub(crate) struct Resolver(ArcSwap<CertifiedKey>);

impl Resolver {
    /// Shows this identity.
    pub fn new(identity: &NodeIdentity) -> Result<Arc<Self>, StartError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified(identity)?))))
    }

    /// Shows this one from the next handshake on.
    pub fn replace(&self, identity: &NodeIdentity) -> Result<(), StartError> {
        self.0.store(Arc::new(certified(identity)?));
        Ok(())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// For the API listener: client certificates are optional here and required by authorisation.
pub(crate) fn server_config(
    roots: RootCertStore,
    resolver: Arc<Resolver>,
) -> Result<ServerConfig, StartError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(tls)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// For calls to runners, with this member's certificate.
pub(crate) fn client_config(
    roots: RootCertStore,
    identity: &NodeIdentity,
) -> Result<ClientConfig, StartError> {
    let (chain, key) = parts(identity)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
