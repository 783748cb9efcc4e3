//! One client's connection to a registry: plain HTTP/1.1, kept alive, bodies of shared bytes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bytes shown of an answer that was not expected.
const SHOWN: usize = 300;

/// A body of some pieces; its length goes out as `Content-Length`.
#[derive(Default)]
pub struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// These, in order; empty ones are left out.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Self(pieces.into_iter().filter(|p| !p.is_empty()).collect())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|p| p.len() as u64).sum())
    }
}

/// An answer whose body was read to its end.
pub struct Answer {
    /// Headers.
    pub headers: HeaderMap,
    /// Length of the body.
    pub length: u64,
    /// The last bytes of the body, as many as [`super::content::MARK`].
    pub tail: Vec<u8>,
}

/// A connection.
pub struct Connection {
    send: SendRequest<Pieces>,
    host: String,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // How it ends is told by the request that fails.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            send,
            host: address.to_string(),
        })
    }

    /// Sends a request and reads the whole answer, which must have this status.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: Pieces,
        want: StatusCode,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header(header::HOST, &self.host);
        if let Some(kind) = kind {
            // A read says what it takes, or docker-registry gives no OCI manifest.
            let name = match method {
                Method::GET => header::ACCEPT,
                _ => header::CONTENT_TYPE,
            };
            request = request.header(name, kind);
        }
        self.send.ready().await?;
        let answer = self.send.send_request(request.body(body)?).await?;
        let (parts, mut body) = answer.into_parts();
        let (mut length, mut tail) = (0, Vec::new());
        let keep = match parts.status == want {
            true => super::content::MARK,
            false => SHOWN,
        };
        while let Some(frame) = body.frame().await {
            let frame = frame.with_context(|| format!("{method} {path}: the body broke off"))?;
            if let Some(data) = frame.data_ref() {
                length += data.len() as u64;
                tail.extend_from_slice(&data[data.len().saturating_sub(keep)..]);
                tail.drain(..tail.len().saturating_sub(keep));
            }
        }
        ensure!(
            parts.status == want,
            "{method} {path}: {} instead of {want}: {}",
            parts.status,
            String::from_utf8_lossy(&tail)
        );
        Ok(Answer {
            headers: parts.headers,
            length,
            tail,
        })
    }
}

/// The path of a `Location`, which one side gives absolute and the other relative.
pub fn location(headers: &HeaderMap) -> Result<String> {
    let text = headers
        .get(header::LOCATION)
        .context("no Location")?
        .to_str()?;
    let uri: http::Uri = text.parse().with_context(|| text.to_string())?;
    Ok(uri
        .path_and_query()
        .with_context(|| format!("no path in {text}"))?
        .to_string())
}

/// A `Location` with the digest added to its query.
pub fn with_digest(location: &str, digest: &str) -> String {
    let sign = if location.contains('?') { '&' } else { '?' };
    format!("{location}{sign}digest={digest}")
}
