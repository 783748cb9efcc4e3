//! The way to other members. This build starts single-member clusters, so there is no peer to reach yet: a client made
//! for any target answers `Unreachable` by name, which openraft treats as a peer that is down. Members over TCP with
//! mutual TLS implement the same factory (three connections per peer: heartbeats and votes, appends, snapshots).

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};

use crate::snapshot::SnapshotFile;
use crate::types::{Member, TypeConfig, Vote, node_id_text};

/// Makes clients for peers.
#[derive(Clone, Debug, Default)]
pub struct Network;

/// A client for one peer.
#[derive(Clone, Debug)]
pub struct Peer {
    target: u64,
    addr: String,
}

impl Peer {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        let why = format!(
            "member {} ({:?}) has no transport: this cluster has one member",
            node_id_text(self.target),
            self.addr
        );
        Unreachable::new(&AnyError::error(why))
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer {
            target,
            addr: node.raft.clone(),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        // The default would grant what was never asked.
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }
}
