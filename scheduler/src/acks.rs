//! What proxies report on its way to the leader's control loop: the newest report of each node, never a queue. A report
//! may reach any member; one that does not lead hands it on. Nothing of it is logged: every member keeps what it heard
//! and tells a new leader all of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::Key;
use coracle_raft::Replica;
use coracle_state::Views;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::desk::Topics;

/// Nodes remembered at most; a certificate is needed for each, so only a bug comes near.
const NODES_MAX: usize = 200_000;
/// First wait after the leader did not answer; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest such wait: a rollout waits for these reports.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The desk's topic.
const TOPIC: &str = "acks";

/// The reports this member knows of.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The newest of each node.
    known: BTreeMap<String, u64>,
    /// Not taken by the control loop (on the leader) or by the forwarder (elsewhere) yet.
    fresh: BTreeMap<String, u64>,
}

impl Acks {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a report; called by request handlers.
    pub fn put(&self, node: &str, applied: u64) {
        self.put_all([(node.to_string(), applied)]);
    }

    fn put_all(&self, reports: impl IntoIterator<Item = (String, u64)>) {
        let mut state = self.state();
        for (node, applied) in reports {
            if state.known.len() < NODES_MAX || state.known.contains_key(&node) {
                state.known.insert(node.clone(), applied);
                state.fresh.insert(node, applied);
            }
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Takes what is new.
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.state().fresh)
    }

    /// Somebody else leads now: everything known is new to it. Nodes that `keep` does not know are forgotten.
    pub fn all_again(&self, keep: impl Fn(&str) -> bool) {
        let mut state = self.state();
        state.known.retain(|node, _| keep(node));
        state.fresh = state.known.clone();
        drop(state);
        self.arrived.notify_one();
    }

    /// Gives back what did not arrive, unless something newer has come.
    fn put_back(&self, reports: BTreeMap<String, u64>) {
        let mut state = self.state();
        for (node, applied) in reports {
            state.fresh.entry(node).or_insert(applied);
        }
    }

    /// Resolves when a report has come since the last call.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Every report this member knows of.
    #[cfg(test)]
    pub fn known(&self) -> BTreeMap<String, u64> {
        self.state().known.clone()
    }

    /// Takes the reports that other members hand on.
    pub fn open(self: &Arc<Self>, topics: &Topics) {
        let acks = self.clone();
        topics.open_now(TOPIC, move |body| {
            let reports: BTreeMap<String, u64> =
                serde_json::from_slice(body).map_err(|e| format!("no reports: {e}"))?;
            acks.put_all(reports);
            Ok(Bytes::new())
        });
    }
}

/// Hands reports on for as long as another member leads.
pub(crate) async fn forward(acks: Arc<Acks>, replica: Arc<Replica>, stop: CancellationToken) {
    let mut leadership = replica.leader_changes();
    let mut told = *leadership.borrow_and_update();
    let mut pause = PAUSE_MIN;
    loop {
        let now = *leadership.borrow_and_update();
        if now.leader.is_some() && (now.leader, now.term) != (told.leader, told.term) {
            told = now;
            let view = replica.view();
            acks.all_again(|node| view.get("nodes", &Key::new("", node)).is_some());
        }
        if now.is_leader || now.leader.is_none() {
            // The control loop takes them, or nobody can yet.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = leadership.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let reports = acks.take();
        if reports.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = leadership.changed() => if changed.is_err() { return },
                () = acks.arrived() => {}
            }
            continue;
        }
        let body = serde_json::to_vec(&reports).unwrap_or_default();
        match replica.ask_leader(TOPIC, body.into()).await {
            Ok(_) => pause = PAUSE_MIN,
            Err(error) => {
                tracing::debug!(%error, "the leader did not take the proxies' reports; they are sent again");
                acks.put_back(reports);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
        all.iter().map(|(n, r)| (n.to_string(), *r)).collect()
    }

    #[test]
    fn what_was_taken_is_told_again_to_a_new_leader_and_returns_never_hide_newer_ones() {
        let acks = Acks::default();
        acks.put("a", 1);
        acks.put("b", 1);
        acks.put("a", 2);
        let taken = acks.take();
        assert_eq!(taken, map(&[("a", 2), ("b", 1)]));
        assert!(acks.take().is_empty());
        acks.put("a", 3);
        acks.put_back(taken);
        assert_eq!(acks.take(), map(&[("a", 3), ("b", 1)]));
        acks.all_again(|n| n == "a");
        assert_eq!(
            acks.take(),
            map(&[("a", 3)]),
            "a node that is gone is forgotten"
        );
    }
}
