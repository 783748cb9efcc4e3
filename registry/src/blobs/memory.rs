//! Blobs in memory: for tests and throw-away registries. Nothing survives the process.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use jiff::Timestamp;

use super::{BlobError, Blobs, Opened, Source, Staged, Stored};
use crate::digest::Digest;
use crate::upload::UploadId;
use crate::{BoxFuture, Clock};

/// Largest piece a reader gets at once, so that reading behaves like reading a file.
const READ_BYTES: usize = 128 * 1024;

struct Upload {
    note: Bytes,
    bytes: BytesMut,
    modified: Timestamp,
}

#[derive(Default)]
struct Inner {
    uploads: BTreeMap<UploadId, Upload>,
    blobs: BTreeMap<Digest, (Bytes, Timestamp)>,
}

/// The store.
pub struct Memory {
    clock: Box<dyn Clock>,
    inner: Mutex<Inner>,
}

impl Memory {
    /// An empty store that stamps what it takes with `clock`.
    pub fn new(clock: impl Clock) -> Memory {
        Memory {
            clock: Box::new(clock),
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the maps whole, so a panicking holder does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts bytes under a digest without looking at them: how a test makes a corrupt blob.
    pub fn plant(&self, digest: &Digest, bytes: Bytes) {
        let now = self.clock.now();
        self.lock().blobs.insert(digest.clone(), (bytes, now));
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Blobs for Memory {
    fn begin<'a>(&'a self, id: &'a UploadId, note: Bytes) -> BoxFuture<'a, Result<(), BlobError>> {
        let modified = self.clock.now();
        let upload = Upload {
            note,
            bytes: BytesMut::new(),
            modified,
        };
        self.lock().uploads.insert(id.clone(), upload);
        ready(Ok(()))
    }

    fn append<'a>(
        &'a self,
        id: &'a UploadId,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let Some(upload) = inner.uploads.get_mut(id) else {
            return ready(Err(BlobError::UploadGone));
        };
        let have = upload.bytes.len() as u64;
        if have < offset {
            return ready(Err(BlobError::Short { have, want: offset }));
        }
        upload.bytes.truncate(offset as usize);
        upload.bytes.extend_from_slice(&bytes);
        upload.modified = now;
        ready(Ok(()))
    }

    fn finish<'a>(
        &'a self,
        id: &'a UploadId,
        size: u64,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let Some(upload) = inner.uploads.get(id) else {
            return ready(Err(BlobError::UploadGone));
        };
        let have = upload.bytes.len() as u64;
        if have < size {
            return ready(Err(BlobError::Short { have, want: size }));
        }
        let bytes = Bytes::copy_from_slice(&upload.bytes[..size as usize]);
        inner.uploads.remove(id);
        inner.blobs.insert(digest.clone(), (bytes, now));
        ready(Ok(()))
    }

    fn discard<'a>(&'a self, id: &'a UploadId) -> BoxFuture<'a, Result<(), BlobError>> {
        self.lock().uploads.remove(id);
        ready(Ok(()))
    }

    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, BlobError>> {
        let staged = self
            .lock()
            .uploads
            .iter()
            .map(|(id, upload)| Staged {
                id: id.clone(),
                note: upload.note.clone(),
                size: upload.bytes.len() as u64,
                modified: upload.modified,
            })
            .collect();
        ready(Ok(staged))
    }

    fn open<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<Option<Opened>, BlobError>> {
        let inner = self.lock();
        let found = match source {
            Source::Blob(digest) => inner.blobs.get(digest).cloned(),
            Source::Upload(id) => inner
                .uploads
                .get(id)
                .map(|upload| (upload.bytes.clone().freeze(), upload.modified)),
        };
        let opened = found.map(|(bytes, modified)| Opened {
            size: bytes.len() as u64,
            modified,
            body: Box::new(move |range| {
                let part = bytes.slice(range.start as usize..range.end as usize);
                let pieces: Vec<io::Result<Bytes>> = part
                    .chunks(READ_BYTES)
                    .map(|piece| Ok(part.slice_ref(piece)))
                    .collect();
                Box::pin(stream::iter(pieces))
            }),
        });
        ready(Ok(opened))
    }

    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        ready(Ok(self.lock().blobs.remove(digest).is_some()))
    }

    /// Nothing is kept aside: bytes in memory tell nobody where a fault was.
    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        let mut inner = self.lock();
        let damaged = inner
            .blobs
            .get(digest)
            .is_some_and(|(bytes, _)| digest.algorithm().digest(bytes) != *digest);
        if damaged {
            inner.blobs.remove(digest);
        }
        ready(Ok(damaged))
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, BlobError>> {
        let from = match after {
            Some(digest) => Bound::Excluded(digest.clone()),
            None => Bound::Unbounded,
        };
        let stored = self
            .lock()
            .blobs
            .range((from, Bound::Unbounded))
            .take(limit)
            .map(|(digest, (bytes, modified))| Stored {
                digest: digest.clone(),
                size: bytes.len() as u64,
                modified: *modified,
            })
            .collect();
        ready(Ok(stored))
    }
}
