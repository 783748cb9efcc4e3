//! Who is a member and who votes. [`next_voters`] decides, the leader carries out, one change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};

use crate::net::Change;
use crate::service::Service;
use crate::types::{Member, node_id_text};

/// A voter that has not answered for so long may be replaced by a waiting learner.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);
/// A member that answered so recently is alive.
const ALIVE_WITHIN: Duration = Duration::from_secs(3);
/// A learner this close to the leader's log is caught up: it is there before the change is committed.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// More voters by themselves make writes slower and nothing safer; more can be promoted by hand.
const VOTERS_MAX: usize = 5;
/// Patience with a hand-over.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Node id.
    pub id: u64,
    /// Whether it votes.
    pub voter: bool,
    /// Whether its log is close to the leader's.
    pub caught_up: bool,
    /// How long it has not answered; zero for the leader itself.
    pub silent: Duration,
}

/// The next set of voters, if it should be another one.
///
/// A voter that is dead is replaced by a living learner, as long as those alive can commit the change. Otherwise learners
/// become voters so that the number of voters is odd: two voters can lose none, four no more than three.
pub fn next_voters(all: &[Seen]) -> Option<BTreeSet<u64>> {
    let voters: BTreeSet<u64> = all.iter().filter(|m| m.voter).map(|m| m.id).collect();
    let mut waiting = all
        .iter()
        .filter(|m| !m.voter && m.caught_up && m.silent <= ALIVE_WITHIN)
        .map(|m| m.id);
    let alive = all
        .iter()
        .filter(|m| m.voter && m.silent <= ALIVE_WITHIN)
        .count();
    // Without a living majority no change would be committed, and one that is begun cannot be taken back.
    if alive * 2 <= voters.len() {
        return None;
    }
    let first = waiting.next()?;
    let dead = all.iter().find(|m| m.voter && m.silent > DEAD_AFTER);
    let mut next = voters.clone();
    if let Some(dead) = dead {
        next.remove(&dead.id);
        next.insert(first);
        return Some(next);
    }
    if voters.len() >= VOTERS_MAX {
        return None;
    }
    next.insert(first);
    if next.len().is_multiple_of(2) {
        next.insert(waiting.next()?);
    }
    Some(next)
}

/// The voters after one of them was let go.
///
/// A living learner takes its place where the number of voters would be even. Where there is none, three of four are as
/// safe as four: one more is let off, the one that has been silent for longest.
pub fn without(
    all: &[Seen],
    id: u64,
    leader: u64,
    force: bool,
) -> Result<BTreeSet<u64>, MemberError> {
    let mut next: BTreeSet<u64> = all
        .iter()
        .filter(|m| m.voter && m.id != id)
        .map(|m| m.id)
        .collect();
    if next.is_empty() {
        return Err(MemberError::Last);
    }
    if force || next.len() % 2 == 1 {
        return Ok(next);
    }
    let waiting = all
        .iter()
        .find(|m| !m.voter && m.id != id && m.caught_up && m.silent <= ALIVE_WITHIN);
    if let Some(learner) = waiting {
        next.insert(learner.id);
        return Ok(next);
    }
    if next.len() == 2 {
        return Err(MemberError::Even {
            voters: next.len(),
            fix: "start its replacement first (`coracle scheduler --join`): a member that is dead for 30 s is replaced by itself",
        });
    }
    // It stays as a learner and is the first in line. Whole seconds: those alive differ by the moment only.
    let off = all
        .iter()
        .filter(|m| next.contains(&m.id) && m.id != leader)
        .max_by_key(|m| (m.silent.as_secs(), m.id));
    if let Some(off) = off {
        next.remove(&off.id);
    }
    Ok(next)
}

