//! The judge is judged: each kind of loss, written down by hand, is found; and what is allowed is not.

use super::model::{Act, At, Digest, History, Key, NEVER, Op, Trouble, Until};
use super::verdict::{Kind, judge};

/// What the collector spares in these histories.
const AGE: At = 100;

fn d(text: &str) -> Digest {
    text.into()
}

/// A confirmed act on member 0.
fn sure(call: At, ret: At, act: Act) -> Op {
    Op {
        member: 0,
        call,
        ret,
        sure: true,
        act,
    }
}

/// The same without a confirmation.
fn unsure(call: At, ret: At, act: Act) -> Op {
    Op {
        sure: false,
        ..sure(call, ret, act)
    }
}

fn set(text: &str) -> Act {
    Act::Set(d(text))
}

fn saw(text: &str) -> Act {
    Act::Saw(d(text))
}

fn tag() -> Key {
    Key::Tag("r".into(), "t".into())
}

fn manifest() -> Key {
    Key::Manifest("r".into(), d("m"))
}

fn blob() -> Key {
    Key::Blob("r".into(), d("b"))
}

fn copy(digest: &str) -> Key {
    Key::Copy(0, d(digest))
}

#[track_caller]
fn found(what: &str, keys: Vec<(Key, Vec<Op>)>, expected: &[Kind]) {
    let history = History {
        ops: keys.into_iter().collect(),
        ..History::default()
    };
    let kinds: Vec<Kind> = judge(&history, AGE).iter().map(|v| v.kind).collect();
    assert_eq!(kinds, expected, "{what}");
}

#[test]
fn registry_soak_judge_finds_bad_tags() {
    for (what, ops, expected) in [
        (
            "seen as set",
            vec![sure(1, 2, set("a")), sure(3, 4, saw("a"))],
            None,
        ),
        ("never set", vec![sure(3, 4, Act::Missed)], None),
        (
            "lost",
            vec![sure(1, 2, set("a")), sure(3, 4, Act::Missed)],
            Some(Kind::LostTag),
        ),
        (
            "not yet set",
            vec![sure(1, 4, set("a")), sure(2, 3, Act::Missed)],
            None,
        ),
        (
            "stale",
            vec![
                sure(1, 2, set("a")),
                sure(3, 4, set("b")),
                sure(5, 6, saw("a")),
            ],
            Some(Kind::StaleTag),
        ),
        (
            "moved while looking",
            vec![
                sure(1, 2, set("a")),
                sure(3, 6, set("b")),
                sure(4, 5, saw("a")),
            ],
            None,
        ),
        (
            "two moves at once, either may be the last",
            vec![
                sure(1, 4, set("a")),
                sure(2, 3, set("b")),
                sure(5, 6, saw("a")),
            ],
            None,
        ),
        (
            "resurrected",
            vec![
                sure(1, 2, set("a")),
                sure(3, 4, Act::Unset),
                sure(5, 6, saw("a")),
            ],
            Some(Kind::ResurrectedTag),
        ),
        (
            "resurrected after its manifest was deleted",
            vec![
                sure(1, 2, set("a")),
                sure(3, 4, Act::UnsetIf(d("a"))),
                sure(5, 6, saw("a")),
            ],
            Some(Kind::ResurrectedTag),
        ),
        (
            "another manifest's deletion takes nothing",
            vec![
                sure(1, 2, set("a")),
                sure(3, 4, Act::UnsetIf(d("b"))),
                sure(5, 6, Act::Missed),
            ],
            Some(Kind::LostTag),
        ),
        (
            "a manifest that the tag left long ago is deleted: that takes nothing",
            vec![
                sure(1, 2, set("b")),
                sure(3, 4, set("a")),
                sure(5, 6, Act::UnsetIf(d("b"))),
                sure(7, 8, Act::Missed),
            ],
            Some(Kind::LostTag),
        ),
        (
            "its manifest was deleted",
            vec![
                sure(1, 2, set("a")),
                sure(3, 4, Act::UnsetIf(d("a"))),
                sure(5, 6, Act::Missed),
            ],
            None,
        ),
        (
            "an unanswered deletion may have happened, or not",
            vec![
                sure(1, 2, set("a")),
                unsure(3, NEVER, Act::Unset),
                sure(5, 6, saw("a")),
                sure(7, 8, Act::Missed),
            ],
            None,
        ),
        (
            "an unanswered move may have happened",
            vec![
                sure(1, 2, set("a")),
                unsure(3, NEVER, set("b")),
                sure(5, 6, saw("b")),
            ],
            None,
        ),
        (
            "an unanswered move whose member is dead cannot come after a later one",
            vec![
                unsure(1, 2, set("b")),
                sure(3, 4, set("a")),
                sure(5, 6, saw("b")),
            ],
            Some(Kind::StaleTag),
        ),
        (
            "invented",
            vec![sure(1, 2, set("a")), sure(3, 4, saw("x"))],
            Some(Kind::Invented),
        ),
    ] {
        let expected: Vec<Kind> = expected.into_iter().collect();
        found(what, vec![(tag(), ops)], &expected);
    }
}

