//! The TLS listener: accepts, shakes hands within a bound, puts the client's identity into every request, serves
//! HTTP/1.1 and HTTP/2, and closes without cutting answers off.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::cork::Corked;
use crate::identity::Identity;
use crate::watch::CLOSE_SPREAD_MAX;

/// A handshake that takes longer is dropped: it is a port scan or a stalled peer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Request heads that take longer are dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pings on HTTP/2, so that half-open connections of dead nodes go away.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Time a peer has to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Streams of one HTTP/2 connection, kube-apiserver's number rounded up.
const STREAMS_PER_CONNECTION: u32 = 1_000;
/// Connections held at once; the next waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 20_000;
/// Time that requests have to finish at shutdown, after watches were asked to close.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after accept failed (out of file descriptors, usually).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Fires in every request's extensions when the listener shuts down; long streams end on it.
#[derive(Clone, Debug, Default)]
pub struct Closing(pub CancellationToken);

/// Serves until `shutdown` fires, then closes watches spread over a time that grows with their number, 3 s at most, and
/// finishes what is in flight. `tls`
/// should offer ALPN `h2` and `http/1.1` and make client certificates optional. Fails only if the listener itself is
/// broken.
pub async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.local_addr()?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let closing = Closing(CancellationToken::new());
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "accept failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
        };
        let (acceptor, router, closing) = (acceptor.clone(), router.clone(), closing.clone());
        connections.spawn(async move {
            if let Err(e) = connection(stream, acceptor, router, closing).await {
                tracing::debug!(error = %e, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    closing.0.cancel();
    connections.close();
    if tokio::time::timeout(CLOSE_SPREAD_MAX + FINISH_TIMEOUT, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "connections were still busy at shutdown and are cut off"
        );
    }
    Ok(())
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    closing: Closing,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    // The handshake verified the chain; an unusable subject is no identity.
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| Identity::from_certificate(chain.first()?))
        .unwrap_or_else(Identity::anonymous);
    let token = closing.0.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(closing.clone());
        router.clone().oneshot(request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_PER_CONNECTION);
    let corked = Corked::new(stream);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(corked.clone()), service);
    let mut connection = std::pin::pin!(connection);
    let mut closing = std::pin::pin!(token.cancelled_owned());
    let (mut leaving, mut done) = (false, None);
    std::future::poll_fn(|cx| {
        if !leaving && closing.as_mut().poll(cx).is_ready() {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        if done.is_none() {
            corked.push_in();
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                done = Some(end);
            }
        }
        // Everything that was ready is written: it leaves together.
        match (corked.pull(cx)?, &mut done) {
            (Poll::Ready(()), Some(_)) => Poll::Ready(done.take().unwrap_or(Ok(()))),
            _ => Poll::Pending,
        }
    })
    .await
}
