//! The arithmetic of a rolling update.

use serde_json::Value;

use super::{Rollout, scale};

/// `maxSurge` (percentages rounded up) and `maxUnavailable` (rounded down). Never both 0: nothing could move then.
pub(super) fn bounds(strategy: &Value, replicas: i64) -> (i64, i64) {
    if strategy["type"] == "Recreate" {
        return (0, replicas);
    }
    let rolling = &strategy["rollingUpdate"];
    let surge = resolve(&rolling["maxSurge"], replicas, true);
    let unavailable = resolve(&rolling["maxUnavailable"], replicas, false).min(replicas);
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

/// A count or a percentage of `replicas`; 25 % where nothing is said.
fn resolve(value: &Value, replicas: i64, up: bool) -> i64 {
    let percent = match value {
        Value::Number(n) => return n.as_i64().unwrap_or(0).max(0),
        Value::String(s) => s.trim_end_matches('%').parse::<i64>().unwrap_or(0).max(0),
        _ => 25,
    };
    let hundredths = percent.saturating_mul(replicas);
    if up {
        (hundredths + 99) / 100
    } else {
        hundredths / 100
    }
}

/// How large the new ReplicaSet may be now: there are at most `replicas + maxSurge` pods in all.
pub(super) fn new_size(rollout: &Rollout) -> i64 {
    let size = rollout.new.as_ref().map_or(0, |n| n.size());
    let room = rollout.replicas + rollout.max_surge - rollout.held();
    size + room.max(0).min((rollout.replicas - size).max(0))
}

/// Sizes the new ReplicaSet. Returns whether that changes it.
pub(super) fn grow(rollout: &mut Rollout) -> bool {
    let wanted = new_size(rollout).min(rollout.replicas);
    let (replicas, surge) = (rollout.replicas, rollout.max_surge);
    match &mut rollout.new {
        Some(new) if new.size() != wanted => {
            scale::resize(new, wanted, replicas, surge);
            true
        }
        Some(new) => {
            scale::note(new, replicas, surge);
            false
        }
        None => false,
    }
}

/// Shrinks old ReplicaSets, oldest first: replicas that are not available cost nothing and go first, then as many
/// available ones as can be spared.
pub(super) fn shrink(rollout: &mut Rollout) {
    let floor = rollout.replicas - rollout.max_unavailable;
    let (replicas, surge) = (rollout.replicas, rollout.max_surge);
    let pending = rollout.new.as_ref().map_or(0, |n| n.size() - n.available());
    // Room for new replicas that do not count yet is kept, so that they can become the ones to rely on.
    let mut spare = rollout.total() - floor - pending;
    for set in &mut rollout.old {
        let unavailable = (set.size() - set.available()).min(spare).max(0);
        if unavailable > 0 {
            spare -= unavailable;
            let size = set.size() - unavailable;
            scale::resize(set, size, replicas, surge);
        }
    }
    let mut spare = spare.min(rollout.available() - floor);
    for set in &mut rollout.old {
        let less = set.size().min(spare).max(0);
        if less > 0 {
            spare -= less;
            let size = set.size() - less;
            scale::resize(set, size, replicas, surge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn surge_rounds_up_and_unavailable_rounds_down() {
        for (surge, unavailable, replicas, want) in [
            (json!("25%"), json!("25%"), 10, (3, 2)),
            (json!("25%"), json!("25%"), 4, (1, 1)),
            (json!("25%"), json!("25%"), 3, (1, 0)),
            (json!("25%"), json!("25%"), 1, (1, 0)),
            (json!("25%"), json!("25%"), 0, (0, 1)),
            (json!(0), json!(0), 5, (0, 1)),
            (json!(0), json!("10%"), 5, (0, 1)),
            (json!("100%"), json!(0), 7, (7, 0)),
            (json!(2), json!(9), 5, (2, 5)),
            (json!(null), json!(null), 8, (2, 2)),
        ] {
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
            assert_eq!(
                bounds(&strategy, replicas),
                want,
                "{strategy} of {replicas}"
            );
        }
    }
}
