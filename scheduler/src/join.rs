//! `POST /coracle/v1/join`: a one-time secret and a certificate request in, a certificate out. Nothing else is created;
//! the node introduces itself through the API with what it got.
//!
//! Body: `{"token", "name", "csr"}`: the whole token or `ID.SECRET` of it, the node's name, and a PEM certificate request
//! of which only the public key is used; a scheduler adds `"role": "scheduler"`, `"raft"` (HOST:PORT), `"api"` (URL) and `"now"` (its clock).
//! Answer: `{"certificate", "ca", "cluster", "id", "now", "api"}`: PEM chain, PEM roots, cluster id, the new node's id,
//! this server's clock, the API's URLs. A scheduler also gets `"seal"` (the key that opens the CA's key, base64) and
//! `"members"`; it goes on with `POST /coracle/v1/members`.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::{ApiError, Key, Timestamp};
use coracle_raft::node_id_text;
use coracle_server::{Join, Members as _};
use coracle_state::{BoxFuture, Views};
use rcgen::CertificateSigningRequestParams;
use serde_json::{Value, json};

use crate::enter::CLOCK_SKEW_MAX_S;
use crate::members::Members;
use crate::pki::{Ca, Profile};
use crate::start::API_NAMES;
use crate::tokens::{Role, TokenStore};

/// Longest certificate request accepted: a P-256 one has some 500 bytes, RSA-4096 under 2 KiB.
const CSR_BYTES_MAX: usize = 16 << 10;

/// Lets nodes in.
pub(crate) struct Joining {
    pub tokens: Arc<TokenStore>,
    pub ca: Arc<Ca>,
    pub views: Arc<dyn Views>,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub members: Arc<Members>,
    /// `DATA/pki`, where the sealing key is.
    pub pki: PathBuf,
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
        let (role, row) = self.tokens.check(token).await?;
        check_role(role, body["role"].as_str().unwrap_or("runner"))?;
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
        let now = (self.clock)();
        let internal = |e: crate::StartError| ApiError::new(500, "InternalError", e.to_string());
        let id = loop {
            // An id is never given twice, however unlikely it is to be drawn again.
            let id = rand::random::<u64>().max(1);
            if !self.members.knows(id) {
                break node_id_text(id);
            }
        };
        let hosts: Vec<String> = API_NAMES.iter().map(ToString::to_string).collect();
        let (profile, mut more) = match role {
            Role::Runner => {
                self.check_free(name)?;
                (Profile::Node { name, id: &id }, json!({}))
            }
            Role::Scheduler => {
                check_clock(&body, now)?;
                let raft = body["raft"].as_str().unwrap_or_default();
                self.members.check_joiner(name, raft)?;
                let seal = self.seal().map_err(internal)?;
                let list = self.members.table();
                let profile = Profile::Member {
                    name,
                    id: &id,
                    hosts: &hosts,
                };
                (profile, json!({"seal": seal, "members": list["members"]}))
            }
        };
        let certificate = self
            .ca
            .issue(&profile, &request.public_key, now)
            .map_err(internal)?;
        self.tokens.redeem(&row).await?;
        tracing::info!(name, id, ?role, "a node has got its certificate");
        more["certificate"] = json!(certificate);
        more["ca"] = json!(self.ca.bundle());
        more["cluster"] = json!(self.ca.cluster());
        more["id"] = json!(id);
        more["now"] = json!(now.to_string());
        more["api"] = self.members.endpoints()["api"].take();
        Ok(more)
    }

    /// The sealing key, base64.
    fn seal(&self) -> Result<String, crate::StartError> {
        let path = self.pki.join("seal.key");
        let text = std::fs::read_to_string(&path).map_err(|e| crate::StartError::io(&path, e))?;
        match hex::decode(text.trim()) {
            Ok(key) if key.len() == 32 => Ok(STANDARD.encode(key)),
            _ => Err(crate::StartError::Seal {
                path,
                why: "it is not 64 hex digits".into(),
            }),
        }
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

/// A runner gets no key of the cluster, and a scheduler is told before its token is gone.
fn check_role(token: Role, asked: &str) -> Result<(), ApiError> {
    let (word, other) = match token {
        Role::Runner => ("runner", "scheduler"),
        Role::Scheduler => ("scheduler", "runner"),
    };
    if asked == word {
        return Ok(());
    }
    let message = format!(
        "E_TOKEN_ROLE: this token lets a {word} in, not a {other}; make another one with `coracle token create --role {other}`"
    );
    Err(ApiError::new(403, "Forbidden", message))
}

/// Certificates, leases and stamps go by clocks. Checked before the token is used up.
fn check_clock(body: &Value, now: Timestamp) -> Result<(), ApiError> {
    let Some(theirs) = body["now"].as_str() else {
        return Ok(());
    };
    let theirs: Timestamp = theirs
        .parse()
        .map_err(|_| ApiError::bad_request("now: is no RFC 3339 time"))?;
    let off = theirs.duration_since(now).as_secs();
    if off.abs() <= CLOCK_SKEW_MAX_S {
        return Ok(());
    }
    let message = format!(
        "E_CLOCK_SKEW: the joining machine's clock is {} s {} this cluster's; set it (NTP), then start again",
        off.abs(),
        if off > 0 { "ahead of" } else { "behind" }
    );
    Err(ApiError::new(409, "Conflict", message))
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