#[test]
fn registry_soak_judge_finds_lost_and_resurrected_manifests() {
    for (what, ops, expected) in [
        (
            "lost",
            vec![sure(1, 2, set("m")), sure(3, 4, Act::Missed)],
            Some(Kind::LostManifest),
        ),
        (
            "lost long after, whatever the collector's age",
            vec![sure(1, 2, set("m")), sure(3000, 3001, Act::Missed)],
            Some(Kind::LostManifest),
        ),
        (
            "resurrected",
            vec![
                sure(1, 2, set("m")),
                sure(3, 4, Act::Unset),
                sure(5, 6, saw("m")),
            ],
            Some(Kind::ResurrectedManifest),
        ),
        (
            "pushed again",
            vec![
                sure(1, 2, set("m")),
                sure(3, 4, Act::Unset),
                sure(5, 6, set("m")),
                sure(7, 8, saw("m")),
            ],
            None,
        ),
        (
            "an unanswered push may have happened, or not",
            vec![
                unsure(1, NEVER, set("m")),
                sure(3, 4, Act::Missed),
                sure(5, 6, saw("m")),
            ],
            None,
        ),
        ("invented", vec![sure(1, 2, saw("m"))], Some(Kind::Invented)),
    ] {
        let expected: Vec<Kind> = expected.into_iter().collect();
        found(what, vec![(manifest(), ops)], &expected);
    }
}

#[test]
fn registry_soak_judge_finds_lost_blobs_and_knows_the_collector() {
    let keep = || sure(3, 4, Act::Keep(Until::Manifest(d("m"))));
    let late = || sure(500, 501, Act::Missed);
    for (what, ops, manifests, expected) in [
        (
            "young",
            vec![sure(1, 2, set("b")), sure(50, 51, Act::Missed)],
            vec![],
            Some(Kind::LostBlob),
        ),
        (
            "old and unnamed",
            vec![sure(1, 2, set("b")), late()],
            vec![],
            None,
        ),
        (
            "old and named",
            vec![sure(1, 2, set("b")), keep(), late()],
            vec![],
            Some(Kind::LostBlob),
        ),
        (
            "its manifest is gone",
            vec![sure(1, 2, set("b")), keep(), late()],
            vec![sure(3, 4, set("m")), sure(400, 401, Act::Unset)],
            None,
        ),
        (
            "its manifest was deleted before, and pushed again",
            vec![sure(1, 2, set("b")), keep(), late()],
            vec![
                sure(0, 1, set("m")),
                sure(1, 2, Act::Unset),
                sure(3, 4, set("m")),
            ],
            Some(Kind::LostBlob),
        ),
        (
            "a promise was broken",
            vec![
                sure(1, 2, set("b")),
                sure(450, 451, Act::Keep(Until::At(550))),
                late(),
            ],
            vec![],
            Some(Kind::LostBlob),
        ),
        (
            "a promise was over",
            vec![
                sure(1, 2, set("b")),
                sure(350, 351, Act::Keep(Until::At(450))),
                late(),
            ],
            vec![],
            None,
        ),
        (
            "deleted under its manifest",
            vec![sure(1, 2, set("b")), keep(), sure(5, 6, Act::Unset), late()],
            vec![],
            None,
        ),
        (
            "resurrected",
            vec![
                sure(1, 2, set("b")),
                sure(3, 4, Act::Unset),
                sure(5, 6, saw("b")),
            ],
            vec![],
            Some(Kind::ResurrectedBlob),
        ),
        (
            "invented",
            vec![sure(5, 6, saw("b"))],
            vec![],
            Some(Kind::Invented),
        ),
    ] {
        let expected: Vec<Kind> = expected.into_iter().collect();
        found(
            what,
            vec![(blob(), ops), (manifest(), manifests)],
            &expected,
        );
    }
}

