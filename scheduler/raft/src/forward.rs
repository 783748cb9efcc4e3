//! Writes, reads and questions through whoever leads, across changes of the leader: one attempt after the other with the
//! same request id, until there is an answer or patience ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use coracle_state::command::BATCH_BYTES_MAX;
use coracle_state::{Batch, Command, ProposeError, Results, View, Views};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::members::MemberError;
use crate::net::{Answer, Ask, Change, NetError, Request, Response};
use crate::replica::{Leadership, Replica};
use crate::service::Service;

/// A write that has no answer by then is reported as not known. Several failovers fit in.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// A read that could not be confirmed by then is refused.
const READ_PATIENCE: Duration = Duration::from_secs(3);
/// A change of the membership: a learner's first append and two log entries.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);
/// A message of the layer above.
const TOPIC_PATIENCE: Duration = Duration::from_secs(10);
/// Wait before whoever is believed to lead is asked again.
const PAUSE: Duration = Duration::from_millis(20);

impl Service {
    /// One ask to another member. It runs on the raft thread, where the connections are.
    async fn ask_member(&self, id: u64, ask: Ask, limit: Duration) -> Result<Answer, NetError> {
        let target = self.book.target(id);
        let call = self
            .transport
            .clone()
            .call(target, Request::Ask(ask), limit);
        let answered = self.runtime.spawn(call).await;
        match answered {
            Ok(Ok(Response::Ask(answer))) => Ok(answer),
            Ok(Ok(_)) => Err(NetError::Broken("the answer is of another kind".into())),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(NetError::Broken("this member is stopping".into())),
        }
    }

    /// Asks the leader once: here if this member leads, else there. Ends early when somebody else leads.
    async fn ask_leader_once(
        &self,
        leadership: &Leadership,
        hint: Option<u64>,
        ask: Ask,
        until: Instant,
    ) -> Answer {
        if leadership.is_leader {
            return match ask {
                Ask::Propose(batch) => self.put(batch, false).await,
                Ask::ReadIndex => match self.read_index().await {
                    Some(index) => Answer::ReadIndex(index),
                    None => self.not_leader(),
                },
                Ask::Change(change) => match self.change(change).await {
                    Ok(()) => Answer::Done,
                    Err(e) => Answer::Refused(e.to_string()),
                },
                Ask::Topic { topic, body, .. } => self.topic(&topic, body).await,
                Ask::Pulse => Answer::Pulse(self.pulse()),
            };
        }
        let Some(leader) = hint.or(leadership.leader).filter(|l| *l != self.id) else {
            // Whoever waits for this is woken by the election.
            return std::future::pending().await;
        };
        let limit = until.saturating_duration_since(Instant::now());
        match self.ask_member(leader, ask, limit).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "the leader was not reached");
                Answer::NotLeader(None)
            }
        }
    }

    /// Asks whoever leads until there is an answer. `None`: nobody led long enough.
    async fn ask_leader(&self, ask: Ask, patience: Duration) -> Option<Answer> {
        let until = Instant::now() + patience;
        let mut leadership = self.leadership.clone();
        let (mut hint, mut hopped) = (None, false);
        loop {
            let now = *leadership.borrow_and_update();
            let answer = tokio::select! {
                biased;
                answer = self.ask_leader_once(&now, hint, ask.clone(), until) => answer,
                moved = leadership.wait_for(|l| *l != now) => match moved {
                    Ok(_) => Answer::NotLeader(None),
                    // This member is stopping.
                    Err(_) => return None,
                },
                () = tokio::time::sleep_until(until) => return None,
            };
            match answer {
                Answer::NotLeader(other) => {
                    // One hop is free. A leader that hands over names its successor, who names it in turn, at once and
                    // until it is done: whoever hops on would spin.
                    let hop = other.is_some() && !now.is_leader && !hopped;
                    (hint, hopped) = (other, hop);
                    if Instant::now() + PAUSE >= until {
                        return None;
                    }
                    if !hop {
                        let moved = leadership.wait_for(|l| *l != now);
                        // Nothing has moved: the same one is asked again.
                        if let Ok(Err(_)) = tokio::time::timeout(PAUSE, moved).await {
                            return None;
                        }
                    }
                }
                answer => return Some(answer),
            }
        }
    }

    /// Answers reads in rounds: those that come while a round is under way share the next one.
    pub(crate) async fn answer_reads(
        self: Arc<Self>,
        mut reads: mpsc::Receiver<oneshot::Sender<Result<(), ProposeError>>>,
    ) {
        while let Some(first) = reads.recv().await {
            let mut round = vec![first];
            while let Ok(next) = reads.try_recv() {
                round.push(next);
            }
            let done = self.read_round().await;
            for read in round {
                // Whoever gave up does not want to know.
                let _ = read.send(done.clone());
            }
        }
    }

    async fn read_round(&self) -> Result<(), ProposeError> {
        let unknown = || {
            ProposeError::NoLeader(
                "no leader confirmed the read in time; an election may be under way".into(),
            )
        };
        let until = Instant::now() + READ_PATIENCE;
        match self.ask_leader(Ask::ReadIndex, READ_PATIENCE).await {
            Some(Answer::ReadIndex(index)) => {
                tokio::time::timeout_at(until, self.published.wait_applied(index))
                    .await
                    .map_err(|_| unknown())
            }
            _ => Err(unknown()),
        }
    }
}

