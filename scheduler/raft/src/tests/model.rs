//! The log against a model, and the two implementations against each other.

use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::synced;
use super::workload::{Model, Op, Workload, start};
use crate::journal::Journal;
use crate::journal::raftlog::RaftLogJournal;
use crate::journal::wal::{Options, WalJournal};

fn options(direct: bool, cache_bytes: usize) -> Options {
    Options {
        // A few groups each, so that files change often.
        segment_bytes: 48 << 10,
        cache_bytes,
        direct,
        ..Options::default()
    }
}

fn same(journal: &dyn Journal, model: &Model, committed: &[Op]) {
    let found = Model::of(journal);
    assert_eq!(found, *model);
    if let Some(id) = journal.committed() {
        assert!(
            committed
                .iter()
                .any(|op| matches!(op, Op::Committed(c) if *c == id)),
            "{id} was never noted"
        );
    }
    // Bounded reads: at least one, in order, from where it was asked.
    let Some(first) = model.entries.front().map(|e| e.log_id.index) else {
        return;
    };
    let middle = first + model.entries.len() as u64 / 2;
    let some = journal.read(middle, u64::MAX, 3000).unwrap();
    let at = (middle - first) as usize;
    assert!(!some.is_empty());
    assert!(some.iter().eq(model.entries.range(at..at + some.len())));
}

/// `steps`: how many operations until the next check, and whether it is opened anew there.
fn live(seed: u64, steps: &[(u8, bool)], open: &dyn Fn() -> Arc<dyn Journal>) {
    let mut work = Workload::new(seed, 9000);
    let mut journal = open();
    let mut ops = Vec::new();
    for (n, reopen) in steps {
        for i in 0..*n {
            let op = work.next();
            if i + 1 == *n {
                synced(|done| start(journal.as_ref(), &op, done));
            } else {
                // Not waited for: several share a group.
                start(
                    journal.as_ref(),
                    &op,
                    crate::journal::Done::new(|r| r.unwrap()),
                )
                .unwrap();
            }
            ops.push(op);
        }
        same(journal.as_ref(), &work.model, &ops);
        if *reopen {
            drop(journal);
            journal = open();
            same(journal.as_ref(), &work.model, &ops);
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<(u8, bool)>> {
    proptest::collection::vec((1u8..20, proptest::bool::weighted(0.4)), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_was_written(seed: u64, steps in steps(), direct: bool, cache in prop_oneof![Just(0usize), Just(20_000), Just(32 << 20)]) {
        let dir = TempDir::new().unwrap();
        live(seed, &steps, &|| Arc::new(WalJournal::open_options(dir.path(), options(direct, cache)).unwrap()));
    }
}

/// The second implementation, under the same operations: the model is right about both.
#[test]
fn raft_log_agrees() {
    for seed in 0..6 {
        let dir = TempDir::new().unwrap();
        live(seed, &[(15, true), (10, false), (19, true)], &|| {
            Arc::new(RaftLogJournal::open_with(dir.path(), 40_000).unwrap())
        });
    }
}