/// Why the membership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// No such member.
    #[error("E_MEMBER_UNKNOWN: there is no member {id}; the members are {known}")]
    Unknown {
        /// What was asked for.
        id: String,
        /// Who there is.
        known: String,
    },
    /// It is the only voter.
    #[error("E_MEMBER_LAST: the last voter cannot be removed; stop the cluster instead")]
    Last,
    /// The number of voters would be even.
    #[error(
        "E_MEMBER_EVEN: {voters} voters survive no more losses than {} would; {fix}, or use --force",
        voters - 1
    )]
    Even {
        /// Voters afterwards.
        voters: usize,
        /// What to do.
        fix: &'static str,
    },
    /// The name belongs to another living member.
    #[error(
        "E_MEMBER_NAME: member {id} with the name {name:?} is alive; choose another --name, or remove that member first"
    )]
    Name {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// Another change is under way, or this one was not committed.
    #[error("E_MEMBER_BUSY: the membership was not changed ({0}); try again")]
    Busy(String),
    /// Leadership did not move.
    #[error("E_MEMBER_TRANSFER: leadership did not move to {to} ({why}); try again")]
    Transfer {
        /// To whom.
        to: String,
        /// Why.
        why: String,
    },
    /// No leader was reached.
    #[error("E_NO_LEADER: {0}; try again")]
    NoLeader(String),
    /// As the leader said it.
    #[error("{0}")]
    Said(String),
}

type Members = ChangeMembers<u64, Member>;

/// Patience with a change of the membership that is under way.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
/// Wait before it is looked at again.
const BUSY_PAUSE: Duration = Duration::from_millis(25);

