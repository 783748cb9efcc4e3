//! Blobs to a registry: nothing if it is there, in one request if it is small, else in chunks that can be gone on with.
//!
//! Every attempt begins by asking whether the blob is there, because an answer that was lost may have been a yes. A
//! session's `Range` says where to go on, not our own count. A registry that cannot do chunks gets the whole in one piece.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderName, Method, Response, StatusCode, header};

use super::answer::header_text;
use super::retry::Attempts;
use super::watch::Step;
use super::{Answer, Client, Error, Failure, Payload, Transport, request};
use crate::digest::Digest;

const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const OCTETS: (HeaderName, &str) = (header::CONTENT_TYPE, "application/octet-stream");

/// How a blob came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there before.
    Existed,
    /// It was sent.
    Sent,
}

/// A session of the registry.
struct Session {
    location: String,
    /// Bytes the registry has.
    have: usize,
    /// Bytes of a chunk.
    chunk: usize,
}

/// One blob on its way.
struct Upload<'a, T> {
    client: &'a Client<T>,
    repository: &'a str,
    digest: &'a Digest,
    bytes: &'a Bytes,
    /// Name of its session among those remembered.
    key: String,
    /// Most bytes the registry has ever had, to see whether an attempt brought something.
    reached: usize,
    sent: bool,
    /// Chunks were tried and are not understood.
    no_chunks: bool,
}

impl<T: Transport> Client<T> {
    /// Makes sure that a blob is in a repository.
    ///
    /// # Errors
    /// [`Error`]. A session that was begun is remembered, and the next call goes on with it.
    pub async fn upload(
        &self,
        repository: &str,
        digest: &Digest,
        bytes: &Bytes,
    ) -> Result<Uploaded, Error> {
        self.tell(digest, Step::Begin(bytes.len() as u64));
        let mut upload = Upload {
            client: self,
            repository,
            digest,
            bytes,
            key: self.path(repository, "uploads", &digest.to_string()),
            reached: 0,
            sent: false,
            no_chunks: false,
        };
        let mut attempts = Attempts::default();
        loop {
            let before = upload.reached;
            match upload.attempt().await {
                Ok(uploaded) => {
                    self.tell(
                        digest,
                        match uploaded {
                            Uploaded::Existed => Step::Exists,
                            Uploaded::Sent => Step::Done,
                        },
                    );
                    return Ok(uploaded);
                }
                Err(failure) => {
                    let progress = upload.reached > before;
                    self.pause(&mut attempts, Some(digest), failure, progress)
                        .await?;
                }
            }
        }
    }

    /// Whether a blob is in a repository. A registry that does not want to say is taken for one that has it not.
    async fn exists(&self, repository: &str, digest: &Digest) -> Result<bool, Failure> {
        let path = self.path(repository, "blobs", &digest.to_string());
        let head = request(Method::HEAD, &path, &[], Payload::default())?;
        let response = self.send(head).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.refused(response).await.into())
            }
            _ => Ok(false),
        }
    }

    /// An address the registry named, as one to ask for.
    fn resolve(&self, location: &str) -> String {
        if location.starts_with('/') {
            format!("{}{location}", self.base)
        } else {
            location.to_owned()
        }
    }

    /// Bytes of a chunk: ours, or more if the registry wants it.
    fn chunk(&self, response: &Response<Answer>) -> usize {
        let least = header_text(response.headers(), CHUNK_MIN).and_then(|text| text.parse().ok());
        self.options.chunk_bytes.max(least.unwrap_or(1))
    }

    fn location(&self, response: &Response<Answer>) -> Result<String, Error> {
        header_text(response.headers(), header::LOCATION)
            .map(|location| self.resolve(location))
            .ok_or_else(|| Error::Protocol("an upload without a Location".into()))
    }
}

