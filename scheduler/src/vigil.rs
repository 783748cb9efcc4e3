//! What an operator wants to read in a member's log, and what a member does about its own place in the cluster: who
//! leads, that a quorum is missing and who is not reached, that it has become a voter, that its addresses have moved.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_raft::net::TcpTransport;
use coracle_raft::{Fatal, Member, Replica, node_id_text, parse_node_id};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ask::authority;
use crate::data::Places;
use crate::desk::Topics;

/// How often this member looks at itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Elections take less than a second; longer without a leader is worth a line.
const QUORUM_PATIENCE: Duration = Duration::from_secs(3);
/// The desk's topic: is this id a member?
const TOPIC: &str = "member";
/// Looks in a row at which the leader does not know this member before it takes itself for removed.
const UNKNOWN_MAX: u32 = 3;
/// A missing quorum is said this often.
const QUORUM_EVERY: Duration = Duration::from_secs(10);

/// Watches this member's place.
pub(crate) struct Vigil {
    pub replica: Arc<Replica>,
    pub transport: Arc<TcpTransport>,
    /// This member as it is now.
    pub me: Member,
    /// The data directory.
    pub data: PathBuf,
    /// Ends the process when this member was removed.
    pub fatal: Fatal,
    pub stop: CancellationToken,
}

#[derive(Default)]
struct Told {
    leader: Option<u64>,
    without_since: Option<Instant>,
    without_told: Option<Instant>,
    voter: Option<bool>,
    places: Option<Places>,
    unknown: u32,
}

/// Answers members that ask whether they are in, while this member leads.
pub(crate) fn open(topics: &Topics, replica: Arc<Replica>) {
    topics.open_now(TOPIC, move |body| {
        let id = std::str::from_utf8(body).ok().and_then(parse_node_id);
        let id = id.ok_or("no member's id")?;
        let known = replica.status().members.iter().any(|(m, _)| *m == id);
        Ok(Bytes::from_static(if known { b"yes" } else { b"no" }))
    });
}

impl Vigil {
    /// Watches until told to stop.
    pub async fn run(self) {
        let mut leadership = self.replica.leader_changes();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = Told::default();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = leadership.changed() => if changed.is_err() { return },
                _ = tick.tick() => {
                    self.role(&mut told);
                    self.announce().await;
                    self.keep(&mut told);
                    self.still_in(&mut told).await;
                }
            }
            self.leader(&mut told);
        }
    }

    fn names(&self) -> BTreeMap<u64, Member> {
        self.replica.status().members.into_iter().collect()
    }

    fn leader(&self, told: &mut Told) {
        let now = *self.replica.leader_changes().borrow();
        let Some(id) = now.leader else {
            let since = *told.without_since.get_or_insert_with(Instant::now);
            let due = told
                .without_told
                .is_none_or(|t| t.elapsed() >= QUORUM_EVERY);
            if since.elapsed() >= QUORUM_PATIENCE && due {
                told.without_told = Some(Instant::now());
                tracing::warn!(
                    target: crate::LOG,
                    "waiting for a quorum: no leader for {} s; {}",
                    since.elapsed().as_secs(),
                    self.missing()
                );
            }
            return;
        };
        let names = self.names();
        if told.without_told.take().is_some() {
            tracing::warn!(target: crate::LOG, "there is a leader again");
        }
        told.without_since = None;
        if told.leader.replace(id) != Some(id) && names.len() > 1 {
            let name = names.get(&id).map_or("", |m| &m.name);
            let here = if now.is_leader { " (this member)" } else { "" };
            tracing::info!(target: crate::LOG, term = now.term, id = node_id_text(id), "{name}{here} leads");
        }
    }

    /// Who is not reached and why.
    fn missing(&self) -> String {
        let own = self.replica.id();
        let names = self.names();
        if !names.contains_key(&own) {
            return format!(
                "the cluster's leader has not connected to this member at {} yet; can the other members reach it there?",
                self.me.raft
            );
        }
        let faults: Vec<String> = names
            .into_iter()
            .filter(|(id, _)| *id != own)
            .filter_map(|(id, m)| {
                let fault = self.transport.fault(id)?;
                Some(format!("{} at {}: {fault}", m.name, m.raft))
            })
            .collect();
        if faults.is_empty() {
            "start the other members".into()
        } else {
            faults.join("; ")
        }
    }

    fn role(&self, told: &mut Told) {
        let own = self.replica.id();
        let all = self.replica.members();
        let Some(voter) = all.iter().find(|m| m.id == own).map(|m| m.voter) else {
            return;
        };
        if told.voter.replace(voter) != Some(voter) && told.leader.is_some() {
            match voter {
                true if all.len() > 1 => {
                    tracing::info!(target: crate::LOG, "this member is a voter");
                }
                true => {}
                false => tracing::info!(
                    target: crate::LOG,
                    "this member is a learner: it has all data and serves reads and writes, but does not vote"
                ),
            }
        }
    }

    /// A member that was removed may never hear of it from the log, which is not sent to it any more. It would serve its
    /// last state for ever; so it asks.
    async fn still_in(&self, told: &mut Told) {
        let (own, now) = (self.replica.id(), *self.replica.leader_changes().borrow());
        if now.is_leader || now.leader.is_none() || !self.names().contains_key(&own) {
            return;
        }
        let asked = self
            .replica
            .ask_leader(TOPIC, node_id_text(own).into())
            .await;
        match asked {
            Ok(answer) if &answer[..] == b"no" => told.unknown += 1,
            Ok(_) => told.unknown = 0,
            // It did not answer, or does not know the question.
            Err(error) => {
                tracing::debug!(%error, "the leader does not say whether this is a member")
            }
        }
        if told.unknown >= UNKNOWN_MAX {
            self.fatal.fire(&format!(
                "E_MEMBER_REMOVED: this member ({}) was removed from the cluster; to join again, move its data directory away and start it with --join",
                node_id_text(own)
            ));
        }
    }

    /// Keeps where everybody is for the next start.
    fn keep(&self, told: &mut Told) {
        let Some(places) = places(&self.replica) else {
            return;
        };
        if told.places.as_ref() == Some(&places) {
            return;
        }
        match places.save(&self.data) {
            Ok(()) => told.places = Some(places),
            Err(error) => tracing::debug!(%error, "the members' addresses were not kept"),
        }
    }

    /// Tells the others where this member is, if that has changed.
    async fn announce(&self) {
        let own = self.replica.id();
        let known = self.names().remove(&own);
        let led = self.replica.leader_changes().borrow().leader.is_some();
        if !led || known.is_none_or(|m| m == self.me) {
            return;
        }
        match self.replica.update_member(own, self.me.clone()).await {
            Ok(()) => tracing::info!(
                target: crate::LOG,
                api = self.me.api,
                raft = self.me.raft,
                "the others were told this member's addresses"
            ),
            Err(error) => {
                tracing::debug!(%error, "this member's addresses were not taken; told again");
            }
        }
    }
}

/// Where everybody is, if this member is in the cluster already.
pub(crate) fn places(replica: &Replica) -> Option<Places> {
    let mut names: BTreeMap<u64, Member> = replica.status().members.into_iter().collect();
    let me = names.remove(&replica.id())?;
    let others = names.into_values().map(|m| authority(&m.api).to_string());
    Some(Places {
        me,
        others: others.filter(|api| !api.is_empty()).collect(),
    })
}
