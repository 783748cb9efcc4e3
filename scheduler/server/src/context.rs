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

use crate::hub::Hub;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::pages::Pages;
use crate::service_alloc::Range;
use crate::shed::Shed;
use crate::write::admission::Admission;
use crate::write::renewal::Renewals;

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

/// Tokens to join with and to use the registry with: `/coracle/v1/tokens`.
pub trait Tokens: Send + Sync + 'static {
    /// Makes a token as `body` asks (`{"role": "runner", "ttlMs": ..}`, for the registry also `"namespaces"`); the answer
    /// is sent as JSON, once.
    fn create(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>>;
    /// `{"tokens": [{"id", "role", "namespaces", "created", "expires"}]}`: those that are good, without their secrets.
    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>>;
    /// Revokes the token with this id; answers `{"deleted": id}`, 404 if there is none.
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Value, ApiError>>;
}

/// The control plane's members: `/coracle/v1/members` and `/coracle/v1/endpoints`. `which` is a member's id (16 hex
/// digits) or name. Errors are answered as they are and begin with a code.
pub trait Members: Send + Sync + 'static {
    /// `{"members": [{"name", "id", "voter", "leader", "api", "raft", "applied"}]}`.
    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>>;
    /// Adds a learner as `body` says (`{"id", "name", "raft", "api"}`). `user` is who asks: a member adds only itself.
    fn add<'a>(&'a self, user: &'a Identity, body: Value)
    -> BoxFuture<'a, Result<Value, ApiError>>;
    /// Removes a member; `{"force": true}` in `body` overrides what may be overridden.
    fn remove<'a>(&'a self, which: &'a str, body: Value) -> BoxFuture<'a, Result<Value, ApiError>>;
    /// Makes a learner a voter; `{"force": true}` as above.
    fn promote<'a>(&'a self, which: &'a str, body: Value)
    -> BoxFuture<'a, Result<Value, ApiError>>;
    /// Hands leadership to `{"to": ..}` of `body`, or to whoever is furthest.
    fn transfer(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>>;
    /// `{"api": [url, ..]}`: where the API is served, this member first.
    fn endpoints(&self) -> Value;
}

/// Certificates after joining: `/coracle/v1/renew`, `/coracle/v1/ca/status` and `/coracle/v1/ca/rotate`.
pub trait Certificates: Send + Sync + 'static {
    /// A new certificate for the runner that asks, and what it reports about the one it uses.
    fn renew<'a>(
        &'a self,
        who: &'a Identity,
        body: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>>;
    /// The roots, the rotation under way, and who holds which certificate.
    fn status(&self) -> Value;
    /// Begins a rotation of the CA, or with `{"finish": true}` waits no longer; answers the status.
    fn rotate(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>>;
}

/// A backup as it is made: what it may be called, and its bytes. A stream that ends in an error was cut off, and so is a
/// connection that ends before the response does; the file says by itself whether it is whole.
pub struct BackupStream {
    /// A file name.
    pub name: String,
    /// The file.
    pub bytes: LogStream,
}

/// Backups: `GET /coracle/v1/backup` and `GET /coracle/v1/backups`.
pub trait Backups: Send + Sync + 'static {
    /// Begins a backup that holds every write acknowledged before the call.
    fn save(&self) -> BoxFuture<'_, Result<BackupStream, ApiError>>;
    /// The backups this member has saved on its own, and when it saves the next.
    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>>;
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
    /// Tokens.
    pub tokens: Arc<dyn Tokens>,
    /// The control plane's members.
    pub members: Arc<dyn Members>,
    /// Heartbeats of nodes; without it each is a write like any other.
    pub renewals: Option<Arc<dyn Renewals>>,
    /// A judgement on what is about to be stored; without it form is all that counts.
    pub admission: Option<Arc<dyn Admission>>,
    /// Renewal and rotation.
    pub certificates: Arc<dyn Certificates>,
    /// Backups.
    pub backups: Arc<dyn Backups>,
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
    pub(crate) hub: Arc<Hub>,
    ids: Mutex<Ids>,
    pub(crate) pages: Pages,
    pub(crate) shed: Shed,
    pub(crate) metrics: Metrics,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
}

impl Context {
    /// A context for one listener.
    pub fn new(config: ContextConfig) -> Arc<Self> {
        let ids = Mutex::new(Ids::new(config.seed));
        Arc::new(Self {
            hub: Hub::new(config.views.clone()),
            config,
            ids,
            pages: Pages::default(),
            shed: Shed::default(),
            metrics: Metrics::new(),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        })
    }

    /// A view that holds every write that any member acknowledged before the call; 503 while there is no leader.
    pub async fn fresh(&self) -> Result<Arc<View>, ApiError> {
        self.config
            .views
            .fresh()
            .await
            .map_err(crate::reply::unproposed)
    }

    /// The newest view on this member. It may lack writes that other members have acknowledged: what is refused because
    /// of it must be looked at again in a [`Self::fresh`] one.
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
