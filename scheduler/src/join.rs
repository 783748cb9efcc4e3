//! `POST /coracle/v1/join`: a one-time secret and a certificate request in, a certificate out. Nothing else is created;
//! the node introduces itself through the API with what it got.
//!
//! Body: `{"token", "name", "csr"}`: the whole token or `ID.SECRET` of it, the node's name, and a PEM certificate request
//! of which only the public key is used. Answer:
//! `{"certificate", "ca", "cluster", "id"}`: PEM chain, PEM roots, cluster id and the new node's id.

use std::sync::Arc;

use coracle_api::{ApiError, Key, Timestamp};
use coracle_raft::node_id_text;
use coracle_server::Join;
use coracle_state::{BoxFuture, Views};
use rcgen::CertificateSigningRequestParams;
use serde_json::{Value, json};

use crate::pki::{Ca, Profile};
use crate::tokens::{Role, TokenStore};

/// Longest certificate request accepted: a P-256 one has some 500 bytes, RSA-4096 under 2 KiB.
const CSR_BYTES_MAX: usize = 16 << 10;

/// Lets nodes in.
pub(crate) struct Joining {
    pub tokens: Arc<TokenStore>,
    pub ca: Arc<Ca>,
    pub views: Arc<dyn Views>,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Joining {
    async fn admit(&self, body: Value) -> Result<Value, ApiError> {
        let text = |field: &str| {
            let value = body[field].as_str().filter(|s| !s.is_empty());
            value.ok_or_else(|| {
                ApiError::bad_request(format!("{field}: is required and must be a string"))
            })
        };
        let (token, name, csr) = (text("token")?, text("name")?, text("csr")?);
        // Everything is checked before the token is used up: a mistake must not cost the operator a new token.
        let (role, row) = self.tokens.check(token)?;
        check_name(name)?;
        if csr.len() > CSR_BYTES_MAX {
            return Err(ApiError::bad_request(
                "csr: is too long for a certificate request",
            ));
        }
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(|e| {
            ApiError::bad_request(format!(
                "csr: is no PEM certificate request with a valid signature ({e})"
            ))
        })?;
        let id = node_id_text(rand::random::<u64>().max(1));
        let profile = match role {
            Role::Runner => {
                self.check_free(name)?;
                Profile::Node { name, id: &id }
            }
        };
        let internal = |e: crate::StartError| ApiError::new(500, "InternalError", e.to_string());
        let certificate = self
            .ca
            .issue(&profile, &request.public_key, (self.clock)())
            .map_err(internal)?;
        self.tokens.redeem(&row).await?;
        tracing::info!(node = name, id, "a node has joined");
        Ok(
            json!({"certificate": certificate, "ca": self.ca.bundle(), "cluster": self.ca.cluster(), "id": id}),
        )
    }

    /// A token is no licence to take over a living node: its certificate would be as good as the real one's.
    fn check_free(&self, name: &str) -> Result<(), ApiError> {
        let view = self.views.view();
        let Some(node) = view.get("nodes", &Key::new("", name)) else {
            return Ok(());
        };
        let node = node.value();
        let ready = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        if !ready {
            return Ok(());
        }
        let message = format!(
            "E_NAME_TAKEN: a node named {name:?} is alive; choose another --name, or wait until it has been found dead"
        );
        Err(ApiError::new(409, "Conflict", message))
    }
}

/// Node names are DNS subdomains, since certificates carry them as DNS names.
fn check_name(name: &str) -> Result<(), ApiError> {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.starts_with(letter)
            && l.ends_with(letter)
            && l.chars().all(|c| letter(c) || c == '-')
    };
    // A name that reads as an address or as one of the API's own names would make a certificate for it.
    let taken = name == "localhost"
        || name == "kubernetes"
        || name.starts_with("kubernetes.")
        || name.parse::<std::net::IpAddr>().is_ok();
    if name.len() <= 253 && !taken && name.split('.').all(label) {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "name: must be a DNS name of a-z, 0-9, '-' and '.', and none that the API server goes by",
    ))
}

impl Join for Joining {
    fn join(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(self.admit(body))
    }
}
