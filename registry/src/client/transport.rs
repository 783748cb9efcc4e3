//! How requests travel, and what they carry.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer, as it comes.
pub type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// Why there is no answer.
#[derive(Debug)]
pub enum Unsent {
    /// The connection could not be made or broke: it may be tried again.
    Broken(String),
    /// Credentials are missing or wrong: it may not.
    Denied(String),
}

/// Sends requests to one registry. Redirects are followed, without credentials where they lead to another host.
pub trait Transport: Send + Sync {
    /// The answer to a request, its body to be read as it comes. Dropping the future drops the request.
    fn send(
        &self,
        request: Request<Payload>,
    ) -> impl Future<Output = Result<Response<Answer>, Unsent>> + Send;
}

impl<T: Transport> Transport for Arc<T> {
    fn send(
        &self,
        request: Request<Payload>,
    ) -> impl Future<Output = Result<Response<Answer>, Unsent>> + Send {
        T::send(self, request)
    }
}

/// Called with the bytes that are over.
type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// The body of a request: bytes at hand, which can be sent again.
#[derive(Clone, Default)]
pub struct Payload {
    rest: Bytes,
    sent: u64,
    watch: Option<Sent>,
}

/// Bytes handed over at once: how finely progress is seen.
const FRAME_BYTES: usize = 64 << 10;

impl Payload {
    /// All of these bytes.
    pub fn new(bytes: Bytes) -> Self {
        Payload {
            rest: bytes,
            ..Payload::default()
        }
    }

    /// Calls `sent` with the number of bytes that were handed over so far.
    pub fn watched(mut self, sent: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.watch = Some(Arc::new(sent));
        self
    }

    /// The bytes that are left, all at once, for a transport that cannot say how far it is.
    pub fn into_bytes(self) -> Bytes {
        self.rest
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn count(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if let Some(watch) = &self.watch {
            watch(self.sent);
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.rest.len())
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let next = self.rest.len().min(FRAME_BYTES);
        let frame = self.rest.split_to(next);
        self.count(next);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
