//! A Deployment whose `replicas` changed: with one ReplicaSet that one takes it all; in the middle of a rollout each
//! takes its share, so that the rollout goes on from where it is.

use coracle_api::meta;

use super::{DESIRED, MAX_REPLICAS, Rollout, Set, set_size};

/// Sets the size of a ReplicaSet and what it was sized for.
pub(super) fn resize(set: &mut Set, size: i64, replicas: i64, max_surge: i64) {
    set_size(&mut set.value, size);
    note(set, replicas, max_surge);
}

/// Notes what a ReplicaSet is sized for.
pub(super) fn note(set: &mut Set, replicas: i64, max_surge: i64) {
    meta::set_annotation(&mut set.value, DESIRED, &replicas.to_string());
    meta::set_annotation(
        &mut set.value,
        MAX_REPLICAS,
        &(replicas + max_surge).to_string(),
    );
}

/// Whether `replicas` has changed since a ReplicaSet that has pods was sized.
pub(super) fn due(rollout: &Rollout) -> bool {
    rollout
        .sets()
        .any(|s| s.size() > 0 && s.desired().is_some_and(|d| d != rollout.replicas))
}

/// Resizes for the present `replicas`.
pub(super) fn apply(rollout: &mut Rollout) {
    let (replicas, surge) = (rollout.replicas, rollout.max_surge);
    let active = rollout.sets().filter(|s| s.size() > 0).count();
    if active <= 1 {
        let only = match active {
            1 => rollout.sets_mut().find(|s| s.size() > 0),
            // Nothing runs: the present template is the one to grow, or the last one there was.
            _ if rollout.new.is_some() => rollout.new.as_mut(),
            _ => rollout.old.iter_mut().max_by_key(|s| s.revision()),
        };
        if let Some(set) = only {
            resize(set, replicas, replicas, surge);
        }
        return;
    }
    if rollout
        .new
        .as_ref()
        .is_some_and(|n| n.size() == replicas && n.available() == replicas)
    {
        for set in &mut rollout.old {
            resize(set, 0, replicas, surge);
        }
        return;
    }
    if !rollout.recreates() {
        proportionally(rollout);
    }
}

fn proportionally(rollout: &mut Rollout) {
    let (replicas, surge) = (rollout.replicas, rollout.max_surge);
    let allowed = if replicas > 0 { replicas + surge } else { 0 };
    let more = match (allowed - rollout.held(), allowed - rollout.total()) {
        (room, _) if room > 0 => room,
        (_, excess) => excess.min(0),
    };
    let available = rollout.available();
    let floor = available.min(replicas - rollout.max_unavailable);
    let mut sets: Vec<&mut Set> = rollout.sets_mut().filter(|s| s.size() > 0).collect();
    // Largest first; of equals the newest when growing, the oldest when shrinking.
    sets.sort_by_key(|s| {
        (
            -s.size(),
            if more > 0 {
                -s.revision()
            } else {
                s.revision()
            },
        )
    });
    let mut left = more;
    for set in &mut sets {
        let share = share(set, replicas, surge);
        let change = if more > 0 {
            share.clamp(0, left.max(0))
        } else {
            share.clamp(left.min(0), 0)
        };
        left -= change;
        let size = set.size() + change;
        resize(set, size.max(0), replicas, surge);
    }
    if let Some(first) = sets.first_mut() {
        let size = (first.size() + left).max(0);
        resize(first, size, replicas, surge);
    }
    // Shares say nothing about who is available: give back what that would cost, and let the rollout take it later.
    let mut missing = floor - sets.iter().map(|s| s.available()).sum::<i64>();
    for set in &mut sets {
        let back = (set.counts.available - set.size()).min(missing);
        if back > 0 {
            missing -= back;
            let size = set.size() + back;
            resize(set, size, replicas, surge);
        }
    }
}

/// By how much a ReplicaSet would change to keep its share of the whole.
fn share(set: &Set, replicas: i64, surge: i64) -> i64 {
    let size = set.size();
    if replicas == 0 {
        return -size;
    }
    let before = meta::annotation(&set.value, MAX_REPLICAS)
        .and_then(|m| m.parse::<i64>().ok())
        .filter(|m| *m > 0)
        .unwrap_or(replicas + surge);
    let after = (replicas + surge).saturating_mul(size);
    // Rounded to the nearest.
    (after + before / 2) / before - size
}
