//! A linearizability checker for one key (Wing and Gong's search with Lowe's memory of visited configurations). It trusts
//! neither revisions nor the log, except for which writes of unknown outcome happened at all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::history::{Operation, Told, Want};

/// Configurations visited before the search gives up; a give-up is reported, not passed.
const VISITS_MAX: usize = 2_000_000;

#[derive(Clone, Copy, Debug)]
struct Call {
    from: Duration,
    /// `None`: any time later.
    to: Option<Duration>,
    op: Operation,
}

/// The state after an operation that may come now; `None` if it cannot.
fn step(state: Option<u64>, op: &Operation) -> Option<Option<u64>> {
    match (op.want, op.told) {
        (Want::Put(v), _) => Some(Some(v)),
        (Want::Create(_), Told::Refused(_)) => state.is_some().then_some(state),
        (Want::Create(v), _) => state.is_none().then_some(Some(v)),
        (Want::Swap { value, .. }, Told::Refused(_)) => (state != Some(value)).then_some(state),
        (Want::Swap { value, to, .. }, _) => (state == Some(value)).then_some(Some(to)),
        (Want::Delete, Told::Done { changed: false, .. }) => state.is_none().then_some(None),
        (Want::Delete, Told::Done { .. }) => state.is_some().then_some(None),
        // Not told: it may have found nothing.
        (Want::Delete, _) => Some(None),
        (Want::Read, Told::Saw { object, .. }) => (object.map(|o| o.1) == state).then_some(state),
        (Want::Read, _) => Some(state),
    }
}

/// Looks for one order that explains all answers.
pub fn check(operations: &[Operation], happened: impl Fn(u64) -> bool) -> Result<(), String> {
    let mut calls: Vec<Call> = operations
        .iter()
        .filter_map(|op| {
            let to = match op.told {
                Told::Unknown => match op.want.writes() {
                    Some(v) if happened(v) => None,
                    // A deletion of unknown outcome may be left out: the search tries both, see below.
                    None if op.want == Want::Delete => None,
                    _ => return None,
                },
                Told::Not => return None,
                // A group refused for another member's sake says nothing about this key.
                Told::Refused(_) if op.group > 0 => return None,
                _ => Some(op.to),
            };
            Some(Call {
                from: op.from,
                to,
                op: *op,
            })
        })
        .collect();
    calls.sort_by_key(|c| c.from);
    search(&calls)
}

fn search(calls: &[Call]) -> Result<(), String> {
    let words = calls.len().div_ceil(64);
    let mut done = vec![0u64; words.max(1)];
    let has = |done: &[u64], i: usize| done[i / 64] >> (i % 64) & 1 == 1;
    let mut state: Option<u64> = None;
    let mut seen: BTreeSet<(Vec<u64>, Option<u64>)> = BTreeSet::new();
    // The path taken: which call, and the state before it.
    let mut path: Vec<(usize, Option<u64>)> = Vec::new();
    let mut next = 0usize;
    let mut furthest = 0;
    loop {
        // Everything that was answered is placed: what was never answered may come later or never.
        if (0..calls.len()).all(|i| has(&done, i) || calls[i].to.is_none()) {
            return Ok(());
        }
        // A call may come next if no other open call was answered before it began.
        let horizon = (0..calls.len())
            .filter(|i| !has(&done, *i))
            .filter_map(|i| calls[i].to)
            .min()
            .unwrap_or(Duration::MAX);
        let mut chosen = None;
        for i in next..calls.len() {
            if calls[i].from > horizon {
                break;
            }
            if has(&done, i) {
                continue;
            }
            if let Some(after) = step(state, &calls[i].op) {
                let mut with = done.clone();
                with[i / 64] |= 1 << (i % 64);
                if seen.insert((with.clone(), after)) {
                    chosen = Some((i, with, after));
                    break;
                }
            }
        }
        if seen.len() > VISITS_MAX {
            return Err(format!("the search gave up on {} operations", calls.len()));
        }
        match chosen {
            Some((i, with, after)) => {
                path.push((i, state));
                furthest = furthest.max(path.len());
                (done, state, next) = (with, after, 0);
            }
            None => match path.pop() {
                Some((i, before)) => {
                    done[i / 64] &= !(1 << (i % 64));
                    (state, next) = (before, i + 1);
                }
                None => {
                    let stuck: Vec<_> = calls
                        .iter()
                        .skip(furthest.saturating_sub(2))
                        .take(5)
                        .collect();
                    return Err(format!(
                        "no order explains {} operations; stuck after {furthest}, around {stuck:?}",
                        calls.len()
                    ));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(want: Want, told: Told, from: u64, to: u64) -> Operation {
        Operation {
            client: 0,
            member: 0,
            key: 0,
            want,
            group: 0,
            from: Duration::from_millis(from),
            to: Duration::from_millis(to),
            told,
        }
    }

    fn wrote(v: u64, from: u64, to: u64) -> Operation {
        let told = Told::Done {
            revision: v,
            changed: true,
        };
        op(Want::Put(v), told, from, to)
    }

    fn saw(v: u64, from: u64, to: u64) -> Operation {
        let told = Told::Saw {
            view: v,
            object: Some((v, v)),
        };
        op(Want::Read, told, from, to)
    }

    #[test]
    fn orders_are_found_and_missed() {
        let yes = |_| true;
        assert!(check(&[wrote(1, 0, 10), saw(1, 5, 6), saw(1, 11, 12)], yes).is_ok());
        // Concurrent writes may come in either order.
        assert!(check(&[wrote(1, 0, 10), wrote(2, 0, 10), saw(1, 11, 12)], yes).is_ok());
        assert!(check(&[wrote(1, 0, 10), wrote(2, 0, 10), saw(2, 11, 12)], yes).is_ok());
        // Two reads cannot disagree about it.
        let both = [
            wrote(1, 0, 10),
            wrote(2, 0, 10),
            saw(1, 11, 12),
            saw(2, 13, 14),
        ];
        assert!(check(&both, yes).is_err());
        // A stale read.
        assert!(check(&[wrote(1, 0, 1), wrote(2, 2, 3), saw(1, 4, 5)], yes).is_err());
        // A write of unknown outcome may come late, or never.
        let unknown = op(Want::Put(9), Told::Unknown, 0, 1);
        assert!(check(&[unknown, wrote(1, 2, 3), saw(9, 4, 5)], yes).is_ok());
        assert!(check(&[unknown, wrote(1, 2, 3), saw(1, 4, 5)], |v| v != 9).is_ok());
        assert!(check(&[unknown, wrote(1, 2, 3), saw(9, 4, 5), saw(1, 6, 7)], yes).is_err());
        // A refused swap needs another value at some time.
        let refused = |value| {
            let want = Want::Swap {
                revision: 1,
                value,
                to: 5,
            };
            op(want, Told::Refused(Some(1)), 2, 3)
        };
        assert!(check(&[wrote(1, 0, 1), refused(7)], yes).is_ok());
        assert!(check(&[wrote(1, 0, 1), refused(1)], yes).is_err());
    }
}
