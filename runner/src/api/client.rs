//! The HTTP/2 connections under [`super::Api`]: one for requests, and others for streams, so that neither a stalled
//! watch nor the number of watches can hold up a heartbeat.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use tokio_rustls::TlsConnector;

use crate::connect::{SERVER_NAME, dial};
use crate::endpoints::Endpoints;
use crate::live::Live;
use crate::tls::BadTls;

/// Silence after which a connection is asked for a sign of life, and the time it has to give one: a cut or stopped
/// member is noticed within five seconds.
const PING: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(2));
/// Unread bytes of one stream. A list of everything passes through it in parts.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Unread bytes of all streams of one connection: room for as many stalled streams as one may have.
const CONNECTION_WINDOW_BYTES: u32 = 512 << 20;
/// Streams on one connection; the server takes 1,000, and those beyond would wait for each other.
const STREAMS_MAX: usize = 500;
/// Namespace of requests that name none; there are none.
const NAMESPACE: &str = "default";

/// The connections.
pub(super) struct Clients {
    endpoints: Arc<Endpoints>,
    tls: TlsConnector,
    open: Mutex<Open>,
}

/// Connections to the API server in use.
struct Open {
    /// Of [`Endpoints::moves`]; another one means that another server is in use.
    generation: u64,
    requests: kube::Client,
    streams: Vec<Shard>,
}

/// A connection for streams.
struct Shard {
    client: kube::Client,
    /// One reference here, one in each stream.
    users: Arc<()>,
}

/// Keeps a stream's place on its connection.
pub(crate) struct Place {
    _user: Arc<()>,
}

impl Clients {
    pub fn new(endpoints: Arc<Endpoints>, live: &Arc<Live>) -> Result<Self, BadTls> {
        let mut config = live.client()?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        let open = Open {
            generation: endpoints.generation(),
            requests: client(&endpoints, &tls),
            streams: Vec::new(),
        };
        Ok(Self {
            endpoints,
            tls,
            open: Mutex::new(open),
        })
    }

    /// The connections to the server in use; all of a runner's connections go to the same one.
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.endpoints.generation();
        if open.generation != generation {
            self.replace(&mut open, generation);
        }
        open
    }

    fn replace(&self, open: &mut Open, generation: u64) {
        open.generation = generation;
        open.requests = client(&self.endpoints, &self.tls);
        open.streams.clear();
    }

    /// The connection for requests.
    pub fn requests(&self) -> kube::Client {
        self.open().requests.clone()
    }

    /// A place on a connection for streams.
    pub fn stream(&self) -> (kube::Client, Place) {
        let mut open = self.open();
        // One more for the reference of the shard itself.
        let free = open
            .streams
            .iter()
            .position(|s| Arc::strong_count(&s.users) <= STREAMS_MAX);
        let at = free.unwrap_or_else(|| {
            open.streams.push(Shard {
                client: client(&self.endpoints, &self.tls),
                users: Arc::new(()),
            });
            open.streams.len() - 1
        });
        let shard = &open.streams[at];
        let place = Place {
            _user: shard.users.clone(),
        };
        (shard.client.clone(), place)
    }

    /// New connections from now on, with the identity that is in use by now. Streams end by themselves.
    pub fn renew(&self) {
        let mut open = self.open();
        let generation = open.generation;
        self.replace(&mut open, generation);
    }
}

/// A client with one connection, made at the first request and again whenever it is over.
fn client(endpoints: &Arc<Endpoints>, tls: &TlsConnector) -> kube::Client {
    let (endpoints, tls) = (endpoints.clone(), tls.clone());
    let connector = tower::service_fn(move |_: Uri| Box::pin(dial(endpoints.clone(), tls.clone())));
    let client: Client<_, Body> = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(true)
        .http2_keep_alive_interval(PING.0)
        .http2_keep_alive_timeout(PING.1)
        .http2_keep_alive_while_idle(true)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .build(connector);
    kube::Client::new(client, NAMESPACE)
}

/// Sends a request whose URI is a path to the API.
pub(super) async fn send(
    client: &kube::Client,
    mut request: Request<Body>,
) -> Result<Response<Body>, String> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |p| p.as_str())
        .to_string();
    *request.uri_mut() = format!("https://{SERVER_NAME}{path}")
        .parse()
        .map_err(|e| format!("{path:?} is no path: {e}"))?;
    client.send(request).await.map_err(|e| super::chain(&e))
}
