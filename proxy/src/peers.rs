//! The hop to a replica on another node: one multiplexed HTTP/2 connection with mutual TLS per node and core.
//!
//! Per core, because a connection shared by all of them would wake another thread for every request. Never HTTP/1 between
//! our own parts: what is framed by HTTP/2 cannot be smuggled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coracle_route::headers as names;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::header::HOST;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::{self, Body};
use crate::config::{PeerConfig, PeerName};
use crate::failure::Failure;
use crate::forward::millis_left;
use crate::replica::CallContext;

/// Flow control of one response; our own parts may run ahead further than strangers.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Flow control of all responses of a peer together.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// A peer that says nothing for this long is asked whether it lives,
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// and given up after this.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed connection; doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause: a restarted node is found again within this.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

pub(crate) const POD_UID: HeaderName = HeaderName::from_static(names::POD_UID);
pub(crate) const PORT: HeaderName = HeaderName::from_static(names::PORT);
pub(crate) const DEPTH: HeaderName = HeaderName::from_static(names::DEPTH);
pub(crate) const DEADLINE_MS: HeaderName = HeaderName::from_static(names::DEADLINE_MS);
pub(crate) const AUTHORITY: HeaderName = HeaderName::from_static(names::AUTHORITY);
pub(crate) const REFUSED: HeaderName = HeaderName::from_static(names::REFUSED);

/// A replica on another node.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    pub node: Arc<str>,
    pub addr: SocketAddr,
    pub pod_uid: Arc<str>,
    pub port: u16,
}

/// Why a peer gave no response.
pub(crate) struct PeerError {
    pub failure: Failure,
    /// The request, if it never left.
    pub unsent: Option<Box<Request<Body>>>,
    /// The peer refused it before a replica saw it.
    pub refused: bool,
}

type Connecting = Shared<BoxFuture<'static, Result<SendRequest<Body>, Arc<str>>>>;

enum State {
    Ready(SendRequest<Body>),
    Connecting(Connecting),
    Failed {
        until: Instant,
        pause: Duration,
        why: Arc<str>,
    },
}

struct Peer {
    addr: SocketAddr,
    state: State,
    /// The pause after the next failure.
    pause: Duration,
}

/// The connections of one core.
pub(crate) struct Peers {
    tls: Option<(TlsConnector, PeerName)>,
    connect_timeout: Duration,
    /// Held only to look a connection up, never while waiting.
    all: Arc<Mutex<BTreeMap<Arc<str>, Peer>>>,
}

impl Peers {
    pub fn new(config: Option<PeerConfig>, connect_timeout: Duration) -> Self {
        let tls = config.map(|config| {
            let mut tls = rustls::ClientConfig::clone(&config.tls);
            tls.alpn_protocols = vec![b"h2".to_vec()];
            (TlsConnector::from(Arc::new(tls)), config.name)
        });
        Self {
            tls,
            connect_timeout,
            all: Arc::default(),
        }
    }

    /// Sends a request to a replica on another node.
    pub async fn send(
        &self,
        hop: &Hop,
        ctx: &CallContext,
        req: Request<Body>,
    ) -> Result<Response<Body>, PeerError> {
        let mut sender = match self.connection(hop).await {
            Ok(sender) => sender,
            Err(why) => {
                let failure = Failure::new(
                    StatusCode::BAD_GATEWAY,
                    "upstream_connect_failed",
                    format!(
                        "the node {:?} at {} cannot be reached: {why}",
                        hop.node, hop.addr
                    ),
                )
                .fix("kubectl get nodes shows whether it is Ready")
                .retry_after(1);
                return Err(PeerError {
                    failure,
                    unsent: Some(Box::new(req)),
                    refused: false,
                });
            }
        };
        let req = addressed(hop, ctx, req);
        match sender.try_send_request(req).await {
            Ok(response) => answer(hop, response),
            Err(mut error) => {
                let unsent = error.take_message().map(|req| Box::new(unaddressed(req)));
                let failure = Failure::new(
                    StatusCode::BAD_GATEWAY,
                    "upstream_reset",
                    format!(
                        "the connection to the node {:?} broke: {}",
                        hop.node,
                        chain(error.error())
                    ),
                );
                Err(PeerError {
                    failure,
                    unsent,
                    refused: false,
                })
            }
        }
    }

