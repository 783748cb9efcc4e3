//! Members ask each other every second how far they are and what their state hashes to. From the answers follow who is
//! alive, whose clock is off, and whether a member's state has gone astray: one that is outvoted stops itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::net::{Answer, Ask, Request, Response};
use crate::service::Service;
use crate::types::{hosted, node_id_text};

/// How often members are asked.
pub const PULSE_EVERY: Duration = Duration::from_secs(1);
/// Patience with an answer.
const PULSE_PATIENCE: Duration = Duration::from_millis(900);
/// Clocks further apart than this are mentioned: leases and certificates go by them.
const SKEW_MAX_MS: i64 = 2_000;
/// The same clock is mentioned this often at most.
const SKEW_EVERY: Duration = Duration::from_secs(60);

/// A state hash at a log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Log index after which it was taken.
    pub index: u64,
    /// [`coracle_state::State::hash`] then.
    pub hash: u64,
}

/// How a member is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// Log index applied.
    pub applied: u64,
    /// Its clock, milliseconds since 1970.
    pub now_ms: i64,
    /// Recent state hashes, oldest first.
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Heard {
    pulse: Pulse,
    at: Instant,
    skew_told: Option<Instant>,
}

/// The newest pulse of each member.
#[derive(Debug)]
pub struct Pulses {
    since: Mutex<Instant>,
    heard: Mutex<BTreeMap<u64, Heard>>,
}

impl Default for Pulses {
    fn default() -> Self {
        Self {
            since: Mutex::new(Instant::now()),
            heard: Mutex::default(),
        }
    }
}

impl Pulses {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Heard>> {
        self.heard.lock().expect("no panic while holding this lock")
    }

    /// How far a member was when it last answered, and how long it has been silent; counted from [`Self::restart`] at most.
    pub fn of(&self, id: u64) -> (Option<u64>, Duration) {
        let since = self
            .since
            .lock()
            .expect("no panic while holding this lock")
            .elapsed();
        match self.lock().get(&id) {
            Some(h) => (Some(h.pulse.applied), h.at.elapsed().min(since)),
            None => (None, since),
        }
    }

    /// Silence begins to count now: a new leader holds nobody dead for what it did not hear as a follower.
    pub fn restart(&self) {
        *self.since.lock().expect("no panic while holding this lock") = Instant::now();
    }

    fn note(&self, id: u64, pulse: Pulse, now_ms: i64) {
        let mut heard = self.lock();
        let told = heard.get(&id).and_then(|h| h.skew_told);
        let skew = pulse.now_ms.saturating_sub(now_ms);
        let due = skew.abs() > SKEW_MAX_MS && told.is_none_or(|t| t.elapsed() > SKEW_EVERY);
        if due {
            tracing::warn!(
                member = node_id_text(id),
                skew_ms = skew,
                "E_CLOCK_SKEW: the member's clock is off against this one; set both by NTP, leases and certificates go by them"
            );
        }
        let heard_now = Heard {
            pulse,
            at: Instant::now(),
            skew_told: if due { Some(Instant::now()) } else { told },
        };
        heard.insert(id, heard_now);
    }

    fn samples(&self) -> Vec<(u64, Vec<Sample>)> {
        let heard = self.lock();
        heard
            .iter()
            .map(|(id, h)| (*id, h.pulse.samples.clone()))
            .collect()
    }
}

/// A member whose state differs at the same index, and who has to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Astray {
    /// This member is outvoted (or has no majority against the leader).
    Me {
        /// Log index.
        index: u64,
        /// Hash here.
        mine: u64,
        /// Hash there.
        theirs: u64,
        /// Who has the other one.
        with: Vec<u64>,
    },
    /// Others are; they stop themselves.
    Others {
        /// Log index.
        index: u64,
        /// Who.
        who: Vec<u64>,
    },
}

