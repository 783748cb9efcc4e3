//! Other runners as sources: who is asked is the leader's word (`/coracle/v1/holders/DIGEST`), the bytes come over
//! mutual TLS from the runner's own port, and whoever fails is not asked again for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::source::FetchError;
use super::store::Writer;
use crate::api::{Api, chain};
use crate::live::Live;
use crate::tls::BadTls;

/// Time for the leader's word; without it the members are asked for the layer.
const WORD: Duration = Duration::from_secs(3);
/// Time to connect and shake hands with another runner: it is near, or gone.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest silence of a runner, and how much more for each hop that it is away from the members: of a chain in which
/// something stalls the first one acts, and the others never notice.
const SILENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Hops that count in it.
const DEPTH_MAX: u32 = 10;
/// A runner that failed is not asked for so long.
const DROPPED: Duration = Duration::from_secs(60);
/// Dropped runners remembered, and told to the leader in one question.
const DROPPED_MAX: usize = 64;

/// Another runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its node's name.
    pub node: String,
    /// `HOST:PORT` of its own port.
    pub address: String,
    /// Hops from the members or from a whole copy.
    pub depth: u32,
}

/// What was wrong with a runner.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It has not got the layer.
    Gone,
    /// It sends to enough others.
    Busy,
    /// It did not answer, stalled, or broke off.
    Failed(String),
    /// Its bytes cannot be those that were asked for.
    Lied(String),
    /// Our own disk: nobody else will help.
    Here(FetchError),
}

impl Trouble {
    /// As the leader is told.
    fn word(&self) -> &'static str {
        match self {
            Trouble::Gone => "gone",
            Trouble::Busy => "busy",
            Trouble::Failed(_) | Trouble::Lied(_) | Trouble::Here(_) => "failed",
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Gone => f.write_str("it has not got the layer any more"),
            Trouble::Busy => f.write_str("it sends to enough others"),
            Trouble::Failed(why) | Trouble::Lied(why) => f.write_str(why),
            Trouble::Here(e) => write!(f, "{e:?}"),
        }
    }
}

/// Asks for runners and fetches from them.
pub(super) struct Peers {
    api: Api,
    tls: Arc<ClientConfig>,
    dropped: Mutex<BTreeMap<String, Instant>>,
}

impl Peers {
    pub fn new(api: Api, live: &Arc<Live>) -> Result<Self, BadTls> {
        Ok(Self {
            api,
            tls: Arc::new(live.client()?),
            dropped: Mutex::default(),
        })
    }

    /// Who gives us a layer; `None`: the members do. `trouble` is what the last one was told for.
    pub async fn ask(&self, digest: &str, trouble: Option<(&str, &Trouble)>) -> Option<Holder> {
        let mut question = json!({"state": "fetch", "avoid": self.dropped()});
        if let Some((node, trouble)) = trouble {
            question["trouble"] = json!({"node": node, "what": trouble.word()});
        }
        let answer = self.say(digest, &question).await?;
        let text = |field: &str| answer[field].as_str().map(String::from);
        let depth = answer["depth"].as_u64().unwrap_or(1);
        Some(Holder {
            node: text("node")?,
            address: text("address")?,
            depth: u32::try_from(depth).unwrap_or(DEPTH_MAX).min(DEPTH_MAX),
        })
    }

    /// Tells that we have a layer (`have`), or not any more (`gone`).
    pub async fn tell(&self, digest: &str, state: &'static str) {
        self.say(digest, &json!({ "state": state })).await;
    }

    /// Nothing depends on it, so that a failure is only noted.
    async fn say(&self, digest: &str, what: &Value) -> Option<Value> {
        let path = format!("/coracle/v1/holders/{digest}");
        match timeout(WORD, self.api.create(&path, what)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(digest, %error, "the leader did not say who has a layer");
                None
            }
            Err(_) => {
                tracing::debug!(digest, "the leader did not say in time who has a layer");
                None
            }
        }
    }

    fn dropped(&self) -> Vec<String> {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.retain(|_, until| *until > Instant::now());
        dropped.keys().cloned().collect()
    }

    /// Does not use a runner for a while.
    pub fn drop_for_a_while(&self, node: &str) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.insert(node.into(), Instant::now() + DROPPED);
        while dropped.len() > DROPPED_MAX {
            let soonest = dropped.iter().min_by_key(|(_, until)| **until);
            let soonest = soonest.map(|(node, _)| node.clone());
            soonest.map(|node| dropped.remove(&node));
        }
    }

    /// Fetches what is missing of a layer. What came before a failure stays.
    pub async fn fetch(
        &self,
        from: &Holder,
        digest: &str,
        into: &mut Writer,
    ) -> Result<(), Trouble> {
        let failed = |e: &dyn std::error::Error| Trouble::Failed(chain(e));
        let start = into.have();
        let connecting = async {
            let tcp = TcpStream::connect(&from.address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(from.node.clone()).map_err(std::io::Error::other)?;
            let tls = TlsConnector::from(self.tls.clone())
                .connect(name, tcp)
                .await?;
            let made = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await;
            made.map_err(std::io::Error::other)
        };
        let (mut sender, connection) = match timeout(CONNECT, connecting).await {
            Ok(made) => made.map_err(|e| failed(&e))?,
            Err(_) => return Err(Trouble::Failed("no connection within 3 s".into())),
        };
        tokio::spawn(async move {
            // The request on it sees the same error.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another runner ended early");
            }
        });
        let mut request =
            Request::get(format!("/blobs/{digest}")).header(header::HOST, &from.address);
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|e| failed(&e))?;
        let silence = SILENCE.0 + SILENCE.1 * from.depth;
        let silent = || Trouble::Failed(format!("nothing came for {} s", silence.as_secs()));
        let answer = match timeout(silence, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|e| failed(&e))?,
            Err(_) => return Err(silent()),
        };
        match answer.status() {
            StatusCode::OK if start == 0 => {}
            StatusCode::PARTIAL_CONTENT if start > 0 => {}
            StatusCode::NOT_FOUND => return Err(Trouble::Gone),
            StatusCode::SERVICE_UNAVAILABLE => return Err(Trouble::Busy),
            // It knows the layer with another length.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Trouble::Lied("its copy is shorter".into()));
            }
            other => return Err(Trouble::Failed(format!("it answered {other}"))),
        }
        let mut body = answer.into_body();
        while into.have() < into.size() {
            match timeout(silence, body.frame()).await {
                Err(_) => return Err(silent()),
                Ok(None) => return Err(Trouble::Failed("it broke off".into())),
                Ok(Some(Err(e))) => return Err(failed(&e)),
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    into.write(&data).map_err(|e| match e {
                        FetchError::Corrupt(why) => Trouble::Lied(why),
                        other => Trouble::Here(other),
                    })?;
                }
            }
        }
        Ok(())
    }
}
