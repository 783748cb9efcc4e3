//! One ingress connection: hyper's HTTP/1 state machine over a guarded socket, watched by the core's clock.
//!
//! Timeouts are not timers of each request. The core looks over all its connections a few times per second and tells those
//! that overstay; a request then costs two stores instead of a timer's insertion and removal. hyper's own head timeout is
//! off, because it would also run between requests and there is no second one for idle connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::body::{BoxError, Tracked};
use crate::core::Core;
use crate::edge;
use crate::failure::Failure;
use crate::guard::{Guard, Place, Violation};

/// Bytes of a head, and of what is buffered of a body.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long a refused client's remaining bytes are read, so that the refusal is not lost in a reset.
const LINGER: Duration = Duration::from_millis(500);

/// Why the core ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Finish the current request, then close.
    Finish,
    /// The head did not arrive in time: say so and close.
    HeadTimeout,
    /// Close now.
    Abort,
}

/// What the core knows of a connection.
pub(crate) struct ConnState {
    pub client: Option<IpAddr>,
    /// The client's address as a header value, made once.
    pub forwarded_for: HeaderValue,
    opened_ms: u64,
    /// Requests whose response is not yet wholly handed to hyper.
    open_requests: Cell<u32>,
    /// Start of the current silence or head; the place says which.
    since_ms: Cell<u64>,
    place: Cell<Place>,
    /// Since when the client owes bytes of a body; 0 if it does not.
    reading_since_ms: Cell<u64>,
    /// Since when the client does not take what is sent; 0 if it does.
    writing_since_ms: Cell<u64>,
    verdict: Cell<Option<Verdict>>,
    finishing: Cell<bool>,
    /// Reading waits for the open requests to be answered.
    is_parked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl ConnState {
    pub fn new(client: Option<IpAddr>, now_ms: u64) -> Self {
        let text = client.map_or_else(|| "unknown".to_string(), |ip| ip.to_string());
        Self {
            client,
            forwarded_for: HeaderValue::from_str(&text)
                .unwrap_or(HeaderValue::from_static("unknown")),
            opened_ms: now_ms,
            open_requests: Cell::new(0),
            since_ms: Cell::new(now_ms),
            place: Cell::new(Place::Between),
            reading_since_ms: Cell::new(0),
            writing_since_ms: Cell::new(0),
            verdict: Cell::new(None),
            finishing: Cell::new(false),
            is_parked: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// Passes a verdict and wakes the connection.
    pub fn tell(&self, verdict: Verdict) {
        if verdict == Verdict::Finish && self.finishing.replace(true) {
            return;
        }
        self.verdict.set(Some(verdict));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// What the core should do about this connection now.
    pub fn judge(&self, now_ms: u64, head_ms: u64, idle_ms: u64, age_ms: u64) -> Option<Verdict> {
        let overdue = |since: u64, limit: u64| since != 0 && now_ms.saturating_sub(since) >= limit;
        if overdue(self.writing_since_ms.get(), idle_ms)
            || overdue(self.reading_since_ms.get(), idle_ms)
        {
            return Some(Verdict::Abort);
        }
        if self.open_requests.get() == 0 {
            let silent = now_ms.saturating_sub(self.since_ms.get());
            match self.place.get() {
                Place::Head if silent >= head_ms => return Some(Verdict::HeadTimeout),
                Place::Between | Place::Body if silent >= idle_ms => return Some(Verdict::Abort),
                _ => {}
            }
        }
        (!self.finishing.get() && now_ms.saturating_sub(self.opened_ms) >= age_ms)
            .then_some(Verdict::Finish)
    }
}

/// Marks a request as open until its response body is dropped.
struct OpenRequest {
    conn: Rc<ConnState>,
    core: Rc<Core>,
}

impl OpenRequest {
    fn new(conn: &Rc<ConnState>, core: &Rc<Core>) -> Self {
        conn.open_requests.set(conn.open_requests.get() + 1);
        Self {
            conn: conn.clone(),
            core: core.clone(),
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.conn
            .open_requests
            .set(self.conn.open_requests.get() - 1);
        self.conn.since_ms.set(self.core.now_ms.get());
        if self.conn.is_parked.replace(false) {
            self.conn.wake();
        }
    }
}

/// A response body on its way to the client.
pub(crate) struct EdgeBody {
    body: Tracked,
    _open: OpenRequest,
}

impl http_body::Body for EdgeBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket with the guard in front of its reading side.
struct Guarded {
    stream: TcpStream,
    guard: Guard,
    violation: Option<Violation>,
    conn: Rc<ConnState>,
    core: Rc<Core>,
}

impl Guarded {
    /// The error hyper sees; what the client sees is made from `violation`.
    fn refuse() -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, "the request is ambiguous")
    }

    /// The request before the bad one is answered first; its end wakes the connection.
    fn refuse_when_answered(&self) -> Poll<io::Result<()>> {
        if self.conn.open_requests.get() == 0 {
            return Poll::Ready(Err(Self::refuse()));
        }
        self.conn.is_parked.set(true);
        Poll::Pending
    }

    fn note_written(&self, is_pending: bool) {
        let waiting = &self.conn.writing_since_ms;
        if !is_pending {
            waiting.set(0);
        } else if waiting.get() == 0 {
            waiting.set(self.core.now_ms.get().max(1));
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.violation.is_some() {
            return this.refuse_when_answered();
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        let now_ms = this.core.now_ms.get();
        match &polled {
            Poll::Ready(Ok(())) => {
                this.conn.reading_since_ms.set(0);
                let was = this.guard.place();
                if let Err(stop) = this.guard.scan(&buf.filled()[before..]) {
                    this.violation = Some(stop.violation);
                    buf.set_filled(before + stop.good);
                    if stop.good == 0 {
                        let answer_first = was != Place::Body && this.conn.open_requests.get() > 0;
                        return if answer_first {
                            this.refuse_when_answered()
                        } else {
                            Poll::Ready(Err(Self::refuse()))
                        };
                    }
                }
                let place = this.guard.place();
                if this.conn.place.replace(place) != place {
                    this.conn.since_ms.set(now_ms);
                }
            }
            Poll::Pending
                if this.guard.place() == Place::Body && this.conn.reading_since_ms.get() == 0 =>
            {
                this.conn.reading_since_ms.set(now_ms.max(1));
            }
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_written(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_written(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.violation.is_some() {
            // The refusal is still to be sent.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How a connection ended.
enum End {
    /// hyper is done with it.
    Done,
    /// An error of the socket or the parser; hyper has said what it could.
    Broken,
    Told(Verdict),
}

/// Serves a connection until it closes.
pub(crate) async fn serve(core: Rc<Core>, stream: TcpStream, conn: Rc<ConnState>) {
    let io = Guarded {
        stream,
        guard: Guard::new(),
        violation: None,
        conn: conn.clone(),
        core: core.clone(),
    };
    let service = service_fn({
        let (core, conn) = (core.clone(), conn.clone());
        move |req: Request<Incoming>| {
            let open = OpenRequest::new(&conn, &core);
            let (core, conn) = (core.clone(), conn.clone());
            async move {
                let mut response: Response<Tracked> = edge::serve(&core.per, &conn, req).await;
                if conn.finishing.get() {
                    // hyper closes without saying so, and the client would send its next request into the void.
                    response
                        .headers_mut()
                        .insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, BoxError>(response.map(|body| EdgeBody { body, _open: open }))
            }
        }
    });
    let mut http = http1::Builder::new();
    http.header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES_MAX)
        .pipeline_flush(true);
    let mut hyper = http.serve_connection(TokioIo::new(io), service);
    let end = poll_fn(|cx| {
        if !conn
            .waker
            .borrow()
            .as_ref()
            .is_some_and(|w| w.will_wake(cx.waker()))
        {
            conn.waker.replace(Some(cx.waker().clone()));
        }
        match conn.verdict.take() {
            Some(Verdict::Finish) => Pin::new(&mut hyper).graceful_shutdown(),
            Some(verdict) => return Poll::Ready(End::Told(verdict)),
            None => {}
        }
        match Pin::new(&mut hyper).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(End::Done),
            Poll::Ready(Err(error)) => {
                tracing::trace!(%error, "an ingress connection broke");
                Poll::Ready(End::Broken)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let parts = hyper.into_parts();
    let guarded = parts.io.into_inner();
    let failure = match (end, guarded.violation) {
        (End::Done | End::Broken, Some(violation)) => {
            Failure::bad_request(violation.message()).fix("send the request as RFC 9112 says")
        }
        (End::Told(Verdict::HeadTimeout), _) => Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "the head of the request did not arrive in time",
        ),
        _ => return,
    };
    // In the middle of a response another one would be taken for its body.
    if conn.open_requests.get() == 0 && conn.writing_since_ms.get() == 0 {
        say_and_close(guarded.stream, &failure).await;
    }
}

/// Sends a last answer. What the client still sends is read for a moment: closing with unread bytes resets the connection,
/// and the reset may overtake the answer.
pub(crate) async fn say_and_close(mut stream: TcpStream, failure: &Failure) {
    use tokio::io::AsyncWriteExt;
    let last_words = async {
        stream.write_all(&failure.raw_response()).await?;
        stream.shutdown().await?;
        let mut sink = [0u8; 4096];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, last_words).await {
        tracing::trace!(%error, "a refused client left first");
    }
}
