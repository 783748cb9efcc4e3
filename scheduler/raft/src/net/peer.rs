//! openraft's network traits over a [`Transport`].

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::SnapshotResponse;
use openraft::{AnyError, OptionalSend};

use super::{
    Append, AppendReply, Appended, NetError, PIPE_DEPTH, Pipe, Request, Response, Target, Transfer,
    Transferred, Transport, VoteAsk, VoteReply,
};
use crate::snapshot::SnapshotFile;
use crate::types::{Member, TypeConfig, Vote};

/// A pipeline without an answer for this long is given up: a cut link brings no error of its own. Longer than an fsync
/// of a busy disk, shorter than anyone waits.
const PIPE_SILENCE: Duration = Duration::from_secs(2);
/// Patience with votes and hand-overs: an fsync of a vote on a busy disk; an election is over before.
const VOTE_PATIENCE: Duration = Duration::from_millis(1_000);
/// Least patience with heartbeats: openraft's own option is the interval, which a busy machine exceeds.
const HEARTBEAT_PATIENCE_MIN: Duration = Duration::from_millis(300);

/// Wait after a pipeline could not be opened: openraft's own back-off applies only to a pipeline that took a request. It
/// doubles up to the maximum, which bounds how late a member that is back is noticed.
const REOPEN_PAUSE_MIN: Duration = Duration::from_millis(25);
/// See [`REOPEN_PAUSE_MIN`].
const REOPEN_PAUSE_MAX: Duration = Duration::from_millis(400);

/// Where members are now; membership entries change it.
#[derive(Debug, Default)]
pub struct AddressBook(RwLock<std::collections::BTreeMap<u64, String>>);

impl AddressBook {
    /// Notes addresses.
    pub fn set(&self, all: impl IntoIterator<Item = (u64, String)>) {
        let mut book = self.0.write().expect("no panic while holding this lock");
        book.extend(all.into_iter().filter(|(_, a)| !a.is_empty()));
    }

    /// Where a member is.
    pub fn target(&self, id: u64) -> Target {
        let book = self.0.read().expect("no panic while holding this lock");
        Target {
            id,
            addr: book.get(&id).cloned().unwrap_or_default(),
        }
    }
}

/// Makes clients for peers.
#[derive(Clone)]
pub struct Network {
    /// This member.
    pub id: u64,
    /// How messages travel.
    pub transport: Arc<dyn Transport>,
    /// Where members are.
    pub book: Arc<AddressBook>,
}

/// A client for one peer.
pub struct Peer {
    network: Network,
    target: u64,
    /// Heartbeats and probes go as single calls on the vote connection.
    single: bool,
    pipe: Option<Pipe>,
    reopen_pause: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        self.book.set([(target, node.raft.clone())]);
        Peer {
            network: self.clone(),
            target,
            single: false,
            pipe: None,
            reopen_pause: REOPEN_PAUSE_MIN,
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer {
            single: true,
            ..self.new_client(target, node).await
        }
    }
}

fn rpc_error(error: NetError) -> RPCError<TypeConfig> {
    match error {
        NetError::Unreachable(_) | NetError::Wrong(_) => {
            Unreachable::new(&AnyError::error(error)).into()
        }
        NetError::Broken(_) => NetworkError::new(&AnyError::error(error)).into(),
    }
}

fn strange() -> RPCError<TypeConfig> {
    NetworkError::new(&AnyError::error("the answer is of another kind")).into()
}

impl Peer {
    async fn call(&self, request: Request, limit: Duration) -> Result<Response, NetError> {
        let target = self.network.book.target(self.target);
        self.network
            .transport
            .clone()
            .call(target, request, limit)
            .await
    }

    async fn heartbeat(
        &self,
        rpc: Append,
        limit: Duration,
    ) -> Result<AppendReply, RPCError<TypeConfig>> {
        match self
            .call(Request::Heartbeat(rpc), limit.max(HEARTBEAT_PATIENCE_MIN))
            .await
        {
            Ok(Response::Heartbeat(reply)) => Ok(reply),
            Ok(_) => Err(strange()),
            Err(e) => Err(rpc_error(e)),
        }
    }

    fn silent(&self) -> RPCError<TypeConfig> {
        Timeout {
            action: RPCTypes::AppendEntries,
            id: self.network.id,
            target: self.target,
            timeout: PIPE_SILENCE,
        }
        .into()
    }
}

/// One session over a pipe: requests are pumped in, answers counted, until all are answered.
struct Session<'s, S> {
    peer: &'s mut Peer,
    pipe: Pipe,
    input: Option<S>,
    /// A request that found the pipe full.
    waiting: Option<Append>,
    inflight: usize,
}

enum Step {
    Sent,
    Ended,
    Answer(Option<Result<Appended, NetError>>),
    Silent,
}

