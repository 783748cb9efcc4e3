//! The proxy as its owner sees it: start, swap tables, make internal calls, take calls from peers, stop.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_route::{Miss, Table, find_service};
use futures_util::future::BoxFuture;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use prometheus_client::collector::Collector;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot, watch};

use crate::access::{Note, Writer};
use crate::body::{Body, BoxError};
use crate::config::Config;
use crate::core::{self, HANDOVER_MAX, StopAt};
use crate::edge;
use crate::failure::Failure;
use crate::forward::{self, Route};
use crate::ids;
use crate::inbound::{self, PeerIdentity};
use crate::live::Live;
use crate::replica::{CALL_DEPTH_MAX, CallContext};
use crate::shared::{PerCore, Shared};
use crate::stats::Figures;
use crate::ticket::Ticket;

/// Connections the kernel may hold for a core that is busy.
const BACKLOG: i32 = 1024;

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ingress address cannot be listened on.
    #[error("the ingress cannot listen on {addr}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("a data-plane thread did not start")]
    Thread(#[source] io::Error),
}

/// Why a component's own request was not answered by this cluster.
#[derive(Debug)]
pub enum InternalError {
    /// The host is none of the cluster's: the request, untouched, for whoever may call the outside world.
    NotAService {
        /// The host asked for.
        host: String,
        /// The request.
        request: Box<Request<Body>>,
    },
}

/// A running data plane. Clones are handles to the same one.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    /// For calls from threads that are no core.
    elsewhere: Arc<PerCore>,
    ingress_addr: SocketAddr,
    stop: watch::Sender<StopAt>,
    /// Taken by the first shutdown.
    running: Mutex<Option<Running>>,
}

struct Running {
    cores_done: Vec<oneshot::Receiver<()>>,
    writer: Writer,
}

thread_local! {
    /// The core this thread is, if it is one.
    static CURRENT: RefCell<Option<Arc<PerCore>>> = const { RefCell::new(None) };
}

/// Marks the calling thread as a core.
pub(crate) fn enter(core: &Arc<PerCore>) {
    CURRENT.with(|current| *current.borrow_mut() = Some(core.clone()));
}

