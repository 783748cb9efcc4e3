//! `/coracle/v1/blobs/DIGEST` of the API listener, for members only: this member's disk as the others see it. It never
//! asks another member, so that no request goes round in circles.
//!
//! `GET` reads. `PUT` stores and answers 201 when the blob is durable. `HEAD` answers 200 if it is durable already. After
//! a 200 to `HEAD` or a 201 the bytes stay for as long as a promise lasts, which is time for the link to be written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use coracle_api::Timestamp;
use coracle_registry::Registry;
use coracle_registry::blobs::{BlobError, Blobs, ByteStream, Opened, Source};
use coracle_registry::digest::Digest;
use coracle_registry::error::{Code, Error};
use coracle_server::Identity;
use coracle_server::identity::MEMBERS;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::PATH;
use super::peers::STALL;
use super::receive::{Refused, receive};

/// Copies taken at once: every other member sends some (see `LANE_MAX`).
const TAKEN_MAX: usize = 64;
/// A blob is taken for durable when it has been there so long: somebody may still be syncing a younger one's directory.
const SETTLED: Duration = Duration::from_secs(60);

/// This member's disk, for the others.
pub(crate) struct Local {
    disk: Arc<dyn Blobs>,
    registry: Arc<Registry>,
    places: Semaphore,
}

impl Local {
    /// The disk under `registry`.
    pub fn new(disk: Arc<dyn Blobs>, registry: Arc<Registry>) -> Arc<Self> {
        Arc::new(Self {
            disk,
            registry,
            places: Semaphore::new(TAKEN_MAX),
        })
    }

    async fn opened(&self, digest: &Digest) -> Result<Opened, Error> {
        let opened = self.disk.open(&Source::Blob(digest.clone())).await?;
        opened.ok_or_else(|| {
            let message = format!("blob {digest} is not on this member");
            Error::new(Code::BlobUnknown, message)
        })
    }

    async fn answer(&self, digest: &str, request: Request) -> Result<Response, Error> {
        let who = request.extensions().get::<Identity>();
        if !who.is_some_and(|who| who.in_group(MEMBERS)) {
            let message = "E_BLOBS: only members of the cluster may do this; use /v2";
            return Err(Error::new(Code::Denied, message));
        }
        let digest: Digest = digest.parse()?;
        match *request.method() {
            Method::GET => {
                let opened = self.opened(&digest).await?;
                let size = opened.size;
                Ok(respond(size, Body::from_stream((opened.body)(0..size))))
            }
            Method::HEAD => {
                self.registry.promise(&digest).await;
                let opened = self.opened(&digest).await?;
                let age = Timestamp::now().duration_since(opened.modified);
                if Duration::try_from(age).is_ok_and(|age| age >= SETTLED) {
                    return Ok(respond(opened.size, Body::empty()));
                }
                let message = format!("blob {digest} may not be durable here yet: send it");
                Err(Error::new(Code::BlobUnknown, message))
            }
            Method::PUT => self.take(&digest, request).await,
            _ => Err(Error::new(Code::Unsupported, "use GET, HEAD or PUT")),
        }
    }

    async fn take(&self, digest: &Digest, request: Request) -> Result<Response, Error> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let size: u64 = length
            .and_then(|text| text.to_str().ok()?.parse().ok())
            .ok_or_else(|| {
                Error::new(Code::SizeInvalid, "Content-Length is needed")
                    .status(StatusCode::LENGTH_REQUIRED)
            })?;
        let max = self.registry.limits().blob_bytes_max;
        if size > max {
            let message = format!("a blob may have at most {max} bytes here");
            return Err(
                Error::new(Code::SizeInvalid, message).status(StatusCode::PAYLOAD_TOO_LARGE)
            );
        }
        let Ok(_place) = self.places.try_acquire() else {
            let message = format!("{TAKEN_MAX} copies are being taken already");
            return Err(BlobError::Unavailable(message).into());
        };
        // Before the bytes are there: from now on no collector takes them for a leftover.
        self.registry.promise(digest).await;
        let pieces = pieces(request.into_body().into_data_stream());
        receive(&*self.disk, digest, size, pieces)
            .await
            .map_err(|refused| match refused {
                Refused::Digest(_) => Error::new(
                    Code::DigestInvalid,
                    format!("{refused}, not {digest}: nothing was stored"),
                ),
                Refused::Length { .. } | Refused::Broken(_) => {
                    Error::new(Code::SizeInvalid, format!("{refused}: nothing was stored"))
                }
                Refused::Store(error) => error.into(),
            })?;
        Ok(StatusCode::CREATED.into_response())
    }
}

/// A body as the disk takes it; a sender that stalls has broken off.
fn pieces(body: BodyDataStream) -> ByteStream {
    Box::pin(stream::try_unfold(body, |mut body| async move {
        match timeout(STALL, body.next()).await {
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(Some(Ok(piece))) => Ok(Some((piece, body))),
        }
    }))
}

fn respond(size: u64, body: Body) -> Response {
    let headers = [
        (header::CONTENT_LENGTH, size.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".into()),
    ];
    (headers, body).into_response()
}

/// To be merged beside the API's router: a path named here goes before its fallback.
pub(crate) fn router(local: Arc<Local>) -> Router {
    Router::new()
        .route(&format!("{PATH}/{{digest}}"), any(serve))
        .with_state(local)
}

async fn serve(
    State(local): State<Arc<Local>>,
    Path(digest): Path<String>,
    request: Request,
) -> Response {
    // In a task of its own: a sender that goes away must not leave half a copy behind.
    let work = tokio::spawn(async move { local.answer(&digest, request).await });
    match work.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        Err(error) => {
            Error::internal(format!("the request's handler died: {error}")).into_response()
        }
    }
}
