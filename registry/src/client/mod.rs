//! The other side: a client of registries, for pushes and pulls that come to an end.
//!
//! It sends nothing that is there (HEAD first), goes on where it broke off (an upload by its session's `Range`, a
//! download by the file that is there), tries again what may be tried again and nothing else ([`retry`]), and checks all
//! that came against its digest. Connections are a [`Transport`]'s matter, so that the same rules hold for the cluster's
//! own registry and for those outside; [`auth`] adds what registries outside ask for.

mod answer;
pub mod auth;
mod download;
mod manifests;
pub mod retry;
mod transport;
mod upload;
pub mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{Method, Request, StatusCode};

use crate::BoxFuture;
use crate::digest::Digest;
use retry::{Attempts, Retry};
use watch::{Sessions, Step, Watch};

pub use manifests::Manifest;
pub use transport::{Answer, BoxError, Payload, Transport, Unsent};
pub use upload::Uploaded;

/// Blobs up to this many bytes go in one request, by default: the next chunk of a larger one would cost as much.
pub const SINGLE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a chunk by default: what is lost at most when a line breaks.
pub const CHUNK_BYTES: usize = 4 << 20;
/// Blobs on their way at once by default.
pub const PARALLEL: usize = 4;
/// A registry that sends no byte for so long is taken for gone, by default.
pub const STALL: Duration = Duration::from_secs(30);

/// Waits; the tests' own does not.
pub type Sleep = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// How a client goes about it.
#[derive(Clone)]
pub struct Options {
    /// How often and how soon it tries again.
    pub retry: Retry,
    /// How it waits.
    pub sleep: Sleep,
    /// Blobs on their way at once, at least 1.
    pub parallel: usize,
    /// Largest blob that goes in one request, in bytes.
    pub single_bytes_max: usize,
    /// Bytes of a chunk, at least 1; more if the registry asks for it.
    pub chunk_bytes: usize,
    /// Longest silence.
    pub stall: Duration,
    /// Who is told how far it is.
    pub watch: Watch,
    /// Where upload sessions are remembered for the next process.
    pub sessions: Arc<dyn Sessions>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            retry: Retry::default(),
            sleep: Arc::new(|pause: Duration| -> BoxFuture<'static, ()> {
                Box::pin(tokio::time::sleep(pause))
            }),
            parallel: PARALLEL,
            single_bytes_max: SINGLE_BYTES_MAX,
            chunk_bytes: CHUNK_BYTES,
            stall: STALL,
            watch: watch::nobody(),
            sessions: Arc::new(watch::Memory::default()),
        }
    }
}

/// Why a push or a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry said no.
    #[error("{message}{}", after(.tries))]
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// The code in its body, else `HTTP` and the status.
        code: String,
        /// Its own words, if it had any.
        message: String,
        /// How often it was asked.
        tries: u32,
    },
    /// It did not answer, or not to the end.
    #[error("{why}{}", after(.tries))]
    Unreachable {
        /// What happened last.
        why: String,
        /// How often it was asked.
        tries: u32,
    },
    /// Credentials are missing or wrong.
    #[error("{0}")]
    Denied(String),
    /// What came is not what was asked for.
    #[error("the registry sent {found} for {wanted}")]
    Corrupt {
        /// The digest asked for.
        wanted: Digest,
        /// What came, in words.
        found: String,
    },
    /// More than a client takes.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// An answer no registry may give.
    #[error("the registry does not keep to the protocol: {0}")]
    Protocol(String),
    /// The file that is written.
    #[error("{}", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

fn after(tries: &u32) -> String {
    match tries {
        0 | 1 => String::new(),
        tries => format!(" (tried {tries} times)"),
    }
}

/// A failed attempt.
struct Failure {
    error: Error,
    /// Whether it may be tried again, and after how long the registry wants it.
    again: Option<Option<Duration>>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error, again: None }
    }
}

