//! Joining a cluster: a one-time token becomes a certificate.
//!
//! A token is `coracle.CA_HASH.ID.SECRET`. Nothing is trusted before the hash: the API server must show a certificate
//! chain whose root has that SHA-256, or hand out a CA bundle that holds such a root; only then is the secret sent, over
//! TLS verified against exactly that root. The key never leaves this machine.

mod ask;
mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_api::Timestamp;
use http::Method;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::endpoints::authority;
use crate::tls::{certificates, provider};
use ask::{Seen, ask};
pub use store::{Identity, load, save};

/// Addresses tried at most: a cluster has one, three or five members.
const ADDRESSES_MAX: usize = 16;

/// Why joining failed. Each has a stable code in front and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is not one.
    #[error("E_JOIN_TOKEN: {0}; make one with `coracle token create --role runner`")]
    Token(&'static str),
    /// The API server cannot be reached.
    #[error(
        "E_JOIN_UNREACHABLE: {addr} cannot be reached: {why}; --join takes the address of an API server, HOST:PORT"
    )]
    Unreachable {
        /// Address given.
        addr: String,
        /// What happened.
        why: String,
    },
    /// Somebody else answers there.
    #[error(
        "E_JOIN_CA: the server at {addr} does not belong to the cluster of this token; check the address, or make a new token"
    )]
    WrongCluster {
        /// Address given.
        addr: String,
    },
    /// The clocks are too far apart for certificates.
    #[error(
        "E_CLOCK_SKEW: the certificate of {addr} is not valid at this machine's time, {now}; set the clock (NTP), then start again"
    )]
    Clock {
        /// Address given.
        addr: String,
        /// This machine's time.
        now: Timestamp,
    },
    /// The API server said no, in its own coded words.
    #[error("E_JOIN_REFUSED: {0}")]
    Told(String),
    /// The API server said no.
    #[error("E_JOIN_REFUSED: {0}; make a new token with `coracle token create --role runner`")]
    Refused(String),
    /// The certificate or key cannot be made or used.
    #[error("E_JOIN_KEY: {0}")]
    Key(String),
    /// They cannot be stored.
    #[error("E_JOIN_STORE: {path} cannot be written")]
    Store {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A parsed token.
#[derive(Clone, PartialEq, Eq)]
struct Token {
    ca_hash: [u8; 32],
    /// All of it; the server checks the rest.
    text: String,
}

impl Token {
    fn parse(text: &str) -> Result<Self, JoinError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let ["coracle", hash, id, secret] = parts.as_slice() else {
            return Err(JoinError::Token(
                "the token does not have the form coracle.HASH.ID.SECRET",
            ));
        };
        let mut ca_hash = [0; 32];
        hex::decode_to_slice(hash, &mut ca_hash)
            .map_err(|_| JoinError::Token("the token's hash is damaged"))?;
        if id.is_empty() || secret.is_empty() {
            return Err(JoinError::Token("the token is cut off"));
        }
        Ok(Self {
            ca_hash,
            text: text.trim().into(),
        })
    }
}

/// What a join gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Key, certificate and roots; stored in `DATA/pki`.
    pub identity: Identity,
    /// Where the API is served, `https://HOST:PORT` each: the address that answered, then those it told of.
    pub api_urls: Vec<String>,
}

/// Joins the cluster whose API servers listen at `api_addrs` (`HOST:PORT` each, separated by commas, with or without
/// `https://`) as the node `name`, and stores key, certificate and roots in `DATA/pki`. The first address that can be
/// reached decides.
///
/// # Errors
/// [`JoinError`]; the token is used up only if the API server said yes.
pub async fn join(
    data_dir: &Path,
    api_addrs: &str,
    token: &str,
    name: &str,
) -> Result<Joined, JoinError> {
    let token = Token::parse(token)?;
    let mut failed = None;
    for addr in addresses(api_addrs) {
        match join_at(data_dir, &addr, &token, name).await {
            Err(e @ JoinError::Unreachable { .. }) => failed = failed.or(Some(e)),
            decided => return decided,
        }
    }
    Err(failed.unwrap_or_else(|| JoinError::Unreachable {
        addr: format!("{api_addrs:?}"),
        why: "it names no address".into(),
    }))
}

/// The addresses of a list, `HOST:PORT` each.
pub fn addresses(text: &str) -> Vec<String> {
    let all = text.split(',').map(|a| authority(a.trim()).to_string());
    all.filter(|a| !a.is_empty()).take(ADDRESSES_MAX).collect()
}

