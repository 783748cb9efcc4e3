//! Services: which endpoints there are and what is said of each.

use coracle_api::Key;
use serde_json::json;

use super::{Cluster, check};

#[test]
fn endpoints_follow_readiness_and_named_ports() {
    check(
        "node n1
         service web target=http
         bad v1
         deploy web replicas=2
         run
         show slices
         good v1
         run
         show slices",
        "web ports 8080:
         web ports 8080: ready+serving ready+serving",
    );
}

#[test]
fn a_service_without_pods_has_one_empty_slice_and_without_selector_none() {
    let mut c = Cluster::new();
    c.play("service web\nrun");
    assert_eq!(c.play("show slices"), "web ports 8080: \n");
    c.put(
        "svc",
        json!({"metadata": {"name": "manual"}, "spec": {"ports": [{"port": 80}]}}),
    );
    c.run();
    assert_eq!(c.play("show slices"), "web ports 8080: \n");
    c.play("delete svc web\nrun");
    assert_eq!(
        c.play("show slices\nshow all default"),
        "nothing\nservices kubernetes\nservices manual\nconfigmaps kube-root-ca.crt\nserviceaccounts default\n"
    );
}

#[test]
fn slices_hold_a_hundred_and_endpoints_stay_where_they_are() {
    let mut c = Cluster::new();
    c.play("node n1 pods=400\nservice web\nrc web replicas=250\nrun");
    let sizes = |c: &Cluster| {
        let mut all: Vec<(String, usize, u64)> = c
            .view()
            .list(crate::endpoints::SLICES, None)
            .map(|s| {
                (
                    s.key.name.clone(),
                    s.value()["endpoints"].as_array().unwrap().len(),
                    s.revision,
                )
            })
            .collect();
        all.sort_by_key(|(_, n, _)| std::cmp::Reverse(*n));
        all
    };
    assert_eq!(
        sizes(&c).iter().map(|s| s.1).collect::<Vec<_>>(),
        [100, 100, 50]
    );
    let before = sizes(&c);
    let victim = c
        .view()
        .list(crate::endpoints::SLICES, None)
        .find(|s| s.key.name == before[2].0)
        .unwrap()
        .value()["endpoints"][0]["targetRef"]["name"]
        .as_str()
        .unwrap()
        .to_string();
    c.play("rc web replicas=250");
    c.delete("po", &Key::new("default", victim), None);
    c.run();
    let after = sizes(&c);
    assert_eq!(
        after.iter().map(|s| s.1).collect::<Vec<_>>(),
        [100, 100, 50]
    );
    let untouched = before.iter().filter(|b| after.contains(b)).count();
    assert_eq!(
        untouched, 2,
        "slices that the change does not concern are not written"
    );
    let mirror = c
        .view()
        .get("endpoints", &Key::new("default", "web"))
        .unwrap()
        .value();
    assert_eq!(
        mirror["subsets"][0]["addresses"].as_array().unwrap().len(),
        250
    );
}

#[test]
fn publish_not_ready_addresses_publishes_but_never_leaving_ones() {
    let mut c = Cluster::new();
    c.play("node n1\nservice web\nbad v1\nrc web replicas=2\nrun");
    c.edit("svc", &Key::new("default", "web"), |s| {
        s["spec"]["publishNotReadyAddresses"] = json!(true)
    });
    assert_eq!(c.play("run\nshow slices"), "web ports 8080: ready ready\n");
    assert_eq!(
        c.play("deaf n1\nrc web replicas=1\nrun\nshow slices"),
        "web ports 8080: ready terminating\n"
    );
}

#[test]
fn an_ingress_shows_the_address_of_the_nodes() {
    let mut c = Cluster::new();
    c.settings.ingress_addresses = vec!["127.0.0.1".into(), "edge.example".into()];
    c.put("ing", json!({"metadata": {"name": "ours"}, "spec": {}}));
    c.put(
        "ing",
        json!({"metadata": {"name": "theirs"}, "spec": {"ingressClassName": "other"}}),
    );
    c.run();
    let status = |name: &str| {
        c.view()
            .get("ingresses.networking.k8s.io", &Key::new("default", name))
            .unwrap()
            .value()["status"]
            .clone()
    };
    assert_eq!(
        status("ours"),
        json!({"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}, {"hostname": "edge.example"}]}})
    );
    assert_eq!(status("theirs"), json!(null));
}
