//! Connections to whichever API server answers.
//!
//! All members serve the same; so a connection is dialled to the one in use, and to the next one as soon as that fails or
//! is slow. The certificate must carry the cluster's common name for its API and stand under the cluster's roots: which
//! address answered does not matter. A cut connection (no reset, just silence) is found by HTTP/2 pings.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::endpoints::Endpoints;

/// The name every member's certificate carries.
pub(crate) const SERVER_NAME: &str = "kubernetes";
/// The next address is tried beside a slow one after this time, and at once after one that fails: what a dead member
/// costs a new connection.
const NEXT_AFTER: Duration = Duration::from_millis(300);
/// Time for a connection with its handshake: a member under load may be slow, and one that is gone is not waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A TLS connection to an API server.
pub(crate) struct Link(TlsStream<TcpStream>);

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().negotiated_h2()
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connects to the first API server that answers; it is the one in use from now on.
pub(crate) async fn dial(
    endpoints: Arc<Endpoints>,
    tls: TlsConnector,
) -> io::Result<TokioIo<Link>> {
    let mut left = endpoints.order().into_iter();
    let mut tries = FuturesUnordered::new();
    let mut failed: Vec<String> = Vec::new();
    tries.extend(left.next().map(|addr| attempt(addr, tls.clone())));
    while !tries.is_empty() {
        let done = if left.len() == 0 {
            tries.next().await
        } else {
            // Ending the wait does not end the attempts: they stay in `tries`.
            tokio::time::timeout(NEXT_AFTER, tries.next())
                .await
                .unwrap_or_default()
        };
        match done {
            Some((addr, Ok(link))) => {
                endpoints.reached(&addr);
                return Ok(TokioIo::new(link));
            }
            Some((addr, Err(error))) => failed.push(format!("{addr}: {error}")),
            None => {}
        }
        tries.extend(left.next().map(|addr| attempt(addr, tls.clone())));
    }
    Err(io::Error::new(
        io::ErrorKind::NotConnected,
        failed.join("; "),
    ))
}

async fn attempt(addr: String, tls: TlsConnector) -> (String, io::Result<Link>) {
    let work = async {
        let tcp = TcpStream::connect(&addr).await?;
        // Small requests must not wait for more to send.
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        tls.connect(name, tcp).await.map(Link)
    };
    let done = tokio::time::timeout(CONNECT_TIMEOUT, work).await;
    let done = done.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
    (addr, done)
}