impl Proxy {
    /// Binds the ingress and starts one thread per core. The table in force is empty until the first [`Proxy::swap`].
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let config = Config {
            cores: config.cores.max(1),
            ..config
        };
        let addr = config.ingress_addr;
        let listeners =
            listen(addr, config.cores).map_err(|source| StartError::Listen { addr, source })?;
        let ingress_addr = listeners[0]
            .local_addr()
            .map_err(|source| StartError::Listen { addr, source })?;
        let (writer, logs) =
            Writer::start(config.cores + 1, config.access_log).map_err(StartError::Thread)?;
        let shared = Arc::new(Shared::new(config));
        let mut places: Vec<Arc<PerCore>> = Vec::new();
        for (index, log) in logs.into_iter().enumerate() {
            places.push(Arc::new(PerCore::new(shared.clone(), index, log)));
        }
        let elsewhere = places
            .pop()
            .expect("there is one place more than cores, and at least one core");
        let (stop, stop_from) = watch::channel(None);
        let (senders, receivers): (Vec<_>, Vec<_>) =
            places.iter().map(|_| mpsc::channel(HANDOVER_MAX)).unzip();
        let mut cores_done = Vec::new();
        for ((per, listener), handed_over) in places.into_iter().zip(listeners).zip(receivers) {
            let (done_to, done) = oneshot::channel::<()>();
            let start = core::Start {
                per: per.clone(),
                listener,
                handed_over,
                others: senders.clone(),
                stop: stop_from.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("proxy-{}", per.index))
                .spawn(move || {
                    if let Err(error) = core::run(start) {
                        tracing::error!(%error, "a data-plane thread ended");
                    }
                    // Dropped last: whoever waits knows the thread is through.
                    drop(done_to);
                });
            if let Err(error) = thread {
                // Dropping `stop` ends the cores that did start.
                return Err(StartError::Thread(error));
            }
            cores_done.push(done);
        }
        let running = Mutex::new(Some(Running { cores_done, writer }));
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                elsewhere,
                ingress_addr,
                stop,
                running,
            }),
        })
    }

    /// Where the ingress listens, with the port it got.
    pub fn ingress_addr(&self) -> SocketAddr {
        self.inner.ingress_addr
    }

    /// Puts a table in force. Requests routed before keep their destination; every later one, retries included, sees the
    /// new table. Queues and figures carry over.
    pub fn swap(&self, table: Arc<Table>) {
        let shared = &self.inner.shared;
        // Read-copy-update, so that two swaps at a time do not lose each other's pods.
        let (places, max) = (
            shared.config.cores + 1,
            shared.config.in_flight_per_core_max,
        );
        shared
            .live
            .rcu(|before| Live::after(Some(before), table.clone(), places, max));
    }

    /// The resourceVersion of the table in force: what is reported to the leader.
    pub fn applied(&self) -> u64 {
        self.inner.shared.live.load().table.revision()
    }

    /// The table in force.
    pub fn table(&self) -> Arc<Table> {
        self.inner.shared.live.load().table.clone()
    }

    /// Sends a component's own request into the cluster. `ctx.depth` is the depth of the call to be made: one more than
    /// the caller's. The request names its destination by an absolute URI or a Host header. Failures of the cluster (no
    /// such port, no ready replica, a loop) are responses, as a proxy in between would give.
    ///
    /// # Errors
    /// [`InternalError::NotAService`] gives the request back for the outside world.
    pub fn internal(
        &self,
        ctx: CallContext,
        caller_namespace: &str,
        req: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, InternalError>> {
        let core = self.place();
        let started = Instant::now();
        let default_port = if req.uri().scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let authority = match req.uri().authority() {
            Some(authority) => authority.as_str().to_string(),
            None => req
                .headers()
                .get(HOST)
                .and_then(|h| h.to_str().ok())
                .unwrap_or_default()
                .to_string(),
        };
        if let Err(Miss::NotAService { host }) = find_service(
            &core.shared.live.load().table,
            &authority,
            caller_namespace,
            default_port,
        ) {
            return Box::pin(async move {
                Err(InternalError::NotAService {
                    host,
                    request: Box::new(req),
                })
            });
        }
        let route = Route::Internal {
            namespace: caller_namespace.into(),
            default_port,
        };
        Box::pin(async move { Ok(internal(core, route, ctx, req, &authority, started).await) })
    }

    /// Sends a request to a server outside the cluster, named by its absolute URI (http or https). Policy by name is the
    /// caller's; the policy by address of [`Config::outside`] holds.
    ///
    /// # Errors
    /// [`Failure`] with code `upstream_connect_failed`, `upstream_reset` or `deadline_exceeded`.
    pub fn outside(
        &self,
        ctx: &CallContext,
        req: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, Failure>> {
        let (core, deadline) = (self.place(), ctx.deadline);
        Box::pin(async move {
            let (mut parts, body) = req.into_parts();
            edge::strip(&mut parts.headers, true)?;
            let work = core.outside.send(Request::from_parts(parts, body));
            let mut response = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Failure::new(
                            http::StatusCode::GATEWAY_TIMEOUT,
                            "deadline_exceeded",
                            "the server did not answer before the request's deadline",
                        ))
                    })?,
                None => work.await?,
            };
            edge::strip(response.headers_mut(), false)?;
            Ok(response)
        })
    }

    /// Answers a request that another node's proxy sent over the node-to-node listener.
    pub fn serve_peer<B>(
        &self,
        req: Request<B>,
        peer: PeerIdentity,
    ) -> BoxFuture<'static, Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Box::pin(inbound::serve(self.place(), req, peer))
    }

    /// Whether a request on the node-to-node listener is meant for [`Proxy::serve_peer`].
    pub fn is_from_peer<B>(req: &Request<B>) -> bool {
        req.headers().contains_key(crate::peers::POD_UID)
    }

    /// The proxy's figures, for a metrics registry.
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(Figures(self.inner.shared.clone()))
    }

    /// Stops accepting, lets requests in flight finish for at most `grace`, closes everything. Returns when it is done;
    /// further calls return at once.
    pub async fn shutdown(&self, grace: Duration) {
        self.inner.stop.send_replace(Some(Instant::now() + grace));
        let running = self
            .inner
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(running) = running else { return };
        for done in running.cores_done {
            // The sender is dropped, never used: an error is the signal.
            drop(done.await);
        }
        if let Err(error) = tokio::task::spawn_blocking(move || running.writer.stop()).await {
            tracing::warn!(%error, "the access log was not finished");
        }
    }

    /// The core of this thread, or the place for all other threads.
    fn place(&self) -> Arc<PerCore> {
        CURRENT
            .with(|current| {
                current
                    .borrow()
                    .as_ref()
                    .filter(|core| Arc::ptr_eq(&core.shared, &self.inner.shared))
                    .cloned()
            })
            .unwrap_or_else(|| self.inner.elsewhere.clone())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(running) = running {
            // Never shut down: the cores stop by themselves when the channel goes, the writer has to be told.
            running.writer.stop();
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("ingress_addr", &self.inner.ingress_addr)
            .field("applied", &self.applied())
            .finish()
    }
}

