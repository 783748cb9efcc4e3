//! Deployments and what they own, as a user sees them.

use coracle_api::Key;
use serde_json::json;

use super::{Cluster, check};
use crate::{Controller, Task};

#[test]
fn a_deployment_becomes_a_replica_set_and_ready_pods() {
    check(
        "node n1
         node n2
         deploy web replicas=3
         run
         show deploy
         show rs
         show pods
         show events ScalingReplicaSet",
        r#"web revision 1: 3 updated=3 available=3 Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable
         1 image=v1 want=3 have=3 ready=3 available=3
         v1 on "n1" ready
         v1 on "n2" ready
         v1 on "n2" ready
         Normal ScalingReplicaSet: Scaled up replica set web-gr2m6dpkqt from 0 to 3 (x1)"#,
    );
}

#[test]
fn a_new_image_rolls_out_and_going_back_reuses_the_old_replica_set() {
    check(
        "node n1
         deploy web replicas=4 image=v1
         run
         deploy web image=v2
         run
         show rs
         say back
         deploy web image=v1
         run
         show rs
         show deploy",
        "1 image=v1 want=0 have=0 ready=0 available=0
         2 image=v2 want=4 have=4 ready=4 available=4
         back
         2 image=v2 want=0 have=0 ready=0 available=0
         3 image=v1 want=4 have=4 ready=4 available=4
         web revision 3: 4 updated=4 available=4 Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable",
    );
}

