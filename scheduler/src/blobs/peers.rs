//! HTTPS to the other members' API with this member's certificate. Who answers must show the certificate of the member
//! that was meant: two addresses of one disk must not count as two copies.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coracle_raft::{Replica, node_id_text};
use coracle_registry::blobs::{ByteStream, Opened};
use coracle_registry::digest::Digest;
use coracle_server::Identity;
use coracle_server::identity::MEMBERS;
use futures_util::{TryStreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::PATH;
use crate::ask::authority;
use crate::runners::RunnerClient;

/// Time to connect and shake hands: members are near each other, or gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A transfer in which no byte moves for so long is given up; also the time for the answer after the last byte, in which
/// the other syncs its disk.
pub(super) const STALL: Duration = Duration::from_secs(15);
/// Transfers to one member at once: enough to fill a link, few enough that a slow member does not hold many files open.
const LANE_MAX: usize = 8;
/// Blobs above this are asked for before they are sent; below, asking costs as much as sending.
const ASK_FIRST_BYTES: u64 = 64 << 10;
/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Bytes of another answer that are read: a report names two thousand tags and manifests.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// A name that every member's certificate has.
const SERVER_NAME: &str = "kubernetes";

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

/// The other members.
pub(crate) struct Peers {
    replica: Arc<Replica>,
    /// Its TLS configuration is replaced when this member's certificate is renewed.
    client: Arc<RunnerClient>,
    lanes: Mutex<BTreeMap<u64, Arc<Semaphore>>>,
}

/// Another member.
#[derive(Clone)]
pub(super) struct Peer {
    pub id: u64,
    pub name: String,
    pub voter: bool,
    api: String,
    lane: Arc<Semaphore>,
}

/// The members at one moment.
pub(super) struct Round {
    /// How many vote.
    pub voters: usize,
    /// Whether this one does.
    pub votes: bool,
    /// The others: voters first, those heard of last first.
    pub others: Vec<Peer>,
}

/// A blob on its way from another member.
pub(super) struct Coming {
    /// Its length in bytes, as announced.
    pub size: u64,
    /// Its bytes; a stall is an error.
    pub pieces: ByteStream,
}

impl Peers {
    /// The members of `replica`, spoken to with the certificate of `client`.
    pub fn new(replica: Arc<Replica>, client: Arc<RunnerClient>) -> Self {
        Self {
            replica,
            client,
            lanes: Mutex::default(),
        }
    }

    /// The members now.
    pub(super) fn round(&self) -> Round {
        let own = self.replica.id();
        let mut all = self.replica.members();
        all.sort_by_key(|m| (!m.voter, m.silent_ms));
        let voters = all.iter().filter(|m| m.voter).count();
        let votes = all.iter().any(|m| m.voter && m.id == own);
        // The map is whole after every line, so a panicking holder does not spoil it.
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|id, _| all.iter().any(|m| m.id == *id));
        let others = all.into_iter().filter(|m| m.id != own).map(|m| Peer {
            id: m.id,
            voter: m.voter,
            lane: lanes
                .entry(m.id)
                .or_insert_with(|| Arc::new(Semaphore::new(LANE_MAX)))
                .clone(),
            name: m.member.name,
            api: m.member.api,
        });
        Round {
            voters,
            votes,
            others: others.collect(),
        }
    }

    /// This member's name.
    pub(super) fn own_name(&self) -> String {
        let own = self.replica.id();
        let mut all = self.replica.members().into_iter();
        let found = all.find(|m| m.id == own);
        found.map_or_else(|| node_id_text(own), |m| m.member.name)
    }

    /// Asks `peer` something that has to do with its own disk; JSON both ways (`null`: no body).
    pub(super) async fn ask(
        &self,
        peer: &Peer,
        method: Method,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let mut sender = self.connect(peer).await?;
        let bytes = match body {
            Value::Null => Bytes::new(),
            _ => body.to_string().into(),
        };
        let asked = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority(&peer.api))
            .body(
                Full::new(bytes)
                    .map_err(|never| match never {})
                    .boxed_unsync(),
            )?;
        let answer = match timeout(patience, sender.send_request(asked)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(format!("no answer within {} s", patience.as_secs()).into()),
        };
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        let body = timeout(STALL, body).await?;
        Ok(serde_json::from_slice(&body?.to_bytes())?)
    }

    async fn connect(&self, peer: &Peer) -> Result<SendRequest<Outgoing>, Failure> {
        if peer.api.is_empty() {
            return Err("it has not announced its API's address yet".into());
        }
        let connecting = async {
            let tcp = TcpStream::connect(authority(&peer.api)).await?;
            tcp.set_nodelay(true)?;
            let tls = TlsConnector::from(self.client.tls.load_full())
                .connect(ServerName::try_from(SERVER_NAME)?, tcp)
                .await?;
            let chain = tls.get_ref().1.peer_certificates();
            let who = chain.and_then(|chain| Identity::from_certificate(chain.first()?));
            let meant = who.is_some_and(|who| {
                who.in_group(MEMBERS) && who.node_id.as_deref() == Some(&*node_id_text(peer.id))
            });
            if !meant {
                return Err(format!("another node answers at {}", peer.api).into());
            }
            let (sender, connection) = handshake(TokioIo::new(tls)).await?;
            tokio::spawn(async move {
                // The request on it sees the same error.
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a blob connection ended early");
                }
            });
            Ok::<_, Failure>(sender)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err("no connection within 5 s".into()),
        }
    }

    /// Makes sure that `peer` has a blob on its disk, sending it if it has not.
    pub(super) async fn put(
        &self,
        peer: &Peer,
        digest: &Digest,
        opened: Opened,
    ) -> Result<(), Failure> {
        let _place = peer.lane.acquire().await?;
        let mut sender = self.connect(peer).await?;
        let size = opened.size;
        if size > ASK_FIRST_BYTES {
            let asked = request(peer, Method::HEAD, digest).body(nothing())?;
            let answer = answered(sender.send_request(asked)).await?;
            if answer.status() == StatusCode::OK && length(answer.headers()) == Some(size) {
                return Ok(());
            }
            drop(answer);
            sender.ready().await?;
        }
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        let frames = (opened.body)(0..size).map_ok(move |piece| {
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Frame::data(piece)
        });
        let put = request(peer, Method::PUT, digest)
            .header(header::CONTENT_LENGTH, size)
            .body(StreamBody::new(frames).boxed_unsync())?;
        let mut answer = std::pin::pin!(sender.send_request(put));
        let mut moved = 0;
        let answer = loop {
            if let Ok(answer) = timeout(STALL, answer.as_mut()).await {
                break answer?;
            }
            let now = sent.load(Ordering::Relaxed);
            if now == moved {
                return Err(
                    format!("it took no byte of the blob for {} s", STALL.as_secs()).into(),
                );
            }
            moved = now;
        };
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED => Ok(()),
            _ => Err(refusal(answer).await),
        }
    }

    /// Asks `peer` for a blob; `None`: it has not got it.
    pub(super) async fn get(
        &self,
        peer: &Peer,
        digest: &Digest,
    ) -> Result<Option<Coming>, Failure> {
        let mut sender = self.connect(peer).await?;
        let asked = request(peer, Method::GET, digest).body(nothing())?;
        let answer = answered(sender.send_request(asked)).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(refusal(answer).await),
        }
        let size = length(answer.headers()).ok_or("it does not say how long the blob is")?;
        // The sender lives as long as the body: dropping it would end the connection.
        let state = (answer.into_body(), sender);
        let pieces = stream::try_unfold(state, |(mut body, sender)| async move {
            match timeout(STALL, body.frame()).await {
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
                Ok(None) => Ok(None),
                Ok(Some(Err(error))) => Err(io::Error::other(error)),
                Ok(Some(Ok(frame))) => {
                    let piece = frame.into_data().unwrap_or_default();
                    Ok(Some((piece, (body, sender))))
                }
            }
        });
        Ok(Some(Coming {
            size,
            pieces: Box::pin(pieces),
        }))
    }
}

fn nothing() -> Outgoing {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn request(peer: &Peer, method: Method, digest: &Digest) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("{PATH}/{digest}"))
        .header(header::HOST, authority(&peer.api))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

async fn answered(
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<Response<Incoming>, Failure> {
    match timeout(STALL, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(format!("no answer within {} s", STALL.as_secs()).into()),
    }
}

/// Another member's refusal in its own words.
async fn refusal(answer: Response<Incoming>) -> Failure {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect();
    let body = match timeout(STALL, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        // The status says enough.
        _ => Bytes::new(),
    };
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = value["errors"][0]["message"]
        .as_str()
        .or(value["message"].as_str())
        .unwrap_or_default();
    format!("it answered {status} {message}").into()
}
