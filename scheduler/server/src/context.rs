//! What the API server needs from outside, as values and traits: the log, the views, the clock, the runners.
//! One [`Context`] is shared by every request of one listener.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coracle_api::{ApiError, Ids, Timestamp};
use coracle_state::{BoxFuture, Propose, View, Views};
use futures_util::Stream;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::pages::Pages;
use crate::service_alloc::Range;

/// Requests (without watches and log streams) handled at once; above it 429. At 1 ms each this is far beyond what the
/// log takes, so only a pile-up behind a slow disk meets it.
pub const REQUESTS_MAX: usize = 1_024;
/// Watches and log streams held at once; above it 429. A watch holds a position, about 2 kB, not a queue.
pub const STREAMS_MAX: usize = 100_000;

/// Bytes of a log as they come from a runner.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>;

/// What `GET /log` asks of a runner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Node name.
    pub node: String,
    /// `HOST:PORT` of the runner, from the Node's addresses and `kubeletEndpoint`.
    pub address: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Container name.
    pub container: String,
    /// Keep the stream open and send new lines.
    pub follow: bool,
    /// The run before the last restart.
    pub previous: bool,
    /// RFC 3339 stamps before each line.
    pub timestamps: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines younger than this.
    pub since_seconds: Option<u64>,
    /// Only lines after this time.
    pub since_time: Option<Timestamp>,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Streams from runners.
pub trait Runners: Send + Sync + 'static {
    /// Opens a log. An error is answered as it is; a dead runner is a 502 with its name.
    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<LogStream, ApiError>>;
}

/// Lets nodes and members in: `POST /coracle/v1/join`.
pub trait Join: Send + Sync + 'static {
    /// Checks the one-time secret and signs the certificate request in `body`; the answer is sent as JSON.
    fn join(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>>;
}

/// Makes join tokens: `POST /coracle/v1/tokens`.
pub trait Tokens: Send + Sync + 'static {
    /// Makes a token as `body` asks (`{"role": "runner", "ttlMs": ..}`); the answer is sent as JSON, once.
    fn create(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>>;
}

/// What a [`Context`] is made of.
pub struct ContextConfig {
    /// The log.
    pub propose: Arc<dyn Propose>,
    /// The state.
    pub views: Arc<dyn Views>,
    /// The clock; the only one this crate reads for anything stored.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Seed of uids and generated names; must differ between processes.
    pub seed: u64,
    /// Streams from runners.
    pub runners: Arc<dyn Runners>,
    /// A proxy has swapped in a table of this revision: `(node, applied)`. Volatile.
    pub acks: Arc<dyn Fn(&str, u64) + Send + Sync>,
    /// Joining.
    pub join: Arc<dyn Join>,
    /// Join tokens.
    pub tokens: Arc<dyn Tokens>,
    /// Bearer tokens of users; without it every bearer token is refused.
    pub bearer: Option<Arc<dyn Fn(&str) -> Option<Identity> + Send + Sync>>,
    /// The cluster's roots as PEM, read at each request because they rotate.
    pub ca_bundle_pem: Arc<dyn Fn() -> String + Send + Sync>,
    /// Member status for `/coracle/v1/status`; merged into the answer.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Whether this member can serve; an error is the sentence `/readyz` shows.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// `HOST:PORT` of this listener, shown by legacy discovery.
    pub server_address: String,
    /// Cluster addresses of Services; default 10.43.0.0/16.
    pub service_range: Range,
    /// Addresses of pods bound through the API; default 10.42.0.0/16.
    pub pod_range: Range,
    /// Version of the product, shown by `/version`.
    pub product_version: String,
}

/// Everything a request handler reaches.
pub struct Context {
    pub(crate) config: ContextConfig,
    ids: Mutex<Ids>,
    pub(crate) pages: Pages,
    pub(crate) metrics: Metrics,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
}

impl Context {
    /// A context for one listener.
    pub fn new(config: ContextConfig) -> Arc<Self> {
        let ids = Mutex::new(Ids::new(config.seed));
        Arc::new(Self {
            config,
            ids,
            pages: Pages::default(),
            metrics: Metrics::new(),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        })
    }

    /// The newest view on this member.
    pub fn view(&self) -> Arc<View> {
        self.config.views.view()
    }

    /// Now, by the injected clock.
    pub fn now(&self) -> Timestamp {
        (self.config.clock)()
    }

    /// Draws from the id source.
    pub fn ids<T>(&self, draw: impl FnOnce(&mut Ids) -> T) -> T {
        draw(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
