//! The identity in use: replaced while everything runs, from the next handshake on.
//!
//! Configurations made from a [`Live`] ask it at each handshake for key, certificate and roots, so that whoever holds
//! one (the proxy's connections to peers, clients of the API) never needs a new one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use coracle_api::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::extensions::ParsedExtension;

use crate::join::Identity;
use crate::tls::{BadTls, bad, certificates, provider};

/// The identity in use.
#[derive(Debug)]
pub(crate) struct Live(ArcSwap<Now>);

/// The identity of one moment, in every form it is needed in.
#[derive(Debug)]
struct Now {
    identity: Identity,
    facts: Facts,
    servers: Arc<WebPkiServerVerifier>,
    key: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

/// What is told about an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// SHA-256 in hex of the root its certificate is under, if it is one of those trusted.
    pub issuer: Option<String>,
    /// SHA-256 in hex of the trusted roots, the cluster's issuing one first.
    pub trusts: Vec<String>,
    /// From when to when the certificate is valid.
    pub valid: (Timestamp, Timestamp),
}

impl Facts {
    /// When the certificate should be replaced: at two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        let (from, to) = self.valid;
        let life = to.duration_since(from);
        from.checked_add(life / 3 * 2).unwrap_or(to)
    }
}

impl Now {
    fn of(identity: Identity) -> Result<Self, BadTls> {
        let (of_ca, of_node) = (
            bad("the cluster's certificate authority"),
            bad("this node's certificate"),
        );
        let roots = certificates(&identity.ca_pem).map_err(&of_ca)?;
        let chain = certificates(&identity.cert_pem).map_err(&of_node)?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
            .map_err(|e| bad("this node's key")(e.to_string()))?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(|e| of_ca(e.to_string()))?;
        }
        let store = Arc::new(store);
        let facts = Facts {
            issuer: issuer(&chain, &roots),
            trusts: roots.iter().map(|r| hash(r)).collect(),
            valid: identity
                .validity()
                .ok_or_else(|| of_node("its time does not read".into()))?,
        };
        let key =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|e| of_node(e.to_string()))?;
        let key = Arc::new(key);
        let servers = WebPkiServerVerifier::builder_with_provider(store.clone(), provider())
            .build()
            .map_err(|e| of_ca(e.to_string()))?;
        // A client without a certificate is let in and told apart later.
        let clients = WebPkiClientVerifier::builder_with_provider(store, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| of_ca(e.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| of_node(e.to_string()))?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A resumed session would not look at the client's certificate, nor at its end.
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            identity,
            facts,
            servers,
            key,
            server: Arc::new(server),
        })
    }
}

fn hash(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

/// The trusted root that the leaf's authority key names. While a CA rotates, the chain may end in a certificate of the
/// new root by the old one; what counts is who signed the leaf.
pub(crate) fn issuer(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> Option<String> {
    let authority = extension(chain.first()?, |e| match e {
        ParsedExtension::AuthorityKeyIdentifier(a) => Some(a.key_identifier.as_ref()?.0.to_vec()),
        _ => None,
    })?;
    let named = |root: &&CertificateDer<'_>| {
        extension(root, |e| match e {
            ParsedExtension::SubjectKeyIdentifier(k) => Some(k.0.to_vec()),
            _ => None,
        })
        .is_some_and(|k| k == authority)
    };
    roots.iter().find(named).map(|r| hash(r))
}

fn extension(
    der: &CertificateDer<'_>,
    take: impl Fn(&ParsedExtension<'_>) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    certificate
        .extensions()
        .iter()
        .find_map(|e| take(e.parsed_extension()))
}

impl Live {
    /// Uses an identity.
    pub fn new(identity: Identity) -> Result<Arc<Self>, BadTls> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(Now::of(identity)?))))
    }

    /// Uses this one from the next handshake on.
    pub fn replace(&self, identity: Identity) -> Result<(), BadTls> {
        self.0.store(Arc::new(Now::of(identity)?));
        Ok(())
    }

    /// The one in use.
    pub fn identity(&self) -> Identity {
        self.0.load().identity.clone()
    }

    /// What is told about it.
    pub fn facts(&self) -> Facts {
        self.0.load().facts.clone()
    }

    /// Our side when others connect, for the next handshake.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.0.load().server.clone()
    }

    /// Our side when we connect, for good.
    pub fn client(self: &Arc<Self>) -> Result<ClientConfig, BadTls> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| bad("this node's certificate")(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_client_cert_resolver(self.clone());
        // A resumed session would show the certificate of before.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

impl ResolvesClientCert for Live {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Live {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0
            .load()
            .servers
            .verify_server_cert(leaf, more, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .load()
            .servers
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
            .servers
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.load().servers.supported_verify_schemes()
    }
}
