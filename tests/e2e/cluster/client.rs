//! The API as a test client sees it: one connection to one member, no retries, and the truth about every call: it was
//! answered, it never left, or nobody knows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

use super::net::{API_PORT, Net, assert_inside};

/// Longest time for a connection and its handshake: members are milliseconds away, but the machine may be busy.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Longest time for an answer. Shorter than the members' own wait for a new leader, so that a member that stands still
/// costs a client no more than this.
pub const CALL_LIMIT: Duration = Duration::from_secs(4);

/// Who the test is: the administrator's certificate, from the first member's kubeconfig.
#[derive(Clone)]
pub struct Credentials {
    tls: Arc<rustls::ClientConfig>,
    /// The kubeconfig's text and the URL in it.
    text: String,
    url: String,
}

impl Credentials {
    /// Reads a kubeconfig.
    #[track_caller]
    pub fn read(path: &std::path::Path) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let text = std::fs::read_to_string(path).unwrap();
        let file: Value = serde_saphyr::from_str(&text).unwrap();
        let (cluster, user) = (&file["clusters"][0]["cluster"], &file["users"][0]["user"]);
        let decode = |field: &Value| {
            use base64::Engine;
            let text = field.as_str().expect("a kubeconfig with its keys inside");
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .unwrap()
        };
        let ca = decode(&cluster["certificate-authority-data"]);
        let chain = decode(&user["client-certificate-data"]);
        let key = decode(&user["client-key-data"]);
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&ca) {
            roots.add(root.unwrap()).unwrap();
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
            .map(Result::unwrap)
            .collect();
        let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        Self {
            tls: Arc::new(tls),
            text,
            url: cluster["server"].as_str().unwrap().to_string(),
        }
    }

    /// The kubeconfig for another member.
    pub fn kubeconfig_for(&self, ip: &str) -> String {
        self.text
            .replace(&self.url, &format!("https://{ip}:{API_PORT}"))
    }
}

/// What became of a call.
#[derive(Debug)]
pub enum Reply {
    /// An answer.
    Answer(StatusCode, Value),
    /// The request never left: it has no effect.
    NotSent(String),
    /// It was sent, perhaps in part, and no answer came.
    NoAnswer(String),
}

/// A client of one member.
pub struct Client {
    credentials: Credentials,
    ip: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub fn new(credentials: &Credentials, member: usize) -> Self {
        Self {
            credentials: credentials.clone(),
            ip: Net::ip_of(member),
            sender: None,
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        assert_inside();
        let go = async {
            let stream = TcpStream::connect((self.ip.as_str(), API_PORT))
                .await
                .map_err(|e| format!("connect: {e}"))?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            let name = ServerName::try_from(self.ip.clone()).map_err(|e| e.to_string())?;
            let stream = tokio_rustls::TlsConnector::from(self.credentials.tls.clone())
                .connect(name, stream)
                .await
                .map_err(|e| format!("TLS: {e}"))?;
            let (sender, connection) = handshake(TokioIo::new(stream))
                .await
                .map_err(|e| format!("HTTP: {e}"))?;
            tokio::spawn(connection);
            Ok(sender)
        };
        match tokio::time::timeout(CONNECT_LIMIT, go).await {
            Ok(done) => done,
            Err(_) => Err("connect: no answer in time".into()),
        }
    }

    /// Sends and answers as soon as there is a head.
    async fn begin(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, Reply> {
        let mut kept = self.sender.take();
        if let Some(s) = &mut kept
            && s.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(s) => s,
            None => self.connect().await.map_err(Reply::NotSent)?,
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                self.sender = Some(sender);
                Ok(response)
            }
            Err(mut e) => {
                let unsent = e.take_message().is_some();
                let text = e.into_error().to_string();
                Err(match unsent {
                    true => Reply::NotSent(text),
                    false => Reply::NoAnswer(text),
                })
            }
        }
    }

    /// One call.
    pub async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Reply {
        self.call_as(method, path, "application/json", body).await
    }

    /// One call with another Content-Type.
    pub async fn call_as(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Reply {
        let request = self.request(method, path, content_type, body);
        let go = async {
            let response = match self.begin(request).await {
                Ok(r) => r,
                Err(reply) => return reply,
            };
            let status = response.status();
            match response.into_body().collect().await {
                Ok(all) => {
                    let bytes = all.to_bytes();
                    let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
                        Value::String(String::from_utf8_lossy(&bytes).into_owned())
                    });
                    Reply::Answer(status, value)
                }
                Err(e) => Reply::NoAnswer(format!("body of {status}: {e}")),
            }
        };
        let reply = match tokio::time::timeout(CALL_LIMIT, go).await {
            Ok(reply) => reply,
            Err(_) => Reply::NoAnswer("no answer in time".into()),
        };
        if !matches!(reply, Reply::Answer(..)) {
            self.sender = None;
        }
        reply
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Request<Full<Bytes>> {
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("{}:{API_PORT}", self.ip))
            .header("accept", "application/json")
            .header("content-type", content_type)
            .body(Full::new(bytes))
            .unwrap()
    }

    /// A stream of lines, such as a watch.
    pub async fn stream(&mut self, path: &str) -> Result<Lines, String> {
        let request = self.request(Method::GET, path, "application/json", None);
        let go = self.begin(request);
        let response = match tokio::time::timeout(CALL_LIMIT, go).await {
            Ok(Ok(r)) => r,
            Ok(Err(reply)) => return Err(format!("{reply:?}")),
            Err(_) => return Err("no answer in time".into()),
        };
        // The connection belongs to the stream until it ends.
        let sender = self.sender.take();
        Ok(Lines {
            status: response.status(),
            body: response.into_body(),
            rest: Vec::new(),
            _sender: sender,
        })
    }
}

/// The lines of an answer that does not end.
pub struct Lines {
    pub status: StatusCode,
    body: Incoming,
    rest: Vec<u8>,
    _sender: Option<SendRequest<Full<Bytes>>>,
}

impl Lines {
    /// The next line as JSON; `None` at the end, however it ends.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return serde_json::from_slice(&line).ok();
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }

    /// What is left, as an error answer has it.
    pub async fn text(mut self) -> String {
        let limit = tokio::time::timeout(CALL_LIMIT, async {
            while let Some(Ok(frame)) = self.body.frame().await {
                if let Ok(data) = frame.into_data() {
                    self.rest.extend_from_slice(&data);
                }
            }
        });
        let _ = limit.await;
        String::from_utf8_lossy(&self.rest).into_owned()
    }
}
