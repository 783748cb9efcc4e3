//! Owners, dependents, namespaces, and forgetting.

use coracle_api::{Key, meta};
use serde_json::json;

use super::{Cluster, check};

#[test]
fn deleting_a_deployment_takes_everything_along() {
    check(
        "node n1
         deploy web replicas=2
         service web
         run
         delete deploy web
         delete svc web
         run
         show rs
         show pods
         show slices",
        "nothing
         nothing
         nothing",
    );
}

#[test]
fn orphaning_leaves_the_pods_and_a_new_owner_takes_them() {
    let mut c = Cluster::new();
    c.play("node n1\nrc web replicas=2\nrun\ndelete rc web finalizer=orphan\nrun");
    assert_eq!(
        c.play("show rc\nshow pods"),
        format!("nothing\n{}", c.play("show pods"))
    );
    assert_eq!(
        c.view()
            .list("pods", None)
            .filter(|p| p.attrs.owners.is_empty())
            .count(),
        2
    );
    let uids = |c: &Cluster| {
        c.view()
            .list("pods", None)
            .map(|p| p.attrs.uid.clone())
            .collect::<Vec<_>>()
    };
    let before = uids(&c);
    c.play("rc web replicas=2\nrun");
    assert_eq!(uids(&c), before);
    assert!(
        c.view()
            .list("pods", None)
            .all(|p| p.attrs.controller().is_some())
    );
}

#[test]
fn foreground_deletion_waits_for_dependents() {
    let mut c = Cluster::new();
    c.play("node n1\ndeploy web replicas=1\nservice web\nrun\ndeaf n1\ndelete deploy web finalizer=foregroundDeletion\nrun");
    assert!(
        c.view()
            .get("deployments.apps", &Key::new("default", "web"))
            .is_some(),
        "the pod is still leaving"
    );
    c.play("hears n1\nrun");
    assert_eq!(
        c.play("show deploy\nshow rs\nshow pods"),
        "nothing\nnothing\nnothing\n"
    );
}

#[test]
fn a_namespace_is_furnished_emptied_and_removed() {
    let mut c = Cluster::new();
    c.play("node n1\nnamespace team\nrun");
    assert_eq!(
        c.play("show all team"),
        "configmaps kube-root-ca.crt\nserviceaccounts default\n"
    );
    c.put(
        "cm",
        json!({"metadata": {"name": "held", "namespace": "team", "finalizers": ["example.com/x"]}}),
    );
    c.put("po", json!({"metadata": {"name": "p", "namespace": "team"}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}));
    c.run();
    c.delete("ns", &Key::new("", "team"), None);
    c.run();
    let ns = c
        .view()
        .get("namespaces", &Key::new("", "team"))
        .unwrap()
        .value();
    let said = |kind: &str| {
        crate::pods::condition(&ns, kind).unwrap()["message"]
            .as_str()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        said("NamespaceContentRemaining"),
        "Some resources are remaining: configmaps has 1 resource instances"
    );
    assert_eq!(
        said("NamespaceFinalizersRemaining"),
        "Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances"
    );
    assert_eq!(c.play("show all team"), "configmaps held\n");
    c.commit(vec![coracle_state::Command::delete(
        "configmaps",
        Key::new("team", "held"),
        coracle_state::Expect::Any,
    )]);
    c.run();
    assert_eq!(c.play("show all team"), "nothing\n");
    assert!(c.view().get("namespaces", &Key::new("", "team")).is_none());
}

#[test]
fn the_ca_map_is_kept_and_follows_the_ca() {
    let mut c = Cluster::new();
    c.play("run\ndelete cm kube-root-ca.crt\nrun");
    let map = |c: &Cluster| {
        c.view()
            .get("configmaps", &Key::new("default", "kube-root-ca.crt"))
            .unwrap()
            .value()["data"]["ca.crt"]
            .clone()
    };
    assert_eq!(map(&c), "PEM");
    c.settings.ca_pem = "NEW".into();
    c.queue = crate::Queue::default();
    c.run();
    assert_eq!(map(&c), "NEW");
}

#[test]
fn events_are_counted_then_forgotten() {
    let mut c = Cluster::new();
    c.play("pod p cpu=9\nrun\ndelete po p\npod p cpu=9\nrun");
    let events = c.play("show events FailedScheduling");
    assert_eq!(
        events.lines().count(),
        2,
        "another uid is another pod: {events}"
    );
    c.play("wait 3700s");
    assert_eq!(c.play("show events"), "nothing\n");
}

#[test]
fn events_beyond_their_budget_go_oldest_first() {
    let names = |c: &Cluster| -> Vec<String> {
        let mut all: Vec<_> = c.view().list("events", None).cloned().collect();
        all.sort_by_key(|e| e.revision);
        all.into_iter().map(|e| e.key.name.clone()).collect()
    };
    for bytes in [false, true] {
        let mut c = Cluster::new();
        for i in [3, 1, 4, 0, 2] {
            let time = meta::time_text(c.now);
            let event = json!({"metadata": {"name": format!("e{i}"), "namespace": "default"}, "lastTimestamp": time});
            c.put("events", event);
        }
        let one = c.view().list("events", None).next().unwrap().bytes.len();
        match bytes {
            true => c.settings.event_bytes_max = one * 2 + 1,
            false => c.settings.events_max = 2,
        }
        c.play("wait 61s");
        assert_eq!(names(&c), ["e0", "e2"], "by bytes: {bytes}");
    }
}

#[test]
fn ended_pods_beyond_the_bound_go_oldest_first() {
    let mut c = Cluster::new();
    c.settings.ended_pods_max = 1;
    c.play("node n1\npod a\npod b\npod c\nrun");
    for name in ["b", "a", "c"] {
        c.edit("po", &Key::new("default", name), |p| {
            p["status"]["phase"] = json!("Succeeded")
        });
        c.plan();
    }
    c.plan();
    let left: Vec<_> = c
        .view()
        .list("pods", None)
        .map(|p| p.key.name.clone())
        .collect();
    assert_eq!(left, ["c"]);
}
