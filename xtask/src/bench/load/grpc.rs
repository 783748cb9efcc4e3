//! The five messages of etcd's gRPC API that the benches need, written by hand: no code generator, no protoc.
//! Field numbers are those of etcd's published rpc.proto and kv.proto.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use prost::Message;

use super::http2::{Answer, Connection};

/// Length of the prefix of each gRPC message: a flag and four bytes of length.
const PREFIX: usize = 5;

/// etcdserverpb.PutRequest.
#[derive(Clone, PartialEq, Message)]
pub struct Put {
    /// Key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// etcdserverpb.ResponseHeader.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Member that answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// Revision of the store.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// Raft term.
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}

/// etcdserverpb.StatusRequest.
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// etcdserverpb.StatusResponse.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Version of the server.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Member id of the leader, 0 if there is none.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    /// Term.
    #[prost(uint64, tag = "6")]
    pub raft_term: u64,
    /// Index applied.
    #[prost(uint64, tag = "7")]
    pub raft_applied_index: u64,
}

/// etcdserverpb.WatchRequest with its `create_request`.
#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    /// Create.
    #[prost(message, optional, tag = "1")]
    pub create: Option<WatchCreate>,
}

/// etcdserverpb.WatchCreateRequest.
#[derive(Clone, PartialEq, Message)]
pub struct WatchCreate {
    /// Key, or begin of the range.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// End of the range; empty for one key.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Id chosen by the client, unique on its stream, not 0.
    #[prost(int64, tag = "7")]
    pub watch_id: i64,
}

/// etcdserverpb.WatchResponse.
#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    /// Which watch.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// The watch exists now.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch is gone.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Why it is gone.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// Changes.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// mvccpb.Event.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// 0: put.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The pair after the change.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// mvccpb.KeyValue.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// Key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Revision of the last change.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

/// The message as gRPC sends it.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut b = BytesMut::with_capacity(PREFIX + length);
    b.put_u8(0);
    b.put_u32(length as u32);
    // A BytesMut grows, so encoding cannot run out of room.
    let _ = message.encode(&mut b);
    b.freeze()
}

/// Takes one whole message off the front, if there is one.
pub fn next_message<M: Message + Default>(buffer: &mut BytesMut) -> Result<Option<M>> {
    let Some(head) = buffer.get(..PREFIX) else {
        return Ok(None);
    };
    ensure!(head[0] == 0, "a compressed gRPC message");
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if buffer.len() < PREFIX + length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(M::decode(buffer.split_to(length).freeze())?))
}

/// A gRPC request line.
pub fn request(uri: &Uri) -> Request<()> {
    let mut r = Request::new(());
    *r.method_mut() = Method::POST;
    *r.uri_mut() = uri.clone();
    let h = r.headers_mut();
    h.insert(
        "content-type",
        HeaderValue::from_static("application/grpc+proto"),
    );
    h.insert("te", HeaderValue::from_static("trailers"));
    r
}

/// Fails unless gRPC says it worked.
pub fn check(answer: &Answer) -> Result<()> {
    ensure!(answer.status.is_success(), "HTTP {}", answer.status);
    let at = |m: &HeaderMap, k: &str| Some(m.get(k)?.to_str().ok()?.to_string());
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.headers);
    match at(trailers, "grpc-status").as_deref() {
        Some("0") => Ok(()),
        Some(code) => bail!(
            "gRPC {code}: {}",
            at(trailers, "grpc-message").unwrap_or_default()
        ),
        None => bail!("an answer without grpc-status"),
    }
}

/// One unary call.
pub async fn unary<M: Message + Default>(
    connection: &mut Connection,
    uri: &Uri,
    message: &impl Message,
) -> Result<M> {
    let answer = connection.call(request(uri), frame(message)).await?;
    check(&answer)?;
    let mut body = BytesMut::from(answer.body.as_slice());
    next_message(&mut body)?.context("an answer without a message")
}
