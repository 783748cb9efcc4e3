//! Tags, the catalog and referrers.

use axum::response::Response;
use http::{HeaderName, StatusCode, header};
use serde_json::json;

use super::{Call, json, path};
use crate::digest::Digest;
use crate::error::Error;
use crate::manifest::OCI_INDEX;
use crate::name::Name;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// The `Link` to the page after `last`.
fn next(path: &str, n: Option<usize>, last: &str, filter: Option<&str>) -> (HeaderName, String) {
    let mut target = format!("{path}?last={}", path::encode(last));
    if let Some(n) = n {
        target.push_str(&format!("&n={n}"));
    }
    if let Some(filter) = filter {
        target.push_str(&format!("&artifactType={}", path::encode(filter)));
    }
    (header::LINK, format!("<{target}>; rel=\"next\""))
}

pub(super) async fn tags(call: &Call<'_>, name: &Name) -> Result<Response, Error> {
    let n = call.query.count()?;
    call.current().await?;
    let page = call.registry.tags(name, n, call.query.get("last")).await?;
    let mut headers = Vec::new();
    if let (true, Some(last)) = (page.more, page.items.last()) {
        headers.push(next(&format!("/v2/{name}/tags/list"), n, last, None));
    }
    let body = json!({ "name": name, "tags": page.items }).to_string();
    Ok(json(StatusCode::OK, &headers, body))
}

pub(super) async fn catalog(call: &Call<'_>) -> Result<Response, Error> {
    let n = call.query.count()?;
    call.current().await?;
    let page = call.registry.catalog(n, call.query.get("last")).await?;
    let mut headers = Vec::new();
    if let (true, Some(last)) = (page.more, page.items.last()) {
        headers.push(next("/v2/_catalog", n, last, None));
    }
    let body = json!({ "repositories": page.items }).to_string();
    Ok(json(StatusCode::OK, &headers, body))
}

pub(super) async fn referrers(
    call: &Call<'_>,
    name: &Name,
    subject: &Digest,
) -> Result<Response, Error> {
    let n = call.query.count()?;
    let filter = call
        .query
        .get("artifactType")
        .filter(|text| !text.is_empty());
    call.current().await?;
    let page = call
        .registry
        .referrers(name, subject, filter, n, call.query.get("last"))
        .await?;
    let mut headers = vec![(header::CONTENT_TYPE, OCI_INDEX.to_owned())];
    if filter.is_some() {
        headers.push((FILTERS_APPLIED, "artifactType".to_owned()));
    }
    if let (true, Some(last)) = (page.more, page.items.last()) {
        let path = format!("/v2/{name}/referrers/{subject}");
        headers.push(next(&path, n, &last.digest, filter));
    }
    let body = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page.items });
    Ok(json(StatusCode::OK, &headers, body.to_string()))
}
