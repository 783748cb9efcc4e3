//! Who an image is fetched from; and the registry inside the cluster, which is asked through the API listener.

use std::future::Future;
use std::io;

use http_body_util::BodyExt;
use kube::client::Body;

use super::MANIFEST_BYTES_MAX;
use super::reference::Reference;
use super::store::Writer;
use crate::api::{self, Api, Failure};

/// Kinds of manifests asked for.
pub(super) const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// Configurations read to say what an image is.
pub(super) const SMALL_BYTES_MAX: usize = 1 << 20;

/// Why something could not be fetched.
#[derive(Debug)]
pub(super) enum FetchError {
    /// There is no such thing there.
    NotFound,
    /// It may not be read.
    Denied(String),
    /// It is not what it should be.
    Corrupt(String),
    /// The other side did not answer, or not to the end.
    Unreachable(String),
    /// Our own disk.
    Disk(io::Error),
}

/// A registry.
pub(super) trait Source: Sync {
    /// The bytes of a manifest, by tag or digest.
    fn manifest(
        &self,
        of: &Reference,
        what: &str,
    ) -> impl Future<Output = Result<Vec<u8>, FetchError>> + Send;
    /// A blob, into a file.
    fn blob(
        &self,
        of: &Reference,
        digest: &str,
        into: &mut Writer,
    ) -> impl Future<Output = Result<(), FetchError>> + Send;
    /// A small blob, whole.
    fn blob_small(
        &self,
        of: &Reference,
        digest: &str,
    ) -> impl Future<Output = Result<Vec<u8>, FetchError>> + Send;
}

/// The registry inside the cluster.
pub(super) struct Embedded {
    api: Api,
}

impl Embedded {
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Body, FetchError> {
        match self.api.stream(path, accept).await {
            Ok(response) => Ok(response.into_body()),
            Err(Failure::Status { code: 404, .. }) => Err(FetchError::NotFound),
            Err(Failure::Status {
                code: 401 | 403,
                message,
                ..
            }) => Err(FetchError::Denied(message)),
            Err(e) => Err(FetchError::Unreachable(e.to_string())),
        }
    }
}

impl Source for Embedded {
    async fn manifest(&self, of: &Reference, what: &str) -> Result<Vec<u8>, FetchError> {
        let body = self
            .get(
                &format!("/v2/{}/manifests/{what}", of.repository),
                &MANIFEST_TYPES.join(", "),
            )
            .await?;
        let bytes = api::collect(body, MANIFEST_BYTES_MAX)
            .await
            .map_err(FetchError::Unreachable)?;
        Ok(bytes.to_vec())
    }

    async fn blob(
        &self,
        of: &Reference,
        digest: &str,
        into: &mut Writer,
    ) -> Result<(), FetchError> {
        let mut body = self
            .get(&format!("/v2/{}/blobs/{digest}", of.repository), "*/*")
            .await?;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| FetchError::Unreachable(format!("the layer broke off: {e}")))?;
            if let Ok(data) = frame.into_data() {
                into.write(&data)?;
            }
        }
        Ok(())
    }

    async fn blob_small(&self, of: &Reference, digest: &str) -> Result<Vec<u8>, FetchError> {
        let body = self
            .get(&format!("/v2/{}/blobs/{digest}", of.repository), "*/*")
            .await?;
        let bytes = api::collect(body, SMALL_BYTES_MAX)
            .await
            .map_err(FetchError::Unreachable)?;
        Ok(bytes.to_vec())
    }
}
