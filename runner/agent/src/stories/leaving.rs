//! Stories of pods that are deleted: the drain handshake and the grace period.

use super::*;

#[test]
fn a_service_leaves_after_the_drain_handshake() {
    let mut s = Story::new().hold("stop");
    s.pod("a", web());
    s.asked();
    s.delete("a", 30);
    s.pass(5);
    assert_eq!(s.asked(), [""; 0], "proxies may still choose it");
    assert!(s.agent.accepts("u-a"));
    assert_eq!(s.condition("a", "Ready"), "True");
    s.drained("a");
    assert_eq!(s.asked(), ["stop accepting u-a"]);
    assert!(!s.agent.accepts("u-a"));
    s.pass(5);
    assert_eq!(s.asked(), [""; 0], "a request is still in flight");
    s.tell(Input::Stopped { uid: "u-a".into() });
    assert_eq!(s.asked(), ["kill u-a", "delete u-a", "forget u-a"]);
    assert_eq!(s.agent.pods(), 0);
}

#[test]
fn the_terminal_status_is_written_before_the_final_delete() {
    let mut s = Story::new().hold("delete");
    s.pod("a", web());
    s.delete("a", 30);
    s.drained("a");
    assert_eq!(s.status("a")["phase"], "Succeeded");
    assert_eq!(
        s.container("a", "web")["state"]["terminated"]["exitCode"],
        0
    );
    assert_eq!(
        s.condition("a", coracle_api::DRAINED),
        "True",
        "conditions of others are kept"
    );
    s.asked();
    s.hold.clear();
    s.pass(6);
    assert_eq!(
        s.asked(),
        ["delete u-a", "forget u-a"],
        "a lost delete is sent again"
    );
}

#[test]
fn the_grace_period_bounds_everything() {
    let mut s = Story::new().hold("stop");
    s.pod("a", web());
    s.asked();
    s.delete("a", 10);
    s.pass(9);
    assert_eq!(s.asked(), [""; 0]);
    s.pass(2);
    assert_eq!(
        s.asked(),
        ["stop accepting u-a", "kill u-a", "delete u-a", "forget u-a"]
    );
}

#[test]
fn requests_that_outlive_the_grace_are_cut() {
    let mut s = Story::new().hold("stop").hold("delete");
    s.pod("a", web());
    s.delete("a", 10);
    s.drained("a");
    s.asked();
    s.pass(11);
    assert_eq!(s.asked()[0], "kill u-a");
    assert_eq!(
        s.container("a", "web")["state"]["terminated"]["exitCode"],
        137
    );
}

#[test]
fn a_second_delete_may_shorten_the_grace() {
    let mut s = Story::new();
    s.pod("a", web());
    s.delete("a", 300);
    s.asked();
    s.delete("a", 1);
    s.pass(2);
    assert!(s.asked().contains(&"kill u-a".to_string()));
}

#[test]
fn a_command_ends_at_once() {
    let mut s = Story::new();
    s.pod("j", job("Always"));
    s.asked();
    s.delete("j", 30);
    assert_eq!(s.asked(), ["kill u-j", "delete u-j", "forget u-j"]);
}

#[test]
fn a_pod_that_never_ran_leaves_too() {
    let mut s = Story::new().hold("pull");
    s.pod("a", web());
    s.asked();
    s.delete("a", 30);
    assert_eq!(s.asked(), ["kill u-a", "delete u-a", "forget u-a"]);
}

#[test]
fn a_pod_that_is_gone_is_killed_and_forgotten_and_stays_so() {
    let mut s = Story::new();
    s.pod("a", web());
    let late = s.api["u-a"].clone();
    s.asked();
    s.tell(Input::Gone { uid: "u-a".into() });
    assert_eq!(s.asked(), ["kill u-a", "forget u-a"]);
    let mut late = late;
    late["metadata"]["resourceVersion"] = json!("999999");
    s.tell(Input::Pod(Arc::new(late)));
    assert_eq!(
        (s.asked().len(), s.agent.pods()),
        (0, 0),
        "a late event does not bring it back"
    );
}

#[test]
fn a_relist_ends_what_is_not_in_it() {
    let mut s = Story::new();
    s.pod("a", web());
    s.pod("b", web());
    s.asked();
    s.tell(Input::Relisted {
        uids: ["u-b".to_string()].into(),
    });
    assert_eq!(s.asked(), ["kill u-a", "forget u-a"]);
    assert!(s.agent.accepts("u-b"));
}

#[test]
fn another_uid_under_the_same_name_is_another_pod() {
    let mut s = Story::new();
    s.pod("a", web());
    s.asked();
    let mut second = s.api["u-a"].clone();
    second["metadata"]["uid"] = json!("u-a2");
    second["metadata"]["resourceVersion"] = json!("500");
    second["status"] = json!({"phase": "Pending"});
    s.api.insert("u-a2".into(), second.clone());
    s.tell(Input::Pod(Arc::new(second)));
    assert!(s.asked().contains(&"serve web on 8080".to_string()));
    assert_eq!(s.agent.pods(), 2);
    s.tell(Input::Gone { uid: "u-a".into() });
    assert!(s.agent.accepts("u-a2"));
}

#[test]
fn a_pod_already_leaving_when_the_runner_starts_is_deleted() {
    let mut s = Story::new();
    s.pod("a", web());
    s.hold.insert("delete");
    s.delete("a", 30);
    s.agent = Agent::new(AgentConfig::new("n1", "127.0.0.1"));
    s.hold.clear();
    s.asked();
    s.show("a");
    assert_eq!(s.asked(), ["kill u-a", "delete u-a", "forget u-a"]);
}

#[test]
fn an_ended_pod_left_by_an_earlier_runner_is_only_deleted() {
    let mut s = Story::new().hold("delete");
    s.pod("a", web());
    s.delete("a", 30);
    s.drained("a");
    assert_eq!(s.status("a")["phase"], "Succeeded");
    s.agent = Agent::new(AgentConfig::new("n1", "127.0.0.1"));
    s.hold.clear();
    s.asked();
    s.show("a");
    assert_eq!(s.asked(), ["delete u-a", "forget u-a"]);
}
