//! Who an image is fetched from; and the registry inside the cluster, which is asked through the API listener.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Buf;
use coracle_trust::listing::{self, Listed};
use http_body_util::BodyExt;

use super::MANIFEST_BYTES_MAX;
use super::reference::{Place, Reference};
use super::store::Writer;
use crate::api::{self, Api, Failure, Streaming};

/// Kinds of manifests asked for.
pub(super) const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// Configurations read to say what an image is.
pub(super) const SMALL_BYTES_MAX: usize = 1 << 20;

/// The registry inside the cluster, as a user reads it.
const CLUSTER: &str = "the cluster's registry";
/// Connections a layer may take: a rolling restart of the members breaks each once.
const BLOB_TRIES: u32 = 4;
/// A layer of which no byte comes for so long is asked for again.
const STALL: Duration = Duration::from_secs(10);

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
    /// Whether [`Source::blob`] goes on where the file ends, which others may have begun.
    fn resumes(&self) -> bool {
        false
    }
    /// Who it is, as a user reads it.
    fn shown(&self, of: &Reference) -> String {
        match &of.place {
            Place::Embedded => CLUSTER.into(),
            Place::Outside(host) => host.clone(),
        }
    }
    /// A blob, or the rest of it, into a file.
    fn blob(
        &self,
        of: &Reference,
        digest: &str,
        into: &mut Writer,
    ) -> impl Future<Output = Result<(), FetchError>> + Send;
    /// Referrers of a manifest that are of one artifact type, or of more if the registry does not tell them apart.
    fn referrers(
        &self,
        of: &Reference,
        digest: &str,
        artifact_type: &str,
    ) -> impl Future<Output = Result<Vec<Listed>, FetchError>> + Send;
    /// A small blob, whole.
    fn blob_small(
        &self,
        of: &Reference,
        digest: &str,
    ) -> impl Future<Output = Result<Vec<u8>, FetchError>> + Send;
}

/// The registry inside the cluster; or one outside through it, if it is allowed to pull from there (`?ns=HOST`).
#[derive(Clone)]
pub(super) struct Embedded {
    api: Api,
    through: Option<String>,
}

impl Embedded {
    pub fn new(api: Api) -> Self {
        Self { api, through: None }
    }

    /// The registry at `host`, through the cluster's.
    pub fn through(&self, host: &str) -> Self {
        Self {
            api: self.api.clone(),
            through: Some(host.into()),
        }
    }

    fn path(&self, of: &Reference, kind: &str, what: &str) -> String {
        let path = format!("/v2/{}/{kind}/{what}", of.repository);
        match &self.through {
            Some(host) => format!("{path}?ns={host}"),
            None => path,
        }
    }

    async fn get(&self, path: &str, accept: &str, start: u64) -> Result<Streaming, FetchError> {
        match self.api.stream_from(path, accept, start).await {
            Ok(streaming) => Ok(streaming),
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
        let answer = self
            .get(
                &self.path(of, "manifests", what),
                &MANIFEST_TYPES.join(", "),
                0,
            )
            .await?;
        let bytes = api::collect(answer.body, MANIFEST_BYTES_MAX)
            .await
            .map_err(FetchError::Unreachable)?;
        Ok(bytes.to_vec())
    }

    fn resumes(&self) -> bool {
        true
    }

    fn shown(&self, _of: &Reference) -> String {
        CLUSTER.into()
    }

    async fn blob(
        &self,
        of: &Reference,
        digest: &str,
        into: &mut Writer,
    ) -> Result<(), FetchError> {
        let path = self.path(of, "blobs", digest);
        let mut broke = String::new();
        for _ in 0..BLOB_TRIES {
            if into.have() == into.size() && into.have() > 0 {
                return Ok(());
            }
            // What broke off goes on where it was, at another member if this one is gone.
            let have = into.have();
            let mut answer = match self.get(&path, "*/*", have).await {
                Err(FetchError::Unreachable(why)) => {
                    broke = why;
                    continue;
                }
                got => got?,
            };
            let mut skip = if answer.part { 0 } else { have };
            loop {
                match tokio::time::timeout(STALL, answer.body.frame()).await {
                    Err(_) => {
                        broke = format!("no byte came for {} s", STALL.as_secs());
                        break;
                    }
                    Ok(None) => return Ok(()),
                    Ok(Some(Err(e))) => {
                        broke = e.to_string();
                        break;
                    }
                    Ok(Some(Ok(frame))) => {
                        let Ok(mut data) = frame.into_data() else {
                            continue;
                        };
                        let known = skip.min(data.len() as u64);
                        skip -= known;
                        data.advance(usize::try_from(known).unwrap_or(data.len()));
                        into.write(&data)?;
                    }
                }
            }
        }
        Err(FetchError::Unreachable(format!(
            "the layer broke off {BLOB_TRIES} times: {broke}"
        )))
    }

    async fn referrers(
        &self,
        of: &Reference,
        digest: &str,
        artifact_type: &str,
    ) -> Result<Vec<Listed>, FetchError> {
        // `+` in a query would be a space.
        let kind = artifact_type.replace('+', "%2B");
        let path = format!(
            "/v2/{}/referrers/{digest}?artifactType={kind}",
            of.repository
        );
        let answer = self.get(&path, "application/json", 0).await?;
        let bytes = api::collect(answer.body, MANIFEST_BYTES_MAX)
            .await
            .map_err(FetchError::Unreachable)?;
        listing::listed(&bytes).map_err(FetchError::Corrupt)
    }

    async fn blob_small(&self, of: &Reference, digest: &str) -> Result<Vec<u8>, FetchError> {
        let answer = self.get(&self.path(of, "blobs", digest), "*/*", 0).await?;
        let bytes = api::collect(answer.body, SMALL_BYTES_MAX)
            .await
            .map_err(FetchError::Unreachable)?;
        Ok(bytes.to_vec())
    }
}
