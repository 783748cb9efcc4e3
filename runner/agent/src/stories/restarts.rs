//! Stories of containers that end, fail and are started again.

use super::*;

#[test]
fn a_job_that_succeeds_is_done() {
    let mut s = Story::new();
    s.pod("j", job("OnFailure"));
    assert_eq!(s.status("j")["phase"], "Running");
    s.exits("j", "job", 0, 0);
    assert_eq!(s.status("j")["phase"], "Succeeded");
    let done = &s.container("j", "job")["state"]["terminated"];
    assert_eq!(
        (&done["exitCode"], &done["reason"]),
        (&json!(0), &json!("Completed"))
    );
    assert_eq!(s.condition("j", "Ready"), "False");
    s.asked();
    s.pass(3_600);
    s.show("j");
    assert_eq!(s.asked(), [""; 0], "it never runs again");
}

#[test]
fn a_job_that_must_not_restart_fails_with_its_code() {
    let mut s = Story::new();
    s.pod("j", job("Never"));
    s.exits("j", "job", 0, 3);
    assert_eq!(s.status("j")["phase"], "Failed");
    assert_eq!(
        s.container("j", "job")["state"]["terminated"]["exitCode"],
        3
    );
}

#[test]
fn a_crash_loop_backs_off_from_ten_seconds() {
    let mut s = Story::new();
    s.pod("j", job("OnFailure"));
    s.asked();
    s.exits("j", "job", 0, 1);
    assert_eq!(
        s.asked(),
        ["link job", "start job run 1"],
        "the first restart is at once"
    );
    s.exits("j", "job", 1, 1);
    let (reason, message) = s.waiting("j", "job");
    assert_eq!(reason, "CrashLoopBackOff");
    assert!(
        message.starts_with("back-off 10s restarting failed container=job pod=j_default"),
        "{message}"
    );
    assert_eq!(
        s.container("j", "job")["lastState"]["terminated"]["exitCode"],
        1
    );
    assert_eq!(s.status("j")["phase"], "Running");
    s.asked();
    s.pass(9);
    assert_eq!(s.asked(), [""; 0]);
    s.pass(2);
    assert_eq!(s.asked(), ["link job", "start job run 2"]);
    s.exits("j", "job", 2, 1);
    s.asked();
    s.pass(19);
    assert_eq!(s.asked(), [""; 0]);
    s.pass(2);
    assert_eq!(s.asked(), ["link job", "start job run 3"]);
    assert_eq!(s.container("j", "job")["restartCount"], 3);
    // A long run forgives.
    s.pass(700);
    s.exits("j", "job", 3, 1);
    assert_eq!(s.asked(), ["link job", "start job run 4"]);
}

#[test]
fn always_means_after_success_too() {
    let mut s = Story::new();
    s.pod("j", job("Always"));
    s.asked();
    s.exits("j", "job", 0, 0);
    assert_eq!(s.asked(), ["link job", "start job run 1"]);
}

#[test]
fn a_failed_init_container_of_a_pod_that_must_not_restart_fails_the_pod() {
    let mut s = Story::new();
    let mut spec = job("Never");
    spec["initContainers"] = json!([{"name": "i", "image": "job:1"}]);
    s.pod("j", spec);
    s.exits("j", "i", 0, 2);
    assert_eq!(s.status("j")["phase"], "Failed");
    assert_eq!(s.status("j")["reason"], "InitContainerFailed");
}

#[test]
fn the_active_deadline_ends_a_pod() {
    let mut s = Story::new();
    let mut spec = job("OnFailure");
    spec["activeDeadlineSeconds"] = json!(60);
    s.pod("j", spec);
    s.asked();
    s.pass(61);
    assert!(s.asked().contains(&"kill u-j".to_string()));
    assert_eq!(s.status("j")["phase"], "Failed");
    assert_eq!(s.status("j")["reason"], "DeadlineExceeded");
}

#[test]
fn after_a_restart_of_the_runner_pods_are_started_anew() {
    let mut s = Story::new();
    s.pod("a", web());
    s.pod("j", job("Never"));
    s.pod("k", job("OnFailure"));
    s.exits("k", "job", 0, 0);
    s.agent = Agent::new(AgentConfig::new("n1", "127.0.0.1"));
    s.asked();
    for name in ["a", "j", "k"] {
        s.show(name);
    }
    let asked = s.asked();
    assert!(
        asked.contains(&"pull web web:1 known sha256:1".into()),
        "the tag is not resolved again: {asked:?}"
    );
    assert!(!asked.iter().any(|a| a.starts_with("start")), "{asked:?}");
    let c = s.container("a", "web");
    assert_eq!((&c["restartCount"], &c["ready"]), (&json!(1), &json!(true)));
    assert_eq!(
        c["lastState"]["terminated"]["reason"],
        "ContainerStatusUnknown"
    );
    assert_eq!(
        s.status("j")["phase"],
        "Failed",
        "what must not restart has failed"
    );
    assert_eq!(s.status("k")["phase"], "Succeeded");
}

#[test]
fn another_image_replaces_the_running_one() {
    let mut s = Story::new();
    s.pod("a", web());
    s.asked();
    s.edit("a", |p| {
        p["spec"]["containers"][0]["image"] = json!("web:2")
    });
    assert_eq!(
        s.asked(),
        [
            "kill container web",
            "pull web web:2",
            "prepare web",
            "link web",
            "serve web on 8080"
        ]
    );
    assert_eq!(s.container("a", "web")["imageID"], "web:2@sha256:1");
    assert_eq!(s.container("a", "web")["restartCount"], 1);
}
