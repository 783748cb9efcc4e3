//! How an empty data directory enters a cluster: a one-time token becomes a certificate, an id and the sealing key;
//! then the process starts its log and asks to be let in.
//!
//! A token is `coracle.CA_HASH.ID.SECRET`. Nothing is trusted before the hash: the API server must hand out a root with
//! that SHA-256, and only then is the secret sent, over TLS verified against exactly that root. The key never leaves
//! this machine. Nothing is written before everything was checked, and the identity last: a directory is either empty
//! or in the cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Timestamp;
use coracle_raft::durable;
use http::{HeaderMap, Method, header};
use jiff::fmt::rfc2822;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::ask::{Answered, AskError, ask, authority};
use crate::data::DataDir;
use crate::error::StartError;
use crate::pki::{NodeIdentity, store_identity};

/// Clocks further apart than this keep a member out, in seconds: certificates begin a day early, but leases and stamps
/// do not, and a clock that far off was never set.
pub(crate) const CLOCK_SKEW_MAX_S: i64 = 30;
/// Time for each request.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a refusal because of a living namesake is waited out: a process that was killed a moment ago is found dead
/// within seconds.
const NAMESAKE_PATIENCE: Duration = Duration::from_secs(8);
/// Wait between two such attempts.
const NAMESAKE_RETRY: Duration = Duration::from_millis(500);

/// File beside the certificates: the hash in the token this directory joined with. Roots change, the unit file of a
/// supervisor does not.
const PINNED: &str = "joined-by";

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a joiner says about itself.
pub(crate) struct Newcomer<'a> {
    /// `HOST:PORT` of its raft listener.
    pub raft: &'a str,
    /// URL of its API.
    pub api: &'a str,
    /// Its clock.
    pub clock: &'a Clock,
}

fn refused(text: String) -> StartError {
    StartError::Join(text)
}

/// The first sentence of every failure to reach the server given by `--join`.
fn unreachable(addr: &str, e: &AskError) -> StartError {
    match e {
        AskError::Unreachable(why) => refused(format!(
            "E_JOIN_UNREACHABLE: {addr} cannot be reached: {why}; --join takes the address of any member's API, HOST:PORT"
        )),
        // The dates of its certificate are judged by this machine's clock.
        AskError::Certificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => refused(format!(
            "E_CLOCK_SKEW: the certificate of {addr} is not valid at this machine's time; set the clock (NTP), then start again"
        )),
        AskError::Certificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => refused(format!(
            "E_JOIN_NAME: the certificate of the API at {addr} does not name that host; start that member with --advertise HOST, or use an address that it names"
        )),
        AskError::Certificate(_) => wrong_cluster(addr),
    }
}

fn wrong_cluster(addr: &str) -> StartError {
    refused(format!(
        "E_JOIN_CA: the server at {addr} does not belong to the cluster of this token; check --join, or make a token there with `coracle token create --role scheduler`"
    ))
}

/// A token's parts: the pinned hash.
pub(crate) fn pinned(token: &str) -> Result<[u8; 32], StartError> {
    let bad = |why: &str| {
        refused(format!(
            "E_JOIN_TOKEN: {why}; make a token with `coracle token create --role scheduler`"
        ))
    };
    let parts: Vec<&str> = token.trim().split('.').collect();
    let ["coracle", hash, id, secret] = parts.as_slice() else {
        return Err(bad("--token does not have the form coracle.HASH.ID.SECRET"));
    };
    let mut pinned = [0; 32];
    hex::decode_to_slice(hash, &mut pinned).map_err(|_| bad("the token's hash is damaged"))?;
    if id.is_empty() || secret.is_empty() {
        return Err(bad("the token is cut off"));
    }
    Ok(pinned)
}

