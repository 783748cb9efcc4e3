//! Commands and the log format: a version byte, the leader's time and the request id at fixed places, then a CBOR
//! envelope with raw object bytes inside. (Format 1 had time and id inside the envelope; it is still read.)

use bytes::Bytes;
use coracle_api::{Claim, Key, Timestamp};
use serde::{Deserialize, Serialize};

/// Version byte of the entry format.
pub const FORMAT: u8 = 2;
/// Bytes before the envelope: version, time in microseconds (i64, big-endian), request id (u64, big-endian).
const HEAD_BYTES: usize = 17;
/// Bound on one encoded batch. Above it a proposal is refused: one entry must fit a replication message.
pub const BATCH_BYTES_MAX: usize = 8 << 20;

/// What must hold for a command to take effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing.
    Any,
    /// No object under the key.
    Absent,
    /// An object under the key, at any revision.
    Present,
    /// The object is at exactly this revision.
    Revision(u64),
}

/// The change itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Store these canonical bytes, holding these claims from now on. Equal bytes and claims are a no-op.
    Put {
        /// Canonical JSON for API objects, any bytes for internal tables.
        #[serde(with = "raw")]
        bytes: Bytes,
        /// Everything the object holds in this form (replaces what it held).
        claims: Vec<Claim>,
    },
    /// Remove the object and release its claims.
    Delete,
    /// Change nothing, but check the precondition (part of an atomic group).
    Check,
}

/// One conditional change of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Table: a `Kind::table`, or an internal one (see [`crate::table::internal`]).
    pub table: String,
    /// Object key.
    pub key: Key,
    /// Precondition.
    pub expect: Expect,
    /// Change.
    pub op: Op,
    /// Atomic group: neighbouring commands with the same non-zero group take effect all or none. 0 = alone.
    pub group: u32,
}

impl Command {
    /// A put outside any group.
    pub fn put(table: &str, key: Key, expect: Expect, bytes: Bytes, claims: Vec<Claim>) -> Self {
        Self {
            table: table.into(),
            key,
            expect,
            op: Op::Put { bytes, claims },
            group: 0,
        }
    }

    /// A delete outside any group.
    pub fn delete(table: &str, key: Key, expect: Expect) -> Self {
        Self {
            table: table.into(),
            key,
            expect,
            op: Op::Delete,
            group: 0,
        }
    }
}

/// What one log entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The leader's clock when it proposed. Apply uses `max(at, last + 1 ms)`.
    pub at: Timestamp,
    /// Identity of the proposal, so that a retry after a lost reply applies once; 0 = none.
    pub request_id: u64,
    /// Commands in order.
    pub commands: Vec<Command>,
}

/// A log entry or snapshot that this binary cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Written by a newer version.
    #[error(
        "E_FORMAT_NEWER: needs a Coracle that reads format {found} (this one reads up to {known}); start the newer version on this data directory"
    )]
    Newer {
        /// Version byte found.
        found: u8,
        /// Newest version known.
        known: u8,
    },
    /// Not decodable.
    #[error("E_FORMAT_CORRUPT: {0}")]
    Corrupt(String),
}

impl Batch {
    /// Encodes for the log. The time is kept to the microsecond.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.push(FORMAT);
        out.extend_from_slice(&self.at.as_microsecond().to_be_bytes());
        out.extend_from_slice(&self.request_id.to_be_bytes());
        ciborium::into_writer(&self.commands, &mut out).expect("a batch serialises into memory");
        out
    }

    /// Decodes from the log.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let corrupt = |e: &dyn std::fmt::Display| FormatError::Corrupt(e.to_string());
        match bytes.first() {
            Some(1) => ciborium::from_reader(&bytes[1..]).map_err(|e| corrupt(&e)),
            Some(&FORMAT) => {
                let (head, rest) = bytes
                    .split_at_checked(HEAD_BYTES)
                    .ok_or_else(|| corrupt(&"an entry ends early"))?;
                let number = |from: usize| <[u8; 8]>::try_from(&head[from..from + 8]);
                let at = number(1).map_err(|e| corrupt(&e))?;
                let id = number(9).map_err(|e| corrupt(&e))?;
                Ok(Self {
                    at: Timestamp::from_microsecond(i64::from_be_bytes(at))
                        .map_err(|e| corrupt(&e))?,
                    request_id: u64::from_be_bytes(id),
                    commands: ciborium::from_reader(rest).map_err(|e| corrupt(&e))?,
                })
            }
            Some(&found) if found > FORMAT => Err(FormatError::Newer {
                found,
                known: FORMAT,
            }),
            _ => Err(corrupt(&"empty or zero-version entry")),
        }
    }
}

/// An encoded batch with another time: the leader stamps what other members forward, since only its clock counts.
pub fn stamped(batch: Bytes, at: Timestamp) -> Result<Bytes, FormatError> {
    match batch.first() {
        Some(&FORMAT) if batch.len() >= HEAD_BYTES => {
            let mut batch = batch
                .try_into_mut()
                .unwrap_or_else(|shared| bytes::BytesMut::from(&shared[..]));
            batch[1..9].copy_from_slice(&at.as_microsecond().to_be_bytes());
            Ok(batch.freeze())
        }
        // A member of the version before: decoded and encoded anew.
        _ => {
            let mut batch = Batch::decode(&batch)?;
            batch.at = at;
            Ok(batch.encode().into())
        }
    }
}

/// A command that took effect, or changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The object's revision afterwards (for a delete, the revision of the deletion; for a no-op, the old one).
    pub revision: u64,
    /// Whether anything changed.
    pub changed: bool,
}

/// A command that was refused; it took no revision and emitted nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// The precondition did not hold; `found` is the revision there, if an object is there.
    #[error("precondition failed, found revision {found:?}")]
    Precondition {
        /// Revision of the object under the key.
        found: Option<u64>,
    },
    /// A unique value is held by another object.
    #[error("{space} {value} is held by {holder}")]
    Taken {
        /// Space of the value.
        space: String,
        /// The value.
        value: String,
        /// Table and key of the holder.
        holder: String,
    },
    /// The node has not the room, or there is no such node.
    #[error("node {node} has no room: {what}")]
    NodeFull {
        /// Node name.
        node: String,
        /// `cpu`, `memory`, `pods` or `node` (unknown).
        what: String,
    },
    /// Another command of the same atomic group was refused.
    #[error("another command of the group was refused")]
    Group,
}

/// Raw bytes in CBOR (`bytes` type), without copying a list of integers.
mod raw {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(b: &Bytes, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(b)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        struct V;
        impl<'de> de::Visitor<'de> for V {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes::copy_from_slice(v))
            }
            fn visit_byte_buf<E: de::Error>(self, v: Vec<u8>) -> Result<Bytes, E> {
                Ok(v.into())
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes, A::Error> {
                let mut v = Vec::new();
                while let Some(b) = seq.next_element()? {
                    v.push(b);
                }
                Ok(v.into())
            }
        }
        d.deserialize_byte_buf(V)
    }
}