#[test]
fn registry_soak_judge_finds_wrong_bytes_and_knows_turned_bits() {
    let wrong = |at| sure(at, at + 1, Act::Part("other bytes".into()));
    let whole = |at| sure(at, at + 1, Act::Wrong("other bytes".into()));
    for (what, ops, expected) in [
        ("wrong", vec![wrong(1)], vec![Kind::WrongBytes]),
        (
            "torn",
            vec![sure(1, 2, Act::Torn("half of it".into()))],
            vec![Kind::TornManifest],
        ),
        (
            "a bit was turned",
            vec![sure(1, 2, Act::Flip), wrong(3)],
            vec![],
        ),
        (
            "a bit was turned, and it was served as good",
            vec![sure(1, 2, Act::Flip), whole(3)],
            vec![Kind::WrongBytes],
        ),
        (
            "before a bit was turned",
            vec![wrong(1), sure(3, 4, Act::Flip)],
            vec![Kind::WrongBytes],
        ),
        (
            "healed",
            vec![sure(1, 2, Act::Flip), sure(3, 4, Act::Heal), wrong(5)],
            vec![Kind::WrongBytes],
        ),
        (
            "turned again",
            vec![
                sure(1, 2, Act::Flip),
                sure(3, 4, Act::Heal),
                sure(5, 6, Act::Flip),
                wrong(7),
            ],
            vec![],
        ),
    ] {
        found(what, vec![(copy("b"), ops)], &expected);
    }
    // A copy that is known to be bad counts as none, on that member only.
    let flip = (copy("b"), vec![sure(1, 2, Act::Flip)]);
    let missed = vec![sure(1, 2, set("b")), sure(3, 4, Act::Missed)];
    found("refused", vec![flip.clone(), (blob(), missed.clone())], &[]);
    let other = Op {
        member: 1,
        ..missed[1].clone()
    };
    let missed = vec![missed[0].clone(), other];
    found(
        "on another member",
        vec![flip, (blob(), missed)],
        &[Kind::LostBlob],
    );
    let named = vec![sure(1, 2, set("b")), sure(3, 4, Act::Missed)];
    let flip = (copy("b"), vec![sure(1, 2, Act::Flip)]);
    found("a tag's manifest", vec![flip, (tag(), named)], &[]);
}

#[test]
fn registry_soak_judge_finds_failures_that_nothing_excuses() {
    let trouble = |call, ret| Trouble {
        member: 0,
        call,
        ret,
        what: "500".into(),
    };
    let mut history = History {
        troubles: vec![trouble(1, 2), trouble(4, 9), trouble(20, 21)],
        faults: vec![(5, 8)],
        odd: vec!["a session forgot bytes".into()],
        ..History::default()
    };
    let kinds = |h: &History| judge(h, AGE).iter().map(|v| v.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&history), [Kind::Unserved, Kind::Unserved, Kind::Odd]);
    // A killed member's request is over some time after its death.
    history = History {
        ops: [(
            tag(),
            vec![unsure(3, NEVER, set("a")), unsure(8, NEVER, set("b"))],
        )]
        .into(),
        kills: vec![(0, 5), (1, 9)],
        ..History::default()
    };
    history.settle(2);
    let ends: Vec<At> = history.ops[&tag()].iter().map(|op| op.ret).collect();
    assert_eq!(ends, [7, NEVER]);
}
