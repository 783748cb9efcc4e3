//! The bytes of votes, positions and entries in the log file (big-endian, fixed order; the record around them has a CRC).

use std::io::{self, Read, Write};

use bytes::Bytes;
use coracle_state::command::BATCH_BYTES_MAX;
use openraft::EntryPayload;
use raft_log::codeq::{Decode, Encode};

use crate::types::{Data, Entry, LogId, Vote};

/// Bound on one payload: a batch and room for a membership. A longer length field in the file is rot, not data.
const PAYLOAD_BYTES_MAX: u32 = (BATCH_BYTES_MAX + (1 << 20)) as u32;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// A log position in comparable, fixed-size form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalId {
    /// Term of the leader.
    pub term: u64,
    /// Node id of the leader.
    pub node: u64,
    /// Index.
    pub index: u64,
}

impl From<&LogId> for WalId {
    fn from(id: &LogId) -> Self {
        Self {
            term: id.leader_id.term,
            node: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<WalId> for LogId {
    fn from(id: WalId) -> Self {
        LogId {
            leader_id: openraft::impls::leader_id_adv::LeaderId {
                term: id.term,
                node_id: id.node,
            },
            index: id.index,
        }
    }
}

/// A vote in comparable, fixed-size form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalVote {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&Vote> for WalVote {
    fn from(v: &Vote) -> Self {
        Self {
            term: v.leader_id.term,
            node: v.leader_id.node_id,
            committed: v.committed,
        }
    }
}

impl From<WalVote> for Vote {
    fn from(v: WalVote) -> Self {
        if v.committed {
            Vote::new_committed(v.term, v.node)
        } else {
            Vote::new(v.term, v.node)
        }
    }
}

/// An entry without its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    kind: u8,
    /// The batch, or the membership as CBOR; shared with the entry it came from.
    pub body: Bytes,
}

impl Payload {
    /// The payload of an entry. Data bytes are shared, not copied.
    pub fn of(entry: &Entry) -> io::Result<Self> {
        Ok(match &entry.payload {
            EntryPayload::Blank => Self {
                kind: BLANK,
                body: Bytes::new(),
            },
            EntryPayload::Normal(data) => Self {
                kind: NORMAL,
                body: data.0.clone(),
            },
            EntryPayload::Membership(m) => {
                let mut body = Vec::new();
                ciborium::into_writer(m, &mut body).map_err(|e| io::Error::other(e.to_string()))?;
                Self {
                    kind: MEMBERSHIP,
                    body: body.into(),
                }
            }
        })
    }

    /// The entry at `id`.
    pub fn entry(self, id: WalId) -> io::Result<Entry> {
        let payload = match self.kind {
            BLANK => EntryPayload::Blank,
            NORMAL => EntryPayload::Normal(Data(self.body)),
            MEMBERSHIP => EntryPayload::Membership(
                ciborium::from_reader(&self.body[..])
                    .map_err(|e| io::Error::other(format!("membership entry: {e}")))?,
            ),
            other => {
                return Err(invalid(format!(
                    "log entry {} has unknown kind {other}",
                    id.index
                )));
            }
        };
        Ok(Entry {
            log_id: id.into(),
            payload,
        })
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Encode for WalId {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut w)? + self.node.encode(&mut w)? + self.index.encode(&mut w)?)
    }
}

impl Decode for WalId {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        Ok(Self {
            term: u64::decode(&mut r)?,
            node: u64::decode(&mut r)?,
            index: u64::decode(&mut r)?,
        })
    }
}

impl Encode for WalVote {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut w)?
            + self.node.encode(&mut w)?
            + u8::from(self.committed).encode(&mut w)?)
    }
}

impl Decode for WalVote {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        Ok(Self {
            term: u64::decode(&mut r)?,
            node: u64::decode(&mut r)?,
            committed: u8::decode(&mut r)? != 0,
        })
    }
}

impl Encode for Payload {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        let len = u32::try_from(self.body.len())
            .ok()
            .filter(|n| *n <= PAYLOAD_BYTES_MAX);
        let Some(len) = len else {
            return Err(invalid(format!("log entry of {} bytes", self.body.len())));
        };
        let n = self.kind.encode(&mut w)? + len.encode(&mut w)?;
        w.write_all(&self.body)?;
        Ok(n + self.body.len())
    }
}

impl Decode for Payload {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let kind = u8::decode(&mut r)?;
        let len = u32::decode(&mut r)?;
        if len > PAYLOAD_BYTES_MAX {
            return Err(invalid(format!("log entry of {len} bytes")));
        }
        let mut body = vec![0; len as usize];
        r.read_exact(&mut body)?;
        Ok(Self {
            kind,
            body: body.into(),
        })
    }
}