impl Replica {
    pub(crate) async fn write(&self, commands: Vec<Command>) -> Result<Results, ProposeError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        if *self.stop.borrow() {
            return Err(ProposeError::Unavailable(
                "the control plane is stopping; try again".into(),
            ));
        }
        let batch = Batch {
            at: (self.service.clock)(),
            request_id: crate::types::random().max(1),
            commands,
        };
        let bytes = batch.encode();
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                bytes: bytes.len(),
                limit: BATCH_BYTES_MAX,
            });
        }
        let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let _room = self
            .inflight
            .acquire_many(kib)
            .await
            .map_err(|_| ProposeError::Unavailable("the replica is stopping".into()))?;
        let ask = Ask::Propose(bytes.into());
        match self.service.ask_leader(ask, WRITE_PATIENCE).await {
            Some(Answer::Proposed { index, results }) => {
                // It is committed; that this member is late with applying it does not take it back.
                let applied = self.service.published.wait_applied(index);
                if tokio::time::timeout(WRITE_PATIENCE, applied).await.is_err() {
                    tracing::warn!(index, "a write is committed but not yet applied here");
                }
                Ok(results.0)
            }
            Some(Answer::Unavailable(why) | Answer::Refused(why)) => {
                Err(ProposeError::Unavailable(why))
            }
            Some(_) => Err(ProposeError::NoLeader("a strange answer".into())),
            None => Err(ProposeError::NoLeader(
                "the write was not confirmed in time; it may or may not have happened".into(),
            )),
        }
    }

    pub(crate) async fn read(&self) -> Result<Arc<View>, ProposeError> {
        // Alone, this member has answered every write there is, after it had applied it.
        if self.service.alone.load(Ordering::Acquire) && self.is_leader() {
            return Ok(self.view());
        }
        let stopping = || ProposeError::Unavailable("the replica is stopping".into());
        let (done, answer) = oneshot::channel();
        self.reads.send(done).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())??;
        Ok(self.view())
    }

    pub(crate) async fn change(&self, change: Change) -> Result<(), MemberError> {
        match self
            .service
            .ask_leader(Ask::Change(change), CHANGE_PATIENCE)
            .await
        {
            Some(Answer::Done) => Ok(()),
            Some(Answer::Refused(why) | Answer::Unavailable(why)) => Err(MemberError::Said(why)),
            Some(_) => Err(MemberError::NoLeader("a strange answer".into())),
            None => Err(MemberError::NoLeader(
                "no leader answered; a majority of the voters must be reachable".into(),
            )),
        }
    }

    pub(crate) async fn ask_topic(
        &self,
        to: Option<u64>,
        topic: &str,
        body: Bytes,
    ) -> Result<Bytes, ProposeError> {
        let ask = Ask::Topic {
            topic: topic.into(),
            body,
            leader_only: to.is_none(),
        };
        let answer = match to {
            None => self.service.ask_leader(ask, TOPIC_PATIENCE).await,
            Some(id) if id == self.service.id => match ask {
                Ask::Topic { topic, body, .. } => Some(self.service.topic(&topic, body).await),
                _ => None,
            },
            Some(id) => match self.service.ask_member(id, ask, TOPIC_PATIENCE).await {
                Ok(answer) => Some(answer),
                Err(e) => return Err(ProposeError::Unavailable(e.to_string())),
            },
        };
        match answer {
            Some(Answer::Bytes(bytes)) => Ok(bytes),
            Some(Answer::Refused(why) | Answer::Unavailable(why)) => {
                Err(ProposeError::Unavailable(why))
            }
            _ => Err(ProposeError::NoLeader("no leader answered in time".into())),
        }
    }
}
