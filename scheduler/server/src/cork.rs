//! Holds back what a connection writes until everything that was ready is written, so that it leaves in few TLS records
//! and system calls. hyper's HTTP/2 flushes after each frame; with a thousand watches on one connection that would be a
//! record, a system call and a packet for each of them at each event.
//!
//! While a connection is being polled, a flush only promises; [`Corked::pull`] keeps the promise afterwards.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes held back at most; more push what is there out first. Four TLS records.
const HELD_BYTES_MAX: usize = 64 << 10;

struct Inner<S> {
    stream: S,
    held: BytesMut,
    /// Whether the owner polls the connection now and pulls afterwards.
    corked: bool,
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Writes what is held.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// A stream whose writes are held back; clones are the same stream.
pub(crate) struct Corked<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Corked<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Corked<S> {
    /// Around a stream that has written nothing it has not flushed.
    pub fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            held: BytesMut::new(),
            corked: false,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    /// From here on a flush is a promise.
    pub fn push_in(&self) {
        self.inner().corked = true;
    }

    /// Keeps the promise; if the stream does not take everything, the task is woken when it takes more. Flushes are
    /// done at once again from here on.
    pub fn pull(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        inner.corked = false;
        inner.flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        if inner.held.len() >= HELD_BYTES_MAX {
            ready!(inner.drain(cx))?;
        }
        let mut written = 0;
        for buf in bufs {
            let room = HELD_BYTES_MAX.saturating_sub(inner.held.len());
            let n = room.min(buf.len());
            inner.held.extend_from_slice(&buf[..n]);
            written += n;
            if n < buf.len() {
                break;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if inner.corked {
            return Poll::Ready(Ok(()));
        }
        inner.flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn flushes_wait_for_the_pull_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut corked = Corked::new(near);
        corked.push_in();
        for _ in 0..3 {
            corked.write_all(b"abc").await.unwrap();
            corked.flush().await.unwrap();
        }
        let mut seen = [0; 16];
        let nothing =
            tokio::time::timeout(std::time::Duration::from_millis(1), far.read(&mut seen)).await;
        assert!(nothing.is_err());
        poll_fn(|cx| corked.pull(cx)).await.unwrap();
        assert_eq!(far.read(&mut seen).await.unwrap(), 9);
        // Without the cork a flush is one.
        corked.write_all(b"d").await.unwrap();
        corked.flush().await.unwrap();
        assert_eq!(far.read(&mut seen).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_the_writer_back() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut corked = Corked::new(near);
        corked.push_in();
        let all = vec![7u8; 4 * HELD_BYTES_MAX];
        let mut left = &all[..];
        let taken = poll_fn(|cx| {
            let before = left.len();
            while let Poll::Ready(n) = Pin::new(&mut corked).poll_write(cx, left) {
                left = &left[n.unwrap()..];
            }
            Poll::Ready(before - left.len())
        })
        .await;
        assert!(taken <= HELD_BYTES_MAX + (1 << 10), "{taken}");
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got.len()
        });
        corked.write_all(left).await.unwrap();
        corked.shutdown().await.unwrap();
        drop(corked);
        assert_eq!(reader.await.unwrap(), all.len());
    }
}
