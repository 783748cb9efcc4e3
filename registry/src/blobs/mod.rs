//! Where bytes live: the outward trait, with a disk and a memory implementation beside it.
//!
//! The trait knows digests and uploads, nothing of repositories or HTTP. Its one promise is durability: when `finish`
//! returns, the blob is under its digest after any crash. Deciding what to store and what to delete is the caller's.

pub mod disk;
pub mod memory;

pub(crate) mod verify;

use std::io;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use jiff::Timestamp;

use crate::BoxFuture;
use crate::digest::Digest;
use crate::upload::UploadId;

/// Most blobs a store keeps in quarantine: enough to see a pattern, such as one bad sector range.
pub const QUARANTINE_BLOBS_MAX: usize = 64;

/// Most bytes a store keeps in quarantine. They are for whoever looks for the cause; nothing ever reads them back.
pub const QUARANTINE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// A body that is read as it is sent.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No space, or over a disk quota.
    #[error("the registry's disk is full ({doing})")]
    Full {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Any other failure of the medium.
    #[error("the registry's disk failed ({doing})")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The upload was cancelled, expired or finished.
    #[error("this upload does not exist (it may have expired or been cancelled): start a new one")]
    UploadGone,
    /// Fewer staged bytes than were acknowledged.
    #[error("the staged upload has {have} bytes where {want} were written: push the blob again")]
    Short {
        /// Bytes there.
        have: u64,
        /// Bytes that should be there.
        want: u64,
    },
    /// Other holders of the bytes, of which enough must answer, do not; trying again may help. The text says which.
    #[error("{0}")]
    Unavailable(String),
}

impl BlobError {
    /// Sorts an I/O error.
    pub fn io(doing: &'static str, source: io::Error) -> BlobError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                BlobError::Full { doing, source }
            }
            _ => BlobError::Io { doing, source },
        }
    }
}

/// What to open for reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A finished blob.
    Blob(Digest),
    /// The bytes an unfinished upload holds.
    Upload(UploadId),
}

/// Something opened: it stays readable even if it is removed or replaced meanwhile.
pub struct Opened {
    /// Length in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: Timestamp,
    /// Reads a part; the range must lie within `size`.
    pub body: Box<dyn FnOnce(Range<u64>) -> ByteStream + Send>,
}

/// An unfinished upload found in the store.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Its id.
    pub id: UploadId,
    /// What was given to [`Blobs::begin`].
    pub note: Bytes,
    /// Bytes it holds.
    pub size: u64,
    /// When it was last written.
    pub modified: Timestamp,
}

/// A blob found in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its digest, by its place; the bytes are not read.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: Timestamp,
}

/// A store of blobs by digest, with a staging area for uploads.
///
/// Calls for one upload come one at a time; calls for one digest may come at once and all succeed. A future may be
/// dropped only if the operation may as well run to its end.
pub trait Blobs: Send + Sync + 'static {
    /// Makes the staging area of an upload and keeps `note` beside it; with an empty note the upload need not survive
    /// a restart. No durability is promised before `finish`.
    fn begin<'a>(&'a self, id: &'a UploadId, note: Bytes) -> BoxFuture<'a, Result<(), BlobError>>;

    /// Cuts the staged bytes to `offset`, then adds `bytes`. Empty `bytes` only cut.
    fn append<'a>(
        &'a self,
        id: &'a UploadId,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>>;

    /// Makes the first `size` staged bytes the blob `digest`, durably, replacing one that is there (that is how a push
    /// heals a corrupt blob), and ends the upload. The caller has checked the digest. After an error the upload may be
    /// gone or not, the blob may be there or not, but never in part.
    fn finish<'a>(
        &'a self,
        id: &'a UploadId,
        size: u64,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), BlobError>>;

    /// Makes `bytes`, which are in memory already, the blob `digest` with the promises of `finish`; `id` names no upload.
    /// After an error nothing is staged.
    fn put<'a>(
        &'a self,
        id: &'a UploadId,
        digest: &'a Digest,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        Box::pin(async move {
            let size = bytes.len() as u64;
            let done = async {
                self.begin(id, Bytes::new()).await?;
                self.append(id, 0, bytes).await?;
                self.finish(id, size, digest).await
            };
            let Err(error) = done.await else {
                return Ok(());
            };
            if let Err(error) = self.discard(id).await {
                tracing::warn!(upload = %id, %error, "could not discard a failed upload");
            }
            Err(error)
        })
    }

    /// Throws an upload away; one that does not exist is no error.
    fn discard<'a>(&'a self, id: &'a UploadId) -> BoxFuture<'a, Result<(), BlobError>>;

    /// Every unfinished upload.
    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, BlobError>>;

    /// Opens something for reading; `None` if it is not there.
    fn open<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<Option<Opened>, BlobError>>;

    /// Removes a blob; `false` if it was not there.
    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>>;

    /// Takes a blob out of its place if its bytes are not what its digest says, or cannot be read. They are read once
    /// more for this, so a copy that was replaced meanwhile stays. `false`: it is sound, or not there. From then on the
    /// blob counts as absent. What is kept aside is bounded by [`QUARANTINE_BLOBS_MAX`] and [`QUARANTINE_BYTES_MAX`],
    /// the oldest goes first. This copy only: a store over several places leaves the others alone.
    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>>;

    /// Up to `limit` blobs with digests greater than `after`, in order.
    fn list<'a>(
        &'a self,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, BlobError>>;
}
