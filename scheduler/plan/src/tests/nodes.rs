//! Nodes that die, leave and come back.

use coracle_api::Key;
use serde_json::json;

use super::{Cluster, check};

#[test]
fn pods_of_a_dead_node_move() {
    check(
        "node n1
         node n2
         deploy web replicas=2
         run
         kill n1
         wait 35s
         show nodes
         show pods
         wait 10s
         show nodes
         show pods
         show events NodeNotReady",
        r#"n1 Ready=True
         n2 Ready=True
         v1 on "n1" ready
         v1 on "n2" ready
         n1 Ready=Unknown node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute
         n2 Ready=True
         v1 on "n2" ready
         v1 on "n2" ready
         Normal NodeNotReady: Node n1 status is now: NodeNotReady (x1)"#,
    );
}

#[test]
fn when_the_last_node_dies_replicas_wait_and_say_why() {
    check(
        "node n1
         deploy web replicas=2
         run
         kill n1
         wait 50s
         show pods
         show waits",
        r#"v1 on "" not ready
         v1 on "" not ready
         0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }.
         0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }."#,
    );
}

#[test]
fn a_toleration_keeps_a_pod_on_an_unreachable_node_but_out_of_slices() {
    let mut c = Cluster::new();
    c.play("node n1\nservice keep\npod keep tolerates=node.kubernetes.io/unreachable\nrun\nkill n1\nwait 60s");
    assert_eq!(
        c.play("show pods\nshow slices"),
        "keep on \"n1\" ready\nkeep ports 8080: \n"
    );
}

#[test]
fn a_node_that_is_removed_takes_its_pods_along() {
    check(
        "node n1
         rc web replicas=1
         run
         node n2
         delete no n1
         run
         show pods",
        r#"v1 on "n2" ready"#,
    );
}

#[test]
fn a_taint_evicts_with_the_usual_grace() {
    let mut c = Cluster::new();
    c.play("node n1\nservice web\nrc web replicas=1\nrun\ndeaf n1");
    c.edit("no", &Key::new("", "n1"), |n| {
        n["spec"]["taints"] = json!([{"key": "upkeep", "effect": "NoExecute"}])
    });
    c.run();
    assert!(
        c.play("show pods").contains("leaving"),
        "{}",
        c.play("show pods")
    );
}

#[test]
fn a_new_leader_does_not_give_a_lost_node_another_lease() {
    let mut c = Cluster::new();
    c.play("node n1\nnode n2\nrun\nkill n1\nwait 50s");
    c.volatile = crate::Volatile::default();
    c.volatile.observe(&c.view(), c.now);
    let live: Vec<_> = c
        .volatile
        .live_proxies(&c.settings, c.now)
        .into_keys()
        .map(str::to_string)
        .collect();
    assert_eq!(live, ["n2"]);
}

#[test]
fn a_new_leader_gives_every_node_a_whole_lease() {
    let mut c = Cluster::new();
    c.play("node n1\nnode n2\nrun\nkill n1\nwait 35s");
    assert_eq!(c.play("show nodes"), "n1 Ready=True \nn2 Ready=True \n");
    // The renewals of the last second may have been lost with the old leader: nobody is given up before a whole lease.
    c.volatile = crate::Volatile::default();
    c.queue = crate::Queue::default();
    c.play("wait 30s");
    assert_eq!(c.play("show nodes"), "n1 Ready=True \nn2 Ready=True \n");
    c.play("wait 20s");
    assert!(c.play("show nodes").starts_with("n1 Ready=Unknown"));
}

#[test]
fn time_in_which_the_leader_slept_costs_nobody_a_lease() {
    let mut c = Cluster::new();
    c.play("node n1\nrc web replicas=1\nrun\nwait 10s");
    // The machine sleeps for an hour, and the leader wakes before the runner does.
    c.now = crate::writer::later(c.now, 3_600_000);
    c.run();
    assert_eq!(
        c.play("show nodes\nshow pods"),
        "n1 Ready=True \nv1 on \"n1\" ready\n"
    );
    // A clock that is set back does not make a lease endless.
    c.now = crate::writer::later(c.now, -3_600_000);
    c.play("kill n1\nwait 50s");
    assert!(c.play("show nodes").starts_with("n1 Ready=Unknown"));
}
