//! A damaged object out of the way: its row goes, and the object waits without one for the sweep.

use coracle_registry::blobs::{BlobError, Opened};
use coracle_registry::digest::{Digest, Hash};
use coracle_registry::meta::MetaError;
use coracle_registry::rows::{self, OBJECTS};
use futures_util::StreamExt;

use crate::{Objects, rows_failed};

impl Objects {
    /// Every member reads this one copy, so afterwards the blob is absent for all of them until it is pushed again.
    pub(crate) async fn set_aside(&self, digest: &Digest) -> Result<bool, BlobError> {
        let Some((place, row)) = self.place_now(digest).await? else {
            return Ok(false);
        };
        let Some(opened) = self.open_place(digest, &place).await? else {
            return Ok(false);
        };
        if actual(opened, digest).await? == *digest {
            return Ok(false);
        }
        let gone = rows::delete(OBJECTS, digest.to_string(), rows::as_read(Some(&row)));
        match self.meta.batch(vec![gone]).await {
            Ok(()) => Ok(true),
            // A push has put another generation there since it was read.
            Err(MetaError::Conflict { .. }) => Ok(false),
            Err(error) => Err(rows_failed(error)),
        }
    }
}

/// The digest of what is stored. A bucket that breaks off has said nothing about its bytes.
async fn actual(opened: Opened, digest: &Digest) -> Result<Digest, BlobError> {
    let mut hash = Hash::new(digest.algorithm());
    let mut pieces = (opened.body)(0..opened.size);
    while let Some(piece) = pieces.next().await {
        hash.update(&piece.map_err(|e| BlobError::io("reading a blob again", e))?);
    }
    Ok(hash.digest())
}
