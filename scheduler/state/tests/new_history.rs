//! The beginning of a new history: nothing lost, and nobody can go on where the old one was.

use bytes::Bytes;
use coracle_api::{Key, Timestamp};
use coracle_state::snapshot::{self, NEW_HISTORY};
use coracle_state::{Batch, Command, Expect, State};

fn put(table: &str, name: &str, text: &str) -> Command {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Command::put(table, Key::new("a", name), Expect::Any, bytes, Vec::new())
}

#[test]
fn a_new_history_keeps_every_object_and_refuses_every_old_watch() {
    let mut state = State::default();
    let batch = Batch {
        at: Timestamp::UNIX_EPOCH,
        request_id: 5,
        commands: vec![
            put("pods", "x", "{}"),
            put("coracle.test", "row", "1"),
            put("pods", "y", "{\"y\":1}"),
        ],
    };
    let first = state.apply(&batch);
    let (before, hash) = (state.view(), state.hash());
    let census = snapshot::census(&before);
    let counts: Vec<_> = census
        .iter()
        .map(|c| (c.table.as_str(), c.objects, c.bytes))
        .collect();
    assert_eq!(counts, [("coracle.test", 1, 1), ("pods", 2, 9)]);

    snapshot::new_history(&mut state);
    let mut file = Vec::new();
    snapshot::write(&state, &mut file).unwrap();
    let mut state = snapshot::read(&mut &file[..]).unwrap();
    assert_ne!(state.hash(), hash, "counters are hashed");
    let view = state.view();
    assert_eq!(view.revision, before.revision + NEW_HISTORY);
    assert_eq!(snapshot::census(&view), census);
    for o in before.list("pods", None) {
        let kept = view.get("pods", &o.key).unwrap();
        assert_eq!((kept.revision, &kept.bytes), (o.revision, &o.bytes));
    }
    // Also of a kind that has no object: its events may be what the lost history had.
    for table in ["pods", "secrets", "deployments.apps"] {
        let old = view.events_after(table, before.revision + 7);
        assert!(old.is_none(), "{table}");
        let new = view.events_after(table, view.revision);
        assert!(new.is_some_and(|e| e.is_empty()), "{table}");
    }
    // An answer kept for a retry belongs to the old history.
    let again = state.apply(&Batch {
        commands: vec![put("pods", "z", "{}")],
        ..batch
    });
    assert_ne!(again, first);
    assert_eq!(
        again[0].as_ref().unwrap().revision,
        before.revision + NEW_HISTORY + 1
    );
}
