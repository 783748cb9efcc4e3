//! Making certificates: roots, their cross signatures, and what each kind of holder gets.

use std::net::IpAddr;
use std::time::Duration;

use coracle_api::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};

use super::lives::window;
use crate::error::StartError;

/// Who a certificate is for. Nothing of a certificate request but its public key is ever taken over.
pub(crate) enum Profile<'a> {
    /// A scheduler member: serves the API and calls runners.
    Member {
        /// Node name.
        name: &'a str,
        /// Node id.
        id: &'a str,
        /// Further names and addresses the API is reached by.
        hosts: &'a [String],
    },
    /// A runner: calls the API, serves logs and pod traffic.
    Node {
        /// Node name.
        name: &'a str,
        /// Node id.
        id: &'a str,
    },
    /// The administrator of the kubeconfig.
    Admin,
}

pub(super) fn pki(e: impl std::fmt::Display) -> StartError {
    StartError::Pki(e.to_string())
}

/// A new P-256 key.
pub(super) fn new_key() -> Result<KeyPair, StartError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(pki)
}

/// A certificate for a profile, signed by `issuer`. PEM.
pub(super) fn leaf(
    cluster: &str,
    profile: &Profile,
    key: &impl PublicKeyData,
    issuer: &Issuer<'_, KeyPair>,
    now: Timestamp,
    life: Duration,
) -> Result<String, StartError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    valid(&mut params, now, life);
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (user, group) = match profile {
        Profile::Admin => ("coracle-admin".to_string(), "system:masters"),
        Profile::Node { name, .. } => (format!("system:node:{name}"), "system:nodes"),
        Profile::Member { name, .. } => (format!("system:member:{name}"), "system:members"),
    };
    params.distinguished_name.push(DnType::CommonName, user);
    params
        .distinguished_name
        .push(DnType::OrganizationName, group);
    if let Profile::Node { name, id } | Profile::Member { name, id, .. } = profile {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        params
            .subject_alt_names
            .push(SanType::DnsName((*name).try_into().map_err(pki)?));
        let uri = format!("coracle://{cluster}/nodes/{id}");
        params
            .subject_alt_names
            .push(SanType::URI(uri.as_str().try_into().map_err(pki)?));
    }
    if let Profile::Member { hosts, .. } = profile {
        for host in *hosts {
            let san = match host.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(pki)?),
            };
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
    }
    Ok(params.signed_by(key, issuer).map_err(pki)?.pem())
}

/// What a root says about itself. Each has a name of its own, so that a verifier that chooses by name finds the right one.
pub(super) fn root_params(cluster: &str, now: Timestamp, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(
        DnType::CommonName,
        format!("coracle {cluster} {:08x}", rand::random::<u32>()),
    );
    valid(&mut params, now, life);
    params.serial_number = Some(serial());
    // One level: the next root, signed by this one while a rotation lasts.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

/// The same name and key as a certificate of another root, which may issue for end users only.
pub(super) fn cross(
    root: &CertificateParams,
    key: &KeyPair,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<String, StartError> {
    let mut params = root.clone();
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    Ok(params.signed_by(key, issuer).map_err(pki)?.pem())
}

/// 128 random bits, positive.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Sets the validity, to the second.
fn valid(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let (from, to) = window(now, life);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(to);
}
