//! The plain HTTP listener of the registry. (The TLS listeners of API and registry are `coracle_server::serve`.)

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use coracle_registry::READ_BYTES_MAX;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections held at once; the next waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 4_096;
/// Request heads that take longer are dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that transfers have to finish at shutdown; clients resume what is cut off.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after accept failed (out of file descriptors, usually).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until `stop` fires, then lets requests under way finish within a bound.
pub(crate) async fn plain(listener: TcpListener, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the registry listener");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, router, stop).await {
                tracing::debug!(%error, "a registry connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(FINISH_TIMEOUT, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "registry transfers were still under way at shutdown and are cut off"
        );
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true).map_err(|e: io::Error| e)?;
    let service = service_fn(move |request: Request<Incoming>| {
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_buf_size(READ_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return done,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