impl Service {
    /// Members as this one sees them.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = |id: u64| {
            metrics
                .replication
                .as_ref()
                .and_then(|r| r.get(&id))
                .and_then(|m| m.as_ref().map(|l| l.index))
        };
        self.membership()
            .into_iter()
            .map(|(id, _, voter)| Seen {
                id,
                voter,
                caught_up: id == self.id
                    || matched(id).is_some_and(|m| m + CAUGHT_UP_ENTRIES >= last),
                silent: if id == self.id {
                    Duration::ZERO
                } else {
                    self.pulses.of(id).1
                },
            })
            .collect()
    }

    /// Puts one change through the log; waits while another one is under way.
    async fn set(&self, change: impl Into<Members>) -> Result<(), MemberError> {
        let change = change.into();
        let until = tokio::time::Instant::now() + BUSY_PATIENCE;
        loop {
            let result = self.raft.change_membership(change.clone(), true).await;
            match result {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(e) => return Err(MemberError::Busy(e.to_string())),
            }
        }
    }

    fn voters(&self) -> BTreeSet<u64> {
        let all = self.membership();
        all.into_iter().filter(|m| m.2).map(|m| m.0).collect()
    }

    fn known(&self, id: u64) -> Result<(), MemberError> {
        let all = self.membership();
        if all.iter().any(|m| m.0 == id) {
            return Ok(());
        }
        let known: Vec<String> = all
            .iter()
            .map(|(id, m, _)| format!("{} ({})", m.name, node_id_text(*id)))
            .collect();
        Err(MemberError::Unknown {
            id: node_id_text(id),
            known: known.join(", "),
        })
    }

    /// One look at who should vote, and the change if there is one. Called on the leader, once at a time.
    pub(crate) async fn tend_voters(&self) {
        let Ok(_turn) = self.changing.try_lock() else {
            return;
        };
        let Some(next) = next_voters(&self.seen()) else {
            return;
        };
        let now = self.voters();
        let names =
            |set: BTreeSet<u64>| -> Vec<String> { set.into_iter().map(node_id_text).collect() };
        tracing::info!(
            promoted = ?names(&next - &now),
            replaced = ?names(&now - &next),
            "the voters change"
        );
        if let Err(error) = self.set_voters(&now, next).await {
            tracing::warn!(%error, "the voters were not changed; it is tried again");
        }
    }

    /// Sets the voters; those who are replaced because they are dead are let go altogether.
    async fn set_voters(
        &self,
        now: &BTreeSet<u64>,
        next: BTreeSet<u64>,
    ) -> Result<(), MemberError> {
        let gone = now - &next;
        self.set(next).await?;
        if !gone.is_empty() {
            self.set(ChangeMembers::RemoveNodes(gone)).await?;
        }
        Ok(())
    }

    /// Carries a change out; this member leads. One at a time: what follows decides by the outcome.
    pub(crate) async fn change(&self, change: Change) -> Result<(), MemberError> {
        if let Change::Transfer { to, from } = change {
            if from.is_some_and(|from| from != self.id) {
                return Ok(());
            }
            return self.hand_over(to).await;
        }
        let _turn = self.changing.lock().await;
        match change {
            Change::Add { id, member } => self.add(id, member).await,
            Change::Update { id, member } => {
                self.known(id)?;
                let nodes = BTreeMap::from([(id, member)]);
                self.set(ChangeMembers::SetNodes(nodes)).await
            }
            Change::Remove { id, force } => {
                // Asked again because the answer was lost, as it is when the leader lets itself go.
                if self.admit(id).is_err() {
                    return Ok(());
                }
                self.known(id)?;
                let voters = self.voters();
                if voters.contains(&id) {
                    let next = without(&self.seen(), id, self.id, force)?;
                    self.set(next).await?;
                }
                self.set(ChangeMembers::RemoveNodes(BTreeSet::from([id])))
                    .await
            }
            Change::Promote { id, force } => {
                self.known(id)?;
                let mut next = self.voters();
                if !next.insert(id) {
                    return Ok(());
                }
                if next.len().is_multiple_of(2) && !force {
                    return Err(MemberError::Even {
                        voters: next.len(),
                        fix: "it becomes a voter by itself when another member joins",
                    });
                }
                self.set(next).await
            }
            Change::Transfer { to, .. } => self.hand_over(to).await,
        }
    }

    async fn add(&self, id: u64, member: Member) -> Result<(), MemberError> {
        let clash = self
            .membership()
            .into_iter()
            .find(|(other, m, _)| *other != id && m.name == member.name);
        if let Some((other, m, _)) = clash
            && (self.pulses.of(other).1 <= ALIVE_WITHIN || other == self.id)
        {
            return Err(MemberError::Name {
                name: m.name,
                id: node_id_text(other),
            });
        }
        self.book.set([(id, member.raft.clone())]);
        self.alone
            .store(false, std::sync::atomic::Ordering::Release);
        let known = self.membership().into_iter().find(|m| m.0 == id);
        let nodes = BTreeMap::from([(id, member.clone())]);
        match known {
            // Asked again after a lost answer, or from another address.
            Some((_, same, _)) if same == member => Ok(()),
            Some(_) => self.set(ChangeMembers::SetNodes(nodes)).await,
            None => self.set(ChangeMembers::AddNodes(nodes)).await,
        }
    }

    /// Hands leadership to a voter: the one asked for, or the one that is alive and furthest.
    pub(crate) async fn hand_over(&self, to: Option<u64>) -> Result<(), MemberError> {
        let voters = self.voters();
        let to = match to {
            Some(id) if id == self.id => return Ok(()),
            Some(id) => {
                self.known(id)?;
                if !voters.contains(&id) {
                    return Err(MemberError::Transfer {
                        to: node_id_text(id),
                        why: "it is a learner".into(),
                    });
                }
                id
            }
            None => {
                let mut best: Vec<(u64, u64)> = voters
                    .iter()
                    .filter(|v| **v != self.id)
                    .filter_map(|v| match self.pulses.of(*v) {
                        (Some(applied), silent) if silent <= ALIVE_WITHIN => Some((applied, *v)),
                        _ => None,
                    })
                    .collect();
                best.sort_unstable();
                match best.pop() {
                    Some((_, id)) => id,
                    None => {
                        return Err(MemberError::Transfer {
                            to: "another member".into(),
                            why: "no other voter answers".into(),
                        });
                    }
                }
            }
        };
        let failed = |why: String| MemberError::Transfer {
            to: node_id_text(to),
            why,
        };
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let mut leadership = self.leadership.clone();
        let moved = leadership.wait_for(|l| l.leader.is_some_and(|l| l != self.id));
        match tokio::time::timeout(TRANSFER_PATIENCE, moved).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(failed("it did not take over in time".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Vec<Seen> {
        // "1v 2v! 3l 4l?": voter or learner; ! dead, ? behind, ~ silent for a moment.
        text.split_whitespace()
            .map(|w| Seen {
                id: w[..1].parse().unwrap(),
                voter: w.contains('v'),
                caught_up: !w.contains('?'),
                silent: Duration::from_secs(if w.contains('!') {
                    31
                } else if w.contains('~') {
                    10
                } else {
                    0
                }),
            })
            .collect()
    }

    #[test]
    fn voters_stay_odd_and_alive() {
        for (now, expected) in [
            ("1v", ""),
            // The second member waits for a third.
            ("1v 2l", ""),
            ("1v 2l 3l", "1 2 3"),
            ("1v 2l 3l?", ""),
            ("1v 2v 3v", ""),
            ("1v 2v 3v 4l", ""),
            ("1v 2v 3v 4l 5l", "1 2 3 4 5"),
            // An even number (after --force) is mended.
            ("1v 2v 3l", "1 2 3"),
            // A dead one is replaced, a silent one not yet.
            ("1v 2v 3v! 4l", "1 2 4"),
            ("1v 2v 3v~ 4l", ""),
            ("1v 2v 3v! 4l?", ""),
            ("1v 2v 3v! 4l~", ""),
            // Without a majority nothing is begun.
            ("1v 2v! 3v! 4l", ""),
            ("1v 2v 3v! 4v! 5v 6l", "1 2 4 5 6"),
            ("1v 2v 3v 4v 5v 6l 7l", ""),
        ] {
            let expected: BTreeSet<u64> = expected
                .split_whitespace()
                .map(|w| w.parse().unwrap())
                .collect();
            assert_eq!(
                next_voters(&seen(now)).unwrap_or_default(),
                expected,
                "{now}"
            );
        }
    }

    #[test]
    fn letting_go_keeps_the_number_odd() {
        let set = |v: &[u64]| v.iter().copied().collect::<BTreeSet<u64>>();
        for (now, gone, leader, left) in [
            ("1v 2v 3v 4v 5v", 2, 5, &[1, 3, 5][..]),
            ("1v 2v", 2, 1, &[1]),
            // A living learner takes the place.
            ("1v 2v 3v 4l", 3, 1, &[1, 2, 4]),
            ("1v 2v 3v 4v 5v 6l", 2, 1, &[1, 3, 4, 5, 6]),
            // Of four, the dead one is let off, never the leader.
            ("1v 2v! 3v! 4v 5v", 2, 1, &[1, 4, 5]),
            ("1v 2v 3v 4v~ 5v", 2, 5, &[1, 3, 5]),
        ] {
            let found = without(&seen(now), gone, leader, false);
            assert_eq!(found, Ok(set(left)), "{now} without {gone}");
        }
        for stuck in ["1v 2v 3v", "1v 2v 3v 4l?", "1v 2v 3v 4l!"] {
            let found = without(&seen(stuck), 3, 1, false);
            assert!(
                matches!(found, Err(MemberError::Even { voters: 2, .. })),
                "{stuck}: {found:?}"
            );
        }
        let forced = without(&seen("1v 2v 3v"), 3, 1, true);
        assert_eq!(forced, Ok(set(&[1, 2])));
        assert_eq!(without(&seen("1v"), 1, 1, true), Err(MemberError::Last));
    }
}
