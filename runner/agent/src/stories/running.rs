//! Stories of pods that come up and run.

use super::*;

#[test]
fn a_service_is_pulled_compiled_linked_served_and_ready() {
    let mut s = Story::new();
    s.pod("a", web());
    assert_eq!(
        s.asked(),
        [
            "pull web web:1",
            "mount u-a",
            "prepare web",
            "link web",
            "serve web on 8080"
        ]
    );
    assert_eq!(s.status("a")["phase"], "Running");
    for c in ["Initialized", "ContainersReady", "Ready", "PodScheduled"] {
        assert_eq!(s.condition("a", c), "True", "{c}");
    }
    let c = s.container("a", "web");
    assert_eq!(
        (&c["ready"], &c["started"], &c["restartCount"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert_eq!(c["imageID"], "web:1@sha256:1");
    assert!(s.agent.accepts("u-a"));
    s.pass(3_600);
    assert_eq!(s.asked(), [""; 0], "a pod at rest asks for nothing");
}

#[test]
fn a_status_that_does_not_change_is_not_written_again() {
    let mut s = Story::new();
    s.pod("a", web());
    let writes = s.writes;
    s.edit("a", |p| p["metadata"]["labels"]["x"] = json!("y"));
    s.pass(100);
    assert_eq!(s.writes, writes);
}

#[test]
fn changes_while_a_write_is_under_way_become_one_write() {
    let mut s = Story::new().hold("status");
    s.pod("a", web());
    assert_eq!(
        s.writes, 1,
        "pulling, preparing, linking and serving wait for the first answer"
    );
    s.hold.clear();
    s.tell(Input::StatusFailed {
        uid: "u-a".into(),
        seq: 1,
        why: StatusFailure::Retry,
    });
    assert_eq!(s.writes, 1, "a failed write is not repeated at once");
    s.pass(6);
    assert_eq!(s.writes, 2);
    assert_eq!(s.status("a")["phase"], "Running");
}

#[test]
fn a_lost_answer_to_a_status_write_is_healed_by_writing_again() {
    let mut s = Story::new().hold("status");
    s.pod("a", web());
    s.hold.clear();
    s.pass(6);
    assert_eq!(s.condition("a", "Ready"), "True");
}

#[test]
fn a_conflicting_write_waits_for_the_newer_pod_and_keeps_its_conditions() {
    let mut s = Story::new().hold("link");
    s.pod("a", web());
    // Somebody adds a condition that the agent has not seen yet.
    s.revision += 1;
    let revision = s.revision.to_string();
    let pod = s.api.get_mut("u-a").unwrap();
    pod["metadata"]["resourceVersion"] = json!(revision);
    pod["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "x/Y", "status": "True"}));
    s.tell(Input::Linked {
        at: s.at("a", "web", 0),
    });
    assert_eq!(s.condition("a", "Ready"), "False", "the write was refused");
    s.show("a");
    assert_eq!(s.condition("a", "Ready"), "True");
    assert_eq!(s.condition("a", "x/Y"), "True");
}

#[test]
fn a_missing_image_backs_off_and_recovers() {
    let mut s = Story::new().hold("pull");
    s.pod("a", web());
    let fail = |s: &mut Story| {
        let problem = Problem::new(
            "E_IMAGE_NOT_FOUND",
            "web:1 is not in the registry",
            "Push it",
        );
        s.tell(Input::PullFailed {
            at: s.at("a", "web", 0),
            failure: PullFailure::Pull,
            problem,
        });
    };
    fail(&mut s);
    assert_eq!(s.waiting("a", "web").0, "ErrImagePull");
    s.pass(2);
    let (reason, message) = s.waiting("a", "web");
    assert_eq!(reason, "ImagePullBackOff");
    assert!(
        message.contains("E_IMAGE_NOT_FOUND: web:1 is not in the registry. Push it."),
        "{message}"
    );
    s.asked();
    s.pass(9);
    assert_eq!(s.asked(), ["pull web web:1"]);
    fail(&mut s);
    s.asked();
    s.pass(15);
    assert_eq!(s.asked(), [""; 0], "the second pause is 20 s");
    s.hold.clear();
    s.pass(6);
    assert_eq!(s.condition("a", "Ready"), "True");
}

#[test]
fn what_can_never_run_says_why_and_what_to_do() {
    let mut s = Story::new().hold("prepare");
    s.pod("a", web());
    let problem = Problem::new(
        "E_UNKNOWN_IMPORT",
        "nobody provides acme:db/sql@1.0.0",
        "Add a container that exports it",
    );
    s.tell(Input::PrepareFailed {
        at: s.at("a", "web", 0),
        problem,
        permanent: true,
    });
    let (reason, message) = s.waiting("a", "web");
    assert_eq!(reason, "CreateContainerError");
    assert_eq!(
        message,
        "E_UNKNOWN_IMPORT: nobody provides acme:db/sql@1.0.0. Add a container that exports it."
    );
    assert!(
        s.asked()
            .iter()
            .any(|a| a.starts_with("Warning Failed: Error: E_UNKNOWN_IMPORT"))
    );
    s.pass(3_600);
    assert_eq!(s.asked(), [""; 0], "the same bytes are not tried again");
}

#[test]
fn a_linux_image_is_named_as_such() {
    let mut s = Story::new().hold("pull");
    s.pod("a", web());
    let problem = Problem::new(
        "E_IMAGE_UNSUPPORTED",
        "nginx is a Linux image",
        "Use an image that holds Wasm",
    );
    s.tell(Input::PullFailed {
        at: s.at("a", "web", 0),
        failure: PullFailure::Unsupported,
        problem,
    });
    s.pass(5);
    assert_eq!(s.waiting("a", "web").0, "ErrImageUnsupported");
}

#[test]
fn readiness_follows_its_probe() {
    let mut s = Story::new().hold("probe");
    let mut spec = web();
    spec["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/ok", "port": 8080}, "periodSeconds": 5, "failureThreshold": 2});
    s.pod("a", spec);
    assert_eq!(s.condition("a", "Ready"), "False");
    let answer = |s: &mut Story, outcome| {
        s.tell(Input::Probed {
            at: s.at("a", "web", 0),
            kind: ProbeKind::Readiness,
            outcome,
        });
    };
    answer(&mut s, Ok(()));
    assert_eq!(s.condition("a", "Ready"), "True");
    s.pass(5);
    answer(&mut s, Err("status 500".into()));
    assert_eq!(s.condition("a", "Ready"), "True", "one failure of two");
    s.pass(5);
    answer(&mut s, Err("status 500".into()));
    assert_eq!(s.condition("a", "Ready"), "False");
    assert_eq!(s.status("a")["phase"], "Running");
    s.pass(5);
    answer(&mut s, Ok(()));
    assert_eq!(s.condition("a", "Ready"), "True");
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let mut s = Story::new().hold("probe");
    let mut spec = web();
    spec["containers"][0]["livenessProbe"] =
        json!({"httpGet": {"port": 8080}, "failureThreshold": 1});
    s.pod("a", spec);
    s.asked();
    s.tell(Input::Probed {
        at: s.at("a", "web", 0),
        kind: ProbeKind::Liveness,
        outcome: Err("status 500".into()),
    });
    let asked = s.asked();
    assert!(
        asked.contains(&"kill container web".to_string()),
        "{asked:?}"
    );
    assert!(
        asked.contains(&"serve web on 8080".to_string()),
        "{asked:?}"
    );
    assert_eq!(s.container("a", "web")["restartCount"], 1);
}

#[test]
fn traps_of_requests_are_told_once_in_a_while_and_the_service_stays() {
    let mut s = Story::new();
    s.pod("a", web());
    s.asked();
    for _ in 0..5 {
        s.tell(Input::Trapped {
            at: s.at("a", "web", 0),
            message: "unreachable".into(),
        });
    }
    s.pass(11);
    s.tell(Input::Trapped {
        at: s.at("a", "web", 0),
        message: "unreachable".into(),
    });
    assert_eq!(
        s.asked(),
        [
            "Warning Trap: A request trapped: unreachable",
            "Warning Trap: 5 requests trapped, the last one: unreachable"
        ]
    );
    assert_eq!(s.condition("a", "Ready"), "True");
}

#[test]
fn siblings_are_prepared_once_all_of_them_are_here() {
    let mut s = Story::new().hold("pull");
    s.pod(
        "a",
        json!({"containers": [{"name": "web", "image": "web:1"}, {"name": "lib", "image": "lib:1"}]}),
    );
    s.asked();
    let image = |name: &str| Image {
        digest: "sha256:1".into(),
        wasm: name.into(),
        id: "x".into(),
    };
    s.tell(Input::Pulled {
        at: s.at("a", "web", 0),
        image: image("web"),
        transfer: None,
    });
    assert_eq!(s.asked(), [""; 0]);
    s.tell(Input::Pulled {
        at: s.at("a", "lib", 0),
        image: image("lib"),
        transfer: Some(Transfer {
            bytes: 1_000,
            from: "node n2".into(),
            millis: 12,
        }),
    });
    assert_eq!(
        s.asked(),
        [
            "prepare web with lib",
            "prepare lib with web",
            "link web",
            "serve web on 80"
        ]
    );
    assert_eq!(s.condition("a", "Ready"), "True");
}

#[test]
fn init_containers_run_in_order_before_the_others() {
    let mut s = Story::new();
    let mut spec = web();
    spec["initContainers"] =
        json!([{"name": "i1", "image": "job:1"}, {"name": "i2", "image": "job:1"}]);
    s.pod("a", spec);
    let asked = s.asked();
    assert!(
        asked.contains(&"start i1 run 0".into()) && !asked.contains(&"start i2 run 0".into()),
        "{asked:?}"
    );
    assert_eq!(s.waiting("a", "web").0, "PodInitializing");
    assert_eq!(s.condition("a", "Initialized"), "False");
    s.exits("a", "i1", 0, 0);
    assert!(s.asked().contains(&"start i2 run 0".into()));
    s.exits("a", "i2", 0, 1);
    assert!(s.asked().contains(&"start i2 run 1".into()), "restarted");
    s.exits("a", "i2", 1, 0);
    assert_eq!(s.condition("a", "Initialized"), "True");
    assert_eq!(s.condition("a", "Ready"), "True");
}

#[test]
fn a_sidecar_runs_beside_and_ends_with_the_job() {
    let mut s = Story::new();
    let mut spec = job("Never");
    spec["initContainers"] = json!([{"name": "side", "image": "web:1", "restartPolicy": "Always"}]);
    s.pod("a", spec);
    assert!(s.asked().contains(&"start job run 0".into()));
    s.exits("a", "job", 0, 0);
    assert_eq!(s.asked(), ["kill u-a"]);
    assert_eq!(s.status("a")["phase"], "Succeeded");
}

#[test]
fn pods_of_other_nodes_and_older_revisions_are_refused() {
    let mut s = Story::new();
    s.pod("a", web());
    let old = s.api["u-a"].clone();
    s.edit("a", |p| p["metadata"]["labels"]["v"] = json!("2"));
    s.asked();
    let mut stale = old;
    stale["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    s.tell(Input::Pod(Arc::new(stale)));
    assert_eq!(s.asked(), [""; 0]);
    let mut foreign = s.api["u-a"].clone();
    foreign["metadata"]["uid"] = json!("u-b");
    foreign["spec"]["nodeName"] = json!("n2");
    s.tell(Input::Pod(Arc::new(foreign)));
    assert_eq!(s.agent.pods(), 1);
}

#[test]
fn results_of_an_earlier_run_are_not_believed() {
    let mut s = Story::new().hold("link");
    s.pod("a", web());
    s.asked();
    s.tell(Input::Linked {
        at: s.at("a", "web", 7),
    });
    s.tell(Input::Exited {
        at: s.at("a", "web", 0),
        exit: Exit::code(1),
    });
    s.tell(Input::Started {
        at: s.at("a", "web", 0),
    });
    assert_eq!(s.asked(), [""; 0]);
}

#[test]
fn a_newer_pod_that_overtakes_the_conflict_is_written_to_at_once() {
    let mut s = Story::new().hold("link");
    s.pod("a", web());
    // The write is on its way when somebody else's change arrives by the watch; its refusal comes last.
    s.hold.insert("status");
    s.tell(Input::Linked {
        at: s.at("a", "web", 0),
    });
    s.edit("a", |p| p["metadata"]["labels"]["x"] = json!("y"));
    s.hold.clear();
    let seq = s.writes as u64;
    s.tell(Input::StatusFailed {
        uid: "u-a".into(),
        seq,
        why: StatusFailure::Conflict,
    });
    assert_eq!(s.condition("a", "Ready"), "True");
}
