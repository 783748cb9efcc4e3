//! A staged upload into the bucket.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coracle_registry::blobs::{BlobError, ByteStream, Source};
use coracle_registry::digest::Digest;
use coracle_registry::garbage::is_old;
use coracle_registry::rows::{self, OBJECTS};
use coracle_registry::upload::UploadId;
use futures_util::{StreamExt, stream};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use crate::{Objects, Place, rows_failed, sweep, unavailable};

/// Bytes of a part, and of the largest blob that goes in one request. Providers take parts of 5 MiB and more, at most
/// 10,000 of them: blobs of up to 80 GB.
pub(crate) const PART_BYTES: usize = 8 << 20;

impl Objects {
    /// Object first, then the row that names it.
    pub(crate) async fn store_upload(
        &self,
        id: &UploadId,
        size: u64,
        digest: &Digest,
    ) -> Result<(), BlobError> {
        self.ours().await?;
        let begun = self.clock.now();
        let body = self.staged_bytes(id, size).await?;
        let generation = format!("{:016x}", rand::random::<u64>());
        let key = self.key(digest, &generation);
        self.put(&key, size, body).await?;
        let at = self.clock.now();
        if is_old(begun, at, sweep::ORPHAN_AGE_MS / 2) {
            // The sweep of another member may be about to take it for an orphan.
            return Err(BlobError::Unavailable(
                "E_REGISTRY_STORAGE: storing the blob took half a day: push it again".into(),
            ));
        }
        let place = Place {
            generation,
            size,
            at,
        };
        let row = rows::put(OBJECTS, digest.to_string(), &place);
        let row = row.map_err(|e| rows_failed(e.message))?;
        self.meta.batch(vec![row]).await.map_err(rows_failed)?;
        if let Err(error) = self.staging.discard(id).await {
            // The blob is stored; what is left is swept at the next start.
            tracing::warn!(upload = %id, %error, "could not remove a finished upload's directory");
        }
        Ok(())
    }

    /// The first `size` staged bytes.
    async fn staged_bytes(&self, id: &UploadId, size: u64) -> Result<ByteStream, BlobError> {
        match self.staging.open(&Source::Upload(id.clone())).await? {
            Some(opened) if opened.size >= size => Ok((opened.body)(0..size)),
            Some(opened) => Err(BlobError::Short {
                have: opened.size,
                want: size,
            }),
            // A blob of no bytes never had an append.
            None if size == 0 => Ok(Box::pin(stream::empty())),
            None => Err(BlobError::UploadGone),
        }
    }

    async fn put(&self, key: &Path, size: u64, body: ByteStream) -> Result<(), BlobError> {
        let mut body = Cut::new(body);
        if size <= PART_BYTES as u64 {
            let _one = self.parts.acquire().await.map_err(|_| ended())?;
            let all = body.next().await?.unwrap_or_default();
            self.store.put(key, all).await.map_err(unavailable)?;
            return Ok(());
        }
        let upload = self.store.put_multipart(key).await;
        let mut upload = upload.map_err(unavailable)?;
        let done = self.put_parts(&mut *upload, &mut body).await;
        let done = match done {
            Ok(()) => upload.complete().await.map(|_| ()).map_err(unavailable),
            Err(error) => Err(error),
        };
        if done.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%key, %error, "could not abort a multipart upload; the bucket's lifecycle rule ends it");
        }
        done
    }

    async fn put_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        body: &mut Cut,
    ) -> Result<(), BlobError> {
        let mut parts = JoinSet::new();
        loop {
            let permit = Arc::clone(&self.parts).acquire_owned().await;
            let permit = permit.map_err(|_| ended())?;
            let Some(part) = body.next().await? else {
                break;
            };
            let part = upload.put_part(part);
            parts.spawn(async move {
                let done = part.await;
                drop(permit);
                done
            });
            while let Some(done) = parts.try_join_next() {
                joined(done)?;
            }
        }
        while let Some(done) = parts.join_next().await {
            joined(done)?;
        }
        Ok(())
    }
}

fn ended() -> BlobError {
    BlobError::Unavailable("the registry is shutting down".into())
}

fn joined(done: Result<object_store::Result<()>, tokio::task::JoinError>) -> Result<(), BlobError> {
    match done {
        Ok(done) => done.map_err(unavailable),
        Err(error) => Err(BlobError::io(
            "sending a part",
            std::io::Error::other(error.to_string()),
        )),
    }
}

/// A body cut into parts of [`PART_BYTES`], the last one shorter: some providers take only parts of one length.
struct Cut {
    body: ByteStream,
    /// What of the last piece belongs to the next part.
    rest: Bytes,
}

impl Cut {
    fn new(body: ByteStream) -> Self {
        Self {
            body,
            rest: Bytes::new(),
        }
    }

    async fn next(&mut self) -> Result<Option<PutPayload>, BlobError> {
        let mut part = BytesMut::from(&self.rest[..]);
        self.rest.clear();
        while part.len() < PART_BYTES {
            let Some(piece) = self.body.next().await else {
                break;
            };
            let mut piece = piece.map_err(|e| BlobError::io("reading an upload", e))?;
            let room = PART_BYTES - part.len();
            if piece.len() > room {
                self.rest = piece.split_off(room);
            }
            part.extend_from_slice(&piece);
        }
        Ok((!part.is_empty()).then(|| part.freeze().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_are_equally_long_but_the_last() {
        let whole: Vec<u8> = (0..2 * PART_BYTES + 5).map(|i| (i / 251) as u8).collect();
        for piece in [1 << 17, PART_BYTES, 3_000_001] {
            let pieces: Vec<_> = whole
                .chunks(piece)
                .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                .collect();
            let mut cut = Cut::new(Box::pin(stream::iter(pieces)));
            let (mut lengths, mut joined) = (Vec::new(), Vec::new());
            while let Some(part) = cut.next().await.unwrap() {
                let part = Bytes::from(part);
                lengths.push(part.len());
                joined.extend_from_slice(&part);
            }
            assert_eq!(lengths, [PART_BYTES, PART_BYTES, 5], "{piece}");
            assert!(joined == whole, "{piece}");
        }
    }
}
