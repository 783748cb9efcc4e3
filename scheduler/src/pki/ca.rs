//! The cluster's certificate authority.

use std::net::IpAddr;
use std::path::Path;

use bytes::Bytes;
use coracle_api::{Key, Timestamp};
use coracle_raft::node_id_text;
use coracle_state::{Command, Expect, Propose, Views};
use jiff::tz::TimeZone;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::seal::Seal;
use crate::error::StartError;

/// Table of the CA record.
const PKI: &str = "coracle.pki";
/// Table of the cluster record.
const CLUSTER: &str = "coracle.cluster";
/// Life of the CA in days.
const CA_DAYS: i64 = 3_650;
/// Life of every other certificate in days; renewed at two thirds.
const LEAF_DAYS: i64 = 365;
/// Certificates begin a day early: clocks differ, and dates are whole days.
const EARLY_DAYS: i64 = 1;

/// The CA record in the replicated state.
#[derive(Serialize, Deserialize)]
struct CaRecord {
    /// Trusted roots as PEM, the issuing one first. A rotation has two for a while.
    roots: Vec<String>,
    /// The issuing root's key (PEM), sealed.
    key: String,
}

/// The cluster record.
#[derive(Serialize, Deserialize)]
struct ClusterRecord {
    /// 16 hex digits.
    id: String,
}

/// The cluster's CA, able to issue.
pub(crate) struct Ca {
    cluster: String,
    roots: Vec<String>,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A key and a certificate, both PEM, and the roots to trust.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// Certificate chain.
    pub certificate: String,
    /// Private key (PKCS#8).
    pub key: String,
    /// Roots.
    pub ca: String,
}

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

fn pki(e: impl std::fmt::Display) -> StartError {
    StartError::Pki(e.to_string())
}

impl Ca {
    /// Loads the CA from the replicated state; at the very first start makes it, with the cluster's id.
    pub async fn load_or_create(
        propose: &dyn Propose,
        views: &dyn Views,
        dir: &Path,
        now: Timestamp,
    ) -> Result<Self, StartError> {
        let (ca_key, cluster_key) = (Key::new("", "ca"), Key::new("", "cluster"));
        let view = views.view();
        if view.get(PKI, &ca_key).is_none() {
            let seal = Seal::open(dir, true)?;
            let cluster = node_id_text(rand::random::<u64>().max(1));
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(pki)?;
            let root = root_params(&cluster, now).self_signed(&key).map_err(pki)?;
            let record = CaRecord {
                roots: vec![root.pem()],
                key: seal.seal(key.serialize_pem().as_bytes(), &about(&cluster))?,
            };
            let put = |table: &str, key: Key, bytes: Vec<u8>| {
                let mut command =
                    Command::put(table, key, Expect::Absent, Bytes::from(bytes), Vec::new());
                command.group = 1;
                command
            };
            let commands = vec![
                put(
                    CLUSTER,
                    cluster_key.clone(),
                    serde_json::to_vec(&ClusterRecord { id: cluster }).map_err(pki)?,
                ),
                put(
                    PKI,
                    ca_key.clone(),
                    serde_json::to_vec(&record).map_err(pki)?,
                ),
            ];
            for result in propose.propose(commands).await? {
                // A refusal means that another member was faster: its record is used.
                if let Err(why) = result {
                    tracing::debug!(%why, "the CA record is there already");
                }
            }
        }
        let view = views.view();
        let read = |table: &str, key: &Key| {
            view.get(table, key)
                .map(|o| o.bytes.clone())
                .ok_or_else(|| pki(format!("the record {table} is missing")))
        };
        let cluster: ClusterRecord =
            serde_json::from_slice(&read(CLUSTER, &cluster_key)?).map_err(pki)?;
        let record: CaRecord = serde_json::from_slice(&read(PKI, &ca_key)?).map_err(pki)?;
        let seal = Seal::open(dir, false)?;
        let key = seal.unseal(&record.key, &about(&cluster.id))?;
        let key = KeyPair::from_pem(&String::from_utf8(key).map_err(pki)?).map_err(pki)?;
        let root = record
            .roots
            .first()
            .ok_or_else(|| pki("the CA record has no root"))?;
        let der = CertificateDer::from_pem_slice(root.as_bytes()).map_err(pki)?;
        let issuer = Issuer::from_ca_cert_pem(root, key).map_err(pki)?;
        Ok(Self {
            cluster: cluster.id,
            roots: record.roots,
            der,
            issuer,
        })
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The roots as one PEM bundle.
    pub fn bundle(&self) -> String {
        self.roots.concat()
    }

    /// SHA-256 of the issuing root, in hex: what a join token pins.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(&self.der))
    }

    /// Roots for a verifier.
    pub fn root_store(&self) -> Result<rustls::RootCertStore, StartError> {
        let mut store = rustls::RootCertStore::empty();
        for root in &self.roots {
            store
                .add(CertificateDer::from_pem_slice(root.as_bytes()).map_err(pki)?)
                .map_err(pki)?;
        }
        Ok(store)
    }

    /// Issues a certificate for a public key. PEM.
    pub fn issue(
        &self,
        profile: &Profile,
        key: &impl PublicKeyData,
        now: Timestamp,
    ) -> Result<String, StartError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        valid(&mut params, now, LEAF_DAYS);
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
            let uri = format!("coracle://{}/nodes/{id}", self.cluster);
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
        Ok(params.signed_by(key, &self.issuer).map_err(pki)?.pem())
    }

    /// Makes a key and issues its certificate.
    pub fn identity(&self, profile: &Profile, now: Timestamp) -> Result<NodeIdentity, StartError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(pki)?;
        Ok(NodeIdentity {
            certificate: self.issue(profile, &key, now)?,
            key: key.serialize_pem(),
            ca: self.bundle(),
        })
    }
}

/// What the seal of a CA key is bound to.
fn about(cluster: &str) -> String {
    format!("coracle ca {cluster}")
}

fn root_params(cluster: &str, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("coracle {cluster}"));
    valid(&mut params, now, CA_DAYS);
    params.serial_number = Some(serial());
    // Nothing below it may issue.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

/// 128 random bits, positive.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// A time some days later (or earlier); the far end of time if there is none.
pub(crate) fn days_after(now: Timestamp, days: i64) -> Timestamp {
    now.checked_add(jiff::SignedDuration::from_hours(days.saturating_mul(24)))
        .unwrap_or(now)
}

/// Sets the validity, from midnight (UTC) to midnight.
fn valid(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let day = |days| {
        let date = days_after(now, days).to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(
            i32::from(date.year()),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    (params.not_before, params.not_after) = (day(-EARLY_DAYS), day(days));
}

/// When a certificate issued at `now` should be replaced.
pub(crate) fn renew_at(now: Timestamp) -> Timestamp {
    days_after(now, LEAF_DAYS * 2 / 3)
}
