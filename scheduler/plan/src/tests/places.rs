//! Placement: where pods go, and what is said when they go nowhere.

use super::{Cluster, check};

#[test]
fn replicas_spread_over_nodes() {
    check(
        "node n1
         node n2
         node n3
         deploy web replicas=6
         run
         show pods",
        r#"v1 on "n1" ready
         v1 on "n1" ready
         v1 on "n2" ready
         v1 on "n2" ready
         v1 on "n3" ready
         v1 on "n3" ready"#,
    );
}

#[test]
fn what_does_not_fit_waits_and_says_why() {
    check(
        "node n1 cpu=1
         node n2 cpu=2 taint=gpu:yes:NoSchedule
         node n3 cpu=8 pods=0
         pod big cpu=1500m
         run
         show pods
         show waits
         show events FailedScheduling
         say more room
         node n4 cpu=4
         run
         show pods
         show waits",
        r#"big on "" not ready
         0/3 nodes are available: 1 Insufficient cpu, 1 Too many pods, 1 node(s) had untolerated taint {gpu: yes}.
         Warning FailedScheduling: 0/3 nodes are available: 1 Insufficient cpu, 1 Too many pods, 1 node(s) had untolerated taint {gpu: yes}. (x1)
         more room
         big on "n4" ready
         nothing"#,
    );
}

#[test]
fn no_node_at_all_is_said_too() {
    check(
        "pod p\nrun\nshow waits",
        "no nodes available to schedule pods",
    );
}

#[test]
fn selectors_tolerations_and_cordons_count() {
    check(
        "node n1 zone=a
         node n2 zone=b taint=gpu:yes:NoSchedule
         deploy web replicas=1 zone=b
         pod p tolerates=gpu
         run
         show waits",
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint {gpu: yes}.",
    );
    let mut c = Cluster::new();
    c.play("node n1\nrun");
    c.edit("no", &coracle_api::Key::new("", "n1"), |n| {
        n["spec"]["unschedulable"] = serde_json::json!(true)
    });
    assert_eq!(
        c.play("run\npod p\nrun\nshow nodes\nshow waits"),
        "n1 Ready=True node.kubernetes.io/unschedulable:NoSchedule\n0/1 nodes are available: 1 node(s) were unschedulable.\n"
    );
}

#[test]
fn required_affinity_terms_are_alternatives() {
    let mut c = Cluster::new();
    c.play("node n1 zone=a\nnode n2 zone=b\nnode n3");
    let place = |c: &mut Cluster, name: &str, terms: serde_json::Value| {
        c.put("po", serde_json::json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "v1"}], "affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}}));
        c.run();
        c.view()
            .get("pods", &coracle_api::Key::new("default", name))
            .unwrap()
            .attrs
            .node_name
            .clone()
    };
    let expr = |key: &str, op: &str, values: &[&str]| serde_json::json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
    assert_eq!(
        place(
            &mut c,
            "in",
            serde_json::json!([expr("zone", "In", &["x"]), expr("zone", "In", &["b"])])
        ),
        "n2"
    );
    assert_eq!(
        place(
            &mut c,
            "absent",
            serde_json::json!([expr("zone", "DoesNotExist", &[])])
        ),
        "n3"
    );
    assert_eq!(place(&mut c, "none", serde_json::json!([{}])), "");
    let field = serde_json::json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]);
    assert_eq!(place(&mut c, "field", field), "n1");
}

#[test]
fn a_node_that_fills_up_takes_exactly_what_it_holds() {
    check(
        "node n1 cpu=1
         deploy web replicas=5 cpu=300m
         run
         show rs
         show waits",
        "1 image=v1 want=5 have=5 ready=3 available=3
         0/1 nodes are available: 1 Insufficient cpu.
         0/1 nodes are available: 1 Insufficient cpu.",
    );
}

#[test]
fn a_small_pod_range_runs_out_and_says_so() {
    let mut c = Cluster::new();
    c.settings.pod_range_bits = 30;
    c.play("node n1\nrc web replicas=3\nrun");
    assert_eq!(
        c.play("show rc"),
        "- image=v1 want=3 have=3 ready=2 available=2\n"
    );
    assert!(
        c.play("show events FailedScheduling")
            .contains("every address of the pod range is in use")
    );
}