impl<S: Stream<Item = Append> + Unpin> Session<'_, S> {
    /// The next answer, `None` when everything that was to be sent is answered.
    async fn next(mut self) -> Option<(Result<Appended, RPCError<TypeConfig>>, Option<Self>)> {
        loop {
            if self.input.is_none() && self.waiting.is_none() && self.inflight == 0 {
                // Nothing is under way: the next session may go on with this pipe.
                self.peer.pipe = Some(self.pipe);
                return None;
            }
            let step = {
                let (input, waiting, pipe) = (&mut self.input, &mut self.waiting, &mut self.pipe);
                let full = self.inflight >= PIPE_DEPTH;
                tokio::select! {
                    biased;
                    answer = pipe.answers.recv() => Step::Answer(answer),
                    sent = async {
                        if waiting.is_none() {
                            match input.as_mut().expect("checked by the guard").next().await {
                                Some(request) => *waiting = Some(request),
                                None => return Step::Ended,
                            }
                        }
                        match pipe.requests.reserve().await {
                            Ok(place) => {
                                place.send(waiting.take().expect("set above"));
                                Step::Sent
                            }
                            // The reader of answers knows why.
                            Err(_) => std::future::pending().await,
                        }
                    }, if !full && (waiting.is_some() || input.is_some()) => sent,
                    () = tokio::time::sleep(PIPE_SILENCE), if self.inflight > 0 => Step::Silent,
                }
            };
            match step {
                Step::Sent => self.inflight += 1,
                Step::Ended => self.input = None,
                Step::Answer(Some(Ok(answer))) => {
                    self.inflight = self.inflight.saturating_sub(1);
                    // After a refusal the session is over, and what follows in the pipe is of no use.
                    let rest = answer.is_ok().then_some(self);
                    return Some((Ok(answer), rest));
                }
                Step::Answer(Some(Err(e))) => return Some((Err(rpc_error(e)), None)),
                Step::Answer(None) => {
                    let e = NetError::Broken("the connection ended".into());
                    return Some((Err(rpc_error(e)), None));
                }
                Step::Silent => return Some((Err(self.peer.silent()), None)),
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: Append,
        option: RPCOption,
    ) -> Result<AppendReply, RPCError<TypeConfig>> {
        self.heartbeat(rpc, option.hard_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<Appended, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.single {
                let Some(request) = input.next().await else {
                    let none: BoxStream<'s, _> = Box::pin(futures_util::stream::empty());
                    return Ok(none);
                };
                let prev = request.prev_log_id;
                let last = request.entries.last().map(|e| e.log_id).or(prev);
                let result = self
                    .heartbeat(request, option.hard_ttl())
                    .await
                    .map(|reply| reply.into_stream_result(prev, last));
                let one: BoxStream<'s, _> =
                    Box::pin(futures_util::stream::once(std::future::ready(result)));
                return Ok(one);
            }
            let pipe = match self.pipe.take().filter(|p| !p.requests.is_closed()) {
                Some(pipe) => pipe,
                None => {
                    let target = self.network.book.target(self.target);
                    match self.network.transport.clone().pipe(target).await {
                        Ok(pipe) => {
                            self.reopen_pause = REOPEN_PAUSE_MIN;
                            pipe
                        }
                        Err(e) => {
                            tokio::time::sleep(self.reopen_pause).await;
                            self.reopen_pause = (self.reopen_pause * 2).min(REOPEN_PAUSE_MAX);
                            return Err(rpc_error(e));
                        }
                    }
                }
            };
            let session = Session {
                peer: self,
                pipe,
                input: Some(input),
                waiting: None,
                inflight: 0,
            };
            let answers = futures_util::stream::unfold(Some(session), |session| async move {
                session?.next().await
            });
            let answers: BoxStream<'s, _> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteAsk,
        option: RPCOption,
    ) -> Result<VoteReply, RPCError<TypeConfig>> {
        match self
            .call(Request::Vote(rpc), option.hard_ttl().max(VOTE_PATIENCE))
            .await
        {
            Ok(Response::Vote(reply)) => Ok(reply),
            Ok(_) => Err(strange()),
            Err(e) => Err(rpc_error(e)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteAsk,
        option: RPCOption,
    ) -> Result<VoteReply, RPCError<TypeConfig>> {
        match self
            .call(Request::PreVote(rpc), option.hard_ttl().max(VOTE_PATIENCE))
            .await
        {
            Ok(Response::Vote(reply)) => Ok(reply),
            Ok(_) => Err(strange()),
            Err(e) => Err(rpc_error(e)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let target = self.network.book.target(self.target);
        let sending = self.network.transport.clone().send_snapshot(
            target,
            vote,
            snapshot.meta,
            snapshot.snapshot,
        );
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(e @ NetError::Broken(_)) => Err(NetworkError::new(&AnyError::error(e)).into()),
                Err(e) => Err(Unreachable::new(&AnyError::error(e)).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: Transfer,
        option: RPCOption,
    ) -> Result<Transferred, RPCError<TypeConfig>> {
        match self
            .call(
                Request::Transfer(request),
                option.hard_ttl().max(VOTE_PATIENCE),
            )
            .await
        {
            Ok(Response::Transfer(reply)) => Ok(reply),
            Ok(_) => Err(strange()),
            Err(e) => Err(rpc_error(e)),
        }
    }
}
