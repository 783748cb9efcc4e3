//! Forgetting: Events after an hour or beyond their budget, ended pods beyond a bound. Runs once a minute, more often
//! while the Events are near their budget, and when a pod ends.

use std::sync::Arc;

use coracle_api::{Timestamp, meta};
use coracle_state::Obj;
use serde_json::Value;

use crate::pods;
use crate::writer::{Plan, later};

/// Time between runs, in ms: what is forgotten a minute late does no harm.
const PERIOD_MS: i64 = 60_000;
/// Time between runs while the Events have used up most of their budget, in ms. The API takes at most a thousand per
/// second, so that is how far the budget may be overdrawn.
const NEAR_PERIOD_MS: i64 = 1_000;
/// Objects forgotten in one run; the rest goes in the next, at once.
const BURST_MAX: usize = 500;

pub(crate) fn reconcile(plan: &mut Plan) {
    let old = old_events(plan);
    if old.len() >= BURST_MAX {
        plan.wake_in(1);
    }
    for event in &old {
        plan.remove("events", event);
    }
    let mut ended: Vec<_> = plan
        .view
        .list("pods", None)
        .filter(|p| pods::ended(p) && !p.attrs.deleting)
        .cloned()
        .collect();
    let surplus = ended.len().saturating_sub(plan.settings.ended_pods_max);
    // Creation order is revision order, which no clock can upset.
    ended.sort_by_key(|p: &Arc<Obj>| p.created);
    if surplus > BURST_MAX {
        plan.wake_in(1);
    }
    for pod in ended.iter().take(surplus.min(BURST_MAX)) {
        plan.delete("pods", pod, Some(0));
    }
}

/// The Events to forget now, at most a burst of them.
fn old_events(plan: &mut Plan) -> Vec<Arc<Obj>> {
    let (mut count, mut bytes) = (0, 0);
    let mut kept: Vec<&Arc<Obj>> = Vec::new();
    let mut old: Vec<Arc<Obj>> = Vec::new();
    for event in plan.view.list("events", None) {
        let expired = old.len() < BURST_MAX
            && later(
                last_seen(&event.value(), plan.now),
                plan.settings.event_ttl_ms,
            ) <= plan.now;
        if expired {
            old.push(event.clone());
            continue;
        }
        count += 1;
        bytes += event.bytes.len();
        kept.push(event);
    }
    let (max, bytes_max) = (plan.settings.events_max, plan.settings.event_bytes_max);
    let near = count > max - max / 10 || bytes > bytes_max - bytes_max / 10;
    plan.wake_in(if near { NEAR_PERIOD_MS } else { PERIOD_MS });
    if count > max || bytes > bytes_max {
        // What was written longest ago goes first; that is the order of revisions, which no clock can upset.
        kept.sort_unstable_by_key(|e| e.revision);
        for event in kept {
            if old.len() >= BURST_MAX || (count <= max && bytes <= bytes_max) {
                break;
            }
            count -= 1;
            bytes -= event.bytes.len();
            old.push(event.clone());
        }
    }
    old
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
