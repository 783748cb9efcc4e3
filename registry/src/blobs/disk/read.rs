//! An open file as a stream of pieces.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

use super::super::ByteStream;

/// Bytes read at once: large enough that the hand-over between threads does not show, small enough that a thousand slow
/// readers cost 512 MiB (one piece on its way, one held back: see [`super::super::verify`]).
pub(super) const READ_BYTES: usize = 256 * 1024;

/// The bytes of `range`, fewer if the file is shorter. (`tokio::fs::File` was here before; it reads into a buffer of its
/// own and copies from there, which cost a sixth of a pull.)
pub(super) fn pieces(file: File, range: Range<u64>) -> ByteStream {
    let file = Arc::new(file);
    Box::pin(stream::try_unfold(range, move |left| {
        let file = file.clone();
        async move {
            let length = (left.end.saturating_sub(left.start)).min(READ_BYTES as u64) as usize;
            if length == 0 {
                return Ok(None);
            }
            let reading = tokio::task::spawn_blocking(move || piece(&file, left.start, length));
            let bytes = reading.await.map_err(io::Error::other)??;
            if bytes.is_empty() {
                return Ok(None);
            }
            let start = left.start + bytes.len() as u64;
            Ok(Some((bytes, start..left.end)))
        }
    }))
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
        for (range, pieces_want) in [
            (0..0, 0),
            (0..1, 1),
            (0..READ_BYTES, 1),
            (1..READ_BYTES + 2, 2),
            (0..size, 3),
            (size - 7..size, 1),
            // Shorter than it was when it was opened.
            (size - 7..size + 9, 1),
            (size + 1..size + 9, 0),
        ] {
            let file = File::open(&path).unwrap();
            let stream = pieces(file, range.start as u64..range.end as u64);
            let got: Vec<Bytes> = stream.try_collect().await.unwrap();
            assert_eq!(got.len(), pieces_want, "{range:?}");
            let end = range.end.min(size);
            let want = &content[range.start.min(end)..end];
            assert_eq!(got.concat(), want, "{range:?}");
        }
        // A directory opens, and cannot be read.
        let broken = pieces(File::open(dir.path()).unwrap(), 0..1).next().await;
        assert!(broken.unwrap().is_err());
    }
}
