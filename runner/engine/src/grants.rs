//! What a replica is given. Nothing else is visible to the guest: no directory, variable, address or stream that is not
//! named here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;

use crate::body::Body;

/// Longest chain of calls from service to service. A longer one is a loop, and each link holds an instance.
pub const MAX_CALL_DEPTH: u32 = 8;

/// What travels with a call from one service to the next.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    /// Calls between the outside and this one; 0 for a request from outside.
    pub depth: u32,
    /// When the caller stops waiting; the replica's own timeout may end the call sooner.
    pub deadline: Option<Instant>,
    /// Name of the replica that calls, if a replica does.
    pub origin: Option<Arc<str>>,
}

/// Why a guest's own request got no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// The name means nothing here.
    #[error("destination not found: {0}")]
    NotFound(String),
    /// Policy forbids it.
    #[error("request denied: {0}")]
    Denied(String),
    /// Nothing listens or no replica is ready.
    #[error("destination unavailable: {0}")]
    Unavailable(String),
    /// The deadline passed.
    #[error("no response in time")]
    Timeout,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Connection(String),
    /// The chain of calls is longer than [`MAX_CALL_DEPTH`].
    #[error("services call each other in a loop")]
    Loop,
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

/// Sends the HTTP requests guests make.
pub trait Outbound: Send + Sync {
    /// Sends one request. `ctx` is the guest's own context one level deeper, to be handed on to a local replica.
    ///
    /// # Errors
    /// An [`OutboundError`], which the guest sees as a wasi:http error code.
    fn send(
        &self,
        ctx: CallContext,
        req: http::Request<Body>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, OutboundError>>;
}

/// Refuses every request; the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct DenyOutbound;

impl Outbound for DenyOutbound {
    fn send(
        &self,
        _ctx: CallContext,
        req: http::Request<Body>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, OutboundError>> {
        let to = req
            .uri()
            .authority()
            .map_or_else(String::new, ToString::to_string);
        Box::pin(async move { Err(OutboundError::Denied(to)) })
    }
}

/// Which stream a guest wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what guests print.
pub trait LogSink: Send + Sync {
    /// Takes bytes as the guest wrote them (not lines). Must not block: it runs on the thread that serves requests. A
    /// sink that is full drops bytes; printing never fails the guest.
    fn write(&self, stream: Stream, bytes: &[u8]);
}

/// Throws everything away; the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardLogs;

impl LogSink for DiscardLogs {
    fn write(&self, _stream: Stream, _bytes: &[u8]) {}
}

/// A directory of the host shown to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Directory on the host; must exist when the replica is linked.
    pub host_path: PathBuf,
    /// Absolute path the guest sees.
    pub guest_path: String,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// Everything a replica may use.
#[derive(Clone)]
pub struct Grants {
    /// Name in diagnostics and in `origin` of calls it makes.
    pub name: String,
    /// The guest's arguments, program name first.
    pub args: Vec<String>,
    /// The guest's environment.
    pub env: Vec<(String, String)>,
    /// Directories the guest sees.
    pub mounts: Vec<Mount>,
    /// Memory and tables of all its instances together, in bytes.
    pub memory_limit_bytes: u64,
    /// CPU time of all its instances together, in thousandths of a core; `None` is unlimited.
    pub cpu_limit_millicores: Option<u32>,
    /// Milliseconds until the response head must be there, and longest silence of a response body after it.
    pub request_timeout_ms: u64,
    /// Calls and runs at the same time; more are refused with [`CallError::Busy`](crate::CallError::Busy).
    pub max_concurrency: u32,
    /// Requests one instance may serve, one after another; `None` is a fresh instance for each request.
    pub reuse: Option<u32>,
    /// Whether wasi:sockets may open sockets and resolve names. Off: every attempt is refused.
    pub allow_sockets: bool,
    /// Where stdout and stderr go.
    pub log: Arc<dyn LogSink>,
    /// Who sends the guest's HTTP requests.
    pub outbound: Arc<dyn Outbound>,
}

impl Grants {
    /// Nothing but memory (256 MiB), 30 s per request and 512 requests at a time.
    pub fn new(name: impl Into<String>) -> Self {
        Grants {
            name: name.into(),
            args: Vec::new(),
            env: Vec::new(),
            mounts: Vec::new(),
            memory_limit_bytes: 256 << 20,
            cpu_limit_millicores: None,
            request_timeout_ms: 30_000,
            max_concurrency: 512,
            reuse: None,
            allow_sockets: false,
            log: Arc::new(DiscardLogs),
            outbound: Arc::new(DenyOutbound),
        }
    }
}
