//! The checkers are checked: histories with a planted violation must be refused, and sound ones accepted.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Action, History, Listing, Op, Outcome, Value};
use super::trace::{Change, Event, Log, Seen, Trace};
use super::{linear, revisions, trace};

const KEY: &str = "k0-0";

fn op(client: u32, call: i64, ret: i64, action: Action, outcome: Outcome) -> Op {
    Op {
        client,
        member: 0,
        key: KEY.into(),
        action,
        outcome,
        call,
        ret,
    }
}

fn history(ops: Vec<Op>) -> History {
    History {
        ops,
        lists: Vec::new(),
    }
}

fn linearizable(ops: Vec<Op>) -> bool {
    let verdict = linear::check(&history(ops), &BTreeSet::new());
    assert!(verdict.undecided.is_empty());
    verdict.illegal.is_empty()
}

fn log(events: &[(u64, Change, Value)]) -> Log {
    let event = |(r, change, value): &(u64, Change, Value)| {
        let e = Event {
            change: *change,
            key: KEY.into(),
            value: *value,
        };
        (*r, e)
    };
    Log {
        events: events.iter().map(event).collect(),
    }
}

fn found(history: &History, log: &Log, words: &str) {
    let bad = revisions::check(history, log);
    assert!(bad.iter().any(|b| b.contains(words)), "{words:?}: {bad:?}");
}

use Action::{Cas, Create, Delete, Get, Put};
use Change::{Added, Deleted, Modified};
use Outcome::{Absent, Conflict, Done, Refused, Unknown};

fn seen(v: Value, r: u64) -> Outcome {
    Outcome::Seen(v, r)
}

fn lost() -> Outcome {
    Unknown("no answer".into())
}

#[test]
fn sound_histories_are_linearizable() {
    assert!(linearizable(vec![
        op(1, 0, 10, Create(1), Done(Some(1))),
        op(2, 5, 8, Get, Absent),
        op(2, 11, 12, Get, seen(1, 1)),
        op(
            1,
            13,
            20,
            Cas {
                expect: 1,
                value: 2
            },
            Done(Some(2))
        ),
        op(
            2,
            14,
            21,
            Cas {
                expect: 1,
                value: 3
            },
            Conflict
        ),
        op(3, 22, 23, Create(4), Conflict),
        op(1, 24, 25, Delete, Done(None)),
        op(2, 26, 27, Put(5), Absent),
        op(2, 28, 29, Get, Absent),
    ]));
    // A write without an answer may take effect late, or never.
    let unanswered = |last: Op| {
        vec![
            op(1, 0, 10, Create(1), Done(Some(1))),
            op(2, 11, i64::MAX, Put(2), lost()),
            op(3, 12, 13, Get, seen(1, 1)),
            last,
        ]
    };
    assert!(linearizable(unanswered(op(3, 100, 110, Get, seen(2, 2)))));
    assert!(linearizable(unanswered(op(3, 100, 110, Get, seen(1, 1)))));
}

#[test]
fn a_stale_read_is_found() {
    assert!(!linearizable(vec![
        op(1, 0, 10, Create(1), Done(Some(1))),
        op(1, 11, 20, Put(2), Done(Some(2))),
        op(2, 21, 30, Get, seen(1, 1)),
    ]));
    // The same in a list.
    let mut h = history(vec![
        op(1, 0, 10, Create(1), Done(Some(1))),
        op(1, 11, 20, Put(2), Done(Some(2))),
        op(1, 31, 40, Get, seen(2, 2)),
    ]);
    h.lists.push(Listing {
        client: 2,
        member: 1,
        epoch: 0,
        revision: 1,
        items: [(KEY.to_string(), (1, 1))].into(),
        call: 21,
        ret: 30,
    });
    assert_eq!(linear::check(&h, &BTreeSet::new()).illegal.len(), 1);
    found(
        &h,
        &log(&[(1, Added, 1), (2, Modified, 2)]),
        "a stale list on member 1",
    );
}

#[test]
fn a_lost_write_and_a_wrong_refusal_are_found() {
    let ops = vec![
        op(1, 0, 10, Create(1), Done(Some(1))),
        op(1, 11, 20, Put(2), Done(Some(2))),
        op(2, 21, 30, Get, seen(1, 1)),
        op(2, 31, 40, Get, seen(1, 1)),
    ];
    assert!(!linearizable(ops.clone()));
    found(&history(ops), &log(&[(1, Added, 1)]), "a lost write");
    // A conflict where the expected content stood all the time.
    let cas = Cas {
        expect: 1,
        value: 2,
    };
    assert!(!linearizable(vec![
        op(1, 0, 10, Create(1), Done(Some(1))),
        op(1, 11, 20, cas, Conflict)
    ]));
    // Two that both believe to have created it.
    assert!(!linearizable(vec![
        op(1, 0, 10, Create(1), Done(Some(1))),
        op(2, 0, 10, Create(2), Done(Some(2)))
    ]));
    // A refused write that took effect all the same.
    let refused = history(vec![op(1, 0, 10, Create(1), Refused("no".into()))]);
    found(
        &refused,
        &log(&[(1, Added, 1)]),
        "a refused write took effect",
    );
}

