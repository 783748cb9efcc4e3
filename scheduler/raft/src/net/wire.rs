//! Frames: length (u32, big-endian), kind (u8), call id (u64), body. Entries are written by hand, since they are what
//! travels ten thousand times a second; everything else is CBOR.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use coracle_state::command::BATCH_BYTES_MAX;
use openraft::EntryPayload;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Answer, Append, Appended, Ask, Request, Response};
use crate::types::{Data, Entry, LogId, Vote};

/// Version of the protocol, exchanged in the first frame.
pub const PROTOCOL: u32 = 1;
/// Largest frame: an append carries at most one entry above 1 MiB of them, see `journal::store`.
pub const FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX + (4 << 20);
/// Bytes of kind and call id.
const HEAD: usize = 9;

/// What a frame is.
pub mod kind {
    /// First frame of the dialler.
    pub const HELLO: u8 = 1;
    /// First frame of the other side.
    pub const WELCOME: u8 = 2;
    /// An append of a pipeline.
    pub const APPEND: u8 = 3;
    /// Its answer.
    pub const APPENDED: u8 = 4;
    /// A request with one answer.
    pub const REQUEST: u8 = 5;
    /// Its answer.
    pub const RESPONSE: u8 = 6;
    /// The head of a snapshot.
    pub const SNAPSHOT: u8 = 7;
    /// Bytes of a snapshot.
    pub const CHUNK: u8 = 8;
    /// The answer to a whole snapshot.
    pub const INSTALLED: u8 = 9;
    /// A refusal: text.
    pub const ERROR: u8 = 10;
}

/// A frame as it was read.
#[derive(Debug)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Which call it belongs to.
    pub id: u64,
    /// The rest.
    pub body: Bytes,
}

/// What does not decode; the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("E_RAFT_FOREIGN: {0}")]
pub struct WireError(pub String);

fn bad(what: impl std::fmt::Display) -> WireError {
    WireError(format!("the bytes are not of the raft protocol ({what})"))
}

/// Reads one frame; `None` at a clean end.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Frame>> {
    let mut head = [0u8; 4 + HEAD];
    match from.read(&mut head[..1]).await? {
        0 => return Ok(None),
        _ => from.read_exact(&mut head[1..]).await?,
    };
    let mut at = &head[..];
    let len = at.get_u32() as usize;
    let (kind, id) = (at.get_u8(), at.get_u64());
    if !(HEAD..=FRAME_BYTES_MAX).contains(&len) {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            bad(format!("a frame of {len} bytes")),
        ));
    }
    let mut body = BytesMut::zeroed(len - HEAD);
    from.read_exact(&mut body).await?;
    Ok(Some(Frame {
        kind,
        id,
        body: body.freeze(),
    }))
}

/// Appends a frame to `out`; `fill` writes the body.
pub fn frame(out: &mut BytesMut, kind: u8, id: u64, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    out.put_u64(id);
    fill(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Writes a value as CBOR.
pub fn cbor(out: &mut BytesMut, value: &impl Serialize) {
    ciborium::into_writer(value, out.writer()).expect("our messages serialise into memory");
}

/// Reads a value of CBOR.
pub fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    ciborium::from_reader(bytes).map_err(bad)
}

fn put_id(out: &mut BytesMut, id: Option<&LogId>) {
    match id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_u64(id.leader_id.term);
            out.put_u64(id.leader_id.node_id);
            out.put_u64(id.index);
        }
    }
}

fn need(bytes: &Bytes, n: usize) -> Result<(), WireError> {
    if bytes.len() < n {
        return Err(bad("it ends early"));
    }
    Ok(())
}

fn get_id(bytes: &mut Bytes) -> Result<Option<LogId>, WireError> {
    need(bytes, 1)?;
    if bytes.get_u8() == 0 {
        return Ok(None);
    }
    need(bytes, 24)?;
    Ok(Some(LogId {
        leader_id: openraft::impls::leader_id_adv::LeaderId {
            term: bytes.get_u64(),
            node_id: bytes.get_u64(),
        },
        index: bytes.get_u64(),
    }))
}

fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64(vote.leader_id.term);
    out.put_u64(vote.leader_id.node_id);
    out.put_u8(u8::from(vote.committed));
}

fn get_vote(bytes: &mut Bytes) -> Result<Vote, WireError> {
    need(bytes, 17)?;
    let (term, node, committed) = (bytes.get_u64(), bytes.get_u64(), bytes.get_u8());
    Ok(match committed {
        0 => Vote::new(term, node),
        _ => Vote::new_committed(term, node),
    })
}

/// Writes an append: vote, position before, commit, entries.
pub fn put_append(out: &mut BytesMut, append: &Append) {
    put_vote(out, &append.vote);
    put_id(out, append.prev_log_id.as_ref());
    put_id(out, append.leader_commit.as_ref());
    out.put_u32(append.entries.len() as u32);
    for entry in &append.entries {
        put_id(out, Some(&entry.log_id));
        match &entry.payload {
            EntryPayload::Blank => out.put_u8(0),
            EntryPayload::Normal(data) => {
                out.put_u8(1);
                out.put_u32(data.0.len() as u32);
                out.put_slice(&data.0);
            }
            EntryPayload::Membership(m) => {
                out.put_u8(2);
                let mut body = BytesMut::new();
                cbor(&mut body, m);
                out.put_u32(body.len() as u32);
                out.put_slice(&body);
            }
        }
    }
}

