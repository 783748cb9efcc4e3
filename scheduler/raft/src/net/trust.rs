//! Whom this member trusts, and reading from a certificate who showed it.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::types::parse_node_id;

/// Organisation in the certificates of scheduler members; nobody else may speak raft.
pub const MEMBERS: &str = "system:members";
/// Server name in the handshake. What counts is the id in the certificate, which is checked against the addressed one.
pub const SERVER_NAME: &str = "kubernetes";

/// Keys and roots of one moment. Replaced as a whole at renewal; new handshakes use the new one.
#[derive(Clone)]
pub struct Trust {
    /// The cluster's id, 16 hex digits.
    pub cluster: String,
    /// For dialling; shows this member's certificate.
    pub client: Arc<rustls::ClientConfig>,
    /// For answering; requires a client certificate.
    pub server: Arc<rustls::ServerConfig>,
}

/// Who showed a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Cluster id.
    pub cluster: String,
    /// Node id.
    pub id: u64,
    /// Whether it is a scheduler member's.
    pub member: bool,
}

/// Reads the URI `coracle://CLUSTER/nodes/ID` and the organisation. `None` if there is no such URI.
pub fn shown(certificate: &CertificateDer<'_>) -> Option<Shown> {
    let (_, cert) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let member = cert
        .subject()
        .iter_organization()
        .any(|o| o.as_str().is_ok_and(|o| o == MEMBERS));
    let names = cert.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        let (cluster, id) = uri.strip_prefix("coracle://")?.split_once("/nodes/")?;
        Some(Shown {
            cluster: cluster.into(),
            id: parse_node_id(id)?,
            member,
        })
    })
}

/// Checks the first certificate of a peer. `expected`: the addressed id, if it was us who dialled.
pub fn check(
    certificates: Option<&[CertificateDer<'_>]>,
    cluster: &str,
    expected: Option<u64>,
) -> Result<u64, String> {
    let shown = certificates
        .and_then(|c| c.first())
        .and_then(shown)
        .ok_or_else(|| {
            "E_RAFT_FOREIGN: the peer showed no certificate of a cluster member".to_string()
        })?;
    if shown.cluster != cluster {
        return Err(format!(
            "E_CLUSTER_MISMATCH: the peer belongs to cluster {}, this member to {cluster}; \
             check --raft-addr and --data-dir: one of them is of another cluster",
            shown.cluster
        ));
    }
    if !shown.member {
        return Err(format!(
            "E_RAFT_FOREIGN: node {} is no scheduler member",
            crate::types::node_id_text(shown.id)
        ));
    }
    match expected {
        Some(id) if id != shown.id => Err(format!(
            "E_MEMBER_ADDRESS: member {} answers where {} was expected; its data directory was moved or replaced: \
             remove the old member with `coracle members remove`",
            crate::types::node_id_text(shown.id),
            crate::types::node_id_text(id)
        )),
        _ => Ok(shown.id),
    }
}
