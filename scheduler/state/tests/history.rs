//! What watches and restarts rely on: revisions never fall, rings keep their floor, and a table can be shown as it was.

use coracle_api::{Key, Timestamp, canonical};
use coracle_state::ring::AGE_MAX;
use coracle_state::{Batch, Change, Command, Expect, State, snapshot};
use proptest::prelude::*;
use serde_json::json;

const TABLE: &str = "configmaps";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn put(name: &str, data: u64) -> Command {
    let object = json!({"metadata": {"name": name, "namespace": "d", "ownerReferences": [
        {"apiVersion": "v1", "kind": "X", "name": "x", "uid": format!("u{}", data % 2)}]}, "data": {"k": data.to_string()}});
    let bytes = canonical::encode(&object);
    Command::put(TABLE, Key::new("d", name), Expect::Any, bytes, Vec::new())
}

fn delete(name: &str) -> Command {
    Command::delete(TABLE, Key::new("d", name), Expect::Any)
}

fn apply(state: &mut State, seconds: i64, commands: Vec<Command>) {
    state.apply(&Batch {
        at: at(seconds),
        request_id: 0,
        commands,
    });
}

fn restarted(state: &State) -> State {
    let mut file = Vec::new();
    snapshot::write(state, &mut file).unwrap();
    snapshot::read(&mut &file[..]).unwrap()
}

/// Everything a reader may see of a table.
fn shown(view: &coracle_state::View) -> Vec<(String, u64, u64, Vec<u8>)> {
    view.list(TABLE, None)
        .map(|o| (o.key.name.clone(), o.created, o.revision, o.bytes.to_vec()))
        .collect()
}

/// etcd#17780: after a crash during compaction the revision was lower than before. Here forgetting touches no revision,
/// and a snapshot that is read back has the revision it was written at, also when the newest changes were deletions
/// that nothing but the counter remembers.
#[test]
fn the_revision_never_falls_whatever_is_forgotten() {
    let mut state = State::default();
    apply(&mut state, 0, vec![put("a", 1), put("b", 1)]);
    apply(&mut state, 1, vec![delete("a"), delete("b")]);
    assert_eq!(state.revision(), 4);
    // An entry that changes nothing but lets time pass: the ring is empty after it.
    let later = 2 + AGE_MAX.as_secs();
    apply(&mut state, later, vec![delete("none")]);
    let view = state.view();
    assert!(view.events_after(TABLE, 3).is_none(), "forgotten");
    assert_eq!(view.events_after(TABLE, 4).unwrap().len(), 0);
    assert_eq!((view.revision, view.tables[TABLE].changed()), (4, 4));
    let mut again = restarted(&state);
    assert_eq!(again.revision(), 4);
    assert!(again.view().events_after(TABLE, 3).is_none(), "still 410");
    apply(&mut again, later + 1, vec![put("c", 1)]);
    assert_eq!(again.revision(), 5);
}

/// etcd#19179 at the level of the ring: asked at exactly its floor, the deletion after it is there.
#[test]
fn the_ring_holds_everything_after_its_floor() {
    let mut state = State::default();
    apply(&mut state, 0, vec![put("a", 1), put("b", 1)]);
    apply(&mut state, 1 + AGE_MAX.as_secs(), vec![delete("a")]);
    let view = state.view();
    assert_eq!(view.tables[TABLE].ring_floor, 2);
    let events = view.events_after(TABLE, 2).unwrap();
    assert_eq!((events.len(), events[0].change), (1, Change::Deleted));
    assert!(view.events_after(TABLE, 1).is_none());
}

#[test]
fn frames_are_made_once_and_carry_the_revision_of_the_change() {
    let mut state = State::default();
    apply(&mut state, 0, vec![put("a", 1)]);
    apply(&mut state, 1, vec![delete("a")]);
    let events = state.view().events_after(TABLE, 0).unwrap();
    let frame = |i: usize| -> serde_json::Value {
        let bytes = events[i].frame();
        assert_eq!(bytes.last(), Some(&b'\n'));
        assert_eq!(bytes.as_ptr(), events[i].frame().as_ptr(), "shared");
        serde_json::from_slice(bytes).unwrap()
    };
    for (i, what) in ["ADDED", "DELETED"].into_iter().enumerate() {
        let frame = frame(i);
        assert_eq!(frame["type"], what);
        let metadata = &frame["object"]["metadata"];
        assert_eq!(metadata["resourceVersion"], (i + 1).to_string());
    }
}

proptest! {
    /// A table shown as it was equals the table as it was, as long as the changes since are kept; and it is refused,
    /// not guessed, when they are not.
    #[test]
    fn a_table_can_be_shown_as_it_was(steps in prop::collection::vec((0u8..3, 0u64..6, 0i64..90), 1..60)) {
        let mut state = State::default();
        let (mut history, mut clock) = (vec![(0, Vec::new())], 0);
        for (what, n, seconds) in steps {
            clock += seconds;
            let name = format!("m{}", n % 4);
            let commands = match what {
                0 => vec![delete(&name)],
                1 => vec![put(&name, n)],
                _ => vec![put(&name, n), put("both", n), delete(&format!("m{}", (n + 1) % 4))],
            };
            apply(&mut state, clock, commands);
            let view = state.view();
            prop_assert!(view.revision >= history.last().unwrap().0);
            history.push((view.revision, shown(&view)));
        }
        for state in [restarted(&state), state] {
            let view = state.view();
            let floor = view.tables.get(TABLE).map_or(0, |t| t.ring_floor);
            for (revision, rows) in &history {
                match view.rewound(TABLE, *revision) {
                    None => prop_assert!(*revision < floor),
                    Some(then) => {
                        prop_assert!(*revision >= floor);
                        prop_assert_eq!(then.revision, *revision);
                        prop_assert_eq!(&shown(&then), rows);
                        let owned: usize = ["u0", "u1"].iter().map(|u| then.owned_by(TABLE, u).count()).sum();
                        prop_assert_eq!(owned, rows.len(), "the indexes follow");
                    }
                }
            }
            prop_assert!(view.rewound(TABLE, view.revision + 1).is_none());
        }
    }
}
