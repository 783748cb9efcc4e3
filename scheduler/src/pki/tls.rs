//! rustls configurations over the cluster's CA. The provider is named here, so that no process default is needed.
//!
//! The API listener's certificate and the roots it verifies clients by are replaced while it runs: both are read at
//! each handshake. Sessions are not resumed: a resumed one would not look at the client's certificate, nor at its end.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::identity::NodeIdentity;
use crate::error::StartError;

pub(super) fn tls(e: impl std::fmt::Display) -> StartError {
    StartError::Pki(e.to_string())
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The roots of a PEM bundle.
pub(crate) fn root_store(bundle: &str) -> Result<RootCertStore, StartError> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        store.add(root.map_err(tls)?).map_err(tls)?;
    }
    Ok(store)
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

pub(super) fn certified(identity: &NodeIdentity) -> Result<CertifiedKey, StartError> {
    let (chain, key) = parts(identity)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(tls)
}

/// The certificate a listener shows; replaced at renewal without touching connections.
#[derive(Debug)]
pub(crate) struct Resolver(ArcSwap<CertifiedKey>);

impl Resolver {
    /// Shows this identity.
    pub fn new(identity: &NodeIdentity) -> Result<Arc<Self>, StartError> {
        Ok(Self::of(certified(identity)?))
    }

    pub(super) fn of(key: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(key)))
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

/// The roots a listener verifies clients by.
#[derive(Debug)]
pub(crate) struct Clients(ArcSwap<Verified>);

#[derive(Debug)]
struct Verified {
    bundle: String,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Verified {
    fn by(bundle: &str) -> Result<Self, StartError> {
        let roots = Arc::new(root_store(bundle)?);
        Ok(Self {
            bundle: bundle.into(),
            verifier: WebPkiClientVerifier::builder_with_provider(roots, provider())
                .allow_unauthenticated()
                .build()
                .map_err(tls)?,
        })
    }
}

impl Clients {
    /// Verifies by these roots (PEM).
    pub fn new(bundle: &str) -> Result<Arc<Self>, StartError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(Verified::by(bundle)?))))
    }

    /// Verifies by these from the next handshake on.
    pub fn replace(&self, bundle: &str) -> Result<(), StartError> {
        if self.0.load().bundle != bundle {
            self.0.store(Arc::new(Verified::by(bundle)?));
        }
        Ok(())
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: a client sends what it has. The names of roots change, and this list could not.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.load().verifier.verify_client_cert(leaf, more, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .load()
            .verifier
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .load()
            .verifier
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.load().verifier.supported_verify_schemes()
    }
}

/// For the API listener: client certificates are optional here and required by authorisation.
pub(crate) fn server_config(
    clients: Arc<Clients>,
    resolver: Arc<Resolver>,
) -> Result<ServerConfig, StartError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(resolver);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// For calls to runners, with this member's certificate; `bundle` has the roots they are verified by.
pub(crate) fn client_config(
    bundle: &str,
    identity: &NodeIdentity,
) -> Result<ClientConfig, StartError> {
    let (chain, key) = parts(identity)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_root_certificates(root_store(bundle)?)
        .with_client_auth_cert(chain, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
