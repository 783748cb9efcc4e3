//! Forgetting: Events after an hour, ended pods beyond a bound. Runs once a minute, and when a pod ends.

use coracle_api::{Timestamp, meta};
use coracle_state::Obj;
use serde_json::Value;

use crate::pods;
use crate::writer::{Plan, later};

/// Time between runs, in ms: what is forgotten a minute late does no harm.
const PERIOD_MS: i64 = 60_000;
/// Objects forgotten in one run; the rest goes in the next, at once.
const BURST_MAX: usize = 500;

pub(crate) fn reconcile(plan: &mut Plan) {
    plan.wake_in(PERIOD_MS);
    let old: Vec<_> = plan
        .view
        .list("events", None)
        .filter(|e| later(last_seen(&e.value(), plan.now), plan.settings.event_ttl_ms) <= plan.now)
        .take(BURST_MAX)
        .cloned()
        .collect();
    let mut ended: Vec<_> = plan
        .view
        .list("pods", None)
        .filter(|p| pods::ended(p) && !p.attrs.deleting)
        .cloned()
        .collect();
    let surplus = ended.len().saturating_sub(plan.settings.ended_pods_max);
    // Creation order is revision order, which no clock can upset.
    ended.sort_by_key(|p: &std::sync::Arc<Obj>| p.created);
    if old.len() == BURST_MAX || surplus > BURST_MAX {
        plan.wake_in(1);
    }
    for event in &old {
        plan.remove("events", event);
    }
    for pod in ended.iter().take(surplus.min(BURST_MAX)) {
        plan.delete("pods", pod, Some(0));
    }
}

/// When an Event last happened; one without any time counts from now, so that it is never forgotten at once.
fn last_seen(event: &Value, now: Timestamp) -> Timestamp {
    let at = |v: &Value| v.as_str().and_then(|t| t.parse().ok());
    at(&event["series"]["lastObservedTime"])
        .or_else(|| at(&event["lastTimestamp"]))
        .or_else(|| at(&event["eventTime"]))
        .or_else(|| meta::creation_timestamp(event))
        .unwrap_or(now)
}
