//! Uploading blobs: the sessions of [`crate::upload`] joined to a body, a store and a link.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use crate::authorise::namespace;
use crate::blobs::{BlobError, Source};
use crate::body::Incoming;
use crate::digest::{Algorithm, Digest, Hash};
use crate::error::{Code, Error};
use crate::name::Name;
use crate::range;
use crate::registry::Registry;
use crate::upload::{Chunk, Note, Phase, Refusal, Upload, UploadId};

/// Most bytes a listener should read from a connection at once. An upload costs about three such pieces (one coming, one
/// on its way, one looked at) and [`GATHER_BYTES`]; with 256 KiB sixty-four uploads cost 80 MiB, with this half of it.
pub const READ_BYTES_MAX: usize = 64 * 1024;
/// Pieces of a body are gathered up to this many bytes before they are written and hashed, because each write costs two
/// changes of threads: with 64 KiB a fifth of the time went there.
const GATHER_BYTES: usize = 192 * 1024;

/// How long a request waits for another one on the same session. Two at once are a client's retry or its mistake.
const SESSION_WAIT: Duration = Duration::from_secs(10);

/// A session and the lock on it.
type Held = OwnedMutexGuard<Upload>;

/// Where a chunk stands in its session, from the headers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frame<'a> {
    /// `Content-Range`.
    pub range: Option<&'a str>,
    /// `Content-Length`.
    pub length: Option<u64>,
}