impl<T: Transport> Upload<'_, T> {
    async fn attempt(&mut self) -> Result<Uploaded, Failure> {
        let client = self.client;
        if client.exists(self.repository, self.digest).await? {
            self.forget();
            return Ok(match self.sent {
                true => Uploaded::Sent,
                false => Uploaded::Existed,
            });
        }
        let small = self.bytes.len() <= client.options.single_bytes_max;
        if !small && !self.no_chunks {
            return self.chunked().await;
        }
        if small && !client.no_single.load(Ordering::Relaxed) {
            return self.single().await;
        }
        let session = self.begin().await?;
        self.finish(&session.location, self.bytes.clone()).await
    }

    /// The whole blob in the request that would open a session (spec, 4b).
    async fn single(&mut self) -> Result<Uploaded, Failure> {
        let path = self.client.path(self.repository, "blobs", "uploads/");
        let path = format!("{path}?digest={}", self.digest);
        self.sent = true;
        let payload = self.payload(0, self.bytes.clone());
        let post = request(Method::POST, &path, &[OCTETS], payload)?;
        let response = self.client.send(post).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Uploaded::Sent),
            status if is_final(status) => Err(self.client.refused(response).await.into()),
            // It opened a session instead, or does not know what is meant.
            status => {
                self.client.no_single.store(true, Ordering::Relaxed);
                let location = match status {
                    StatusCode::ACCEPTED => self.client.location(&response)?,
                    _ => self.begin().await?.location,
                };
                self.finish(&location, self.bytes.clone()).await
            }
        }
    }

    /// Chunk by chunk, from where the session is.
    async fn chunked(&mut self) -> Result<Uploaded, Failure> {
        let client = self.client;
        let mut session = match self.resume().await? {
            Some(session) => session,
            None => self.begin().await?,
        };
        client.options.sessions.put(&self.key, &session.location);
        while session.have < self.bytes.len() {
            let (start, end) = (
                session.have,
                (session.have + session.chunk).min(self.bytes.len()),
            );
            let range = format!("{start}-{}", end - 1);
            let headers = [OCTETS, (header::CONTENT_RANGE, range.as_str())];
            self.sent = true;
            let payload = self.payload(start, self.bytes.slice(start..end));
            let patch = request(Method::PATCH, &session.location, &headers, payload)?;
            let response = client.send(patch).await?;
            match response.status() {
                StatusCode::ACCEPTED => {}
                // Out of step, or ended meanwhile: a new session knows better.
                StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_FOUND => {
                    self.forget();
                    return Err(Failure::once_more(client.refused(response).await));
                }
                status if is_final(status) => return Err(client.refused(response).await.into()),
                _ => return Err(self.without_chunks(client.refused(response).await)),
            }
            if let Ok(location) = client.location(&response) {
                session.location = location;
            }
            client.options.sessions.put(&self.key, &session.location);
            session.have = received(response.headers()).unwrap_or(end);
            if session.have <= start || session.have > end {
                let said = Error::Protocol(format!(
                    "after the bytes {range} a session has {} bytes",
                    session.have
                ));
                return Err(self.without_chunks(said));
            }
            self.reached = self.reached.max(session.have);
            client.tell(self.digest, Step::At(session.have as u64));
        }
        self.finish(&session.location, Bytes::new()).await
    }

    /// A new session.
    async fn begin(&mut self) -> Result<Session, Failure> {
        let client = self.client;
        let path = client.path(self.repository, "blobs", "uploads/");
        let post = request(Method::POST, &path, &[], Payload::default())?;
        let response = client.send(post).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(client.refused(response).await.into());
        }
        Ok(Session {
            location: client.location(&response)?,
            have: 0,
            chunk: client.chunk(&response),
        })
    }

    /// The session that was begun earlier, if the registry still has it.
    async fn resume(&mut self) -> Result<Option<Session>, Failure> {
        let client = self.client;
        let Some(location) = client.options.sessions.get(&self.key) else {
            return Ok(None);
        };
        let Ok(get) = request(Method::GET, &location, &[], Payload::default()) else {
            self.forget();
            return Ok(None);
        };
        let response = client.send(get).await?;
        let have = received(response.headers()).unwrap_or(0);
        if response.status() != StatusCode::NO_CONTENT || have > self.bytes.len() {
            self.forget();
            return Ok(None);
        }
        self.reached = self.reached.max(have);
        client.tell(self.digest, Step::At(have as u64));
        Ok(Some(Session {
            chunk: client.chunk(&response),
            location: client.location(&response).unwrap_or(location),
            have,
        }))
    }

    /// Ends a session with the last of its bytes.
    async fn finish(&mut self, location: &str, rest: Bytes) -> Result<Uploaded, Failure> {
        let client = self.client;
        let whole = rest.len() == self.bytes.len();
        let join = if location.contains('?') { '&' } else { '?' };
        let uri = format!("{location}{join}digest={}", self.digest);
        self.sent = true;
        let payload = self.payload(self.bytes.len() - rest.len(), rest);
        let put = request(Method::PUT, &uri, &[OCTETS], payload)?;
        let response = client.send(put).await?;
        match response.status() {
            StatusCode::CREATED => {
                self.forget();
                Ok(Uploaded::Sent)
            }
            // The session is gone; perhaps because it was ended and the answer got lost.
            StatusCode::NOT_FOUND => {
                self.forget();
                Err(Failure::once_more(client.refused(response).await))
            }
            status if whole || is_final(status) => {
                self.forget();
                Err(client.refused(response).await.into())
            }
            // Some registries lose chunks without a word.
            _ => Err(self.without_chunks(client.refused(response).await)),
        }
    }

    /// The next attempt sends the blob in one piece.
    fn without_chunks(&mut self, error: Error) -> Failure {
        self.no_chunks = true;
        self.forget();
        Failure::once_more(error)
    }

    fn forget(&self) {
        self.client.options.sessions.remove(&self.key);
    }

    /// The bytes of a request that begin at `start` of the blob.
    fn payload(&self, start: usize, bytes: Bytes) -> Payload {
        let (watch, digest) = (self.client.options.watch.clone(), self.digest.clone());
        Payload::new(bytes).watched(move |sent| watch(&digest, Step::At(start as u64 + sent)))
    }
}

/// A refusal that another way of sending does not change.
fn is_final(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PAYLOAD_TOO_LARGE
    )
}

/// The number of bytes a session has, by its `Range: 0-LAST`. An empty one says `0-0`, as one of a single byte does; we
/// begin with more than one, so it is taken for empty.
fn received(headers: &http::HeaderMap) -> Option<usize> {
    let text = header_text(headers, header::RANGE)?;
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    let (_, last) = text.split_once('-')?;
    let last: usize = last.trim().parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sessions_range_is_read_to_the_byte() {
        for (text, want) in [
            ("0-0", Some(0)),
            ("0-1", Some(2)),
            ("0-4194303", Some(4 << 20)),
            ("bytes=0-9", Some(10)),
            ("0--1", None),
            ("", None),
            ("5", None),
        ] {
            let mut headers = http::HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            assert_eq!(received(&headers), want, "{text}");
        }
    }
}
