//! Certificates for the peer: one CA, one server certificate for all members (server and peer port), one client. Keys
//! are ECDSA P-256, as ours are.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ClientConfig;

use crate::bench::load::http2::client_tls;

/// Files for the servers and the configuration of the clients.
pub struct Pki {
    /// CA certificate.
    pub ca: PathBuf,
    /// Server certificate.
    pub cert: PathBuf,
    /// Server key.
    pub key: PathBuf,
    /// Of clients.
    pub client: Arc<ClientConfig>,
}

impl Pki {
    /// Makes everything anew under `dir`, for servers on `addresses`.
    pub fn new(dir: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "bench CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::new(params, ca_key);
        let leaf = |name: &str| -> Result<(String, String)> {
            let key = KeyPair::generate()?;
            let mut p = CertificateParams::new(vec!["localhost".to_string()])?;
            p.distinguished_name.push(DnType::CommonName, name);
            p.subject_alt_names
                .extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
            p.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
            p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            Ok((p.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let (server_cert, server_key) = leaf("server")?;
        let (client_cert, client_key) = leaf("client")?;
        Ok(Self {
            ca: write("ca.crt", &ca.pem())?,
            cert: write("server.crt", &server_cert)?,
            key: write("server.key", &server_key)?,
            client: client_tls(
                ca.pem().as_bytes(),
                client_cert.as_bytes(),
                client_key.as_bytes(),
            )?,
        })
    }
}
