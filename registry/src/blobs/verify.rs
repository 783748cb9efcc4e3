//! A whole blob on its way out, hashed as it goes: wrong bytes never have a clean end.
//!
//! The last piece is held back until the digest of all is known. If it is not what was asked for, the stream ends in an
//! error instead, the response is cut short of its announced length, and the client knows that it has nothing. Only whole
//! bodies can be checked this way: what a ranged read hands out is covered by the scrub alone, and by the client, which
//! has the digest of the whole.

use std::future::Future;
use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, Fuse};

use super::ByteStream;
use crate::digest::{Digest, Hash};

struct Going<S, F> {
    pieces: Fuse<ByteStream>,
    hash: Hash,
    held: Option<Bytes>,
    digest: Digest,
    sound: Option<S>,
    damaged: F,
}

/// `pieces` with an error in place of the last piece if all of them are not `digest`. `sound` is called if they are;
/// `damaged` is awaited before that error, and then only. A body that breaks off by itself breaks off here, too, and
/// tells nothing about the store.
pub(crate) fn verified(
    pieces: ByteStream,
    digest: Digest,
    sound: impl FnOnce() + Send + 'static,
    damaged: impl Future<Output = ()> + Send + 'static,
) -> ByteStream {
    let going = Going {
        pieces: pieces.fuse(),
        hash: Hash::new(digest.algorithm()),
        held: None,
        digest,
        sound: Some(sound),
        damaged: Box::pin(damaged),
    };
    Box::pin(stream::try_unfold(going, |mut going| async move {
        loop {
            match going.pieces.next().await {
                Some(piece) => {
                    let piece = piece?;
                    if piece.is_empty() {
                        continue;
                    }
                    going.hash.update(&piece);
                    if let Some(ready) = going.held.replace(piece) {
                        return Ok(Some((ready, going)));
                    }
                }
                None => {
                    let Some(last) = going.held.take() else {
                        return Ok(None);
                    };
                    if going.hash.digest() == going.digest {
                        if let Some(sound) = going.sound.take() {
                            sound();
                        }
                        return Ok(Some((last, going)));
                    }
                    going.damaged.as_mut().await;
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the stored bytes of {} are damaged", going.digest),
                    ));
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::digest::Algorithm;

    async fn sent(pieces: &[&'static str], digest: &Digest) -> (Vec<Bytes>, bool, bool) {
        let told = Arc::new(AtomicBool::new(false));
        let tell = told.clone();
        let pieces: Vec<io::Result<Bytes>> = pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece.as_bytes())))
            .collect();
        let stream = verified(
            Box::pin(stream::iter(pieces)),
            digest.clone(),
            || (),
            async move {
                tell.store(true, Ordering::SeqCst);
            },
        );
        let all: Vec<io::Result<Bytes>> = stream.collect().await;
        let failed = all.iter().any(Result::is_err);
        let good = all.into_iter().filter_map(Result::ok).collect();
        (good, failed, told.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn the_last_piece_comes_only_after_the_digest_fits() {
        let digest = Algorithm::Sha256.digest(b"abc");
        for (pieces, good, bad) in [
            (vec!["a", "", "b", "c"], vec!["a", "b", "c"], false),
            (vec!["abc"], vec!["abc"], false),
            (vec!["a", "b", "x"], vec!["a", "b"], true),
            (vec!["abx"], vec![], true),
            // Cut short: the reader of a file sees no error, either.
            (vec!["a", "b"], vec!["a"], true),
        ] {
            let got = sent(&pieces, &digest).await;
            let good: Vec<Bytes> = good.into_iter().map(Bytes::from).collect();
            assert_eq!(got, (good, bad, bad), "{pieces:?}");
        }
        let nothing = Algorithm::Sha256.digest(b"");
        assert_eq!(sent(&[], &nothing).await, (vec![], false, false));
    }
}
