//! `/v2/NAME/blobs/uploads/` and its sessions.

use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{CONTENT_DIGEST, Call, empty};
use crate::body::Incoming;
use crate::digest::{Algorithm, Digest};
use crate::error::{Code, Error};
use crate::name::Name;
use crate::push::{APPEND_BYTES, location};
use crate::range;

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// Where a session is and how far it has come.
fn session(status: StatusCode, name: &Name, id: &str, have: u64) -> Response {
    empty(
        status,
        &[
            (header::LOCATION, location(name, id)),
            (header::RANGE, range::received(have)),
            (UPLOAD_UUID, id.to_owned()),
        ],
    )
}

/// The blob is there.
fn created(name: &Name, digest: &Digest) -> Response {
    empty(
        StatusCode::CREATED,
        &[
            (header::LOCATION, format!("/v2/{name}/blobs/{digest}")),
            (CONTENT_DIGEST, digest.to_string()),
        ],
    )
}

/// POST: a mount, a whole blob, or a new session.
pub(super) async fn start(
    call: &Call<'_>,
    name: &Name,
    body: &mut Incoming,
) -> Result<Response, Error> {
    let registry = call.registry;
    if let Some(digest) = call.digest("mount")? {
        let from = match call.query.get("from") {
            Some(text) if !text.is_empty() => Some(text.parse::<Name>()?),
            _ => None,
        };
        call.current().await?;
        let mounted = registry.mount(name, from.as_ref(), &digest, call.caller());
        if mounted.await? {
            return Ok(created(name, &digest));
        }
    } else if let Some(digest) = call.digest("digest")? {
        registry
            .push_whole(name, &digest, call.frame(), body)
            .await?;
        return Ok(created(name, &digest));
    }
    let algorithm = match call.query.get("digest-algorithm") {
        Some(text) => text.parse::<Algorithm>()?,
        None => Algorithm::Sha256,
    };
    let id = registry.start_upload(name, algorithm).await?;
    let mut response = session(StatusCode::ACCEPTED, name, id.as_str(), 0);
    // Smaller chunks are taken all the same, but each costs as much as one of this size.
    let chunk = HeaderValue::from(APPEND_BYTES);
    response.headers_mut().insert(CHUNK_MIN, chunk);
    Ok(response)
}

/// PATCH: the next bytes.
pub(super) async fn append(
    call: &Call<'_>,
    name: &Name,
    id: &str,
    body: &mut Incoming,
) -> Result<Response, Error> {
    let have = call
        .registry
        .append_upload(name, id, call.frame(), body)
        .await?;
    Ok(session(StatusCode::ACCEPTED, name, id, have))
}

/// PUT: perhaps the last bytes, and the digest of all.
pub(super) async fn finish(
    call: &Call<'_>,
    name: &Name,
    id: &str,
    body: &mut Incoming,
) -> Result<Response, Error> {
    let digest = call.digest("digest")?.ok_or_else(|| {
        Error::new(
            Code::DigestInvalid,
            "the query needs digest=<algorithm>:<hex> to finish an upload",
        )
    })?;
    call.registry
        .finish_upload(name, id, &digest, call.frame(), body)
        .await?;
    Ok(created(name, &digest))
}

/// GET: how far has it come?
pub(super) async fn status(call: &Call<'_>, name: &Name, id: &str) -> Result<Response, Error> {
    let have = call.registry.upload_status(name, id).await?;
    Ok(session(StatusCode::NO_CONTENT, name, id, have))
}

/// DELETE: never mind.
pub(super) async fn cancel(call: &Call<'_>, name: &Name, id: &str) -> Result<Response, Error> {
    call.registry.cancel_upload(name, id).await?;
    Ok(empty(StatusCode::NO_CONTENT, &[]))
}
