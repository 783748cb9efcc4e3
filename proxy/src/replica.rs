//! What the proxy needs from whoever runs replicas on this node. The runner implements it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode};

use crate::body::Body;

/// Longest chain of calls from service to service; a longer one is a loop and is answered 508.
pub const CALL_DEPTH_MAX: u32 = 8;

/// What travels with a request besides its head and body.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    /// Calls from service to service before this one; 0 for a request from outside.
    pub depth: u32,
    /// When the caller stops waiting; `None` if it waits as long as the replica may work.
    pub deadline: Option<Instant>,
    /// The request's `x-request-id`, the same along the whole chain; `None` lets the proxy make one.
    pub request_id: Option<HeaderValue>,
    /// The caller's `traceparent`; `None` starts a trace.
    pub traceparent: Option<HeaderValue>,
}

/// A replica that serves requests on this node.
pub trait LocalReplica: Send + Sync {
    /// Gives the request to the replica; the future resolves with the response head, the body streams after it. It is
    /// polled on the thread that accepted the request. Dropping it, or the body, abandons the request.
    ///
    /// The replica must answer by `ctx.deadline`.
    ///
    /// # Errors
    /// [`ReplicaError`] if there is no response.
    fn call(
        &self,
        ctx: CallContext,
        port: u16,
        req: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, ReplicaError>>;
}

/// Finds replicas on this node; asked once for each request, so it must not block.
pub trait LocalReplicas: Send + Sync {
    /// The replica of a pod; `None` if the pod is not here, not ready yet, or gone.
    fn get(&self, pod_uid: &str) -> Option<Arc<dyn LocalReplica>>;
}

/// Why a replica gave no response.
#[derive(Debug)]
pub struct ReplicaError {
    /// Status for the client.
    pub status: StatusCode,
    /// Names what failed: `guest_trap`, `deadline_exceeded`, `draining`, ...
    pub code: Cow<'static, str>,
    /// What happened, as a sentence.
    pub message: String,
    /// What to do about it.
    pub fix: Option<Cow<'static, str>>,
    /// Nothing of the request was consumed by a guest, so another replica may take it.
    pub retriable: bool,
    /// The request, untouched, if the replica can hand it back; lets a retriable request with a body be tried elsewhere.
    pub request: Option<Box<Request<Body>>>,
}

impl ReplicaError {
    /// An error that is the end of the request.
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            fix: None,
            retriable: false,
            request: None,
        }
    }

    /// A refusal before anything was read: busy, draining or gone.
    pub fn refused(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            retriable: true,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }
}

impl std::fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ReplicaError {}