#[test]
fn revisions_that_are_shared_repeated_or_run_backwards_are_found() {
    let two = history(vec![
        op(1, 0, 10, Create(1), Done(Some(1))),
        op(1, 11, 20, Put(2), Done(Some(1))),
    ]);
    found(&two, &log(&[(1, Added, 1)]), "share resourceVersion 1");
    let backwards = history(vec![
        op(1, 0, 10, Create(1), Done(Some(5))),
        op(1, 11, 20, Put(2), Done(Some(4))),
    ]);
    let l = log(&[(4, Modified, 2), (5, Added, 1)]);
    found(&backwards, &l, "time runs backwards");
    // A retry that was applied twice.
    let once = history(vec![op(1, 0, 10, Put(2), Done(Some(2)))]);
    let l = log(&[(2, Modified, 2), (3, Modified, 1), (4, Modified, 2)]);
    found(&once, &l, "written twice");
    // An unanswered write that took effect before it was asked.
    let early = history(vec![
        op(1, 0, 10, Create(1), Done(Some(5))),
        op(1, 11, i64::MAX, Put(2), lost()),
    ]);
    let l = log(&[(4, Added, 2), (5, Modified, 1)]);
    found(&early, &l, "time runs backwards");
    let sound = history(vec![
        op(1, 0, 10, Create(1), Done(Some(1))),
        op(1, 11, i64::MAX, Put(2), lost()),
        op(2, 12, 13, Get, seen(1, 1)),
    ]);
    let l = log(&[(1, Added, 1), (7, Modified, 2)]);
    assert_eq!(revisions::check(&sound, &l), Vec::<String>::new());
    assert!(revisions::never_happened(&sound, &l).is_empty());
    assert_eq!(
        revisions::never_happened(&sound, &log(&[(1, Added, 1)])),
        [2].into()
    );
}

fn listed(revision: u64) -> Seen {
    Seen::Listed {
        revision,
        items: BTreeMap::new(),
    }
}

fn event(revision: u64, change: Change, value: Value) -> Seen {
    Seen::Event {
        revision,
        event: Event {
            change,
            key: KEY.into(),
            value,
        },
    }
}

/// What the watch checker says of one watcher beside one that saw everything.
fn watched(seen: Vec<Seen>) -> Vec<String> {
    let all = vec![
        listed(0),
        event(1, Added, 1),
        event(2, Modified, 2),
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    let trace = |name: &str, seen| Trace {
        name: name.into(),
        seen,
    };
    let traces = [trace("complete", all), trace("suspect", seen)];
    let mut bad = Vec::new();
    let log = trace::merge(&traces, &mut bad);
    trace::check(&traces, &log, 6, &mut bad);
    bad
}

fn refused(seen: Vec<Seen>, words: &str) {
    let bad = watched(seen);
    assert!(
        bad.iter()
            .any(|b| b.contains("suspect") && b.contains(words)),
        "{words:?}: {bad:?}"
    );
}

#[test]
fn sound_watches_pass() {
    let resumed = Seen::Resumed { member: 1 };
    let whole = vec![
        listed(0),
        event(1, Added, 1),
        resumed,
        event(2, Modified, 2),
        Seen::Bookmark { revision: 4 },
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    assert_eq!(watched(whole), Vec::<String>::new());
    // 410 and a new list account for what did not come.
    let relisted = vec![
        listed(0),
        event(1, Added, 1),
        Seen::Expired,
        listed(5),
        event(6, Added, 3),
    ];
    assert_eq!(watched(relisted), Vec::<String>::new());
}

#[test]
fn gaps_repeats_and_wrong_order_in_a_watch_are_found() {
    let gap = vec![
        listed(0),
        event(1, Added, 1),
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    refused(gap, "a gap");
    let lost_delete = vec![
        listed(0),
        event(1, Added, 1),
        event(2, Modified, 2),
        event(6, Added, 3),
    ];
    refused(lost_delete, "a gap");
    let bookmark = vec![
        listed(0),
        event(1, Added, 1),
        Seen::Bookmark { revision: 2 },
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    refused(bookmark, "a gap");
    let bookmark = vec![
        listed(0),
        Seen::Bookmark { revision: 1 },
        event(1, Added, 1),
        event(2, Modified, 2),
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    refused(bookmark, "out of order");
    let twice = vec![
        listed(0),
        event(1, Added, 1),
        event(2, Modified, 2),
        event(2, Modified, 2),
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    refused(twice, "came again");
    let order = vec![
        listed(0),
        event(2, Modified, 2),
        event(1, Added, 1),
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    refused(order, "out of order");
    let unlike = vec![
        listed(0),
        event(1, Added, 9),
        event(2, Modified, 2),
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    refused(unlike, "another watcher saw");
    let kind = vec![
        listed(0),
        event(1, Added, 1),
        event(2, Added, 2),
        event(5, Deleted, 2),
        event(6, Added, 3),
    ];
    refused(kind, "another watcher saw");
    let short = vec![listed(0), event(1, Added, 1)];
    refused(short, "never reached");
}
