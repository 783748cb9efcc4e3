//! The state machine in small stories and properties.

use bytes::Bytes;
use coracle_api::{Amounts, Claim, Key, Timestamp};
use coracle_state::{Batch, Change, Command, Expect, FormatError, Op, Refused, State, snapshot};
use proptest::prelude::*;
use serde_json::json;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
}

fn batch(ms: i64, commands: Vec<Command>) -> Batch {
    Batch {
        at: at(ms),
        request_id: 0,
        commands,
    }
}

fn pod(name: &str, text: &str) -> Command {
    let v = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "labels": {"t": text}}});
    Command::put(
        "pods",
        Key::new("a", name),
        Expect::Any,
        coracle_api::canonical::encode(&v),
        Vec::new(),
    )
}

fn one(state: &mut State, command: Command) -> Result<u64, Refused> {
    state
        .apply(&batch(0, vec![command]))
        .remove(0)
        .map(|a| a.revision)
}

fn node(name: &str, cpu: u64) -> Command {
    let v = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"allocatable": {"cpu": format!("{cpu}m"), "memory": "1Gi", "pods": "2"}}});
    Command::put(
        "nodes",
        Key::new("", name),
        Expect::Any,
        coracle_api::canonical::encode(&v),
        Vec::new(),
    )
}

#[test]
fn each_change_takes_its_own_revision_and_a_refused_or_empty_one_takes_none() {
    let mut s = State::default();
    let results = s.apply(&batch(0, vec![pod("x", "1"), pod("y", "1"), pod("x", "1")]));
    let revisions: Vec<_> = results
        .iter()
        .map(|r| r.as_ref().unwrap())
        .map(|a| (a.revision, a.changed))
        .collect();
    assert_eq!(revisions, [(1, true), (2, true), (1, false)]);
    let mut again = pod("x", "2");
    again.expect = Expect::Absent;
    assert_eq!(
        one(&mut s, again),
        Err(Refused::Precondition { found: Some(1) })
    );
    assert_eq!(s.revision(), 2);
    let mut stale = pod("x", "2");
    stale.expect = Expect::Revision(7);
    assert_eq!(
        one(&mut s, stale),
        Err(Refused::Precondition { found: Some(1) })
    );
    assert_eq!(one(&mut s, pod("x", "2")), Ok(3));
    assert_eq!(
        one(
            &mut s,
            Command::delete("pods", Key::new("a", "x"), Expect::Revision(3))
        ),
        Ok(4)
    );
    assert!(s.view().get("pods", &Key::new("a", "x")).is_none());
}

#[test]
fn a_watch_sees_every_change_after_its_revision_in_order_and_below_the_floor_it_is_too_old() {
    let mut s = State::default();
    for i in 0..5 {
        one(&mut s, pod("x", &i.to_string())).unwrap();
    }
    one(
        &mut s,
        Command::delete("pods", Key::new("a", "x"), Expect::Any),
    )
    .unwrap();
    let seen: Vec<_> = s
        .view()
        .events_after("pods", 2)
        .unwrap()
        .iter()
        .map(|e| (e.revision, e.change))
        .collect();
    assert_eq!(
        seen,
        [
            (3, Change::Modified),
            (4, Change::Modified),
            (5, Change::Modified),
            (6, Change::Deleted)
        ]
    );
    // Ten minutes later all of it has left the ring.
    s.apply(&batch(600_000, vec![pod("y", "1")]));
    assert!(s.view().events_after("pods", 2).is_none());
    assert_eq!(s.view().events_after("pods", 6).unwrap().len(), 1);
}

#[test]
fn a_unique_value_has_one_holder_and_is_free_after_it() {
    let mut s = State::default();
    let claim = |name: &str| {
        let mut c = pod(name, "1");
        if let Op::Put { claims, .. } = &mut c.op {
            claims.push(Claim::Unique {
                space: "podIP".into(),
                value: "10.42.0.1".into(),
            });
        }
        c
    };
    one(&mut s, claim("x")).unwrap();
    assert!(
        matches!(one(&mut s, claim("y")), Err(Refused::Taken { holder, .. }) if holder == "pods a/x")
    );
    one(
        &mut s,
        Command::delete("pods", Key::new("a", "x"), Expect::Any),
    )
    .unwrap();
    assert!(one(&mut s, claim("y")).is_ok());
}

#[test]
fn no_node_is_ever_over_its_allocatable() {
    let mut s = State::default();
    one(&mut s, node("n1", 1000)).unwrap();
    let on = |name: &str, node: &str, cpu_millis: u64| {
        let mut c = pod(name, "1");
        if let Op::Put { claims, .. } = &mut c.op {
            claims.push(Claim::Node {
                node: node.into(),
                amounts: Amounts {
                    cpu_millis,
                    memory_bytes: 1,
                    pods: 1,
                },
            });
        }
        c
    };
    assert!(
        matches!(one(&mut s, on("x", "n2", 1)), Err(Refused::NodeFull { what, .. }) if what == "node")
    );
    one(&mut s, on("x", "n1", 600)).unwrap();
    assert!(
        matches!(one(&mut s, on("y", "n1", 600)), Err(Refused::NodeFull { what, .. }) if what == "cpu")
    );
    one(&mut s, on("y", "n1", 400)).unwrap();
    assert!(
        matches!(one(&mut s, on("z", "n1", 0)), Err(Refused::NodeFull { what, .. }) if what == "pods")
    );
    // What is there may be written again although the node shrank.
    one(&mut s, node("n1", 100)).unwrap();
    let mut again = on("x", "n1", 600);
    if let Op::Put { bytes, .. } = &mut again.op {
        *bytes =
            coracle_api::canonical::encode(&json!({"metadata": {"name": "x", "namespace": "a"}}));
    }
    one(&mut s, again).unwrap();
    assert_eq!(s.view().used("n1").cpu_millis, 1000);
}