fn digest(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

fn roots(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    // What does not read is no root that could be the pinned one.
    CertificateDer::pem_slice_iter(pem).flatten().collect()
}

/// A directory that is in a cluster already needs no token. One of another cluster is refused: the operator means
/// another directory than the one that was named.
pub(crate) fn check_given_again(data: &DataDir, token: Option<&str>) -> Result<(), StartError> {
    let pki = data.pki()?;
    let known = std::fs::read(pki.join("ca.crt")).unwrap_or_default();
    let first = std::fs::read_to_string(pki.join(PINNED)).unwrap_or_default();
    let foreign = token.and_then(|t| pinned(t).ok()).is_some_and(|hash| {
        first.trim() != hex::encode(hash)
            && !known.is_empty()
            && !roots(&known).iter().any(|r| digest(r) == hash)
    });
    if foreign {
        return Err(refused(format!(
            "E_CLUSTER_MISMATCH: {} belongs to cluster {}, but the token is of another cluster; name an empty directory with --data-dir, or leave --join and --token out",
            data.path().display(),
            data.identity().cluster
        )));
    }
    tracing::info!(
        target: crate::LOG,
        "this directory has joined already: --join and --token are not needed any more"
    );
    Ok(())
}

/// Enters the cluster whose API answers at `target`: writes this node's key, certificate, roots, sealing key and
/// identity. The process then starts its log and asks to be let in.
pub(crate) async fn enter(
    data: &mut DataDir,
    target: &str,
    token: &str,
    me: &Newcomer<'_>,
) -> Result<(), StartError> {
    let hash = pinned(token)?;
    let addr = authority(target);
    let name = data.identity().name.clone();
    let root = pinned_root(addr, &hash, me.clock).await?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|e| StartError::Pki(e.to_string()))?;
    let body = json!({
        "token": token.trim(), "name": name, "csr": request_for(&key, &name)?, "role": "scheduler",
        "raft": me.raft, "api": me.api, "now": (me.clock)().to_string(),
    });
    let answer = redeem(addr, root, body, me.clock).await?;
    check_now(
        addr,
        answer["now"].as_str().and_then(|t| t.parse().ok()),
        me.clock,
    )?;
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_string();
    let (certificate, ca, cluster, id) =
        (text("certificate"), text("ca"), text("cluster"), text("id"));
    let seal = STANDARD.decode(text("seal")).unwrap_or_default();
    let identity = NodeIdentity {
        certificate,
        key: key.serialize_pem(),
        ca,
    };
    let complete = roots(identity.ca.as_bytes())
        .iter()
        .any(|r| digest(r) == hash)
        && !roots(identity.certificate.as_bytes()).is_empty()
        && coracle_raft::parse_node_id(&id).is_some()
        && !cluster.is_empty()
        && seal.len() == 32;
    if !complete {
        return Err(refused(format!(
            "E_JOIN_ANSWER: {addr} sent no complete answer; is it the same version of Coracle?"
        )));
    }
    let pki = data.pki()?;
    for (file, text, mode) in [
        ("seal.key", hex::encode(&seal), 0o600),
        (PINNED, hex::encode(hash), 0o644),
    ] {
        let path = pki.join(file);
        durable::write(&path, format!("{text}\n").as_bytes(), mode)
            .map_err(|e| StartError::io(&path, e))?;
    }
    store_identity(&pki, &identity)?;
    let mut through = vec![addr.to_string()];
    for member in answer["members"].as_array().into_iter().flatten() {
        let api = member["api"].as_str().map(authority).unwrap_or_default();
        if !api.is_empty() && !through.iter().any(|t| t == api) {
            through.push(api.to_string());
        }
    }
    data.set_joining(Some(&through))?;
    data.adopt(&cluster, &id)?;
    tracing::info!(target: crate::LOG, cluster, id, "certificate received: this directory now belongs to the cluster");
    Ok(())
}

