//! The upload session as a state machine: what may come next, never how it is stored.
//!
//! ```text
//!            take (bytes, already written)
//!           ┌────┐
//!  start ──▶ Open ── stored ──▶ Stored ── linked ──▶ Linked
//!             │ ▲                  (bytes are in place)  (a repository shows them)
//!             │ └── chunk refused: back to its first byte
//!             └──── cancelled, expired, wrong digest: the session is dropped
//! ```
//!
//! `Stored` exists because writing the bytes and writing the link are two steps: if the second fails the client may
//! repeat its last request and only the link is done again. `Linked` is remembered for a while, so that a repeated or
//! concurrent last request gets the same answer.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::{Algorithm, Digest, Hash};
use crate::name::Name;

/// Number of hex digits in an upload id: 128 random bits, so ids cannot be guessed.
const ID_HEX_LEN: usize = 32;

/// The name of a session: 32 hex digits, safe in a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UploadId(String);

impl UploadId {
    /// The id made of these random bits.
    pub fn from_bits(bits: u128) -> UploadId {
        UploadId(format!("{bits:032x}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UploadId {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let well_formed = text.len() == ID_HEX_LEN
            && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if well_formed {
            Ok(UploadId(text.to_owned()))
        } else {
            Err(Refusal::NotAnId)
        }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is written beside the bytes of a session, so that it survives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The repository the session belongs to.
    pub repository: Name,
    /// The hash the client announced, or the default.
    pub algorithm: String,
    /// When it began.
    pub started: Timestamp,
}

/// Why the state machine says no. The session stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The text is not an upload id.
    #[error("not an upload id")]
    NotAnId,
    /// The chunk does not begin where the session ends.
    #[error(
        "the chunk must begin at byte {have}: ask for the upload's status and go on from there"
    )]
    OutOfOrder {
        /// Bytes the session holds.
        have: u64,
    },
    /// `Content-Range` cannot be read.
    #[error("Content-Range must be <first>-<last>, both inclusive")]
    UnreadableRange,
    /// The lengths the request states, or sends, do not agree.
    #[error("the request announces {stated} bytes and carries {got}")]
    Length {
        /// Bytes announced.
        stated: u64,
        /// Bytes received, or the other announcement.
        got: u64,
    },
    /// Over the bound for one blob.
    #[error("a blob may have at most {max} bytes here")]
    TooLarge {
        /// The bound in bytes.
        max: u64,
    },
    /// Bytes for a session whose blob is already complete.
    #[error("this upload is already complete")]
    Complete,
}

/// A chunk that has been let in: where it began and how long it must turn out to be.
#[derive(Clone, Debug)]
pub struct Chunk {
    start: u64,
    hash: Option<Hash>,
    stated: Option<u64>,
}

/// Where a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Taking bytes.
    Open,
    /// The blob is durable under its digest, the repository does not show it yet.
    Stored {
        /// The verified digest.
        digest: Digest,
    },
    /// Acknowledged.
    Linked {
        /// The verified digest.
        digest: Digest,
    },
    /// Cancelled, expired or failed while somebody else was waiting for it.
    Dropped,
}

/// One upload session.
#[derive(Clone, Debug)]
pub struct Upload {
    repository: Name,
    offset: u64,
    /// `None` after a restart until the staged bytes have been read again.
    hash: Option<Hash>,
    algorithm: Algorithm,
    touched: Timestamp,
    phase: Phase,
}

impl Upload {
    /// A new, empty session.
    pub fn start(repository: Name, algorithm: Algorithm, now: Timestamp) -> Upload {
        Upload {
            repository,
            offset: 0,
            hash: Some(Hash::new(algorithm)),
            algorithm,
            touched: now,
            phase: Phase::Open,
        }
    }

    /// A session found on disk: `offset` staged bytes, last written at `touched`, hash still to be computed.
    pub fn restore(note: Note, offset: u64, touched: Timestamp) -> Upload {
        let algorithm = note.algorithm.parse().unwrap_or(Algorithm::Sha256);
        Upload {
            repository: note.repository,
            offset,
            hash: (offset == 0).then(|| Hash::new(algorithm)),
            algorithm,
            touched,
            phase: Phase::Open,
        }
    }

