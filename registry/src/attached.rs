//! What somebody in the same process reads without HTTP: which manifest a reference means, the manifest, a blob, and who
//! refers to it. Nobody is authorised here: callers ask for the cluster itself, not for a user.

use futures_util::StreamExt;

use crate::blobs::Opened;
use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::manifests::Reference;
use crate::name::Name;
use crate::registry::Registry;

/// A manifest read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its digest.
    pub digest: Digest,
    /// The type it is served with.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Registry {
    /// The manifest that a tag or digest means; `None` if it is not here.
    pub async fn read_manifest(
        &self,
        name: &Name,
        reference: &str,
    ) -> Result<Option<Document>, Error> {
        match self.manifest(name, &Reference::parse(reference)?).await {
            Ok(found) => Ok(Some(Document {
                bytes: whole(found.opened, reference).await?,
                digest: found.digest,
                media_type: found.media_type,
            })),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A blob that the repository shows, if it has at most `bytes_max` bytes; `None` if it is not here or larger.
    pub async fn read_blob(
        &self,
        name: &Name,
        digest: &Digest,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        match self.blob(name, digest).await {
            Ok(opened) if opened.size > bytes_max => Ok(None),
            Ok(opened) => Ok(Some(whole(opened, &digest.to_string()).await?)),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The list of referrers of a manifest as it is served: an image index, one page of those of this artifact type.
    pub async fn read_referrers(
        &self,
        name: &Name,
        subject: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<u8>, Error> {
        let page = self
            .referrers(name, subject, Some(artifact_type), None, None)
            .await?;
        serde_json::to_vec(&serde_json::json!({ "manifests": page.items }))
            .map_err(|e| Error::internal(format!("a list of referrers cannot be written: {e}")))
    }
}

fn absent(error: &Error) -> bool {
    matches!(
        error.code,
        Code::ManifestUnknown | Code::NameUnknown | Code::BlobUnknown
    )
}

async fn whole(opened: Opened, what: &str) -> Result<Vec<u8>, Error> {
    let mut all = Vec::with_capacity(usize::try_from(opened.size).unwrap_or(0));
    let mut pieces = (opened.body)(0..opened.size);
    while let Some(piece) = pieces.next().await {
        let piece =
            piece.map_err(|error| Error::internal(format!("{what} cannot be read: {error}")))?;
        all.extend_from_slice(&piece);
    }
    Ok(all)
}
