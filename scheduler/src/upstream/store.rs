//! The cluster's own registry, as the mirror writes to it: a client in the same process, under the same rules, quotas and
//! garbage collection as any other.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::Response;
use bytes::Bytes;
use coracle_registry::digest::Digest;
use coracle_registry::name::Name;
use coracle_server::Identity;
use coracle_server::identity::MEMBERS;
use futures_util::stream::BoxStream;
use http::{Method, Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt;

use super::Failure;

/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Who the mirror is to the registry.
const USER: &str = "system:member:registry-upstream";

/// The registry under the mirror.
#[derive(Clone)]
pub(super) struct Store(pub Router);

impl Store {
    /// Runs a request as it is, with whatever identity it carries.
    pub async fn run(&self, request: Request<Body>) -> Response {
        match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn own(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: Body,
    ) -> Result<Response, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let mut request = request
            .body(body)
            .map_err(|e| Failure::Store(e.to_string()))?;
        let me = Identity::new(USER, &[MEMBERS]);
        request.extensions_mut().insert(me);
        let response = self.run(request).await;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await;
        let body: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let message = body["errors"][0]["message"].as_str().unwrap_or_default();
        Err(match status {
            StatusCode::NOT_FOUND => Failure::NotFound,
            _ => Failure::Store(format!("{status} {message}")),
        })
    }

    /// The digest of a manifest that is here.
    pub async fn digest(&self, name: &Name, reference: &str) -> Result<Option<String>, Failure> {
        let path = format!("/v2/{name}/manifests/{reference}");
        match self.own(Method::HEAD, &path, None, Body::empty()).await {
            Ok(found) => {
                let digest = found.headers().get("docker-content-digest");
                Ok(digest.and_then(|d| Some(d.to_str().ok()?.to_string())))
            }
            Err(Failure::NotFound) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Stores a manifest under a tag or its digest.
    pub async fn put_manifest(
        &self,
        name: &Name,
        reference: &str,
        bytes: Bytes,
    ) -> Result<(), Failure> {
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Failure::Unreachable(format!("what it sent is no manifest: {e}")))?;
        let kind = value["mediaType"].as_str().unwrap_or_else(|| {
            // Optional in OCI's manifests, and there only.
            match value["manifests"].is_array() {
                true => "application/vnd.oci.image.index.v1+json",
                false => "application/vnd.oci.image.manifest.v1+json",
            }
        });
        let path = format!("/v2/{name}/manifests/{reference}");
        let stored = self.own(Method::PUT, &path, Some(kind), Body::from(bytes));
        stored.await.map(drop)
    }

    /// Forgets a tag.
    pub async fn delete_tag(&self, name: &Name, tag: &str) -> Result<(), Failure> {
        let path = format!("/v2/{name}/manifests/{tag}");
        let gone = self.own(Method::DELETE, &path, None, Body::empty()).await;
        match gone {
            Ok(_) | Err(Failure::NotFound) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Stores a blob, or nothing if it is not what its name says.
    pub async fn put_blob(
        &self,
        name: &Name,
        digest: &Digest,
        bytes: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(), Failure> {
        let algorithm = digest.algorithm().name();
        let path = format!("/v2/{name}/blobs/uploads/?digest-algorithm={algorithm}");
        let begun = self.own(Method::POST, &path, None, Body::empty()).await?;
        let upload = location(&begun)?;
        let work = async {
            let body = Body::from_stream(bytes);
            let sent = self.own(Method::PATCH, &upload, None, body).await?;
            let join = if upload.contains('?') { '&' } else { '?' };
            let path = format!("{}{join}digest={digest}", location(&sent)?);
            self.own(Method::PUT, &path, None, Body::empty()).await
        };
        match work.await {
            Ok(_) => Ok(()),
            Err(error) => {
                // It would end by itself, later.
                if let Err(error) = self.own(Method::DELETE, &upload, None, Body::empty()).await {
                    tracing::debug!(%error, "an upload of the mirror was not cancelled");
                }
                Err(error)
            }
        }
    }
}

fn location(response: &Response) -> Result<String, Failure> {
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|l| l.to_str().ok());
    location
        .map(String::from)
        .ok_or_else(|| Failure::Store("an upload has no location".into()))
}
