//! How members reach each other. [`Transport`] is the seam: [`TcpTransport`] carries frames over mutual TLS, the
//! simulator hands the same values over in memory. [`peer`] adapts a transport to openraft.

mod conn;
mod faults;
mod hello;
mod listen;
pub mod peer;
mod snapshot;
pub mod tcp;
pub mod trust;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_state::BoxFuture;
use openraft::raft::StreamAppendResult;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use tcp::TcpTransport;
pub use trust::Trust;

use crate::service::Service;
use crate::snapshot::SnapshotFile;
use crate::types::{Member, SnapshotMeta, TypeConfig, Vote};

/// openraft's append request for our types.
pub type Append = openraft::raft::AppendEntriesRequest<TypeConfig>;
/// The answer to one [`Append`] in a pipeline.
pub type Appended = StreamAppendResult<TypeConfig>;
/// The answer to a single [`Append`].
pub type AppendReply = openraft::raft::AppendEntriesResponse<TypeConfig>;
/// A vote or pre-vote request.
pub type VoteAsk = openraft::raft::VoteRequest<TypeConfig>;
/// Its answer.
pub type VoteReply = openraft::raft::VoteResponse<TypeConfig>;
/// A hand-over of leadership.
pub type Transfer = openraft::raft::TransferLeaderRequest<TypeConfig>;
/// Its answer.
pub type Transferred = openraft::raft::TransferLeaderResponse<TypeConfig>;

/// Appends under way in one pipeline before the sender waits: at 1 MiB each this is what fills a long link.
pub const PIPE_DEPTH: usize = 32;

/// Whom to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Node id; the transport proves that this member answered.
    pub id: u64,
    /// `HOST:PORT` of its raft listener.
    pub addr: String,
}

/// Connections are kept apart so that a snapshot or a long queue of appends cannot delay a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Votes, heartbeats, hand-over.
    Vote,
    /// The append pipeline.
    Append,
    /// Snapshots.
    Snapshot,
    /// Forwarded proposals, read indexes, pulses and messages of the layer above.
    Ask,
}

/// One request with one answer.
#[derive(Clone, Debug)]
pub enum Request {
    /// A vote.
    Vote(VoteAsk),
    /// A pre-vote.
    PreVote(VoteAsk),
    /// An append without entries.
    Heartbeat(Append),
    /// A hand-over of leadership.
    Transfer(Transfer),
    /// Something of ours.
    Ask(Ask),
}

impl Request {
    /// The connection it travels on.
    pub fn class(&self) -> Class {
        match self {
            Request::Ask(_) => Class::Ask,
            _ => Class::Vote,
        }
    }
}

/// The answer to a [`Request`] of the same name.
#[derive(Clone, Debug)]
pub enum Response {
    /// To a vote or pre-vote.
    Vote(VoteReply),
    /// To a heartbeat.
    Heartbeat(AppendReply),
    /// To a hand-over.
    Transfer(Transferred),
    /// To an ask.
    Ask(Answer),
}

/// What one member asks another outside the raft protocol.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Put this encoded batch through the log (leader only).
    Propose(Bytes),
    /// The index a linearizable read must have applied (leader only).
    ReadIndex,
    /// How far the member is, what its clock says and what its state hashes to (see [`crate::pulse`]).
    Pulse,
    /// Change the membership (leader only).
    Change(Change),
    /// A message of the layer above.
    Topic {
        /// Which handler.
        topic: String,
        /// Its bytes.
        body: Bytes,
        /// Only the leader may answer.
        leader_only: bool,
    },
}