async fn join_at(
    data_dir: &Path,
    addr: &str,
    token: &Token,
    name: &str,
) -> Result<Joined, JoinError> {
    let root = pinned_root(addr, token).await?;
    let (key_pem, csr) = request_for(name)?;
    let body = json!({"token": token.text, "name": name, "csr": csr});
    let mut store = RootCertStore::empty();
    store.add(root).map_err(|e| JoinError::Key(e.to_string()))?;
    let tls = tls()?.with_root_certificates(store).with_no_client_auth();
    let (status, answer) = ask(addr, tls, Method::POST, "/coracle/v1/join", Some(&body)).await?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    if !status.is_success() {
        let why = answer["message"]
            .as_str()
            .map_or_else(|| status.to_string(), String::from);
        let coded = why
            .split_once(':')
            .is_some_and(|(code, _)| code.starts_with("E_") && !code.contains(' '));
        return Err(if coded {
            JoinError::Told(why)
        } else {
            JoinError::Refused(why.trim_end_matches('.').into())
        });
    }
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_string();
    let identity = Identity {
        ca_pem: text("ca"),
        cert_pem: text("certificate"),
        key_pem,
    };
    let pinned = certificates(&identity.ca_pem)
        .is_ok_and(|all| all.iter().any(|c| hash(c) == token.ca_hash));
    if !pinned || !identity.fits() {
        return Err(JoinError::WrongCluster { addr: addr.into() });
    }
    save(data_dir, &identity)?;
    let mut api_urls = vec![format!("https://{addr}")];
    for url in answer["api"].as_array().into_iter().flatten() {
        if let Some(url) = url.as_str()
            && !api_urls
                .iter()
                .any(|known| authority(known) == authority(url))
        {
            api_urls.push(url.into());
        }
    }
    Ok(Joined { identity, api_urls })
}

fn tls() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, JoinError> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| JoinError::Key(e.to_string()))
}

fn hash(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// A key and a certificate request. What the request says about names is a hint; the cluster decides.
pub(crate) fn request_for(name: &str) -> Result<(String, String), JoinError> {
    let bad = |e: rcgen::Error| JoinError::Key(e.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{name}"));
    params
        .distinguished_name
        .push(DnType::OrganizationName, crate::tls::NODES);
    let csr = params
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .map_err(bad)?;
    Ok((key.serialize_pem(), csr))
}

/// The root with the token's hash: from the chain the server shows, or from the bundle it hands to anybody. Who hands it
/// over does not matter, the hash says that it is the right one.
async fn pinned_root(addr: &str, token: &Token) -> Result<CertificateDer<'static>, JoinError> {
    let seen = Arc::new(Seen::new());
    let tls = tls()?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let (status, bundle) = ask(addr, tls, Method::GET, "/coracle/v1/ca", None).await?;
    let mut candidates = seen.take();
    if status.is_success() {
        candidates.extend(certificates(&String::from_utf8_lossy(&bundle)).unwrap_or_default());
    }
    let found = candidates.into_iter().find(|c| hash(c) == token.ca_hash);
    found.ok_or_else(|| JoinError::WrongCluster { addr: addr.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_four_parts() {
        let hash = "ab".repeat(32);
        let token = Token::parse(&format!("coracle.{hash}.id1.s3cret\n"))
            .ok()
            .unwrap();
        assert_eq!(
            (token.ca_hash, token.text),
            ([0xab; 32], format!("coracle.{hash}.id1.s3cret"))
        );
        for bad in [
            "",
            "coracle",
            "coracle.zz.id.s",
            &format!("coracle.{hash}.id"),
            &format!("coracle.{hash}..s"),
            &format!("x.{hash}.i.s"),
        ] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn several_addresses_may_be_given() {
        assert_eq!(
            addresses("a:1, https://b:2/,,c:3"),
            ["a:1", "b:2", "c:3"].map(String::from)
        );
        assert!(addresses(" ").is_empty());
    }

    #[tokio::test]
    async fn the_first_unreachable_address_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let token = format!("coracle.{}.id.secret", "ab".repeat(32));
        // Two ports that were free a moment ago.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (a, b) = (free(), free());
        let [a, b] = [a, b].map(|l| l.local_addr().unwrap().to_string());
        match join(dir.path(), &format!("{a},{b}"), &token, "n1").await {
            Err(JoinError::Unreachable { addr, .. }) => assert_eq!(addr, a),
            other => panic!("{other:?}"),
        }
    }
}
