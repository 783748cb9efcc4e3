//! Response bodies: what callers get, and the wrapper that knows when a guest died in the middle of one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::task::unconstrained;
use wasmtime_wasi_http::WasiBody;

use crate::call::CallCell;

/// Error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Body of requests and responses at the edge of this crate.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of known bytes.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body without bytes.
pub fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Takes a body's error over into wasi:http's error.
pub(crate) fn into_wasi_error(error: BoxError) -> wasmtime_wasi_http::Error {
    wasmtime_wasi_http::Error::InternalError(Some(error.to_string()))
}

/// A body whose guest has finished: everything is here, so its length is known.
struct Ready {
    frames: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: u64,
    exact: bool,
}

impl http_body::Body for Ready {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(data) = self.frames.pop_front() {
            self.bytes -= data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(
            self.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact {
            SizeHint::with_exact(self.bytes)
        } else {
            SizeHint::default()
        }
    }
}

/// Collects the body of a guest that has returned. All frames are in its channel already.
/// `exact` announces the length, which lets HTTP/1 send a content length instead of chunks; answers to HEAD must not.
pub(crate) fn collect(mut body: WasiBody, exact: bool) -> Result<Body, wasmtime_wasi_http::Error> {
    let mut ready = Ready {
        frames: VecDeque::new(),
        trailers: None,
        bytes: 0,
        exact,
    };
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        // Outside tokio's cooperative budget: a task that has used it up would see "pending" on a channel that is full.
        let frame = std::pin::pin!(unconstrained(poll_fn(|cx| {
            Pin::new(&mut body).poll_frame(cx)
        })));
        match frame.poll(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    ready.bytes += data.len() as u64;
                    ready.frames.push_back(data);
                }
                Err(frame) => ready.trailers = frame.into_trailers().ok(),
            },
            Poll::Ready(Some(Err(error))) => return Err(error),
            // Every sender went with the store, so this does not happen; it must not look like a complete response.
            Poll::Pending => return Err(wasmtime_wasi_http::Error::HttpResponseIncomplete),
            Poll::Ready(None) => break,
        }
    }
    ready.exact &= ready.trailers.is_none();
    if ready.exact && ready.frames.len() <= 1 {
        return Ok(full_body(ready.frames.pop_front().unwrap_or_default()));
    }
    Ok(ready.boxed_unsync())
}

/// The body of a guest that is still running.
pub(crate) struct Streaming {
    pub body: WasiBody,
    pub cell: Arc<CallCell>,
}

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                self.cell.touch();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            // The channel also ends when the guest dies; that must not look like a complete response.
            Poll::Ready(None) => match self.cell.failure() {
                Some(error) => Poll::Ready(Some(Err(error.into()))),
                None => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