/// Compares hashes at the newest index that this member and another one both have. More members with another hash than
/// with mine, or a tie that the leader is on the other side of: it is me.
pub fn compare(
    mine: &[Sample],
    others: &[(u64, Vec<Sample>)],
    leader: Option<u64>,
) -> Option<Astray> {
    for sample in mine.iter().rev() {
        let at: Vec<(u64, u64)> = others
            .iter()
            .filter_map(|(id, all)| {
                all.iter()
                    .find(|s| s.index == sample.index)
                    .map(|s| (*id, s.hash))
            })
            .collect();
        let (same, differ): (Vec<_>, Vec<_>) = at.iter().partition(|(_, h)| *h == sample.hash);
        let Some((_, theirs)) = differ.first() else {
            continue;
        };
        let differing: Vec<u64> = differ
            .iter()
            .filter(|(_, h)| h == theirs)
            .map(|(id, _)| *id)
            .collect();
        let (with_me, against) = (same.len() + 1, differing.len());
        let leader_against = leader.is_some_and(|l| differing.contains(&l));
        return Some(
            if against > with_me || (against == with_me && leader_against) {
                Astray::Me {
                    index: sample.index,
                    mine: sample.hash,
                    theirs: *theirs,
                    with: differing,
                }
            } else {
                Astray::Others {
                    index: sample.index,
                    who: differing,
                }
            },
        );
    }
    None
}

fn names(ids: &[u64]) -> String {
    ids.iter()
        .map(|id| node_id_text(*id))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Service {
    /// Asks every other member once, then looks at what they said.
    pub(crate) async fn pulse_round(self: Arc<Self>) {
        let mut asking = tokio::task::JoinSet::new();
        for (id, _, _) in self.membership() {
            if id == self.id {
                continue;
            }
            let this = self.clone();
            asking.spawn(hosted(async move {
                let target = this.book.target(id);
                let request = Request::Ask(Ask::Pulse);
                let call = this.transport.clone().call(target, request, PULSE_PATIENCE);
                // A member that is not reached is told about by the transport.
                if let Ok(Response::Ask(Answer::Pulse(pulse))) = call.await {
                    this.pulses.note(id, pulse, (this.clock)().as_millisecond());
                }
            }));
        }
        while asking.join_next().await.is_some() {}
        let leader = self.leadership.borrow().leader;
        match compare(&self.published.samples(), &self.pulses.samples(), leader) {
            None => {}
            Some(Astray::Others { index, who }) => tracing::error!(
                index,
                members = names(&who),
                "E_STATE_DIVERGED: members have another state after the same log; they stop themselves"
            ),
            Some(Astray::Me {
                index,
                mine,
                theirs,
                with,
            }) => self.end(&format!(
                "E_STATE_DIVERGED: after log index {index} the state of this member hashes to {mine:016x}, that of {} to {theirs:016x}; \
                 the process ends so that it serves nothing wrong: move its data directory away (keep it for a report) and join again",
                names(&with)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(pairs: &[(u64, u64)]) -> Vec<Sample> {
        pairs
            .iter()
            .map(|(index, hash)| Sample {
                index: *index,
                hash: *hash,
            })
            .collect()
    }

    #[test]
    fn the_outvoted_one_is_astray() {
        let mine = s(&[(64, 1), (128, 2)]);
        let same = s(&[(64, 1), (128, 2), (192, 3)]);
        let other = s(&[(64, 1), (128, 9)]);
        for (others, leader, expected) in [
            (vec![(2, same.clone()), (3, same.clone())], Some(2), None),
            // Nothing in common to compare.
            (vec![(2, s(&[(256, 5)]))], Some(2), None),
            (
                vec![(2, other.clone()), (3, other.clone())],
                Some(1),
                Some("me"),
            ),
            (
                vec![(2, other.clone()), (3, same.clone())],
                Some(2),
                Some("others"),
            ),
            // One against one: whoever does not lead.
            (vec![(2, other.clone())], Some(2), Some("me")),
            (vec![(2, other.clone())], Some(1), Some("others")),
        ] {
            let found = compare(&mine, &others, leader).map(|a| match a {
                Astray::Me { .. } => "me",
                Astray::Others { .. } => "others",
            });
            assert_eq!(found, expected, "{others:?}, leader {leader:?}");
        }
    }
}
