//! What a member says about itself: whether it can serve, and its status.

use coracle_raft::{Replica, node_id_text};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::control::Phase;

/// A follower that has this many entries to apply answers from the past and is not ready.
const BEHIND_MAX: u64 = 1_000;

/// Whether this member can serve; the sentence says why not.
pub(crate) fn ready(replica: &Replica, phases: &watch::Receiver<Phase>) -> Result<(), String> {
    let status = replica.status();
    if status.leadership.leader.is_none() {
        return Err(
            "no leader at present: fewer than half of the voters answer, or an election is under way"
                .into(),
        );
    }
    if !status.leadership.is_leader {
        let behind = status.committed.saturating_sub(status.applied);
        return match behind {
            0..=BEHIND_MAX => Ok(()),
            _ => Err(format!(
                "this member is catching up: {behind} entries to apply"
            )),
        };
    }
    match &*phases.borrow() {
        Phase::Running => Ok(()),
        Phase::Starting => Err("the control loop is starting".into()),
        Phase::Blocked(why) => Err(why.clone()),
    }
}

/// The part of `/coracle/v1/status` that is about this member.
pub(crate) fn status(replica: &Replica, name: &str, cluster: &str) -> Value {
    let s = replica.status();
    let members: Vec<Value> = s
        .members
        .iter()
        .map(|(id, m)| json!({"id": node_id_text(*id), "name": m.name, "api": m.api, "raft": m.raft, "leader": s.leadership.leader == Some(*id)}))
        .collect();
    json!({
        "name": name,
        "cluster": cluster,
        "id": node_id_text(s.id),
        "leader": s.leadership.leader.map(node_id_text),
        "term": s.leadership.term,
        "applied": s.applied,
        "lastLog": s.last_log,
        "snapshot": s.snapshot,
        "hash": format!("{:016x}", s.hash),
        "members": members,
    })
}