    /// The repository the session belongs to.
    pub fn repository(&self) -> &Name {
        &self.repository
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the session stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// When a byte or a request last came.
    pub fn touched(&self) -> Timestamp {
        self.touched
    }

    /// Notes that a request came.
    pub fn touch(&mut self, now: Timestamp) {
        self.touched = self.touched.max(now);
    }

    /// The algorithm bytes are being hashed with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Makes the session hash with `algorithm`. `false`: bytes are there already that this hash has not seen, so the
    /// caller must read them again and give the result to [`Upload::rehashed`].
    pub fn hash_with(&mut self, algorithm: Algorithm) -> bool {
        if self.algorithm != algorithm {
            self.algorithm = algorithm;
            self.hash = None;
        }
        if self.hash.is_none() && self.offset == 0 {
            self.hash = Some(Hash::new(algorithm));
        }
        self.hash.is_some()
    }

    /// The hash of all staged bytes, computed from the disk.
    pub fn rehashed(&mut self, hash: Hash) {
        self.algorithm = hash.algorithm();
        self.hash = Some(hash);
    }

    /// May a chunk come in? `range` is the `Content-Range` header, `length` the `Content-Length`; without a range the
    /// chunk is a streamed append and begins wherever the session ends.
    pub fn chunk(
        &self,
        range: Option<&str>,
        length: Option<u64>,
        blob_bytes_max: u64,
    ) -> Result<Chunk, Refusal> {
        if self.phase != Phase::Open {
            return Err(Refusal::Complete);
        }
        let range: Option<Range<u64>> = match range {
            Some(text) => Some(crate::range::chunk(text).ok_or(Refusal::UnreadableRange)?),
            None => None,
        };
        let mut stated = length;
        if let Some(range) = range {
            if range.start != self.offset {
                return Err(Refusal::OutOfOrder { have: self.offset });
            }
            let in_range = range.end - range.start;
            if let Some(length) = length
                && length != in_range
            {
                return Err(Refusal::Length {
                    stated: in_range,
                    got: length,
                });
            }
            stated = Some(in_range);
        }
        if self.offset.saturating_add(stated.unwrap_or(0)) > blob_bytes_max {
            return Err(Refusal::TooLarge {
                max: blob_bytes_max,
            });
        }
        Ok(Chunk {
            start: self.offset,
            hash: self.hash.clone(),
            stated,
        })
    }

    /// May `more` bytes still come, for this chunk and this bound?
    pub fn admits(&self, chunk: &Chunk, more: u64, blob_bytes_max: u64) -> Result<(), Refusal> {
        let end = self.offset.saturating_add(more);
        if let Some(stated) = chunk.stated
            && end - chunk.start > stated
        {
            return Err(Refusal::Length {
                stated,
                got: end - chunk.start,
            });
        }
        if end > blob_bytes_max {
            return Err(Refusal::TooLarge {
                max: blob_bytes_max,
            });
        }
        Ok(())
    }

    /// Counts bytes that *have been written* at [`Upload::offset`].
    pub fn take(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
    }

    /// The body has ended: was it as long as announced?
    pub fn ended(&self, chunk: &Chunk) -> Result<(), Refusal> {
        let got = self.offset - chunk.start;
        match chunk.stated {
            Some(stated) if stated != got => Err(Refusal::Length { stated, got }),
            _ => Ok(()),
        }
    }

    /// Back to where a refused chunk began; the caller cuts the staged bytes to [`Upload::offset`].
    pub fn roll_back(&mut self, chunk: Chunk) {
        self.offset = chunk.start;
        self.hash = chunk.hash;
    }

    /// The digest of the bytes taken, `None` while it is still to be computed from the disk.
    pub fn digest(&self) -> Option<Digest> {
        self.hash.as_ref().map(Hash::digest)
    }

    /// The bytes are durable under `digest`.
    pub fn stored(&mut self, digest: Digest) {
        self.phase = Phase::Stored { digest };
    }

    /// The repository shows the blob.
    pub fn linked(&mut self, digest: Digest) {
        self.phase = Phase::Linked { digest };
    }

    /// The session is over without a blob.
    pub fn dropped(&mut self) {
        self.phase = Phase::Dropped;
    }

    /// Has nobody asked for this session for `age_ms`?
    pub fn expired(&self, now: Timestamp, age_ms: i64) -> bool {
        now.as_millisecond()
            .saturating_sub(self.touched.as_millisecond())
            >= age_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 100;

    fn session() -> Upload {
        Upload::start(
            "demo/a".parse().unwrap(),
            Algorithm::Sha256,
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn ids() {
        let id = UploadId::from_bits(7);
        assert_eq!(id.as_str().parse::<UploadId>().unwrap(), id);
        for bad in ["", "..", "a/b", "ABCDEF00ABCDEF00ABCDEF00ABCDEF00"] {
            assert!(bad.parse::<UploadId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn chunks_must_join() {
        let mut upload = session();
        let chunk = upload.chunk(Some("0-4"), Some(5), MAX).unwrap();
        upload.admits(&chunk, 5, MAX).unwrap();
        upload.take(b"hello");
        upload.ended(&chunk).unwrap();
        for (range, want) in [
            ("0-4", Refusal::OutOfOrder { have: 5 }),
            ("6-9", Refusal::OutOfOrder { have: 5 }),
            ("x", Refusal::UnreadableRange),
        ] {
            assert_eq!(upload.chunk(Some(range), None, MAX).unwrap_err(), want);
        }
        let stated = upload.chunk(Some("5-9"), Some(4), MAX).unwrap_err();
        assert_eq!(stated, Refusal::Length { stated: 5, got: 4 });
        let chunk = upload.chunk(None, None, MAX).unwrap();
        upload.take(b" world");
        upload.ended(&chunk).unwrap();
        assert_eq!(
            upload.digest().unwrap(),
            Algorithm::Sha256.digest(b"hello world")
        );
    }

    #[test]
    fn a_refused_chunk_leaves_no_trace() {
        let mut upload = session();
        upload.take(b"abc");
        let chunk = upload.chunk(Some("3-5"), None, MAX).unwrap();
        upload.take(b"de");
        assert!(upload.ended(&chunk).is_err());
        assert!(upload.admits(&chunk, 2, MAX).is_err());
        upload.roll_back(chunk);
        assert_eq!(upload.offset(), 3);
        assert_eq!(upload.digest().unwrap(), Algorithm::Sha256.digest(b"abc"));
    }

    #[test]
    fn bounds_and_phases() {
        let mut upload = session();
        assert!(matches!(
            upload.chunk(None, Some(MAX + 1), MAX),
            Err(Refusal::TooLarge { .. })
        ));
        let chunk = upload.chunk(None, None, MAX).unwrap();
        assert!(upload.admits(&chunk, MAX, MAX).is_ok());
        assert!(upload.admits(&chunk, MAX + 1, MAX).is_err());
        upload.stored(Algorithm::Sha256.digest(b""));
        assert_eq!(
            upload.chunk(None, None, MAX).unwrap_err(),
            Refusal::Complete
        );
    }

    #[test]
    fn changing_the_hash_needs_the_bytes_again() {
        let mut upload = session();
        assert!(upload.hash_with(Algorithm::Sha512));
        upload.take(b"x");
        assert!(upload.hash_with(Algorithm::Sha512));
        assert!(!upload.hash_with(Algorithm::Sha256));
        assert!(upload.digest().is_none());
        let mut hash = Hash::new(Algorithm::Sha256);
        hash.update(b"x");
        upload.rehashed(hash);
        assert_eq!(upload.digest().unwrap(), Algorithm::Sha256.digest(b"x"));
    }

    #[test]
    fn restored_sessions_know_their_length_but_not_their_hash() {
        let note = Note {
            repository: "demo/a".parse().unwrap(),
            algorithm: "sha512".into(),
            started: Timestamp::UNIX_EPOCH,
        };
        let mut upload = Upload::restore(note, 4, Timestamp::UNIX_EPOCH);
        assert_eq!(upload.offset(), 4);
        assert!(!upload.hash_with(Algorithm::Sha512));
        assert!(upload.expired(Timestamp::from_millisecond(10).unwrap(), 10));
        assert!(!upload.expired(Timestamp::from_millisecond(9).unwrap(), 10));
    }
}