async fn internal(
    core: Arc<PerCore>,
    route: Route,
    ctx: CallContext,
    req: Request<Body>,
    authority: &str,
    started: Instant,
) -> Response<Body> {
    let (mut parts, body) = req.into_parts();
    let request_id = ctx
        .request_id
        .clone()
        .unwrap_or_else(|| ids::request_id(&parts.headers, &core.numbers));
    let parent = parts
        .headers
        .get(ids::TRACEPARENT)
        .or(ctx.traceparent.as_ref());
    let traceparent = ids::traceparent(parent, &core.numbers);
    let note = core
        .log
        .is_wanted()
        .then(|| Note::new(&parts.method, authority, parts.uri.path(), None));
    let ticket = Ticket::new(&core, started, note, request_id.clone());
    let checked = if ctx.depth > CALL_DEPTH_MAX {
        Err(inbound::loop_detected())
    } else {
        edge::normal_form(&mut parts)
    };
    if let Err(failure) = checked {
        return forward::failed(&failure, ticket).map(BodyExt::boxed_unsync);
    }
    parts.headers.insert(ids::REQUEST_ID, request_id.clone());
    parts.headers.insert(ids::TRACEPARENT, traceparent.clone());
    let ctx = CallContext {
        request_id: Some(request_id),
        traceparent: Some(traceparent),
        ..ctx
    };
    let response =
        forward::forward(&core, &route, ctx, Request::from_parts(parts, body), ticket).await;
    response.map(BodyExt::boxed_unsync)
}

/// One listener per core on the same address; a port of 0 is settled by the first.
fn listen(addr: SocketAddr, cores: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // A port that somebody else holds must be an error, but SO_REUSEPORT would share it with another proxy of the same
    // user: a socket without it finds out. (With port 0 there is nobody to find.)
    if addr.port() != 0 {
        drop(bind(addr, false)?);
    }
    let mut listeners = vec![bind(addr, true)?];
    let settled = listeners[0].local_addr()?;
    for _ in 1..cores {
        listeners.push(bind(settled, true)?);
    }
    Ok(listeners)
}

fn bind(addr: SocketAddr, share: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes a request's absolute URI from a scheme and its Host header, for [`Proxy::outside`].
///
/// # Errors
/// `bad_request` if there is no host or it is not one.
pub fn absolute(scheme: http::uri::Scheme, req: &mut Request<Body>) -> Result<(), Failure> {
    if req.uri().authority().is_some() {
        return Ok(());
    }
    let host = req
        .headers()
        .get(HOST)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let authority =
        http::uri::Authority::try_from(host).map_err(|e| Failure::bad_request(e.to_string()))?;
    let mut parts = std::mem::take(req.uri_mut()).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    *req.uri_mut() = Uri::from_parts(parts).map_err(|e| Failure::bad_request(e.to_string()))?;
    Ok(())
}
