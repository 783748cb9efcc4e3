//! Joining a cluster: a one-time token becomes a certificate.
//!
//! A token is `coracle.CA_HASH.ID.SECRET`. Nothing is trusted before the hash: the API server must show a certificate
//! chain whose root has that SHA-256, or hand out a CA bundle that holds such a root; only then is the secret sent, over
//! TLS verified against exactly that root. The key never leaves this machine.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use crate::tls::certificates;

/// Time for each of the two requests.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer taken: a certificate and a few roots.
const ANSWER_BYTES_MAX: usize = 256 << 10;

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

/// A node's key and certificate, and whom it trusts; all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's roots.
    pub ca_pem: String,
    /// The node's certificate chain.
    pub cert_pem: String,
    /// The node's key.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
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

/// Files of an identity in a `pki` directory.
fn paths(pki: &Path) -> [PathBuf; 3] {
    ["ca.pem", "node.pem", "node.key"].map(|name| pki.join(name))
}

/// The identity stored in `DATA/pki`; `None` if this node has not joined.
///
/// # Errors
/// [`JoinError::Store`] if a file is there and cannot be read.
pub fn load(data_dir: &Path) -> Result<Option<Identity>, JoinError> {
    let mut texts = Vec::new();
    for path in paths(&data_dir.join("pki")) {
        match fs::read_to_string(&path) {
            Ok(text) => texts.push(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(JoinError::Store { path, source }),
        }
    }
    let [ca_pem, cert_pem, key_pem] =
        <[String; 3]>::try_from(texts).expect("three files were read");
    Ok(Some(Identity {
        ca_pem,
        cert_pem,
        key_pem,
    }))
}

/// Joins the cluster whose API server listens at `api_addr` (`HOST:PORT`, with or without `https://`) as the node
/// `name`, and stores key, certificate and roots in `DATA/pki`. A TLS provider must be installed in the process.
///
/// # Errors
/// [`JoinError`]; the token is used up only if the API server said yes.
pub async fn join(
    data_dir: &Path,
    api_addr: &str,
    token: &str,
    name: &str,
) -> Result<Identity, JoinError> {
    let token = Token::parse(token)?;
    let addr = api_addr
        .trim_start_matches("https://")
        .trim_end_matches('/')
        .to_string();
    let root = pinned_root(&addr, &token).await?;
    let (key_pem, csr) = request_for(name)?;
    let body = json!({"token": token.text, "name": name, "csr": csr});
    let mut store = RootCertStore::empty();
    store.add(root).map_err(|e| JoinError::Key(e.to_string()))?;
    let tls = rustls::ClientConfig::builder()
        .with_root_certificates(store)
        .with_no_client_auth();
    let (status, answer) = ask(&addr, tls, Method::POST, "/coracle/v1/join", Some(&body)).await?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    if !status.is_success() {
        let why = answer["message"]
            .as_str()
            .map_or_else(|| status.to_string(), String::from);
        return Err(JoinError::Refused(why.trim_end_matches('.').into()));
    }
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_string();
    let identity = Identity {
        ca_pem: text("ca"),
        cert_pem: text("certificate"),
        key_pem,
    };
    let pinned = certificates(&identity.ca_pem)
        .is_ok_and(|all| all.iter().any(|c| hash(c) == token.ca_hash));
    if !pinned || certificates(&identity.cert_pem).is_err() {
        return Err(JoinError::WrongCluster { addr });
    }
    save(data_dir, &identity)?;
    Ok(identity)
}

fn hash(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// A key and a certificate request. What the request says about names is a hint; the cluster decides.
fn request_for(name: &str) -> Result<(String, String), JoinError> {
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
    let tls = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let (status, bundle) = ask(addr, tls, Method::GET, "/coracle/v1/ca", None).await?;
    let mut candidates =
        std::mem::take(&mut *seen.chain.lock().unwrap_or_else(PoisonError::into_inner));
    if status.is_success() {
        candidates.extend(certificates(&String::from_utf8_lossy(&bundle)).unwrap_or_default());
    }
    let found = candidates.into_iter().find(|c| hash(c) == token.ca_hash);
    found.ok_or_else(|| JoinError::WrongCluster { addr: addr.into() })
}

/// Takes any certificate and remembers the chain. Used only to fetch public roots, which are then checked by hash.
#[derive(Debug)]
struct Seen {
    chain: Mutex<Vec<CertificateDer<'static>>>,
    schemes: Vec<SignatureScheme>,
}

impl Seen {
    fn new() -> Self {
        let schemes = CryptoProvider::get_default()
            .map(|p| p.signature_verification_algorithms.supported_schemes())
            .unwrap_or_else(|| {
                vec![
                    SignatureScheme::ECDSA_NISTP256_SHA256,
                    SignatureScheme::ED25519,
                ]
            });
        Self {
            chain: Mutex::default(),
            schemes,
        }
    }
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        chain.extend(
            std::iter::once(leaf)
                .chain(more)
                .map(|c| c.clone().into_owned()),
        );
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
        self.schemes.clone()
    }
}

/// One request on a connection of its own.
async fn ask(
    addr: &str,
    tls: rustls::ClientConfig,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Bytes), JoinError> {
    let unreachable = |why: String| JoinError::Unreachable {
        addr: addr.into(),
        why,
    };
    let work = async {
        let host = addr
            .rsplit_once(':')
            .map_or(addr, |(host, _)| host)
            .trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_string())
            .map_err(|_| unreachable("it is not HOST:PORT".into()))?;
        let tcp = TcpStream::connect(addr)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
            .connect(name, tcp)
            .await;
        let stream = stream.map_err(|e| {
            match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    JoinError::WrongCluster { addr: addr.into() }
                }
                _ => unreachable(e.to_string()),
            }
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| unreachable(e.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, addr)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(
                body.map(Value::to_string).unwrap_or_default(),
            )))
            .map_err(|e| unreachable(e.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        Ok((
            status,
            body.map_err(|e| unreachable(e.to_string()))?.to_bytes(),
        ))
    };
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(unreachable(format!("no answer in {} s", TIMEOUT.as_secs()))))
}

/// Stores an identity in `DATA/pki`: the directory 0700, the key 0600 and last, so that a half-written identity counts
/// as none.
///
/// # Errors
/// [`JoinError::Store`].
pub fn save(data_dir: &Path, identity: &Identity) -> Result<(), JoinError> {
    let pki = data_dir.join("pki");
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| JoinError::Store { path, source }
    };
    fs::create_dir_all(&pki).map_err(failed(&pki))?;
    fs::set_permissions(&pki, fs::Permissions::from_mode(0o700)).map_err(failed(&pki))?;
    for (path, text) in
        paths(&pki)
            .iter()
            .zip([&identity.ca_pem, &identity.cert_pem, &identity.key_pem])
    {
        let temp = path.with_extension("new");
        let written = (|| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temp)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temp, path)?;
            fs::File::open(&pki)?.sync_all()
        })();
        written.map_err(failed(path))?;
    }
    Ok(())
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
    fn an_identity_is_stored_privately_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        let (key_pem, csr) = request_for("n1").unwrap();
        assert!(csr.contains("CERTIFICATE REQUEST"));
        let identity = Identity {
            ca_pem: "ca".into(),
            cert_pem: "cert".into(),
            key_pem,
        };
        save(dir.path(), &identity).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(identity));
        let mode = fs::metadata(dir.path().join("pki/node.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
