//! Blobs in S3-compatible, Google or Azure storage, shared by every member of a cluster.
//!
//! ```text
//! PREFIX/blobs/<alg>/<2 hex>/<hex>/<generation>
//! PREFIX/marks/<number>                          see [`mark`]
//! ```
//!
//! Several members write to and remove from one bucket, and object stores have no portable "delete this if it is still
//! what I looked at". So no key is ever written twice: each stored blob gets a random *generation*, and a row of
//! [`OBJECTS`] says which generation a digest has. Storing puts the object, then the row; removing takes the row under a
//! precondition, then deletes that generation. A push that comes in between has written another generation, which the
//! remover does not know and cannot hit. What no row names (a push that died, the loser of two equal pushes) is deleted
//! by [`Objects::sweep`] when it is a day old, and a push that took half that long is not acknowledged.
//!
//! Uploads are staged on the member's own disk, where they survive a restart, and go to the bucket when they are whole:
//! a multipart upload per session would leave its parts to be paid for when a client walks away.

#![forbid(unsafe_code)]

mod address;
mod mark;
mod put;
mod quarantine;
mod sweep;

#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use coracle_registry::blobs::{BlobError, Blobs, ByteStream, Opened, Source, Staged, Stored};
use coracle_registry::digest::Digest;
use coracle_registry::garbage::is_old;
use coracle_registry::meta::{Meta, MetaError, Row};
use coracle_registry::rows::{self, OBJECTS};
use coracle_registry::upload::UploadId;
use coracle_registry::{BoxFuture, Clock};
use futures_util::{TryStreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, Semaphore};

pub use address::{AddressError, Bucket};
pub use sweep::Swept;

/// Parts of all uploads under way to the bucket at once: with [`put::PART_BYTES`] the memory that storing takes.
const PARTS_MAX: usize = 8;

/// Where a blob is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The last part of its key.
    generation: String,
    /// Length in bytes.
    size: u64,
    /// When it was stored.
    at: Timestamp,
}

/// What the store is made of.
pub struct Parts {
    /// The bucket.
    pub bucket: Bucket,
    /// Where uploads are staged.
    pub staging: Arc<dyn Blobs>,
    /// Where the rows are.
    pub meta: Arc<dyn Meta>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Age in milliseconds below which nothing is removed: that of the registry above.
    pub garbage_age_ms: i64,
}

/// The store.
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    staging: Arc<dyn Blobs>,
    meta: Arc<dyn Meta>,
    clock: Arc<dyn Clock>,
    garbage_age_ms: i64,
    parts: Arc<Semaphore>,
    /// Set when the bucket turned out to be that of the rows.
    compared: OnceCell<()>,
}

/// A failure of the bucket: the same request may succeed later.
fn unavailable(error: object_store::Error) -> BlobError {
    BlobError::Unavailable(format!(
        "E_REGISTRY_STORAGE: the object storage failed: {error}"
    ))
}

/// A failure of the rows.
fn rows_failed(error: impl std::fmt::Display) -> BlobError {
    BlobError::Unavailable(format!(
        "E_REGISTRY_STORAGE: where the blob is cannot be read or written: {error}"
    ))
}

/// Turns "it is not there" into `None`.
fn found<T>(result: object_store::Result<T>) -> Result<Option<T>, BlobError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

