//! Who gives what to whom: tables of decisions, their bounds, and properties over random histories.

use super::*;

const BLOB: &str = "sha256:b";

fn ask(h: &mut Holders, now_ms: u64, node: &str) -> Parent {
    h.ask(now_ms, node, BLOB, None, &[])
}

fn from(parent: &Parent) -> &str {
    match parent {
        Parent::Members => "-",
        Parent::Runner { name, .. } => name,
    }
}

/// A story: each line is `ask NODE [gone|failed|busy PARENT] [not NODE..]`, `have NODE`, `leave NODE` or `wait MS`;
/// the answers of the asks are compared.
fn check(story: &str, expect: &[&str]) {
    let (mut h, mut now) = (Holders::default(), 1_000);
    let mut answers = Vec::new();
    for line in story.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["have", node] => h.have(now, node, BLOB),
            ["leave", node] => h.leave(node, BLOB),
            ["wait", ms] => now += ms.parse::<u64>().unwrap(),
            ["ask", node, rest @ ..] => {
                let trouble = match rest {
                    ["gone", p, ..] => Some((*p, Trouble::Gone)),
                    ["failed", p, ..] => Some((*p, Trouble::Failed)),
                    ["busy", p, ..] => Some((*p, Trouble::Busy)),
                    _ => None,
                };
                let avoid: Vec<String> = rest
                    .iter()
                    .skip_while(|w| **w != "not")
                    .skip(1)
                    .map(ToString::to_string)
                    .collect();
                answers.push(from(&h.ask(now, node, BLOB, trouble, &avoid)).to_string());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, expect, "{story}");
}

#[test]
fn the_first_asks_the_members_and_everybody_else_a_runner() {
    check("ask a\nask b\nask c", &["-", "a", "a"]);
}

#[test]
fn nobody_gets_more_children_than_it_may_and_shallow_places_go_first() {
    check(
        "ask a\nask b\nask c\nask d\nask e\nask f\nask g",
        &["-", "a", "a", "a", "a", "b", "c"],
    );
}

#[test]
fn whole_copies_go_first_and_share_the_load() {
    check(
        "ask a\nask b\nhave b\nask c\nhave a\nask d\nask e",
        &["-", "a", "b", "a", "a"],
    );
}

#[test]
fn a_child_that_is_done_frees_its_place() {
    check(
        "ask a\nask b\nask c\nask d\nask e\nhave e\nleave e\nask f",
        &["-", "a", "a", "a", "a", "a"],
    );
}

#[test]
fn a_parent_that_failed_is_nobodys_for_a_while() {
    check(
        "have a\nask b\nask b failed a\nask c\nwait 30001\nask d",
        // c hangs under b, which the members serve now; later a is good again.
        &["a", "-", "b", "a"],
    );
}

#[test]
fn a_parent_that_lost_the_blob_is_forgotten_and_a_busy_one_only_avoided() {
    check("have a\nask b\nask b gone a\nask c", &["a", "-", "b"]);
    check("have a\nask b\nask b busy a\nask c", &["a", "-", "a"]);
}

#[test]
fn who_was_not_given_a_parent_cannot_complain_about_it() {
    check("have a\nask b failed a\nask c", &["-", "a"]);
}

#[test]
fn who_is_avoided_is_not_given() {
    check("have a\nhave b\nask c not a\nask d not a b", &["b", "c"]);
}

#[test]
fn nobody_is_sent_below_itself() {
    // b hangs under a, c under b; when a asks again, neither will do.
    check("ask a\nask b\nask c not a\nask a", &["-", "a", "b", "-"]);
}

#[test]
fn silence_ends_a_place() {
    check("ask a\nwait 600001\nask b", &["-", "-"]);
    check("have a\nwait 600001\nask b", &["-"].map(|_| "a"));
    check("have a\nwait 21600001\nask b", &["-"]);
}

#[test]
fn depth_counts_the_hops() {
    let mut h = Holders::default();
    assert_eq!(ask(&mut h, 0, "a"), Parent::Members);
    let depths: Vec<u32> = (0..FAN_OUT + 1)
        .map(|n| match ask(&mut h, 0, &format!("n{n}")) {
            Parent::Runner { depth, .. } => depth,
            Parent::Members => 0,
        })
        .collect();
    assert_eq!(depths, [2, 2, 2, 2, 3]);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut h = Holders::default();
    for n in 0..(BLOBS_MAX as u64 + 10) {
        h.have(n, "a", &format!("b{n}"));
    }
    assert_eq!((h.trees.len(), h.places), (BLOBS_MAX, BLOBS_MAX));
    assert_eq!(h.runners("b0"), 0, "the longest unused went first");
    for n in 0..BLOBS_MAX {
        h.leave("a", &format!("b{}", n + 10));
    }
    assert_eq!((h.trees.len(), h.places), (0, 0));
}

/// Whatever is said in whatever order: counts are true, nobody has too many children, and every chain ends.
#[test]
fn trees_stay_trees() {
    let mut seed = 7_u64;
    let mut next = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % n
    };
    let mut h = Holders::default();
    let mut now = 0;
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..20_000 {
        now += next(3_000);
        let (node, blob) = (format!("n{}", next(40)), format!("b{}", next(3)));
        match next(10) {
            0 | 1 => h.have(now, &node, &blob),
            2 => h.leave(&node, &blob),
            choice => {
                let bad = given.get(&format!("{node} {blob}")).cloned();
                let kind = [Trouble::Gone, Trouble::Failed, Trouble::Busy][next(3) as usize];
                let trouble = bad
                    .as_deref()
                    .filter(|_| choice > 7)
                    .map(|parent| (parent, kind));
                let avoid = vec![format!("n{}", next(40))];
                let parent = h.ask(now, &node, &blob, trouble, &avoid);
                assert_ne!(from(&parent), node);
                assert_ne!(from(&parent), avoid[0]);
                if let Some((bad, _)) = trouble {
                    assert_ne!(from(&parent), bad);
                }
                given.insert(format!("{node} {blob}"), from(&parent).into());
            }
        }
        let all: usize = h.trees.values().map(|t| t.places.len()).sum();
        assert_eq!(all, h.places);
        for tree in h.trees.values() {
            for (name, place) in &tree.places {
                let children = tree
                    .places
                    .values()
                    .filter(|p| p.parent.as_deref() == Some(name))
                    .count();
                assert_eq!(children, place.children, "{name}");
                assert!(children <= FAN_OUT);
                assert_eq!(tree.free.contains(&place.rank(name)), children < FAN_OUT);
                let above = place.parent.as_deref();
                assert!(above.is_none_or(|above| !tree.is_below(above, name)));
            }
            assert!(tree.free.len() <= tree.places.len());
        }
    }
}
