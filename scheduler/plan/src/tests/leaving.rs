//! The drain handshake, seen from the leader.

use coracle_api::{DRAINED, Key, meta};

use super::{Cluster, check};
use crate::{DRAIN_REVISION, pods, tasks_after_ack};

#[test]
fn a_leaving_pod_waits_for_every_live_proxy() {
    check(
        "node n1
         node n2
         service web
         rc web replicas=2
         run
         deaf n2
         rc web replicas=1
         run
         show slices
         show waits
         hears n2
         run
         show slices
         show pods",
        r#"web ports 8080: ready+serving serving+terminating
         pod default/web-l8blh is leaving: waiting until the proxies on n2 have applied revision 43
         web ports 8080: ready+serving
         v1 on "n2" ready"#,
    );
}

#[test]
fn a_dead_proxy_is_waited_for_until_its_lease_expires() {
    let mut c = Cluster::new();
    c.play("node n1\nnode n2 pods=0\nservice web\nrc web replicas=1\nrun\nkill n2\ndeaf n2\nrc web replicas=0\nrun");
    assert_eq!(c.play("show pods"), "v1 on \"n1\" ready leaving\n");
    c.play("wait 30s");
    assert_eq!(c.play("show pods"), "v1 on \"n1\" ready leaving\n");
    c.play("wait 11s");
    assert_eq!(c.play("show pods"), "nothing\n");
}

#[test]
fn the_target_does_not_move_with_later_changes() {
    let mut c = Cluster::new();
    c.play("node n1\nservice web\nrc web replicas=2\nrun\ndeaf n1\nrc web replicas=1\nrun");
    let leaving = |c: &Cluster| {
        c.view()
            .list("pods", None)
            .find(|p| p.attrs.deleting)
            .cloned()
    };
    let target: u64 = meta::annotation(&leaving(&c).unwrap().value(), DRAIN_REVISION)
        .unwrap()
        .parse()
        .unwrap();
    c.play("service other\nservice another\nrun");
    assert!(c.view().revision > target);
    c.volatile.ack("n1", target);
    let tasks = tasks_after_ack(&c.view());
    c.queue.add(tasks);
    c.plan();
    assert!(pods::holds(&leaving(&c).unwrap().value(), DRAINED));
}

#[test]
fn the_last_replica_is_not_offered_as_a_fallback() {
    let mut c = Cluster::new();
    c.play("node n1\nservice web\nrc web replicas=1\nrun\ndeaf n1\nrc web replicas=0\nrun");
    assert_eq!(c.play("show slices"), "web ports 8080: terminating\n");
}

#[test]
fn a_pod_that_no_service_selects_is_drained_at_once() {
    let mut c = Cluster::new();
    c.play("node n1\nrc web replicas=1\nrun");
    let key = c.view().list("pods", None).next().unwrap().key.clone();
    c.delete("po", &key, None);
    c.plan();
    assert!(pods::holds(
        &c.view().get("pods", &key).unwrap().value(),
        DRAINED
    ));
    c.run();
    assert!(
        c.view()
            .get("pods", &Key::new("default", key.name))
            .is_none()
    );
}

#[test]
fn a_new_leader_waits_for_reports_of_its_own() {
    let mut c = Cluster::new();
    c.play("node n1\nservice web\nrc web replicas=1\nrun\ndeaf n1");
    c.volatile = crate::Volatile::default();
    c.queue = crate::Queue::default();
    c.play("rc web replicas=0\nrun");
    assert_eq!(c.play("show pods"), "v1 on \"n1\" ready leaving\n");
}