/// Reads what [`put_append`] wrote; data bytes are shared with the frame.
pub fn get_append(mut bytes: Bytes) -> Result<Append, WireError> {
    let vote = get_vote(&mut bytes)?;
    let prev_log_id = get_id(&mut bytes)?;
    let leader_commit = get_id(&mut bytes)?;
    need(&bytes, 4)?;
    let n = bytes.get_u32() as usize;
    // An entry takes 26 bytes at least.
    need(&bytes, n.saturating_mul(26))?;
    let mut entries = Vec::with_capacity(n);
    for _ in 0..n {
        let log_id = get_id(&mut bytes)?.ok_or_else(|| bad("an entry without a position"))?;
        need(&bytes, 1)?;
        let payload = match bytes.get_u8() {
            0 => EntryPayload::Blank,
            tag @ (1 | 2) => {
                need(&bytes, 4)?;
                let len = bytes.get_u32() as usize;
                need(&bytes, len)?;
                let body = bytes.split_to(len);
                if tag == 1 {
                    EntryPayload::Normal(Data(body))
                } else {
                    EntryPayload::Membership(from_cbor(&body)?)
                }
            }
            other => return Err(bad(format!("an entry of kind {other}"))),
        };
        entries.push(Entry { log_id, payload });
    }
    if !bytes.is_empty() {
        return Err(bad("bytes behind the last entry"));
    }
    Ok(Append {
        vote,
        prev_log_id,
        leader_commit,
        entries,
    })
}

/// Writes the answer to an append of a pipeline.
pub fn put_appended(out: &mut BytesMut, answer: &Appended) {
    use openraft::raft::StreamAppendError as E;
    match answer {
        Ok(id) => {
            out.put_u8(0);
            put_id(out, id.as_ref());
        }
        Err(E::Conflict(id)) => {
            out.put_u8(1);
            put_id(out, Some(id));
        }
        Err(E::HigherVote(vote)) => {
            out.put_u8(2);
            put_vote(out, vote);
        }
    }
}

/// Reads what [`put_appended`] wrote.
pub fn get_appended(mut bytes: Bytes) -> Result<Appended, WireError> {
    use openraft::raft::StreamAppendError as E;
    need(&bytes, 1)?;
    Ok(match bytes.get_u8() {
        0 => Ok(get_id(&mut bytes)?),
        1 => Err(E::Conflict(
            get_id(&mut bytes)?.ok_or_else(|| bad("a conflict without a position"))?,
        )),
        2 => Err(E::HigherVote(get_vote(&mut bytes)?)),
        other => return Err(bad(format!("an answer of kind {other}"))),
    })
}

const VOTE: u8 = 1;
const PRE_VOTE: u8 = 2;
const HEARTBEAT: u8 = 3;
const TRANSFER: u8 = 4;
const ASK: u8 = 5;
const PROPOSE: u8 = 6;

/// Writes a request.
pub fn put_request(out: &mut BytesMut, request: &Request) {
    match request {
        Request::Vote(v) => {
            out.put_u8(VOTE);
            cbor(out, v);
        }
        Request::PreVote(v) => {
            out.put_u8(PRE_VOTE);
            cbor(out, v);
        }
        Request::Heartbeat(a) => {
            out.put_u8(HEARTBEAT);
            put_append(out, a);
        }
        Request::Transfer(t) => {
            out.put_u8(TRANSFER);
            cbor(out, t);
        }
        // The bytes as they are: CBOR would copy them once more.
        Request::Ask(Ask::Propose(batch)) => {
            out.put_u8(PROPOSE);
            out.put_slice(batch);
        }
        Request::Ask(ask) => {
            out.put_u8(ASK);
            cbor(out, ask);
        }
    }
}

/// Reads what [`put_request`] wrote.
pub fn get_request(mut bytes: Bytes) -> Result<Request, WireError> {
    need(&bytes, 1)?;
    Ok(match bytes.get_u8() {
        VOTE => Request::Vote(from_cbor(&bytes)?),
        PRE_VOTE => Request::PreVote(from_cbor(&bytes)?),
        HEARTBEAT => Request::Heartbeat(get_append(bytes)?),
        TRANSFER => Request::Transfer(from_cbor(&bytes)?),
        PROPOSE => Request::Ask(Ask::Propose(bytes)),
        ASK => Request::Ask(from_cbor(&bytes)?),
        other => return Err(bad(format!("a request of kind {other}"))),
    })
}

/// Writes a response.
pub fn put_response(out: &mut BytesMut, response: &Response) {
    match response {
        Response::Vote(v) => {
            out.put_u8(VOTE);
            cbor(out, v);
        }
        Response::Heartbeat(a) => {
            out.put_u8(HEARTBEAT);
            cbor(out, a);
        }
        Response::Transfer(t) => {
            out.put_u8(TRANSFER);
            cbor(out, t);
        }
        Response::Ask(answer) => {
            out.put_u8(ASK);
            cbor(out, answer);
        }
    }
}

/// Reads what [`put_response`] wrote.
pub fn get_response(mut bytes: Bytes) -> Result<Response, WireError> {
    need(&bytes, 1)?;
    Ok(match bytes.get_u8() {
        VOTE => Response::Vote(from_cbor(&bytes)?),
        HEARTBEAT => Response::Heartbeat(from_cbor(&bytes)?),
        TRANSFER => Response::Transfer(from_cbor(&bytes)?),
        ASK => Response::Ask(from_cbor::<Answer>(&bytes)?),
        other => return Err(bad(format!("a response of kind {other}"))),
    })
}
