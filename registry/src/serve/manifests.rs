//! `/v2/NAME/manifests/REFERENCE`.

use axum::response::Response;
use http::{HeaderName, StatusCode, header};

use super::{CONTENT_DIGEST, Call, blobs, empty};
use crate::body::Incoming;
use crate::error::{Code, Error};
use crate::manifests::Reference;
use crate::name::{Name, Tag};
use crate::warnings;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Most `tag=` parameters of one push; the specification asks for at least ten.
const TAGS_MAX: usize = 64;

/// A reference that is only looked up: a malformed tag is a tag nobody has.
fn lookup(reference: &str) -> Result<Reference, Error> {
    Reference::parse(reference).map_err(|error| match error.code {
        Code::ManifestInvalid => Error::new(Code::ManifestUnknown, error.message),
        _ => error,
    })
}

pub(super) async fn read(call: &Call<'_>, name: &Name, reference: &str) -> Result<Response, Error> {
    let reference = lookup(reference)?;
    let found = match &reference {
        Reference::Tag(_) => {
            call.current().await?;
            call.registry.manifest(name, &reference).await?
        }
        Reference::Digest(_) => call.found(call.registry.manifest(name, &reference)).await?,
    };
    blobs::send(call, &found.digest, &found.media_type, found.opened)
}

pub(super) async fn push(
    call: &Call<'_>,
    name: &Name,
    reference: &str,
    body: &mut Incoming,
) -> Result<Response, Error> {
    let reference = Reference::parse(reference)?;
    let mut tags: Vec<Tag> = Vec::new();
    for text in call.query.all("tag") {
        tags.push(text.parse().map_err(|error: crate::name::NameError| {
            Error::new(Code::ManifestInvalid, error.to_string())
        })?);
    }
    if tags.len() > TAGS_MAX {
        return Err(Error::new(
            Code::SizeInvalid,
            format!("at most {TAGS_MAX} tags can be set at once"),
        )
        .status(StatusCode::URI_TOO_LONG));
    }
    let max = call.registry.limits().manifest_bytes_max;
    let frame = call.frame();
    if frame.length.is_some_and(|length| length > max) {
        return Err(Error::new(
            Code::SizeInvalid,
            format!("a manifest may have at most {max} bytes"),
        )
        .status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let bytes = body.collect(max).await?;
    let content_type = call.header(header::CONTENT_TYPE);
    call.current().await?;
    let pushed = call
        .registry
        .put_manifest(
            name,
            &reference,
            &tags,
            content_type,
            bytes,
            &call.conditions(),
        )
        .await?;
    // By digest, whatever was pushed: clients print this path's last segment as the digest.
    let mut headers = vec![
        (
            header::LOCATION,
            format!("/v2/{name}/manifests/{}", pushed.digest),
        ),
        (CONTENT_DIGEST, pushed.digest.to_string()),
    ];
    if let Some(subject) = &pushed.subject {
        headers.push((OCI_SUBJECT, subject.to_string()));
    }
    if !tags.is_empty() {
        headers.extend(pushed.tags.iter().map(|tag| (OCI_TAG, tag.to_string())));
    }
    for warning in warnings::headers(&pushed.warnings) {
        headers.push((header::WARNING, warning));
    }
    Ok(empty(StatusCode::CREATED, &headers))
}

pub(super) async fn delete(
    call: &Call<'_>,
    name: &Name,
    reference: &str,
) -> Result<Response, Error> {
    call.current().await?;
    call.registry
        .delete_manifest(name, &lookup(reference)?, &call.conditions())
        .await?;
    Ok(empty(StatusCode::ACCEPTED, &[]))
}