impl Objects {
    /// A store over its parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            store: parts.bucket.store,
            prefix: parts.bucket.prefix,
            staging: parts.staging,
            meta: parts.meta,
            clock: parts.clock,
            garbage_age_ms: parts.garbage_age_ms,
            parts: Arc::new(Semaphore::new(PARTS_MAX)),
            compared: OnceCell::new(),
        }
    }

    fn key(&self, digest: &Digest, generation: &str) -> Path {
        let hex = digest.hex();
        self.root()
            .join(digest.algorithm().name())
            .join(&hex[..2])
            .join(hex)
            .join(generation)
    }

    fn root(&self) -> Path {
        self.prefix.clone().join("blobs")
    }

    async fn place(&self, digest: &Digest) -> Result<Option<(Place, Row)>, BlobError> {
        self.ours().await?;
        let row = self.meta.get(OBJECTS, &digest.to_string()).await;
        self.decoded(row.map_err(rows_failed)?)
    }

    /// The same, as new as what any member has acknowledged.
    async fn place_now(&self, digest: &Digest) -> Result<Option<(Place, Row)>, BlobError> {
        self.meta.fresh().await.map_err(rows_failed)?;
        self.place(digest).await
    }

    fn decoded(&self, row: Option<Row>) -> Result<Option<(Place, Row)>, BlobError> {
        match row {
            Some(row) => {
                let place = rows::decode(&row).map_err(|e| rows_failed(e.message))?;
                Ok(Some((place, row)))
            }
            None => Ok(None),
        }
    }

    async fn open_blob(&self, digest: &Digest) -> Result<Option<Opened>, BlobError> {
        let Some((place, _)) = self.place(digest).await? else {
            return Ok(None);
        };
        if let Some(opened) = self.open_place(digest, &place).await? {
            return Ok(Some(opened));
        }
        // The row read may be older than a new push of the same blob and the removal of this generation.
        match self.place_now(digest).await? {
            Some((newer, _)) if newer.generation != place.generation => {
                self.open_place(digest, &newer).await
            }
            _ => Ok(None),
        }
    }

    async fn open_place(
        &self,
        digest: &Digest,
        place: &Place,
    ) -> Result<Option<Opened>, BlobError> {
        let key = self.key(digest, &place.generation);
        let Some(meta) = found(self.store.head(&key).await)? else {
            return Ok(None);
        };
        let store = self.store.clone();
        Ok(Some(Opened {
            size: meta.size,
            modified: place.at,
            body: Box::new(move |range| read(store, key, range)),
        }))
    }

    /// Takes the row, then the object. Nothing younger than the garbage age goes, whoever asks: another member may have
    /// stored it after this one looked.
    async fn remove_old(&self, digest: &Digest) -> Result<bool, BlobError> {
        let Some((place, row)) = self.place_now(digest).await? else {
            return Ok(false);
        };
        if !is_old(place.at, self.clock.now(), self.garbage_age_ms) {
            return Ok(false);
        }
        let gone = rows::delete(OBJECTS, digest.to_string(), rows::as_read(Some(&row)));
        match self.meta.batch(vec![gone]).await {
            Ok(()) => {}
            Err(MetaError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(rows_failed(error)),
        }
        // After a crash here the object has no row, and the sweep finds it.
        found(
            self.store
                .delete(&self.key(digest, &place.generation))
                .await,
        )?;
        Ok(true)
    }

    async fn list_rows(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Stored>, BlobError> {
        let after = after.map(ToString::to_string);
        let rows = self.meta.list(OBJECTS, "", after.as_deref(), limit).await;
        let mut stored = Vec::new();
        for (key, row) in rows.map_err(rows_failed)? {
            let digest: Digest = key.parse().map_err(rows_failed)?;
            let place: Place = rows::decode(&row).map_err(|e| rows_failed(e.message))?;
            stored.push(Stored {
                digest,
                size: place.size,
                modified: place.at,
            });
        }
        Ok(stored)
    }
}

/// The bytes of an object as they come; a stream that breaks off is taken up again by the client of the bucket.
fn read(store: Arc<dyn ObjectStore>, key: Path, range: Range<u64>) -> ByteStream {
    if range.is_empty() {
        return Box::pin(stream::empty());
    }
    let opened = async move {
        let options = GetOptions {
            range: Some(range.into()),
            ..GetOptions::default()
        };
        let got = store.get_opts(&key, options).await;
        let got = got.map_err(io::Error::other)?;
        Ok::<_, io::Error>(got.into_stream().map_err(io::Error::other))
    };
    Box::pin(stream::once(opened).try_flatten())
}

impl Blobs for Objects {
    fn begin<'a>(&'a self, id: &'a UploadId, note: Bytes) -> BoxFuture<'a, Result<(), BlobError>> {
        self.staging.begin(id, note)
    }

    fn append<'a>(
        &'a self,
        id: &'a UploadId,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        self.staging.append(id, offset, bytes)
    }

    fn finish<'a>(
        &'a self,
        id: &'a UploadId,
        size: u64,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        Box::pin(self.store_upload(id, size, digest))
    }

    fn discard<'a>(&'a self, id: &'a UploadId) -> BoxFuture<'a, Result<(), BlobError>> {
        self.staging.discard(id)
    }

    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, BlobError>> {
        self.staging.staged()
    }

    fn open<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<Option<Opened>, BlobError>> {
        match source {
            Source::Blob(digest) => Box::pin(self.open_blob(digest)),
            Source::Upload(_) => self.staging.open(source),
        }
    }

    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        Box::pin(self.remove_old(digest))
    }

    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        Box::pin(self.set_aside(digest))
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, BlobError>> {
        Box::pin(self.list_rows(after, limit))
    }
}
