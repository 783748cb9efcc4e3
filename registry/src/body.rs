//! A request body that is read piece by piece, with a bound on silence.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::error::{Code, Error};

/// Longest pause between two pieces of a body. A client that is silent for longer holds a session's lock for nothing.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// Bytes of an unwanted body that are read and thrown away, so that the client, still sending, gets to read the refusal
/// instead of a reset connection. One chunk of the usual clients is 4 MiB.
pub const DRAIN_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The body of a request.
pub struct Incoming {
    body: Body,
    ended: bool,
    drain: bool,
}

impl Incoming {
    /// Wraps a body. `drain: false` if the client waits for `100 Continue`: reading would ask it to send.
    pub fn new(body: Body, drain: bool) -> Incoming {
        Incoming {
            body,
            ended: false,
            drain,
        }
    }

    /// The next piece, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.ended {
            let frame = match tokio::time::timeout(IDLE_MAX, self.body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    self.ended = true;
                    return Err(Error::new(
                        Code::BlobUploadInvalid,
                        format!("no byte came for {} s", IDLE_MAX.as_secs()),
                    )
                    .status(http::StatusCode::REQUEST_TIMEOUT));
                }
            };
            match frame {
                None => self.ended = true,
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(Error::new(
                        Code::BlobUploadInvalid,
                        format!("the request's body broke off: {error}"),
                    ));
                }
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && !bytes.is_empty()
                    {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The whole body, at most `bytes_max`; 413 above.
    pub async fn collect(&mut self, bytes_max: u64) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if (all.len() + bytes.len()) as u64 > bytes_max {
                return Err(Error::new(
                    Code::SizeInvalid,
                    format!("the body may have at most {bytes_max} bytes"),
                )
                .status(http::StatusCode::PAYLOAD_TOO_LARGE));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Reads and forgets what is left, up to [`DRAIN_BYTES_MAX`].
    pub async fn drain(&mut self) {
        let mut left = DRAIN_BYTES_MAX;
        while self.drain && left > 0 {
            match self.next().await {
                Ok(Some(bytes)) => left = left.saturating_sub(bytes.len() as u64),
                // A broken body needs no second report: the refusal is already on its way.
                Ok(None) | Err(_) => return,
            }
        }
    }
}
