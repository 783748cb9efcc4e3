//! `/v2/NAME/blobs/DIGEST`, and the streaming that manifests share.

use std::ops::Range;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, Method, StatusCode, header};

use super::{CONTENT_DIGEST, Call, empty, set};
use crate::blobs::Opened;
use crate::conditions::etag;
use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::name::Name;
use crate::range::{self, Wanted};

pub(super) async fn read(call: &Call<'_>, name: &Name, digest: &Digest) -> Result<Response, Error> {
    let opened = if call.parts.method == Method::HEAD {
        call.found(call.registry.promise_blob(name, digest)).await?
    } else {
        call.found(call.registry.blob(name, digest)).await?
    };
    send(call, digest, "application/octet-stream", opened)
}

pub(super) async fn delete(
    call: &Call<'_>,
    name: &Name,
    digest: &Digest,
) -> Result<Response, Error> {
    call.current().await?;
    call.registry.delete_blob(name, digest).await?;
    Ok(empty(StatusCode::ACCEPTED, &[]))
}

/// Sends stored bytes: whole, in part, or not at all if the client has them.
pub(super) fn send(
    call: &Call<'_>,
    digest: &Digest,
    media_type: &str,
    opened: Opened,
) -> Result<Response, Error> {
    let size = opened.size;
    let etag = etag(digest);
    let conditions = call.conditions();
    conditions.allow_read(digest)?;
    let mut headers: Vec<(HeaderName, String)> = vec![
        (CONTENT_DIGEST, digest.to_string()),
        (header::ETAG, etag.clone()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    if conditions.names(Some(digest)) {
        return Ok(empty(StatusCode::NOT_MODIFIED, &headers));
    }
    headers.push((header::CONTENT_TYPE, media_type.to_owned()));
    // Content never changes under a digest, so only an If-Range for something else matters.
    let same = call
        .header(header::IF_RANGE)
        .is_none_or(|text| text.trim() == etag);
    // Parts are defined for GET alone (RFC 9110, section 14.2).
    let parts = same && call.parts.method == Method::GET;
    let asked = call.header(header::RANGE).filter(|_| parts);
    let (status, part): (StatusCode, Range<u64>) = match range::wanted(asked, size) {
        Wanted::Whole => (StatusCode::OK, 0..size),
        Wanted::Part(part) => {
            headers.push((
                header::CONTENT_RANGE,
                format!("bytes {}-{}/{size}", part.start, part.end - 1),
            ));
            (StatusCode::PARTIAL_CONTENT, part)
        }
        Wanted::Unsatisfiable => {
            return Err(Error::new(
                Code::SizeInvalid,
                format!("the range lies outside the {size} bytes there are"),
            )
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(header::CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    let length = part.end - part.start;
    headers.push((header::CONTENT_LENGTH, length.to_string()));
    let body = if call.parts.method == Method::HEAD || length == 0 {
        Body::empty()
    } else {
        call.registry.counters.sent_bytes.add(length);
        let modified = opened.modified;
        let pieces = (opened.body)(part);
        // A part has no digest of its own: its bytes are checked by the scrub, and by the client at the end.
        Body::from_stream(match length == size {
            true => call.registry.checked(digest, modified, pieces),
            false => pieces,
        })
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    set(response.headers_mut(), &headers);
    Ok(response)
}
