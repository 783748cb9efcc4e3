//! The runner's own port: logs for the API server, requests from the proxies of other nodes, layers for other runners,
//! metrics. Mutual TLS; what a client may do depends on the groups in its certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_api::{Key, Timestamp};
use coracle_proxy::{Body, PeerIdentity, Proxy, boxed, full};
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::live::Live;
use crate::logs::{self, Logs};
use crate::pull::serve::Serve;
use crate::tls::Peer;

/// Connections at once: one or two for each peer, and one for each log that is followed.
const CONNECTIONS_MAX: usize = 4_096;
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a request's head.
const HEAD: Duration = Duration::from_secs(10);

/// What requests are answered from.
pub(crate) struct Context {
    pub logs: Logs,
    pub proxy: Proxy,
    pub blobs: Serve,
    pub metrics: Registry,
}

/// Answers requests; [`Context`] in production.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers one from `peer`.
    fn answer(
        &self,
        peer: &Peer,
        req: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

impl Answers for Context {
    async fn answer(&self, peer: &Peer, req: Request<Incoming>) -> Response<Body> {
        answer(self, peer, req).await
    }
}

/// Accepts until it is stopped; then lets requests in flight finish.
pub(crate) async fn serve(
    listener: TcpListener,
    live: Arc<Live>,
    context: Arc<impl Answers>,
    stop: CancellationToken,
) {
    let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let open = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: the pause keeps the loop from spinning.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Full: the connection is closed, and the other side tries again.
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            continue;
        };
        // The certificate and the roots of this moment.
        let acceptor = TlsAcceptor::from(live.server());
        let (context, stop) = (context.clone(), stop.clone());
        open.spawn(async move {
            let _permit = permit;
            connection(stream, from, acceptor, context, stop).await;
        });
    }
    open.close();
    open.wait().await;
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    acceptor: TlsAcceptor,
    context: Arc<impl Answers>,
    stop: CancellationToken,
) {
    // Small frames of many requests share a connection; waiting to fill packets would delay them.
    drop(stream.set_nodelay(true));
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!(%from, "a TLS handshake took too long"),
    };
    let peer = Peer::of(tls.get_ref().1.peer_certificates());
    let service = hyper::service::service_fn(move |req: Request<Incoming>| {
        let (context, peer) = (context.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(context.answer(&peer, req).await) }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1_000)
        .keep_alive_interval(Duration::from_secs(20));
    let conn = builder.serve_connection(TokioIo::new(tls), service);
    tokio::pin!(conn);
    let ended = tokio::select! {
        ended = conn.as_mut() => ended,
        () = stop.cancelled() => {
            conn.as_mut().graceful_shutdown();
            conn.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "a connection ended badly");
    }
}

async fn answer(context: &Context, peer: &Peer, req: Request<Incoming>) -> Response<Body> {
    if Proxy::is_from_peer(&req) {
        let identity = PeerIdentity {
            name: peer.name.clone(),
            groups: peer.groups.clone(),
        };
        return context.proxy.serve_peer(req, identity).await;
    }
    if let Some(digest) = layer_asked(peer, &req) {
        let blobs = &context.blobs;
        return blobs.answer(req.method(), digest, req.headers()).await;
    }
    let path: Vec<&str> = req.uri().path().split('/').skip(1).collect();
    if req.method() != Method::GET {
        return plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered here\n",
        );
    }
    match path.as_slice() {
        ["healthz"] => plain(StatusCode::OK, "ok"),
        ["metrics"] if peer.may_read_metrics() => metrics(context),
        ["logs", namespace, pod, container] if peer.is_api_server() => {
            let (pod, container) = (Key::new(*namespace, *pod), (*container).to_string());
            let safe = |s: &str| {
                !s.is_empty()
                    && s.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
                    && !s.starts_with('.')
            };
            if !(safe(&pod.namespace) && safe(&pod.name) && safe(&container)) {
                return plain(
                    StatusCode::BAD_REQUEST,
                    "a name in the path is not a name\n",
                );
            }
            match query(req.uri().query().unwrap_or_default()) {
                Ok(query) => log(context, pod, container, query).await,
                Err(why) => plain(StatusCode::BAD_REQUEST, format!("{why}\n")),
            }
        }
        ["metrics"] | ["blobs", _] | ["logs", ..] => plain(
            StatusCode::FORBIDDEN,
            "this needs another client certificate\n",
        ),
        _ => plain(StatusCode::NOT_FOUND, "there is no such path on a runner\n"),
    }
}

