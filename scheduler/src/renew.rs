//! Renewal: of this member's own certificates (the one it shows, calls and speaks raft with, and the administrator's
//! kubeconfig), and of runners' by `POST /coracle/v1/renew`. Nothing restarts; connections stay, and the next handshake
//! uses the new certificate.
//!
//! Body of the request, from an authenticated runner: `{"csr", "issuer", "trusts", "expires"}`, all optional. A request
//! with `csr` (PEM, of which only the public key is used) is answered with `{"certificate", "ca"}` for the same name and
//! id; the others are the runner's report about what it uses now (SHA-256 of roots in hex, a time).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::{ApiError, Timestamp};
use coracle_raft::durable;
use coracle_raft::net::TcpTransport;
use coracle_server::Identity;
use rcgen::CertificateSigningRequestParams;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::error::StartError;
use crate::pki::{
    Ca, Clients, NodeIdentity, Profile, Resolver, client_config, ends, kubeconfig, raft_trust,
    renew_at, store_identity,
};
use crate::rotate::{Certifier, Holder, Report, hashes, internal};
use crate::runners::RunnerClient;

/// How often the time is looked at when nothing is due: clocks are set, machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Shortest wait between two looks.
const LOOK_MIN: Duration = Duration::from_millis(100);
/// Wait after a renewal or a report that failed.
const RETRY: Duration = Duration::from_secs(2);
/// Longest certificate request accepted: a P-256 one has some 500 bytes, RSA-4096 under 2 KiB.
const CSR_BYTES_MAX: usize = 16 << 10;
/// Roots in a report; a rotation has two.
const TRUSTS_MAX: usize = 8;

/// Everything needed to issue this member's certificates.
#[derive(Clone)]
pub(crate) struct Renewal {
    pub ca: Arc<Ca>,
    pub name: String,
    pub id: String,
    pub hosts: Vec<String>,
    pub pki: PathBuf,
    pub kubeconfig: PathBuf,
    pub api_url: String,
    /// Where the registry listens beside the API, `HOST:PORT`.
    pub registry: Vec<String>,
}

/// Everything that shows this member's certificate or verifies others'.
pub(crate) struct Shown {
    /// The API listener's certificate.
    pub resolver: Arc<Resolver>,
    /// The API listener's roots.
    pub clients: Arc<Clients>,
    /// Calls to runners.
    pub runners: Arc<RunnerClient>,
    /// The log's transport.
    pub transport: Option<Arc<TcpTransport>>,
}

impl Shown {
    /// Uses this identity from the next handshake on. Verifiers first: a peer may have renewed already.
    pub fn replace(&self, cluster: &str, identity: &NodeIdentity) -> Result<(), StartError> {
        self.clients.replace(&identity.ca)?;
        if let Some(transport) = &self.transport {
            transport.set_trust(raft_trust(cluster, identity)?);
        }
        self.resolver.replace(identity)?;
        let calls = client_config(&identity.ca, identity)?;
        self.runners.tls.store(Arc::new(calls));
        Ok(())
    }
}

impl Renewal {
    /// Issues this member's identity and writes it beside the roots.
    pub fn member(&self, now: Timestamp) -> Result<NodeIdentity, StartError> {
        let profile = Profile::Member {
            name: &self.name,
            id: &self.id,
            hosts: &self.hosts,
        };
        let identity = self.ca.identity(&profile, now)?;
        store_identity(&self.pki, &identity)?;
        Ok(identity)
    }

    /// Issues the administrator's identity and writes the kubeconfig. On a full disk the one of an earlier start stays.
    pub fn admin(&self, now: Timestamp) -> Result<(), StartError> {
        let admin = self.ca.identity(&Profile::Admin, now)?;
        let (path, text) = (&self.kubeconfig, kubeconfig(&self.api_url, &admin));
        match durable::write(path, text.as_bytes(), 0o600) {
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull && path.exists() => {
                tracing::warn!(path = %path.display(), "the disk is full: the file of the last start is kept");
                Ok(())
            }
            other => other.map_err(|e| StartError::io(path, e)),
        }
    }