/// Sends the secret; waits while a namesake of this node is not known to be dead.
async fn redeem(
    addr: &str,
    root: CertificateDer<'static>,
    mut body: Value,
    clock: &Clock,
) -> Result<Value, StartError> {
    let mut store = RootCertStore::empty();
    store
        .add(root)
        .map_err(|e| StartError::Pki(e.to_string()))?;
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| StartError::Pki(e.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    let tls = Arc::new(tls);
    let since = Instant::now();
    loop {
        body["now"] = json!(clock().to_string());
        let path = "/coracle/v1/join";
        let answered = ask(addr, tls.clone(), Method::POST, path, Some(&body), TIMEOUT)
            .await
            .map_err(|e| unreachable(addr, &e))?;
        if answered.status.is_success() {
            return Ok(answered.json());
        }
        let message = answered.message();
        if message.starts_with("E_NAME_TAKEN") && since.elapsed() < NAMESAKE_PATIENCE {
            tokio::time::sleep(NAMESAKE_RETRY).await;
            continue;
        }
        return Err(refused(match coded(&message) {
            true => message,
            false => format!("E_JOIN_REFUSED: {addr} did not let this node in: {message}"),
        }));
    }
}

/// Whether a sentence begins with a code.
pub(crate) fn coded(message: &str) -> bool {
    message
        .split_once(':')
        .is_some_and(|(code, _)| code.starts_with("E_") && !code.contains(' '))
}

/// A certificate request. What it says about names is a hint; the cluster decides.
fn request_for(key: &KeyPair, name: &str) -> Result<String, StartError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:member:{name}"));
    params
        .serialize_request(key)
        .and_then(|csr| csr.pem())
        .map_err(|e| StartError::Pki(e.to_string()))
}

/// Compares a server's time with ours.
fn check_now(addr: &str, theirs: Option<Timestamp>, clock: &Clock) -> Result<(), StartError> {
    let Some(theirs) = theirs else { return Ok(()) };
    let off = clock().duration_since(theirs).as_secs();
    if off.abs() <= CLOCK_SKEW_MAX_S {
        return Ok(());
    }
    Err(refused(format!(
        "E_CLOCK_SKEW: this machine's clock is {} s {} that of {addr}; set it (NTP), then start again",
        off.abs(),
        if off > 0 { "ahead of" } else { "behind" }
    )))
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new()
        .parse_timestamp(headers.get(header::DATE)?.as_bytes())
        .ok()
}

/// The root with the token's hash: from the chain the server shows, or from the bundle it hands to anybody. Who hands it
/// over does not matter, the hash says that it is the right one.
async fn pinned_root(
    addr: &str,
    hash: &[u8; 32],
    clock: &Clock,
) -> Result<CertificateDer<'static>, StartError> {
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| StartError::Pki(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let path = "/coracle/v1/ca";
    let answered: Answered = ask(addr, Arc::new(tls), Method::GET, path, None, TIMEOUT)
        .await
        .map_err(|e| unreachable(addr, &e))?;
    let found = roots(&answered.body)
        .into_iter()
        .find(|c| digest(c) == *hash);
    let found = found.ok_or_else(|| wrong_cluster(addr))?;
    // A hint of a stranger, but a refusal costs nothing, and the token is spared.
    check_now(addr, date(&answered.headers), clock)?;
    Ok(found)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes any certificate. Used only to fetch public roots, which are then checked by hash.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_before_anybody_is_asked() {
        let good = format!("coracle.{}.0123456789abcdef.aa", "ab".repeat(32));
        assert_eq!(pinned(&format!(" {good}\n")).unwrap(), [0xab; 32]);
        for bad in [
            "",
            "hello",
            "coracle.xx.1.2",
            &good[..good.len() - 3],
            &format!("coracle.{}.1.", "ab".repeat(32)),
        ] {
            let error = pinned(bad).unwrap_err().to_string();
            assert!(error.starts_with("E_JOIN_TOKEN: "), "{bad:?}: {error}");
            assert!(error.contains("token create --role scheduler"), "{error}");
        }
    }

    #[test]
    fn clocks_may_be_half_a_minute_apart() {
        let ours: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let clock: Clock = Arc::new(move || ours);
        for (theirs, fine) in [
            ("2026-11-22T10:00:00Z", true),
            ("2026-11-22T10:00:30Z", true),
            ("2026-11-22T09:59:30Z", true),
            ("2026-11-22T10:00:31Z", false),
            ("2026-11-22T09:59:00Z", false),
        ] {
            let checked = check_now("a:1", theirs.parse().ok(), &clock);
            assert_eq!(checked.is_ok(), fine, "{theirs}");
            if let Err(e) = checked {
                assert!(
                    e.to_string()
                        .starts_with("E_CLOCK_SKEW: this machine's clock is ")
                );
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::DATE,
            "Sun, 22 Nov 2026 10:00:00 GMT".parse().unwrap(),
        );
        assert_eq!(date(&headers), Some(ours));
        assert_eq!(date(&HeaderMap::new()), None);
    }
}