/// The path of a session: relative, so that no proxy in front can make it wrong.
pub(crate) fn location(name: &Name, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn unknown() -> Error {
    Error::new(Code::BlobUploadUnknown, BlobError::UploadGone.to_string())
}

/// A refusal as an answer. 416 tells where to go on, so that the client can.
fn refused(refusal: Refusal, name: &Name, id: &UploadId, have: u64) -> Error {
    let message = refusal.to_string();
    match refusal {
        Refusal::NotAnId => Error::new(Code::BlobUploadUnknown, message),
        Refusal::OutOfOrder { .. } | Refusal::UnreadableRange => {
            Error::new(Code::BlobUploadInvalid, message)
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .detail(json!({ "received": have }))
                .header(http::header::LOCATION, &location(name, id.as_str()))
                .header(http::header::RANGE, &range::received(have))
        }
        Refusal::Length { stated, got } => Error::new(Code::SizeInvalid, message)
            .detail(json!({ "announced": stated, "received": got })),
        Refusal::TooLarge { max } => Error::new(Code::SizeInvalid, message)
            .status(StatusCode::PAYLOAD_TOO_LARGE)
            .detail(json!({ "maximum": max })),
        Refusal::Complete => Error::new(Code::BlobUploadInvalid, message),
    }
}

impl Registry {
    /// Begins a session.
    pub(crate) async fn start_upload(
        &self,
        name: &Name,
        algorithm: Algorithm,
    ) -> Result<UploadId, Error> {
        let id = UploadId::from_bits(rand::random());
        let now = self.now();
        let note = Note {
            repository: name.clone(),
            algorithm: algorithm.name().to_owned(),
            started: now,
        };
        let note = crate::rows::encode(&note)?;
        self.add_session(&id, Upload::start(name.clone(), algorithm, now))?;
        if let Err(error) = self.quota_upload(name, &id, 0).await {
            self.remove_session(&id);
            return Err(error);
        }
        if let Err(error) = self.blobs.begin(&id, note).await {
            self.remove_session(&id);
            return Err(error.into());
        }
        tracing::debug!(repository = %name, upload = %id, "upload started");
        Ok(id)
    }

    /// The session, locked, if it is this repository's and still there.
    async fn hold(&self, name: &Name, id: &str) -> Result<(UploadId, Held), Error> {
        let id: UploadId = id.parse().map_err(|_| unknown())?;
        let session = self.session(&id).ok_or_else(unknown)?;
        let locking = Arc::clone(&session).lock_owned();
        let mut held = tokio::time::timeout(SESSION_WAIT, locking)
            .await
            .map_err(|_| Error::busy("another request is still sending to this upload"))?;
        if held.repository() != name || *held.phase() == Phase::Dropped {
            return Err(unknown());
        }
        held.touch(self.now());
        Ok((id, held))
    }

    /// Bytes the session holds.
    pub(crate) async fn upload_status(&self, name: &Name, id: &str) -> Result<u64, Error> {
        let (_, held) = self.hold(name, id).await?;
        match held.phase() {
            Phase::Open => Ok(held.offset()),
            _ => Err(unknown()),
        }
    }

    /// Drops a session at the client's wish.
    pub(crate) async fn cancel_upload(&self, name: &Name, id: &str) -> Result<(), Error> {
        let (id, mut held) = self.hold(name, id).await?;
        if *held.phase() != Phase::Open {
            return Err(unknown());
        }
        self.drop_upload(&id, &mut held).await
    }

    /// Ends a session without a blob.
    async fn drop_upload(&self, id: &UploadId, upload: &mut Upload) -> Result<(), Error> {
        upload.dropped();
        self.remove_session(id);
        Ok(self.blobs.discard(id).await?)
    }

    /// The same on the way out with another error, which is the one the client should see.
    async fn drop_failed(&self, id: &UploadId, upload: &mut Upload) {
        if let Err(error) = self.drop_upload(id, upload).await {
            tracing::warn!(upload = %id, %error, "could not discard a failed upload");
        }
    }

    /// Takes one chunk; answers how many bytes the session holds now.
    pub(crate) async fn append_upload(
        &self,
        name: &Name,
        id: &str,
        frame: Frame<'_>,
        body: &mut Incoming,
    ) -> Result<u64, Error> {
        let (id, mut held) = self.hold(name, id).await?;
        self.receive(&id, &mut held, frame, body).await?;
        Ok(held.offset())
    }

    /// Takes the last chunk, checks the digest, stores and links. The second of two equal requests, at once or later,
    /// gets the same answer.
    pub(crate) async fn finish_upload(
        &self,
        name: &Name,
        id: &str,
        digest: &Digest,
        frame: Frame<'_>,
        body: &mut Incoming,
    ) -> Result<(), Error> {
        let (id, mut held) = self.hold(name, id).await?;
        match held.phase().clone() {
            Phase::Open => {}
            Phase::Stored { digest: stored } if stored == *digest => {
                return self.finish_again(name, &id, digest, &mut held).await;
            }
            Phase::Linked { digest: linked } if linked == *digest => {
                return match self.blob(name, digest).await {
                    Ok(_) => Ok(()),
                    Err(error) if error.code == Code::BlobUnknown => Err(unknown()),
                    Err(error) => Err(error),
                };
            }
            Phase::Stored { .. } | Phase::Linked { .. } => {
                return Err(refused(Refusal::Complete, name, &id, held.offset()));
            }
            Phase::Dropped => return Err(unknown()),
        }
        if held.offset() == 0 {
            // The usual single PUT: the digest names the hash before any byte has come.
            held.hash_with(digest.algorithm());
        }
        self.receive(&id, &mut held, frame, body).await?;
        self.complete(name, &id, digest, &mut held).await?;
        self.session_done(&id);
        Ok(())
    }

    /// A whole blob in one request, without a session anybody could come back to.
    pub(crate) async fn push_whole(
        &self,
        name: &Name,
        digest: &Digest,
        frame: Frame<'_>,
        body: &mut Incoming,
    ) -> Result<(), Error> {
        let id = UploadId::from_bits(rand::random());
        let mut upload = Upload::start(name.clone(), digest.algorithm(), self.now());
        self.blobs.begin(&id, Bytes::new()).await?;
        let received = self.receive(&id, &mut upload, frame, body).await;
        match received {
            Ok(()) => {
                let done = self.complete(name, &id, digest, &mut upload).await;
                self.quota.end(&id);
                done
            }
            Err(error) => {
                self.drop_failed(&id, &mut upload).await;
                Err(error)
            }
        }
    }

    /// Stores bytes that are in memory already (a manifest) under their digest, durably. The caller holds the digest's
    /// guard and links them.
    pub(crate) async fn store(&self, digest: &Digest, bytes: &Bytes) -> Result<(), Error> {
        let id = UploadId::from_bits(rand::random());
        Ok(self.blobs.put(&id, digest, bytes.clone()).await?)
    }

    /// Body into session. What was written before a body broke off stays: the client asks for the status and goes on.
    /// A chunk whose length is not what it announced leaves nothing.
    async fn receive(
        &self,
        id: &UploadId,
        upload: &mut Upload,
        frame: Frame<'_>,
        body: &mut Incoming,
    ) -> Result<(), Error> {
        let name = upload.repository().clone();
        let max = self.limits.blob_bytes_max;
        let chunk = match upload.chunk(frame.range, frame.length, max) {
            Ok(chunk) => chunk,
            Err(refusal) => return Err(self.give_up(id, upload, None, refusal, &name).await),
        };
        // The whole of it at once if its length is known: nothing is received that cannot stay.
        let coming = upload
            .offset()
            .saturating_add(frame.length.unwrap_or_default());
        self.quota_room(&name, id, upload, coming).await?;
        self.quota.holds(namespace(&name), id, upload.offset());
        // As much as will come, so that a small chunk does not cost a large buffer.
        let expected = frame.length.and_then(|length| usize::try_from(length).ok());
        let room = expected.unwrap_or(GATHER_BYTES).min(GATHER_BYTES);
        let mut gathered = BytesMut::new();
        let broken = loop {
            let bytes = match body.next().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break None,
                Err(error) => break Some(error),
            };
            let more = (gathered.len() + bytes.len()) as u64;
            if let Err(refusal) = upload.admits(&chunk, more, max) {
                let error = self.give_up(id, upload, Some(chunk), refusal, &name);
                return Err(error.await);
            }
            if gathered.len() + bytes.len() > GATHER_BYTES {
                self.write(&name, id, upload, gathered.split().freeze())
                    .await?;
            }
            if bytes.len() >= GATHER_BYTES {
                self.write(&name, id, upload, bytes).await?;
                continue;
            }
            if gathered.is_empty() {
                // The memory of what was just written, as nobody has that any more.
                gathered.reserve(room);
            }
            gathered.extend_from_slice(&bytes);
        };
        self.write(&name, id, upload, gathered.freeze()).await?;
        if let Some(error) = broken {
            return Err(error);
        }
        if let Err(refusal) = upload.ended(&chunk) {
            let error = self.give_up(id, upload, Some(chunk), refusal, &name);
            return Err(error.await);
        }
        Ok(())
    }

    /// Adds bytes to what a session holds.
    async fn write(
        &self,
        name: &Name,
        id: &UploadId,
        upload: &mut Upload,
        bytes: Bytes,
    ) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let have = upload.offset() + bytes.len() as u64;
        self.quota_room(name, id, upload, have).await?;
        self.blobs
            .append(id, upload.offset(), bytes.clone())
            .await?;
        upload.take(&bytes);
        upload.touch(self.now());
        self.counters.received_bytes.add(bytes.len() as u64);
        Ok(())
    }

    /// Room for what an upload is about to hold; without it the session ends, and what it held is free again.
    async fn quota_room(
        &self,
        name: &Name,
        id: &UploadId,
        upload: &mut Upload,
        bytes: u64,
    ) -> Result<(), Error> {
        let room = self.quota_upload(name, id, bytes).await;
        if room.as_ref().is_err_and(|error| error.code == Code::Denied) {
            self.drop_failed(id, upload).await;
        }
        room
    }

    /// After a refusal: too large ends the session, a wrong length takes the chunk back, the rest changes nothing.
    async fn give_up(
        &self,
        id: &UploadId,
        upload: &mut Upload,
        chunk: Option<Chunk>,
        refusal: Refusal,
        name: &Name,
    ) -> Error {
        if matches!(refusal, Refusal::TooLarge { .. }) {
            self.drop_failed(id, upload).await;
        } else if let Some(chunk) = chunk {
            upload.roll_back(chunk);
            let cut = self.blobs.append(id, upload.offset(), Bytes::new()).await;
            if let Err(error) = cut {
                // The next append cuts again, and `finish` does; only a restart in between would see the tail.
                tracing::warn!(upload = %id, %error, "could not cut a refused chunk");
            }
        }
        refused(refusal, name, id, upload.offset())
    }

    /// Verifies and stores what the session holds, then links it.
    async fn complete(
        &self,
        name: &Name,
        id: &UploadId,
        digest: &Digest,
        upload: &mut Upload,
    ) -> Result<(), Error> {
        if !upload.hash_with(digest.algorithm()) {
            match self
                .hash_staged(id, upload.offset(), digest.algorithm())
                .await
            {
                Ok(hash) => upload.rehashed(hash),
                Err(error) => {
                    self.drop_failed(id, upload).await;
                    return Err(error);
                }
            }
        }
        let actual = upload.digest();
        if actual.as_ref() != Some(digest) {
            let size = upload.offset();
            self.drop_failed(id, upload).await;
            let actual = actual.map(|digest| digest.to_string()).unwrap_or_default();
            return Err(Error::new(
                Code::DigestInvalid,
                format!("the {size} bytes received have digest {actual}, not {digest}: nothing was stored"),
            )
            .detail(json!({ "expected": digest.to_string(), "received": actual, "size": size })));
        }
        let _guard = self.guard(digest).read().await;
        let hashed = self.now();
        // A failed sync cannot be repeated (the kernel may have dropped the pages), so the session ends here too.
        if let Err(error) = self.blobs.finish(id, upload.offset(), digest).await {
            self.drop_failed(id, upload).await;
            return Err(error.into());
        }
        upload.stored(digest.clone());
        self.verified.note(digest, hashed);
        self.link(name, digest, upload.offset()).await?;
        self.quota
            .linked(namespace(name), Some(id), upload.offset());
        upload.linked(digest.clone());
        self.counters.blobs_pushed.add(1);
        tracing::debug!(repository = %name, %digest, size = upload.offset(), "blob pushed");
        Ok(())
    }

    /// The bytes were stored and the link failed: do the link.
    async fn finish_again(
        &self,
        name: &Name,
        id: &UploadId,
        digest: &Digest,
        upload: &mut Upload,
    ) -> Result<(), Error> {
        let _guard = self.guard(digest).read().await;
        let stored = self.blobs.open(&Source::Blob(digest.clone())).await?;
        if stored.is_none_or(|stored| stored.size != upload.offset()) {
            upload.dropped();
            self.remove_session(id);
            return Err(unknown());
        }
        self.link(name, digest, upload.offset()).await?;
        self.quota
            .linked(namespace(name), Some(id), upload.offset());
        upload.linked(digest.clone());
        self.session_done(id);
        Ok(())
    }

    /// Hashes the staged bytes: after a restart, or when the final digest names another algorithm than announced.
    async fn hash_staged(
        &self,
        id: &UploadId,
        size: u64,
        algorithm: Algorithm,
    ) -> Result<Hash, Error> {
        let opened = self.blobs.open(&Source::Upload(id.clone())).await?;
        let opened = opened.ok_or_else(unknown)?;
        if opened.size < size {
            return Err(BlobError::Short {
                have: opened.size,
                want: size,
            }
            .into());
        }
        let mut hash = Hash::new(algorithm);
        let mut pieces = (opened.body)(0..size);
        while let Some(piece) = pieces.next().await {
            hash.update(&piece.map_err(|source| BlobError::io("reading an upload", source))?);
        }
        Ok(hash)
    }

    /// Drops sessions nobody has asked for since `now` minus the age bound; answers how many. Sessions that are being
    /// written to are not idle. To be called now and then (every few minutes).
    pub async fn expire_uploads(&self, now: Timestamp) -> Result<usize, Error> {
        let mut dropped = 0;
        for (id, session) in self.all_sessions() {
            let Ok(mut upload) = session.try_lock_owned() else {
                continue;
            };
            if !upload.expired(now, self.limits.upload_age_ms_max) {
                continue;
            }
            if *upload.phase() == Phase::Open {
                dropped += 1;
            }
            self.drop_upload(&id, &mut upload).await?;
        }
        self.counters.uploads_expired.add(dropped as u64);
        if dropped > 0 {
            tracing::info!(dropped, "idle uploads dropped");
        }
        Ok(dropped)
    }
}
