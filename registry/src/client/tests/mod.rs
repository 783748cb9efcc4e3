//! The client against our own registry over real sockets, with lines that break at planned bytes and registries that are
//! not ours.

mod auth;
mod download;
mod line;
mod upload;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use bytes::Bytes;
use http::header;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

use super::retry::Retry;
use super::watch::{self, Sessions, Step};
use super::*;
use crate::authorise::AllowAll;
use crate::digest::Algorithm;
use crate::limits::Limits;
use crate::wasm::Target;
use crate::{BoxFuture, Parts, Registry, SystemClock, router};
use line::{Cut, Line};

/// Plain HTTP, each request on a connection of its own: the third request is the third connection.
pub struct Wire(Hyper<HttpConnector, Payload>);

impl Wire {
    pub fn new() -> Wire {
        let mut client = Hyper::builder(TokioExecutor::new());
        Wire(client.pool_max_idle_per_host(0).build_http())
    }
}

impl Transport for Wire {
    async fn send(
        &self,
        request: http::Request<Payload>,
    ) -> Result<http::Response<Answer>, Unsent> {
        let sent = self.0.request(request).await;
        let response = sent.map_err(|e| Unsent::Broken(format!("{e:?}")))?;
        Ok(response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()))
    }
}

/// Stands before the registry: may change a request, and answer it in the registry's place.
pub type Odd = Arc<dyn Fn(&mut Request) -> Option<Response> + Send + Sync>;

/// A registry, a line to it, and what happened.
pub struct Rig {
    pub line: Line,
    /// What reached the registry, as `METHOD last-segment?query range -> status`.
    log: Arc<Mutex<Vec<String>>>,
    /// How long the client waited, each time.
    pub pauses: Arc<Mutex<Vec<Duration>>>,
    /// What the watcher was told.
    pub steps: Arc<Mutex<Vec<String>>>,
    pub sessions: Arc<watch::Memory>,
    pub retry: Retry,
}

impl Rig {
    pub async fn new() -> Rig {
        Rig::odd(Arc::new(|_| None)).await
    }

    pub async fn odd(odd: Odd) -> Rig {
        let registry = Registry::open(Parts {
            blobs: Arc::new(crate::blobs::memory::Memory::new(SystemClock)),
            meta: Arc::new(crate::meta::memory::Memory::new()),
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
            authorise: Arc::new(AllowAll),
        })
        .await
        .unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = log.clone();
        let app = router(registry).layer(middleware::from_fn(
            move |mut request: Request, next: Next| {
                let (odd, kept) = (odd.clone(), kept.clone());
                async move {
                    let asked = line_of(&request);
                    let response = match odd(&mut request) {
                        Some(response) => response,
                        None => next.run(request).await,
                    };
                    let status = response.status().as_u16();
                    kept.lock().unwrap().push(format!("{asked} -> {status}"));
                    response
                }
            },
        ));
        Rig {
            line: Line::to(serve(app).await).await,
            log,
            pauses: Arc::default(),
            steps: Arc::default(),
            sessions: Arc::default(),
            retry: Retry::default(),
        }
    }

    /// A client in chunks of [`CHUNK`].
    pub fn client(&self) -> Client<Wire> {
        Client::new(Wire::new(), self.base(), self.options())
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.line.address)
    }

    pub fn options(&self) -> Options {
        let (pauses, steps) = (self.pauses.clone(), self.steps.clone());
        Options {
            retry: self.retry,
            sleep: Arc::new(move |pause: Duration| -> BoxFuture<'static, ()> {
                pauses.lock().unwrap().push(pause);
                Box::pin(async {})
            }),
            single_bytes_max: 4 << 10,
            chunk_bytes: CHUNK,
            watch: Arc::new(move |_: &Digest, step: Step<'_>| {
                let shown = match step {
                    Step::Again { .. } => "Again".to_owned(),
                    step => format!("{step:?}"),
                };
                steps.lock().unwrap().push(shown);
            }),
            sessions: self.sessions.clone(),
            ..Options::default()
        }
    }

    /// What happened since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// Puts a blob where a client finds it, past the line's plans.
    pub async fn store(&self, bytes: &[u8]) -> Target {
        let target = target(bytes);
        let base = format!("http://{}", self.line.registry);
        let client = Client::new(Wire::new(), base, Options::default());
        let bytes = Bytes::copy_from_slice(bytes);
        client.upload("demo", &target.digest, &bytes).await.unwrap();
        self.log();
        target
    }

    /// What the registry has of a blob.
    pub async fn stored(&self, target: &Target) -> Vec<u8> {
        let base = format!("http://{}", self.line.registry);
        let client = Client::new(Wire::new(), base, Options::default());
        client.small("demo", target, 1 << 30).await.unwrap()
    }
}

/// What our registry asks for at least.
pub const CHUNK: usize = 256 << 10;

fn line_of(request: &Request) -> String {
    let path = request.uri().path();
    let last = match path.rsplit_once("/uploads/") {
        Some((_, "")) => "uploads/",
        Some(_) => "session",
        None if path.contains("/manifests/") => "manifest",
        None => "blob",
    };
    let mut line = format!("{} {last}", request.method());
    if request.uri().query().is_some_and(|q| q.contains("digest=")) {
        line.push_str("?digest");
    }
    for name in [header::RANGE, header::CONTENT_RANGE] {
        if let Some(range) = request.headers().get(name) {
            line.push_str(&format!(" {}", range.to_str().unwrap()));
        }
    }
    line
}

pub async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

pub fn target(bytes: &[u8]) -> Target {
    Target {
        digest: Algorithm::Sha256.digest(bytes),
        size: bytes.len() as u64,
    }
}

/// Bytes that repeat nowhere.
pub fn noise(length: u32) -> Bytes {
    (0..length)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// An answer in the registry's place.
pub fn status(status: u16, headers: &[(&str, &str)]) -> Option<Response> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Some(response.body(Body::empty()).unwrap())
}

/// Does `odd` to the first `times` requests that `which` is about.
pub fn first(
    times: usize,
    which: impl Fn(&Request) -> bool + Send + Sync + 'static,
    odd: impl Fn(&mut Request) -> Option<Response> + Send + Sync + 'static,
) -> Odd {
    let left = Mutex::new(times);
    Arc::new(move |request| {
        let mut left = left.lock().unwrap();
        if *left == 0 || !which(request) {
            return None;
        }
        *left -= 1;
        odd(request)
    })
}