impl Failure {
    /// The connection failed.
    fn broken(why: impl Into<String>) -> Self {
        Failure {
            error: Error::Unreachable {
                why: why.into(),
                tries: 0,
            },
            again: Some(None),
        }
    }

    /// The same error, which another attempt may cure.
    fn once_more(error: Error) -> Self {
        Failure {
            error,
            again: Some(None),
        }
    }
}

/// A client of one registry.
pub struct Client<T> {
    transport: T,
    base: String,
    options: Options,
    /// It was found not to take a blob in one request.
    no_single: AtomicBool,
}

impl<T: Transport> Client<T> {
    /// A client of the registry at `base`: `https://ghcr.io` without a slash at the end, or nothing if the transport
    /// knows where it is.
    pub fn new(transport: T, base: impl Into<String>, options: Options) -> Self {
        Client {
            transport,
            base: base.into(),
            options,
            no_single: AtomicBool::new(false),
        }
    }

    fn path(&self, repository: &str, kind: &str, what: &str) -> String {
        format!("{}/v2/{repository}/{kind}/{what}", self.base)
    }

    fn tell(&self, digest: &Digest, step: Step<'_>) {
        (self.options.watch)(digest, step);
    }

    /// One request. An answer that may be different another time is a failure.
    async fn send(&self, request: Request<Payload>) -> Result<http::Response<Answer>, Failure> {
        // A body may take its time: 64 KiB a second is a very slow line.
        let extra = Duration::from_secs(request.body().len() as u64 >> 16);
        let sent = tokio::time::timeout(self.options.stall + extra, self.transport.send(request));
        let response = match sent.await {
            Err(_) => {
                let seconds = self.options.stall.as_secs();
                return Err(Failure::broken(format!(
                    "the registry did not answer for {seconds} s"
                )));
            }
            Ok(Err(Unsent::Broken(why))) => return Err(Failure::broken(why)),
            Ok(Err(Unsent::Denied(why))) => return Err(Error::Denied(why).into()),
            Ok(Ok(response)) => response,
        };
        if !retry::may_retry(response.status()) {
            return Ok(response);
        }
        let asked = retry::retry_after(response.headers(), jiff::Timestamp::now());
        Err(Failure {
            error: self.refused(response).await,
            again: Some(asked),
        })
    }

    /// After a failed attempt: waits and lets the caller try again, or gives the error back.
    async fn pause(
        &self,
        attempts: &mut Attempts,
        digest: Option<&Digest>,
        failure: Failure,
        progress: bool,
    ) -> Result<(), Error> {
        let Failure { mut error, again } = failure;
        let Some(asked) = again else {
            return Err(error);
        };
        let jitter = rand::random::<f64>();
        let Some(pause) = attempts.failed(&self.options.retry, progress, asked, jitter) else {
            if let Error::Refused { tries, .. } | Error::Unreachable { tries, .. } = &mut error {
                *tries = attempts.made();
            }
            return Err(error);
        };
        let why = error.to_string();
        tracing::debug!(why, ?pause, "a registry is asked again");
        if let Some(digest) = digest {
            self.tell(digest, Step::Again { why: &why, pause });
        }
        (self.options.sleep)(pause).await;
        Ok(())
    }
}

/// A request; the path may have come from the registry.
fn request(
    method: Method,
    uri: &str,
    headers: &[(http::HeaderName, &str)],
    payload: Payload,
) -> Result<Request<Payload>, Error> {
    let mut builder = Request::builder().uri(uri);
    // Also where nothing is sent: some registries want to be told.
    if matches!(method, Method::POST | Method::PATCH | Method::PUT) {
        builder = builder.header(http::header::CONTENT_LENGTH, payload.len());
    }
    builder = builder.method(method);
    for (name, value) in headers {
        builder = builder.header(name, *value);
    }
    builder
        .body(payload)
        .map_err(|e| Error::Protocol(format!("{uri:?} cannot be asked for: {e}")))
}
