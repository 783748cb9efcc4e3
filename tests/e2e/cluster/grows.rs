//! One member becomes three without conversion, three become five and three again, and a dead one is replaced.

use serde_json::Value;

use super::fleet::Fleet;
use super::watcher::Watchers;
use super::workload::{PACE, Workload};
use super::{net, verdict};
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;

#[test]
fn cluster_grows() {
    if !net::possible() {
        return;
    }
    let mut fleet = Fleet::start(1);
    shape(&fleet, 0, &[("m1", true)]);
    verdict::prepare(&fleet);
    // Watchers and clients of the first member go on while the others come and go.
    let watchers = Watchers::start(&fleet.runtime, &fleet.credentials, 1, 2, 1);
    let work = Workload::start(&fleet.runtime, &fleet.credentials, 1, 3, PACE, 1);

    // The second member waits: two voters would be worse than one.
    fleet.grow(0);
    wait_for("the second member, not voting", LONG, || {
        let seats = fleet.seats(0)?;
        let caught_up = seats
            .iter()
            .any(|s| s.name == "m2" && !s.voter && s.applied.is_some());
        if caught_up {
            Ok(())
        } else {
            Err(format!("{seats:?}"))
        }
    });
    let refused = fleet.coracle(0, &["members", "promote", "m2"]);
    refused.fails_with(&["E_MEMBER"]);
    fleet.grow(0);
    fleet.wait_voters(3);
    shape(&fleet, 2, &[("m1", true), ("m2", true), ("m3", true)]);

    // The fourth waits too, the fifth makes five.
    fleet.grow(1);
    fleet.grow(2);
    fleet.wait_voters(5);
    fleet.wait_writable();

    // Two die for good and are removed: three are left.
    let leader = fleet.leader();
    let mut gone = Vec::new();
    for i in [4, 3, 2] {
        if i != leader && gone.len() < 2 {
            fleet.members[i].kill9();
            gone.push(i);
        }
    }
    fleet.wait_writable();
    for i in &gone {
        let name = fleet.members[*i].name.clone();
        fleet.coracle(0, &["members", "remove", &name]).ok();
    }
    fleet.wait_voters(3);

    // One of the removed comes back with an empty disk, under a new id, when another one has died.
    let ids = |fleet: &Fleet| -> Vec<(String, String)> {
        let seats = fleet.seats(0).unwrap();
        seats.into_iter().map(|s| (s.name, s.id)).collect()
    };
    let before = ids(&fleet);
    // Not the first member: the clients are there.
    let dead = (1..5).find(|i| !gone.contains(i)).unwrap();
    if fleet.leader() == dead {
        fleet.coracle(0, &["members", "transfer", "m1"]).ok();
    }
    wait_for("the other to lead", LONG, || match fleet.leader() {
        i if i != dead => Ok(()),
        i => Err(format!("m{} leads", i + 1)),
    });
    let name = fleet.members[dead].name.clone();
    fleet.members[dead].kill9();
    // Two voters would be left: that is refused, unless somebody says that he knows.
    let refused = fleet.coracle(0, &["members", "remove", &name]);
    refused.fails_with(&["E_MEMBER_EVEN", "--force"]);
    fleet
        .coracle(0, &["members", "remove", &name, "--force"])
        .ok();
    fleet.members[dead].wipe();
    fleet.enter(dead, 0);
    fleet.wait_voters(3);
    let after = ids(&fleet);
    let of = |all: &[(String, String)]| {
        let found = all.iter().find(|(n, _)| *n == name);
        found.map(|(_, id)| id.clone())
    };
    assert_ne!(
        of(&before),
        of(&after),
        "a wiped member must not keep its id"
    );
    assert!(of(&after).is_some(), "{after:?}");
    fleet.wait_writable();

    // Even the leader may be removed: it hands over.
    fleet.coracle(0, &["members", "transfer", &name]).ok();
    wait_for("the wiped one to lead", LONG, || match fleet.leader() {
        i if i == dead => Ok(()),
        i => Err(format!("m{} leads", i + 1)),
    });
    fleet
        .coracle(0, &["members", "remove", &name, "--force"])
        .ok();
    wait_for("a leader among the others", LONG, || {
        let seats = fleet.seats(0)?;
        let fine = seats.iter().all(|s| s.name != name) && seats.iter().any(|s| s.leader);
        if fine {
            Ok(())
        } else {
            Err(format!("{seats:?}"))
        }
    });
    fleet.members[dead].kill9();
    fleet.write_marker(0).unwrap();
    let summary = verdict::judge(&fleet, work, watchers);
    println!("cluster_grows: {summary:?}");
    assert!(
        summary.acked > 0 && summary.watch.relists == 2,
        "{summary:?}"
    );
}

/// `coracle members -o json` on one member: a list with exactly these names, voters or not.
#[track_caller]
fn shape(fleet: &Fleet, through: usize, expected: &[(&str, bool)]) {
    // What a member that has just come has applied is known after its first heartbeat.
    let text = wait_for("a complete list", LONG, || {
        let text = fleet.coracle(through, &["members", "-o", "json"]).ok();
        if text.contains("\"applied\": null") {
            return Err(text);
        }
        Ok(text)
    });
    let v: Value = serde_json::from_str(&text).unwrap();
    let list = v.as_array().unwrap_or_else(|| panic!("a list: {text}"));
    let mut names: Vec<(&str, bool)> = Vec::new();
    for m in list {
        let id = m["id"].as_str().unwrap_or_default();
        let hex = id.len() == 16 && id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        assert!(hex, "id: {text}");
        assert!(
            m["voter"].is_boolean() && m["leader"].is_boolean(),
            "{text}"
        );
        assert!(
            m["api"].as_str().is_some_and(|a| a.starts_with("https://")),
            "{text}"
        );
        assert!(
            m["raft"].as_str().is_some_and(|a| a.ends_with(":2380")),
            "{text}"
        );
        assert!(m["applied"].is_u64(), "{text}");
        names.push((m["name"].as_str().unwrap(), m["voter"] == true));
    }
    names.sort_unstable();
    assert_eq!(names, expected, "{text}");
    assert_eq!(
        list.iter().filter(|m| m["leader"] == true).count(),
        1,
        "{text}"
    );
    // The table for people says the same.
    let table = fleet.coracle(through, &["members"]).ok();
    for (name, _) in expected {
        assert!(table.contains(name), "{table}");
    }
}
