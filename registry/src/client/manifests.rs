//! Manifests and small blobs, whole in memory.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderName, Method, StatusCode, header};

use super::answer::header_text;
use super::retry::Attempts;
use super::{Client, Error, Failure, Payload, Transport, request};
use crate::digest::{Algorithm, Digest};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::wasm::{Artifact, MANIFEST_BYTES_MAX, Target};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A manifest or an index, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
}

impl<T: Transport> Client<T> {
    /// The manifest of a tag or a digest, of at most [`MANIFEST_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Corrupt`] if it is not what the digest, asked for or sent with it, says.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Manifest, Error> {
        let path = self.path(repository, "manifests", reference);
        let mut attempts = Attempts::default();
        loop {
            match self.get_manifest(&path, reference).await {
                Ok(manifest) => return Ok(manifest),
                Err(failure) => self.pause(&mut attempts, None, failure, false).await?,
            }
        }
    }

    async fn get_manifest(&self, path: &str, reference: &str) -> Result<Manifest, Failure> {
        let accept = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", ");
        let headers = [(header::ACCEPT, accept.as_str())];
        let asked = request(Method::GET, path, &headers, Payload::default())?;
        let response = self.send(asked).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response).await.into());
        }
        // A registry that sends no digest, or one of an algorithm we do not know, is believed for a tag.
        let sent = header_text(response.headers(), CONTENT_DIGEST).and_then(|d| d.parse().ok());
        let wanted: Option<Digest> = reference.parse().ok().or(sent);
        let bytes = self
            .whole(response, "the manifest", MANIFEST_BYTES_MAX)
            .await?;
        let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = algorithm.digest(&bytes);
        match wanted {
            Some(wanted) if wanted != digest => Err(corrupt(wanted, &digest)),
            _ => Ok(Manifest { bytes, digest }),
        }
    }

    /// A small blob of at most `max` bytes, checked.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn small(
        &self,
        repository: &str,
        target: &Target,
        max: usize,
    ) -> Result<Vec<u8>, Error> {
        let path = self.path(repository, "blobs", &target.digest.to_string());
        let mut attempts = Attempts::default();
        loop {
            match self.get_small(&path, target, max).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => self.pause(&mut attempts, None, failure, false).await?,
            }
        }
    }

    async fn get_small(&self, path: &str, target: &Target, max: usize) -> Result<Vec<u8>, Failure> {
        let asked = request(Method::GET, path, &[], Payload::default())?;
        let response = self.send(asked).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response).await.into());
        }
        let bytes = self.whole(response, "the configuration", max).await?;
        let digest = target.digest.algorithm().digest(&bytes);
        if digest == target.digest {
            return Ok(bytes);
        }
        Err(corrupt(target.digest.clone(), &digest))
    }

    /// Stores a manifest under a tag.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let path = self.path(repository, "manifests", tag);
        let mut attempts = Attempts::default();
        loop {
            match self.put_manifest_once(&path, bytes).await {
                Ok(()) => return Ok(()),
                Err(failure) => self.pause(&mut attempts, None, failure, false).await?,
            }
        }
    }

    async fn put_manifest_once(&self, path: &str, bytes: &Bytes) -> Result<(), Failure> {
        let headers = [(header::CONTENT_TYPE, OCI_MANIFEST)];
        let put = request(Method::PUT, path, &headers, Payload::new(bytes.clone()))?;
        let response = self.send(put).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(());
        }
        Err(self.refused(response).await.into())
    }

    /// Pushes an artifact under a tag: what is missing of its blobs, at most [`super::Options::parallel`] at once, then
    /// its manifest.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn push(
        &self,
        repository: &str,
        tag: &str,
        artifact: &Artifact,
        wasm: &Bytes,
    ) -> Result<(), Error> {
        self.push_blobs(repository, artifact, wasm).await?;
        match self.put_manifest(repository, tag, &artifact.manifest).await {
            // What was there when it was asked for was collected since: nothing had named it.
            Err(Error::Refused { code, .. }) if code == "MANIFEST_BLOB_UNKNOWN" => {
                self.push_blobs(repository, artifact, wasm).await?;
                self.put_manifest(repository, tag, &artifact.manifest).await
            }
            put => put,
        }
    }

    async fn push_blobs(
        &self,
        repository: &str,
        artifact: &Artifact,
        wasm: &Bytes,
    ) -> Result<(), Error> {
        let blobs = [
            (&artifact.layer_digest, wasm),
            (&artifact.config_digest, &artifact.config),
        ];
        let pushes = blobs.map(|(digest, bytes)| self.upload(repository, digest, bytes));
        stream::iter(pushes)
            .buffer_unordered(self.options.parallel.max(1))
            .try_for_each(|_| async { Ok(()) })
            .await
    }
}

/// Wrong bytes may be a mistake on the way; they are asked for again.
fn corrupt(wanted: Digest, found: &Digest) -> Failure {
    Failure::once_more(Error::Corrupt {
        wanted,
        found: found.to_string(),
    })
}