/// The digest, if a layer is asked for by somebody who may read it.
pub(crate) fn layer_asked<'a>(peer: &Peer, req: &'a Request<Incoming>) -> Option<&'a str> {
    let reads = matches!(*req.method(), Method::GET | Method::HEAD);
    let digest = req.uri().path().strip_prefix("/blobs/")?;
    (reads && peer.may_read_blobs()).then_some(digest)
}

fn metrics(context: &Context) -> Response<Body> {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &context.metrics) {
        Ok(()) => {
            let mut response = plain(StatusCode::OK, text);
            let kind = HeaderValue::from_static(
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            );
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

async fn log(context: &Context, pod: Key, container: String, query: logs::Query) -> Response<Body> {
    let missing = if query.previous {
        format!(
            "previous terminated container \"{container}\" in pod \"{}\" not found\n",
            pod.name
        )
    } else {
        format!(
            "container \"{container}\" in pod \"{}\" is waiting to start\n",
            pod.name
        )
    };
    match logs::stream(&context.logs, pod, container, query).await {
        Ok(Some(chunks)) => {
            let frames = tokio_stream(chunks)
                .map(|bytes| Ok::<_, std::convert::Infallible>(Frame::data(bytes)));
            let mut response = Response::new(boxed(StreamBody::new(frames)));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            response
        }
        Ok(None) => plain(StatusCode::BAD_REQUEST, missing),
        Err(e) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the log cannot be read: {e}\n"),
        ),
    }
}

fn tokio_stream(
    rx: tokio::sync::mpsc::Receiver<Bytes>,
) -> impl futures_util::Stream<Item = Bytes> + Send {
    futures_util::stream::unfold(rx, |mut rx| async move {
        rx.recv().await.map(|bytes| (bytes, rx))
    })
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Reads the options of a log, as the API names them. Names that are not known are ignored.
fn query(text: &str) -> Result<logs::Query, String> {
    let mut query = logs::Query::default();
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let flag = || match value {
            "true" | "1" | "" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("{name} must be true or false, not {value:?}")),
        };
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{name} must be a number, not {value:?}"))
        };
        match name {
            "follow" => query.follow = flag()?,
            "previous" => query.previous = flag()?,
            "timestamps" => query.timestamps = flag()?,
            "tailLines" => query.tail_lines = Some(number()?),
            "limitBytes" => query.limit_bytes = Some(number()?),
            "sinceSeconds" => {
                let seconds = i64::try_from(number()?).unwrap_or(i64::MAX);
                let since = Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(seconds));
                query.since = Some(since.unwrap_or(Timestamp::MIN));
            }
            "sinceTime" => {
                let text = value
                    .replace("%3A", ":")
                    .replace("%3a", ":")
                    .replace("%2B", "+")
                    .replace("%2b", "+");
                query.since = Some(
                    text.parse()
                        .map_err(|_| format!("sinceTime is not an RFC 3339 time: {text:?}"))?,
                );
            }
            _ => {}
        }
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_options_are_read_as_the_api_names_them() {
        let q =
            query("follow=true&tailLines=10&previous=false&timestamps&limitBytes=5&x=1").unwrap();
        assert!(q.follow && q.timestamps && !q.previous);
        assert_eq!((q.tail_lines, q.limit_bytes), (Some(10), Some(5)));
        let q = query("sinceTime=2026-01-02T03%3A04%3A05Z").unwrap();
        assert_eq!(q.since, Some("2026-01-02T03:04:05Z".parse().unwrap()));
        assert!(query("sinceSeconds=60").unwrap().since.unwrap() < Timestamp::now());
        assert!(query("tailLines=x").is_err() && query("follow=maybe").is_err());
    }
}