    /// Renews at two thirds of the life and whenever the CA's roots change, and reports what is in use; until told to
    /// stop. `identity` is what is shown now, made at `issued`.
    pub async fn run(
        self,
        identity: NodeIdentity,
        issued: Timestamp,
        shown: Shown,
        certifier: Arc<Certifier>,
        stop: CancellationToken,
    ) {
        let mut changes = self.ca.changes();
        let clock = certifier.clock.clone();
        let life = self.ca.lives().leaf;
        let (mut identity, mut issued) = (identity, issued);
        let (mut stale, mut reported, mut pause) = (false, false, Duration::ZERO);
        loop {
            let until = Duration::try_from(renew_at(issued, life).duration_since(clock()))
                .unwrap_or(Duration::ZERO);
            let look = until.clamp(LOOK_MIN, LOOK_EVERY);
            let wait = if reported { look } else { look.min(pause) };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => {
                    // The CA lives as long as this does.
                    stale |= changed.is_ok();
                }
                () = tokio::time::sleep(wait) => {}
            }
            let now = clock();
            if stale || now >= renew_at(issued, life) {
                match self.renewed(now, &shown).await {
                    Ok(new) => {
                        tracing::info!("this member's certificates were renewed");
                        (identity, issued, stale, reported) = (new, now, false, false);
                    }
                    Err(error) => {
                        tracing::error!(%error, "this member's certificates were not renewed; again in 2 s");
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(RETRY) => continue,
                        }
                    }
                }
            }
            if !reported {
                let report = Report {
                    id: self.id.clone(),
                    issuer: hashes(&identity.ca).into_iter().next().unwrap_or_default(),
                    trusts: hashes(&identity.ca),
                    expires: ends(&identity.certificate)
                        .map_or_else(String::new, |end| end.to_string()),
                    registry: self.registry.clone(),
                };
                let done = certifier
                    .report(&Holder::Member(self.id.clone()), &report)
                    .await;
                reported = done.is_ok();
                pause = RETRY;
                if let Err(error) = done {
                    tracing::debug!(%error, "this member's certificate is not on record yet");
                }
            }
        }
    }

    async fn renewed(&self, now: Timestamp, shown: &Shown) -> Result<NodeIdentity, StartError> {
        let files = self.clone();
        // Files are synced to disk: not on a thread that answers requests.
        let made = tokio::task::spawn_blocking(move || {
            let identity = files.member(now)?;
            files.admin(now)?;
            Ok::<_, StartError>(identity)
        });
        let identity = made
            .await
            .map_err(|e| StartError::Thread(std::io::Error::other(e)))??;
        shown.replace(self.ca.cluster(), &identity)?;
        Ok(identity)
    }
}

/// Answers a runner's request.
pub(crate) async fn node(
    certifier: &Certifier,
    who: &Identity,
    body: Value,
) -> Result<Value, ApiError> {
    let (Some(name), Some(id)) = (who.node(), who.node_id.as_deref()) else {
        return Err(ApiError::new(
            403,
            "Forbidden",
            "E_RENEW: only a runner's certificate is renewed here; members renew their own",
        ));
    };
    let text = |field: &str| match &body[field] {
        Value::Null => Ok(None),
        Value::String(s) if s.len() <= CSR_BYTES_MAX => Ok(Some(s.as_str())),
        _ => Err(ApiError::bad_request(format!(
            "{field}: must be a string of at most {CSR_BYTES_MAX} bytes"
        ))),
    };
    let (csr, issuer, expires) = (text("csr")?, text("issuer")?, text("expires")?);
    let trusts = trusts(&body["trusts"])?;
    let mut answer = json!({"ca": certifier.ca.bundle()});
    if let Some(csr) = csr {
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(|e| {
            ApiError::bad_request(format!(
                "csr: is no PEM certificate request with a valid signature ({e})"
            ))
        })?;
        let certificate = certifier
            .ca
            .issue(
                &Profile::Node { name, id },
                &request.public_key,
                (certifier.clock)(),
            )
            .map_err(internal)?;
        answer["certificate"] = json!(certificate);
        tracing::info!(node = name, "a runner's certificate was renewed");
    }
    if let (Some(issuer), Some(expires)) = (issuer, expires) {
        if !is_hash(issuer) {
            return Err(ApiError::bad_request("issuer: must be a SHA-256 in hex"));
        }
        let expires: Timestamp = expires
            .parse()
            .map_err(|_| ApiError::bad_request("expires: must be an RFC 3339 time"))?;
        let report = Report {
            id: id.into(),
            issuer: issuer.into(),
            trusts,
            expires: expires.to_string(),
            registry: Vec::new(),
        };
        certifier
            .report(&Holder::Node(name.into()), &report)
            .await?;
    }
    Ok(answer)
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn trusts(value: &Value) -> Result<Vec<String>, ApiError> {
    let bad = || {
        ApiError::bad_request(format!(
            "trusts: must be a list of at most {TRUSTS_MAX} SHA-256 in hex"
        ))
    };
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) if list.len() <= TRUSTS_MAX => list,
        _ => return Err(bad()),
    };
    list.iter()
        .map(|v| v.as_str().filter(|s| is_hash(s)).map(String::from))
        .collect::<Option<_>>()
        .ok_or_else(bad)
}
