//! Bytes from a disk or a peer: whatever they are, decoding ends in a value or an error, never in a panic.

use std::fs;

use coracle_state::{Batch, State};
use proptest::prelude::*;
use tempfile::TempDir;

use super::put;
use crate::snapshot::{self, Header, Snapshots};
use crate::types::SnapshotMeta;

fn batch() -> Batch {
    Batch {
        at: jiff::Timestamp::UNIX_EPOCH,
        request_id: 7,
        commands: vec![put("a", r#"{"a":1}"#), put("b", "{}")],
    }
}

/// A snapshot file of a small state.
fn snapshot() -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let (snapshots, _) = Snapshots::open(dir.path()).unwrap();
    let mut state = State::default();
    for _ in 0..5 {
        state.apply(&batch());
    }
    let header = Header {
        meta: SnapshotMeta::default(),
        log_end: 5,
    };
    let stored = snapshots.write(&state, header).unwrap();
    fs::read(stored.file.path).unwrap()
}

/// One change: bytes overwritten, cut off or inserted.
fn mutate(raw: &mut Vec<u8>, at: &prop::sample::Index, how: u8, with: &[u8]) {
    let at = at.index(raw.len());
    match how % 3 {
        0 => raw.iter_mut().skip(at).zip(with).for_each(|(a, b)| *a = *b),
        1 => raw.truncate(at),
        _ => drop(raw.splice(at..at, with.iter().copied())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches(noise in proptest::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index, how: u8) {
        // A panic is what is looked for.
        let _ = Batch::decode(&noise);
        let mut raw = batch().encode();
        mutate(&mut raw, &at, how, &noise);
        let _ = Batch::decode(&raw);
    }

    #[test]
    fn snapshots(noise in proptest::collection::vec(any::<u8>(), 1..60), at: prop::sample::Index, how: u8) {
        let whole = snapshot();
        let mut raw = whole.clone();
        mutate(&mut raw, &at, how, &noise);
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.snap");
        fs::write(&path, &raw).unwrap();
        prop_assert!(snapshot::load(&path).is_err() || raw == whole);
    }
}