    async fn connection(&self, hop: &Hop) -> Result<SendRequest<Body>, Arc<str>> {
        let connecting = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get(&hop.node) {
                Some(Peer {
                    addr,
                    state: State::Ready(sender),
                    ..
                }) if *addr == hop.addr && !sender.is_closed() => {
                    return Ok(sender.clone());
                }
                // One that is over without a word here was cut short with its runtime.
                Some(Peer {
                    addr,
                    state: State::Connecting(connecting),
                    ..
                }) if *addr == hop.addr && connecting.peek().is_none() => connecting.clone(),
                Some(Peer {
                    addr,
                    state: State::Failed { until, why, .. },
                    ..
                }) if *addr == hop.addr && Instant::now() < *until => {
                    return Err(why.clone());
                }
                known => {
                    let pause = match known {
                        Some(Peer {
                            addr,
                            state: State::Failed { pause, .. },
                            ..
                        }) if *addr == hop.addr => (*pause * 2).min(BACKOFF_MAX),
                        _ => BACKOFF_MIN,
                    };
                    let connecting = self.connect(hop)?;
                    let state = State::Connecting(connecting.clone());
                    all.insert(
                        hop.node.clone(),
                        Peer {
                            addr: hop.addr,
                            state,
                            pause,
                        },
                    );
                    connecting
                }
            }
        };
        connecting.await
    }

    /// Starts a connection. Several requests wait for the same one; it goes on if some of them give up.
    fn connect(&self, hop: &Hop) -> Result<Connecting, Arc<str>> {
        let Some((tls, name)) = &self.tls else {
            return Err("this node has no certificate for its peers".into());
        };
        let Some(server_name) = name(&hop.node) else {
            return Err(format!("{:?} is not a name a certificate can have", hop.node).into());
        };
        let (tls, all, addr, node, timeout) = (
            tls.clone(),
            self.all.clone(),
            hop.addr,
            hop.node.clone(),
            self.connect_timeout,
        );
        let work = async move {
            let attempt = async {
                let stream = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
                stream.set_nodelay(true).map_err(|e| e.to_string())?;
                let stream = tls
                    .connect(server_name, stream)
                    .await
                    .map_err(|e| e.to_string())?;
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .keep_alive_interval(PING_INTERVAL)
                    .keep_alive_timeout(PING_TIMEOUT)
                    .keep_alive_while_idle(true)
                    .handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| e.to_string())?;
                let peer = node.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%peer, error = %chain(&error), "a peer connection ended");
                    }
                });
                Ok::<_, String>(sender)
            };
            let result = match tokio::time::timeout(timeout, attempt).await {
                Ok(result) => result.map_err(Arc::from),
                Err(_) => Err(Arc::from(format!(
                    "no connection within {} ms",
                    timeout.as_millis()
                ))),
            };
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(peer) = all.get_mut(&node)
                && peer.addr == addr
            {
                peer.state = match &result {
                    Ok(sender) => State::Ready(sender.clone()),
                    Err(why) => State::Failed {
                        until: Instant::now() + peer.pause,
                        pause: peer.pause,
                        why: Arc::clone(why),
                    },
                };
            }
            result
        };
        // Its own task, so that it does not stop half-way when the request that started it is abandoned.
        let task = tokio::spawn(work);
        let outcome = async move {
            task.await.unwrap_or_else(|error| {
                Err(Arc::from(format!("connecting was cut short: {error}")))
            })
        };
        Ok(outcome.boxed().shared())
    }
}

/// Gives a request the headers that tell the peer what to call.
fn addressed(hop: &Hop, ctx: &CallContext, mut req: Request<Body>) -> Request<Body> {
    let authority = req.headers_mut().remove(HOST);
    let headers = req.headers_mut();
    if let Some(authority) = authority {
        headers.insert(AUTHORITY, authority);
    }
    // A pod's uid is made of hexadecimal digits and dashes; a value that is none of that cannot be any pod's.
    headers.insert(
        POD_UID,
        HeaderValue::from_str(&hop.pod_uid).unwrap_or(HeaderValue::from_static("-")),
    );
    headers.insert(PORT, hop.port.into());
    headers.insert(DEPTH, ctx.depth.into());
    if let Some(deadline) = ctx.deadline {
        headers.insert(DEADLINE_MS, millis_left(deadline).into());
    }
    let mut uri = req.uri().clone().into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTPS);
    uri.authority = http::uri::Authority::try_from(hop.addr.to_string()).ok();
    if let Ok(uri) = Uri::from_parts(uri) {
        *req.uri_mut() = uri;
    }
    *req.version_mut() = Version::HTTP_2;
    req
}

/// Takes the addressing off again, for another attempt.
fn unaddressed(mut req: Request<Body>) -> Request<Body> {
    let headers = req.headers_mut();
    let authority = headers.remove(AUTHORITY);
    for name in [POD_UID, PORT, DEPTH, DEADLINE_MS] {
        headers.remove(name);
    }
    if let Some(authority) = authority {
        headers.insert(HOST, authority);
    }
    if let Some(target) = req.uri().path_and_query().cloned() {
        *req.uri_mut() = Uri::from(target);
    }
    *req.version_mut() = Version::HTTP_11;
    req
}

/// The peer's answer as the replica gave it, or the peer's refusal.
fn answer(
    hop: &Hop,
    response: Response<hyper::body::Incoming>,
) -> Result<Response<Body>, PeerError> {
    if let Some(why) = response.headers().get(REFUSED) {
        let why = why.to_str().unwrap_or("refused");
        let mut failure = Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "pod_unknown",
            format!("the node {:?} refused the request: {why}", hop.node),
        )
        .retry_after(1);
        if response.status() != StatusCode::SERVICE_UNAVAILABLE {
            failure.status = StatusCode::BAD_GATEWAY;
        }
        failure.code = why.to_string().into();
        return Err(PeerError {
            failure,
            unsent: None,
            refused: true,
        });
    }
    let mut response = response.map(body::boxed);
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
