//! The one body type of the data plane, and the wrapper that counts a response while it streams.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};

use crate::ticket::Ticket;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// A body without bytes; makes no allocation.
pub fn empty() -> Body {
    Nothing.boxed_unsync()
}

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// Any other body.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        empty()
    } else {
        body.map_err(Into::into).boxed_unsync()
    }
}

/// Zero-sized, so boxing it is free.
struct Nothing;

impl http_body::Body for Nothing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

/// A response body that holds its request's [`Ticket`] until the last byte is gone or the client has left.
pub(crate) struct Tracked {
    body: Body,
    ticket: Ticket,
}

impl Tracked {
    pub fn new(body: Body, mut ticket: Ticket) -> Self {
        if http_body::Body::is_end_stream(&body) {
            ticket.completed();
        }
        Self { body, ticket }
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.ticket.sent(data.len());
                }
                // hyper does not ask again once the end is known.
                if http_body::Body::is_end_stream(&self.body) {
                    self.ticket.completed();
                }
            }
            Poll::Ready(Some(Err(_))) => self.ticket.failed("body_failed"),
            Poll::Ready(None) => self.ticket.completed(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.body)
    }
}