#[test]
fn a_group_takes_effect_whole_or_not_at_all() {
    let mut s = State::default();
    let grouped = |mut c: Command| {
        c.group = 1;
        c
    };
    let mut absent = pod("x", "1");
    absent.expect = Expect::Present;
    let results = s.apply(&batch(0, vec![grouped(pod("y", "1")), grouped(absent)]));
    assert_eq!(results[0], Err(Refused::Group));
    assert_eq!(results[1], Err(Refused::Precondition { found: None }));
    assert_eq!((s.revision(), s.view().list("pods", None).count()), (0, 0));
}

#[test]
fn a_retried_proposal_applies_once_and_gets_the_first_answer() {
    let mut s = State::default();
    let mut b = batch(0, vec![pod("x", "1")]);
    b.request_id = 7;
    let first = s.apply(&b);
    one(&mut s, pod("x", "2")).unwrap();
    assert_eq!(s.apply(&b), first);
    assert_eq!(s.revision(), 2);
}

#[test]
fn internal_tables_take_no_resource_version_but_count_in_the_hash() {
    let mut s = State::default();
    let before = s.hash();
    one(
        &mut s,
        Command::put(
            "coracle.tokens",
            Key::new("", "t"),
            Expect::Absent,
            Bytes::from_static(b"x"),
            Vec::new(),
        ),
    )
    .unwrap();
    assert_eq!(s.revision(), 0);
    assert_ne!(s.hash(), before);
    assert!(
        s.view()
            .events_after("coracle.tokens", 0)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn entries_of_a_newer_version_are_refused_by_name() {
    let mut bytes = batch(0, vec![pod("x", "1")]).encode();
    assert_eq!(
        Batch::decode(&bytes).unwrap(),
        batch(0, vec![pod("x", "1")])
    );
    bytes[0] = 9;
    assert!(matches!(
        Batch::decode(&bytes),
        Err(FormatError::Newer { found: 9, .. })
    ));
    assert!(matches!(
        Batch::decode(&[1, 0xff]),
        Err(FormatError::Corrupt(_))
    ));
}

#[test]
fn logged_time_never_goes_back() {
    let mut s = State::default();
    s.apply(&batch(1000, vec![pod("x", "1")]));
    s.apply(&batch(0, vec![pod("x", "2")]));
    assert_eq!(s.view().at, at(1001));
}

fn any_command() -> impl Strategy<Value = Command> {
    (0..4u8, 0..4u8, 0..3u8, 0..3u8, any::<bool>()).prop_map(
        |(name, text, expect, group, delete)| {
            let mut c = pod(&format!("p{name}"), &text.to_string());
            if delete {
                c.op = Op::Delete;
            } else if let Op::Put { claims, .. } = &mut c.op
                && text > 1
            {
                claims.push(Claim::Unique {
                    space: "podIP".into(),
                    value: text.to_string(),
                });
            }
            c.expect = [Expect::Any, Expect::Absent, Expect::Present][expect as usize].clone();
            c.group = u32::from(group);
            c
        },
    )
}

proptest! {
    #[test]
    fn the_same_log_gives_the_same_hash_and_a_snapshot_with_the_tail_equals_a_full_replay(
        log in proptest::collection::vec(proptest::collection::vec(any_command(), 1..6), 1..20), cut in 0usize..20
    ) {
        let entries: Vec<Batch> = log.into_iter().enumerate().map(|(i, c)| Batch { at: at(i as i64 * 40_000), request_id: i as u64 % 5, commands: c }).collect();
        let (mut a, mut b) = (State::default(), State::default());
        for (i, e) in entries.iter().enumerate() {
            let ra = a.apply(e);
            if i == cut {
                let mut file = Vec::new();
                snapshot::write(&b, &mut file).unwrap();
                b = snapshot::read(&mut &file[..]).unwrap();
            }
            prop_assert_eq!(ra, b.apply(e));
            prop_assert_eq!(a.hash(), b.hash());
        }
        let (va, vb) = (a.view(), b.view());
        for after in 0..=a.revision() {
            let list = |v: &coracle_state::View| v.events_after("pods", after).map(|l| l.iter().map(|e| (e.revision, e.change, e.obj.bytes.clone())).collect::<Vec<_>>());
            prop_assert_eq!(list(&va), list(&vb));
        }
        prop_assert_eq!(va.held, vb.held);
    }
}
