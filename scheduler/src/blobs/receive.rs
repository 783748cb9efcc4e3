//! A blob from another member onto this one's disk: staged, hashed on the way, finished only if it is what its name says.

use std::io;

use bytes::{Bytes, BytesMut};
use coracle_registry::blobs::{BlobError, Blobs, ByteStream};
use coracle_registry::digest::{Digest, Hash};
use coracle_registry::upload::UploadId;
use futures_util::StreamExt;

/// Bytes gathered for one write: as a client's push does, so that the disk sees few and large writes.
const APPEND_BYTES: usize = 1 << 20;

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The bytes have another digest.
    #[error("the bytes have digest {0}")]
    Digest(Digest),
    /// More or fewer bytes than announced.
    #[error("{want} bytes were announced and {got} came")]
    Length { want: u64, got: u64 },
    /// The sender broke off.
    #[error("the transfer broke off: {0}")]
    Broken(io::Error),
    /// This member's disk.
    #[error(transparent)]
    Store(#[from] BlobError),
}

/// Stores `size` bytes as `digest`, durably, or nothing.
pub(super) async fn receive(
    disk: &dyn Blobs,
    digest: &Digest,
    size: u64,
    pieces: ByteStream,
) -> Result<(), Refused> {
    let id = UploadId::from_bits(rand::random());
    // Without a note: after a crash the next start throws it away.
    disk.begin(&id, Bytes::new()).await?;
    let done = take(disk, &id, digest, size, pieces).await;
    if done.is_err()
        && let Err(error) = disk.discard(&id).await
    {
        tracing::warn!(upload = %id, %error, "could not discard a refused copy");
    }
    done
}

async fn take(
    disk: &dyn Blobs,
    id: &UploadId,
    digest: &Digest,
    size: u64,
    mut pieces: ByteStream,
) -> Result<(), Refused> {
    let mut hash = Hash::new(digest.algorithm());
    let mut gathered = BytesMut::new();
    let mut written = 0;
    loop {
        let piece = pieces.next().await.transpose().map_err(Refused::Broken)?;
        let end = piece.is_none();
        gathered.extend_from_slice(&piece.unwrap_or_default());
        let got = written + gathered.len() as u64;
        if got > size {
            return Err(Refused::Length { want: size, got });
        }
        if !gathered.is_empty() && (end || gathered.len() >= APPEND_BYTES) {
            let bytes = gathered.split().freeze();
            hash.update(&bytes);
            disk.append(id, written, bytes).await?;
            written = got;
        }
        if end {
            break;
        }
    }
    if written != size {
        return Err(Refused::Length {
            want: size,
            got: written,
        });
    }
    let got = hash.digest();
    if got != *digest {
        return Err(Refused::Digest(got));
    }
    Ok(disk.finish(id, size, digest).await?)
}