/// A wanted change of the membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Let a node in, first as a learner.
    Add {
        /// Its id.
        id: u64,
        /// How others know it.
        member: Member,
    },
    /// Let a node go.
    Remove {
        /// Its id.
        id: u64,
        /// Even if the voters are an even number afterwards.
        force: bool,
    },
    /// Make a learner a voter.
    Promote {
        /// Its id.
        id: u64,
        /// Even if the voters are an even number afterwards.
        force: bool,
    },
    /// New addresses of a member.
    Update {
        /// Its id.
        id: u64,
        /// How others know it now.
        member: Member,
    },
    /// Hand leadership over.
    Transfer {
        /// To whom; `None`: the best suited.
        to: Option<u64>,
        /// Whose leadership is to end; any other leader has nothing to do. Without it a retry, which goes to the successor,
        /// would make that one hand over in turn.
        from: Option<u64>,
    },
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Applied at this index with these results.
    Proposed {
        /// Log index.
        index: u64,
        /// One result per command.
        results: crate::types::Reply,
    },
    /// The read index.
    ReadIndex(u64),
    /// This member's pulse.
    Pulse(crate::pulse::Pulse),
    /// Done.
    Done,
    /// Bytes of the layer above.
    Bytes(Bytes),
    /// This member does not lead (any more); whoever it believes does.
    NotLeader(Option<u64>),
    /// Refused for a reason that may pass; nothing happened.
    Unavailable(String),
    /// Refused: a coded sentence.
    Refused(String),
}

/// Why a member was not reached, or what it answered in place of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Nothing answers there.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time, or the connection broke.
    #[error("{0}")]
    Broken(String),
    /// Something answers that is no member of this cluster, or the wrong one. A coded sentence for the operator.
    #[error("{0}")]
    Wrong(String),
}

/// An ordered session of appends: answers come in the order of the requests. Dropping it ends the session.
pub struct Pipe {
    /// Requests to the member.
    pub requests: mpsc::Sender<Append>,
    /// Its answers.
    pub answers: mpsc::Receiver<Result<Appended, NetError>>,
}

/// Carries messages to members. Methods are called on the raft thread and must not block it.
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer within `limit`.
    fn call(
        self: Arc<Self>,
        to: Target,
        request: Request,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Response, NetError>>;

    /// Opens a pipeline of appends.
    fn pipe(self: Arc<Self>, to: Target) -> BoxFuture<'static, Result<Pipe, NetError>>;

    /// Sends a whole snapshot and answers with the follower's vote when it is installed there.
    fn send_snapshot(
        self: Arc<Self>,
        to: Target,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> BoxFuture<'static, Result<Vote, NetError>>;

    /// Serves incoming messages until dropped. Called once, on the raft thread, when the replica is open.
    fn serve(
        self: Arc<Self>,
        listener: Option<std::net::TcpListener>,
        service: Arc<Service>,
    ) -> BoxFuture<'static, ()>;
}

/// A transport for a member that is alone: there is nobody to reach.
#[derive(Debug, Default)]
pub struct Nobody;

impl Nobody {
    fn error(to: &Target) -> NetError {
        NetError::Unreachable(format!(
            "member {} ({:?}) has no transport: this member was started alone",
            crate::types::node_id_text(to.id),
            to.addr
        ))
    }
}

impl Transport for Nobody {
    fn call(
        self: Arc<Self>,
        to: Target,
        _request: Request,
        _limit: Duration,
    ) -> BoxFuture<'static, Result<Response, NetError>> {
        Box::pin(std::future::ready(Err(Self::error(&to))))
    }

    fn pipe(self: Arc<Self>, to: Target) -> BoxFuture<'static, Result<Pipe, NetError>> {
        Box::pin(std::future::ready(Err(Self::error(&to))))
    }

    fn send_snapshot(
        self: Arc<Self>,
        to: Target,
        _vote: Vote,
        _meta: SnapshotMeta,
        _file: SnapshotFile,
    ) -> BoxFuture<'static, Result<Vote, NetError>> {
        Box::pin(std::future::ready(Err(Self::error(&to))))
    }

    fn serve(
        self: Arc<Self>,
        _listener: Option<std::net::TcpListener>,
        _service: Arc<Service>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}