#[test]
fn a_bad_image_stops_the_rollout_within_its_bounds_and_the_deadline_says_so() {
    check(
        "node n1
         deploy web replicas=4 surge=1 unavailable=1 image=v1 deadline=60
         run
         bad v2
         deploy web image=v2
         run
         show rs
         wait 61s
         show deploy
         say mended
         deploy web image=v3
         run
         show deploy",
        "1 image=v1 want=3 have=3 ready=3 available=3
         2 image=v2 want=2 have=2 ready=0 available=0
         web revision 2: 5 updated=2 available=3 Available=True/MinimumReplicasAvailable Progressing=False/ProgressDeadlineExceeded
         mended
         web revision 3: 4 updated=4 available=4 Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable",
    );
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut c = Cluster::new();
    c.play("node n1\nservice web\ndeploy web replicas=2 strategy=Recreate\nrun\ndeaf n1\ndeploy web image=v2\nrun");
    assert_eq!(
        c.play("show pods"),
        "v1 on \"n1\" ready leaving\nv1 on \"n1\" ready leaving\n"
    );
    let waits = c
        .look(&Task::new(
            Controller::Deployment,
            Key::new("default", "web"),
        ))
        .waits;
    assert_eq!(
        waits[0].to_string(),
        "2 pods of older revisions are still there (strategy Recreate)"
    );
    assert_eq!(
        c.play("hears n1\nrun\nshow pods"),
        "v2 on \"n1\" ready\nv2 on \"n1\" ready\n"
    );
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    check(
        "node n1
         deploy web replicas=2
         run
         deploy web paused=true image=v2 replicas=3
         run
         show rs
         show deploy
         deploy web paused=false
         run
         show rs",
        "1 image=v1 want=3 have=3 ready=3 available=3
         web revision 1: 3 updated=0 available=3 Available=True/MinimumReplicasAvailable Progressing=Unknown/DeploymentPaused
         1 image=v1 want=0 have=0 ready=0 available=0
         2 image=v2 want=3 have=3 ready=3 available=3",
    );
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_proportions() {
    check(
        "node n1
         bad v2
         deploy web replicas=10 surge=3 unavailable=2
         run
         deploy web image=v2
         run
         show rs
         deploy web replicas=20
         run
         show rs
         deploy web replicas=5
         run
         show rs
         good v2
         run
         show rs",
        "1 image=v1 want=8 have=8 ready=8 available=8
         2 image=v2 want=5 have=5 ready=0 available=0
         1 image=v1 want=14 have=14 ready=14 available=14
         2 image=v2 want=9 have=9 ready=0 available=0
         1 image=v1 want=3 have=3 ready=3 available=3
         2 image=v2 want=5 have=5 ready=0 available=0
         1 image=v1 want=0 have=0 ready=0 available=0
         2 image=v2 want=5 have=5 ready=5 available=5",
    );
}

#[test]
fn min_ready_seconds_holds_a_rollout_back() {
    check(
        "node n1
         deploy web replicas=2 surge=1 unavailable=0 minReady=20
         run
         show rs
         wait 21s
         show rs
         deploy web image=v2
         wait 5s
         show rs
         wait 60s
         show rs",
        "1 image=v1 want=2 have=2 ready=2 available=0
         1 image=v1 want=2 have=2 ready=2 available=2
         1 image=v1 want=2 have=2 ready=2 available=2
         2 image=v2 want=1 have=1 ready=1 available=0
         1 image=v1 want=0 have=0 ready=0 available=0
         2 image=v2 want=2 have=2 ready=2 available=2",
    );
}

#[test]
fn old_revisions_beyond_the_limit_are_forgotten() {
    check(
        "node n1
         deploy web replicas=1 history=1
         run
         deploy web image=v2
         run
         deploy web image=v3
         run
         show rs",
        "2 image=v2 want=0 have=0 ready=0 available=0
         3 image=v3 want=1 have=1 ready=1 available=1",
    );
}

#[test]
fn a_replication_controller_keeps_its_pods_and_takes_orphans_in() {
    let mut c = Cluster::new();
    c.play("node n1\npod web-stray app=web\nrc web replicas=2\nrun");
    assert_eq!(
        c.play("show rc"),
        "- image=v1 want=2 have=2 ready=2 available=2\n"
    );
    let stray = c
        .view()
        .get("pods", &Key::new("default", "web-stray"))
        .cloned()
        .unwrap();
    assert_eq!(
        stray.attrs.controller().unwrap().kind,
        "ReplicationController"
    );
    // A pod that is relabelled is let go, and replaced.
    c.edit("po", &stray.key, |p| {
        p["metadata"]["labels"]["app"] = json!("other")
    });
    c.run();
    assert!(
        c.view()
            .get("pods", &stray.key)
            .unwrap()
            .attrs
            .controller()
            .is_none()
    );
    assert_eq!(
        c.play("show rc"),
        "- image=v1 want=2 have=2 ready=2 available=2\n"
    );
}

#[test]
fn two_leaders_on_one_view_ask_for_the_same_pods() {
    let mut c = Cluster::new();
    c.play("rc web replicas=5");
    let task = Task::new(
        Controller::ReplicationController,
        Key::new("default", "web"),
    );
    let view = c.view();
    let names = |seed| {
        let out = crate::reconcile(&c.input(&view), &task, &mut coracle_api::Ids::new(seed));
        out.writes
            .iter()
            .filter(|w| w.note.starts_with("create pods"))
            .map(|w| w.command.key.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(1).len(), 5);
    assert_eq!(names(1), names(2));
}

#[test]
fn recreate_after_a_scaling_in_the_middle_of_a_rollout_goes_on() {
    check(
        "node n1
         bad v2
         deploy web replicas=4 surge=2 unavailable=2
         run
         deploy web image=v2
         run
         deploy web strategy=Recreate replicas=5
         good v2
         run
         show rs",
        "1 image=v1 want=0 have=0 ready=0 available=0
         2 image=v2 want=5 have=5 ready=5 available=5",
    );
}

#[test]
fn large_pods_are_created_in_parts_that_fit_the_log() {
    let mut c = Cluster::new();
    c.play("rc web replicas=1");
    let key = Key::new("default", "web");
    c.edit("rc", &key, |rc| {
        rc["spec"]["replicas"] = json!(40);
        rc["spec"]["template"]["metadata"]["annotations"] = json!({"big": "x".repeat(250_000)});
    });
    let task = Task::new(Controller::ReplicationController, key);
    let bytes: usize = c
        .look(&task)
        .writes
        .iter()
        .map(|w| format!("{:?}", w.command.op).len())
        .sum();
    assert!(bytes < 6 << 20, "{bytes} bytes in one group");
    c.run();
    assert_eq!(c.view().list("pods", None).count(), 40);
}
