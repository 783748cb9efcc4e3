//! An open file as a stream of pieces.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use super::super::ByteStream;

/// Bytes read at once from the disk: large enough that the hand-over between threads does not show, small enough that a
/// thousand slow readers cost 512 MiB (one piece on its way, one held back: see [`super::super::verify`]).
pub(super) const READ_BYTES: usize = 256 * 1024;
/// Bytes read at once from the page cache: they are still in the processor's cache when they are sent.
const CACHED_BYTES: usize = 128 * 1024;

/// The bytes of `range`, fewer if the file is shorter. What the page cache holds is read where it is asked for; only what
/// has to come from the disk goes through another thread. (A thread for each piece gave 38 blobs of 64 MiB a second to 8
/// clients, this gives 45. `tokio::fs::File` gave fewer yet: it copies through a buffer of its own.)
pub(super) fn pieces(file: File, range: Range<u64>) -> ByteStream {
    let file = Arc::new(file);
    Box::pin(stream::try_unfold(range, move |left| {
        let file = file.clone();
        async move {
            let length = (left.end.saturating_sub(left.start)).min(READ_BYTES as u64) as usize;
            if length == 0 {
                return Ok(None);
            }
            let bytes = match cached(&file, left.start, length.min(CACHED_BYTES)) {
                Some(bytes) => bytes,
                None => {
                    let reading =
                        tokio::task::spawn_blocking(move || piece(&file, left.start, length));
                    reading.await.map_err(io::Error::other)??
                }
            };
            if bytes.is_empty() {
                return Ok(None);
            }
            let start = left.start + bytes.len() as u64;
            Ok(Some((bytes, start..left.end)))
        }
    }))
}

/// Up to `length` bytes if they can be had without waiting. `None`: they cannot, or whether they can is not to be told;
/// the read that waits says what is the matter, too.
fn cached(file: &File, at: u64, length: usize) -> Option<Bytes> {
    let mut bytes = vec![0; length];
    let into = &mut [IoSliceMut::new(&mut bytes)];
    match preadv2(file, into, at, ReadWriteFlags::NOWAIT) {
        Ok(0) | Err(_) => None,
        Ok(read) => {
            bytes.truncate(read);
            Some(bytes.into())
        }
    }
}

/// Up to `length` bytes; fewer only at the end of the file.
fn piece(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = at + bytes.len() as u64;
        match pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more room than was asked for.
    bytes.truncate(length);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, TryStreamExt};

    use super::*;

    #[tokio::test]
    async fn ranges_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let size = 2 * READ_BYTES + 7;
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        for range in [
            0..0,
            0..1,
            0..READ_BYTES,
            1..READ_BYTES + 2,
            0..size,
            size - 7..size,
            // Shorter than it was when it was opened.
            size - 7..size + 9,
            size + 1..size + 9,
        ] {
            let end = range.end.min(size);
            let want = &content[range.start.min(end)..end];
            let file = File::open(&path).unwrap();
            let whole = piece(&file, range.start as u64, range.len()).unwrap();
            assert_eq!(whole, want, "{range:?}");
            let stream = pieces(file, range.start as u64..range.end as u64);
            let got: Vec<Bytes> = stream.try_collect().await.unwrap();
            assert!(got.iter().all(|p| p.len() <= READ_BYTES), "{range:?}");
            assert_eq!(got.concat(), want, "{range:?}");
        }
        // A directory opens, and cannot be read.
        let broken = pieces(File::open(dir.path()).unwrap(), 0..1).next().await;
        assert!(broken.unwrap().is_err());
    }
}
