//! Ownership laws of server-side apply, told as kubectl sessions.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::meta;

fn kind() -> &'static Kind {
    crate::kinds::by_word("deploy").unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn config(replicas: Option<i64>, image: &str) -> Value {
    let mut d = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image, "ports": [{"containerPort": 80}]}]}}}});
    if let Some(n) = replicas {
        d["spec"]["replicas"] = json!(n);
    }
    d
}

fn apply(
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, ApiError> {
    server_side(kind(), live, applied, manager, force, None, at(0))
}

fn without_record(mut object: Value) -> Value {
    meta::metadata(&mut object).remove("managedFields");
    object
}

#[test]
fn the_first_apply_creates_and_owns() {
    let d = apply(None, &config(Some(3), "a:1"), "kubectl", false).unwrap();
    assert_eq!(without_record(d.clone()), config(Some(3), "a:1"));
    let record = &d["metadata"]["managedFields"];
    assert_eq!(record.as_array().unwrap().len(), 1);
    assert_eq!(record[0]["manager"], "kubectl");
    assert_eq!(record[0]["operation"], "Apply");
    assert_eq!(record[0]["apiVersion"], "apps/v1");
    assert_eq!(record[0]["fieldsV1"]["f:spec"]["f:replicas"], json!({}));
    assert_eq!(
        record[0]["fieldsV1"]["f:metadata"],
        json!({"f:labels": {"f:app": {}}})
    );
    let container = &record[0]["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"web\"}"];
    assert_eq!(container["."], json!({}));
    assert_eq!(
        container["f:ports"]["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"]["f:containerPort"],
        json!({})
    );
}

#[test]
fn the_same_apply_again_changes_nothing_at_all() {
    let first = apply(None, &config(Some(3), "a:1"), "kubectl", false).unwrap();
    let again = server_side(
        kind(),
        Some(&first),
        &config(Some(3), "a:1"),
        "kubectl",
        false,
        None,
        at(60),
    )
    .unwrap();
    assert_eq!(again, first);
}

#[test]
fn another_owner_conflicts_until_forced() {
    let live = apply(None, &config(Some(3), "a:1"), "kubectl", false).unwrap();
    let error = apply(Some(&live), &config(Some(5), "a:1"), "scaler", false).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas"
    );
    assert_eq!(
        error.causes,
        [Cause {
            field: ".spec.replicas".into(),
            reason: "FieldManagerConflict".into(),
            message: "conflict with \"kubectl\"".into()
        }]
    );

    let shared = apply(Some(&live), &config(Some(3), "a:1"), "scaler", false).unwrap();
    assert_eq!(
        shared["metadata"]["managedFields"]
            .as_array()
            .unwrap()
            .len(),
        2,
        "an equal value is shared, not in conflict"
    );

    let forced = apply(Some(&live), &config(Some(5), "a:1"), "scaler", true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 5);
    let error = apply(Some(&forced), &config(Some(3), "a:2"), "kubectl", false).unwrap_err();
    assert_eq!(
        error.causes.len(),
        2,
        "the scaler owns replicas now, and shares the image: {error}"
    );
    assert!(error.message.starts_with("Apply failed with 2 conflicts: conflicts with \"scaler\":\n- .spec.replicas\n- .spec.template"), "{error}");
}

#[test]
fn fields_no_longer_applied_go_unless_shared() {
    let live = apply(None, &config(Some(3), "a:1"), "kubectl", false).unwrap();
    let gone = apply(Some(&live), &config(None, "a:1"), "kubectl", false).unwrap();
    assert_eq!(gone["spec"].get("replicas"), None);

    let shared = apply(Some(&live), &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 3}}), "scaler", false).unwrap();
    let kept = apply(Some(&shared), &config(None, "a:1"), "kubectl", false).unwrap();
    assert_eq!(kept["spec"]["replicas"], 3);

    let mut no_ports = config(Some(3), "a:1");
    no_ports["spec"]["template"]["spec"]["containers"][0]
        .as_object_mut()
        .unwrap()
        .remove("ports");
    let done = apply(Some(&live), &no_ports, "kubectl", false).unwrap();
    assert_eq!(
        without_record(done),
        no_ports,
        "the emptied list goes with its last item"
    );

    let mut no_labels = config(Some(3), "a:1");
    no_labels["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("labels");
    let done = apply(Some(&live), &no_labels, "kubectl", false).unwrap();
    assert_eq!(without_record(done), no_labels);
}

#[test]
fn a_container_of_another_manager_stays() {
    let live = apply(None, &config(Some(3), "a:1"), "kubectl", false).unwrap();
    let sidecar = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s:1"}]}}}});
    let live = apply(Some(&live), &sidecar, "injector", false).unwrap();
    let names = |d: &Value| -> Vec<String> {
        d["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().into())
            .collect()
    };
    assert_eq!(names(&live), ["web", "side"]);
    let live = apply(Some(&live), &config(Some(3), "a:2"), "kubectl", false).unwrap();
    assert_eq!(names(&live), ["web", "side"]);
    let empty = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
    let live = apply(Some(&live), &empty, "injector", false).unwrap();
    assert_eq!(names(&live), ["web"]);
}

#[test]
fn updates_take_ownership_of_what_they_change() {
    let live = apply(None, &config(Some(3), "a:1"), "kubectl", false).unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(7);
    track_update(
        kind(),
        Some(&live),
        &mut scaled,
        "kubectl-scale",
        Some("scale"),
        at(5),
    );
    let record = scaled["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(record.len(), 2);
    assert_eq!(record[0]["fieldsV1"]["f:spec"].get("f:replicas"), None);
    assert_eq!(record[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(record[1]["subresource"], "scale");
    let error = apply(Some(&scaled), &config(Some(3), "a:1"), "kubectl", false).unwrap_err();
    assert!(
        error.message.contains(
            "conflict with \"kubectl-scale\" with subresource \"scale\" using apps/v1 at 20"
        ),
        "{error}"
    );
    let mut same = scaled.clone();
    track_update(kind(), Some(&scaled), &mut same, "someone", None, at(9));
    assert_eq!(same, scaled, "a write that changes nothing leaves no trace");
}

#[test]
fn creating_and_clearing_the_record() {
    let mut created = config(Some(1), "a:1");
    track_update(kind(), None, &mut created, "kubectl-create", None, at(0));
    assert_eq!(
        created["metadata"]["managedFields"][0]["operation"],
        "Update"
    );
    let mut cleared = created.clone();
    cleared["metadata"]["managedFields"] = json!([{}]);
    track_update(kind(), Some(&created), &mut cleared, "x", None, at(1));
    assert_eq!(cleared["metadata"].get("managedFields"), None);
    let error = apply(Some(&cleared), &config(Some(2), "a:1"), "kubectl", false).unwrap_err();
    assert!(error.message.contains("before-first-apply"), "{error}");
}

#[test]
fn many_updaters_are_folded() {
    let mut live = config(Some(0), "a:1");
    for i in 0..30 {
        let old = live.clone();
        live["metadata"]["labels"][format!("l{i}")] = json!("x");
        track_update(
            kind(),
            Some(&old),
            &mut live,
            &format!("m{i:02}"),
            None,
            at(i),
        );
    }
    let record = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(record.len(), 11);
    assert!(record.iter().any(|e| e["manager"] == "ancient-changes"
        && e["fieldsV1"]["f:metadata"]["f:labels"]["f:l0"].is_object()));
}

#[test]
fn status_belongs_to_its_subresource() {
    let mut with_status = config(Some(1), "a:1");
    with_status["status"] = json!({"replicas": 9});
    let live = apply(None, &with_status, "kubectl", false).unwrap();
    assert_eq!(live.get("status"), None);
    let live = server_side(
        kind(),
        Some(&live),
        &with_status,
        "controller",
        false,
        Some("status"),
        at(1),
    )
    .unwrap();
    assert_eq!(live["status"]["replicas"], 9);
    let entry = live["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["manager"] == "controller")
        .unwrap()
        .clone();
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(entry["subresource"], "status");
}

#[test]
fn bad_configurations_are_refused() {
    for (change, word) in [
        (
            json!({"metadata": {"managedFields": [{"manager": "x"}]}}),
            "managedFields must be nil",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}),
            "lacks its key name",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}}),
            "duplicate entries",
        ),
    ] {
        let error = apply(None, &change, "kubectl", false).unwrap_err();
        assert_eq!(error.code, 400);
        assert!(error.message.contains(word), "{error}");
    }
    assert_eq!(
        apply(None, &config(None, "a"), "", false).unwrap_err().code,
        400
    );
}

prop_compose! {
    fn deployments()(replicas in proptest::option::of(0..5i64), labels in proptest::collection::btree_map("[a-c]", "[x-z]", 0..3),
        containers in proptest::collection::btree_map("[a-d]", ("[m-o]", proptest::collection::btree_map("[A-C]", "[0-9]", 0..3), proptest::collection::vec("[p-r]", 0..3)), 1..4),
        finalizers in proptest::collection::btree_set("[f-h]", 0..3), tolerations in proptest::collection::vec("[t-v]", 0..3)) -> Value {
        let containers: Vec<Value> = containers.into_iter().map(|(name, (image, env, args))| {
            let env: Vec<Value> = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            let mut c = json!({"name": name, "image": image});
            if !env.is_empty() { c["env"] = json!(env); }
            if !args.is_empty() { c["args"] = json!(args); }
            c
        }).collect();
        let mut d = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"template": {"spec": {"containers": containers}}}});
        if let Some(n) = replicas { d["spec"]["replicas"] = json!(n); }
        if !labels.is_empty() { d["metadata"]["labels"] = json!(labels); }
        if !finalizers.is_empty() { d["metadata"]["finalizers"] = json!(finalizers); }
        if !tolerations.is_empty() { d["spec"]["template"]["spec"]["tolerations"] = json!(tolerations.iter().map(|k| json!({"key": k})).collect::<Vec<_>>()); }
        d
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn one_manager_gets_exactly_what_it_applies(a in deployments(), b in deployments()) {
        let first = apply(None, &a, "m", false).unwrap();
        prop_assert_eq!(without_record(first.clone()), a);
        let second = apply(Some(&first), &b, "m", false).unwrap();
        prop_assert_eq!(without_record(second.clone()), b.clone());
        prop_assert_eq!(apply(Some(&second), &b, "m", false).unwrap(), second);
    }

    #[test]
    fn force_wins_and_nothing_of_the_winner_is_lost(a in deployments(), b in deployments()) {
        let first = apply(None, &a, "m", false).unwrap();
        let second = apply(Some(&first), &b, "n", true).unwrap();
        let leaves = collect(Node::of(kind()).unwrap(), &second).unwrap();
        for (path, value) in collect(Node::of(kind()).unwrap(), &b).unwrap() {
            prop_assert_eq!(leaves.get(&path), Some(&value), "{}", show(&path));
        }
        prop_assert!(apply(Some(&second), &b, "n", false).is_ok());
    }

    #[test]
    fn a_strategic_patch_of_the_whole_object_is_the_object(a in deployments()) {
        prop_assert_eq!(crate::patch::strategic(kind(), &a, &a).unwrap(), a.clone());
        prop_assert_eq!(crate::patch::strategic(kind(), &json!({}), &a).unwrap(), a.clone());
        prop_assert_eq!(crate::patch::strategic(kind(), &a, &json!({})).unwrap(), a);
    }

    #[test]
    fn merging_a_difference_gives_the_target(a in deployments(), b in deployments()) {
        let mut live = a.clone();
        crate::patch::merge(&mut live, &difference(&a, &b));
        prop_assert_eq!(live, b);
    }

    #[test]
    fn a_strategic_difference_gives_the_target(a in deployments(), b in deployments()) {
        let node = Node::of(kind());
        prop_assert_eq!(crate::patch::strategic(kind(), &a, &strategic_difference(node, &a, &b)).unwrap(), b);
    }
}

/// The merge patch from `a` to `b`.
fn difference(a: &Value, b: &Value) -> Value {
    let (Some(x), Some(y)) = (a.as_object(), b.as_object()) else {
        return b.clone();
    };
    let mut out = serde_json::Map::new();
    for key in x.keys().filter(|k| !y.contains_key(*k)) {
        out.insert(key.clone(), Value::Null);
    }
    for (key, value) in y {
        if x.get(key) != Some(value) {
            out.insert(
                key.clone(),
                x.get(key)
                    .map_or_else(|| value.clone(), |old| difference(old, value)),
            );
        }
    }
    Value::Object(out)
}

/// The strategic patch from `a` to `b`, written the way kubectl does: element order, deletions by key.
fn strategic_difference(node: Option<Node>, a: &Value, b: &Value) -> Value {
    let (Some(x), Some(y)) = (a.as_object(), b.as_object()) else {
        return b.clone();
    };
    let mut out = serde_json::Map::new();
    for key in x.keys().filter(|k| !y.contains_key(*k)) {
        out.insert(key.clone(), Value::Null);
    }
    for (key, value) in y {
        let Some(old) = x.get(key) else {
            out.insert(key.clone(), value.clone());
            continue;
        };
        if old == value {
            continue;
        }
        let child = node.and_then(|n| n.field(key));
        let strategy = node.map(|n| crate::mergekeys::rule(n.name, key).strategic);
        match (strategy, old.as_array(), value.as_array()) {
            (Some(crate::mergekeys::Strategic::Merge(k)), Some(old), Some(new)) => {
                let item = child.and_then(Node::item);
                let mut patch = Vec::new();
                for n in new {
                    let found = old.iter().find(|o| o[k] == n[k]);
                    let mut d =
                        found.map_or_else(|| n.clone(), |o| strategic_difference(item, o, n));
                    d[k] = n[k].clone();
                    patch.push(d);
                }
                patch.extend(
                    old.iter()
                        .filter(|o| !new.iter().any(|n| n[k] == o[k]))
                        .map(|o| json!({k: o[k], "$patch": "delete"})),
                );
                out.insert(
                    format!("$setElementOrder/{key}"),
                    new.iter().map(|n| json!({k: n[k]})).collect(),
                );
                out.insert(key.clone(), json!(patch));
            }
            (Some(crate::mergekeys::Strategic::Union), Some(old), Some(new)) => {
                let delete: Vec<&Value> = old.iter().filter(|o| !new.contains(o)).collect();
                let add: Vec<&Value> = new.iter().filter(|n| !old.contains(n)).collect();
                out.insert(format!("$deleteFromPrimitiveList/{key}"), json!(delete));
                out.insert(format!("$setElementOrder/{key}"), json!(new));
                out.insert(key.clone(), json!(add));
            }
            _ => drop(out.insert(key.clone(), strategic_difference(child, old, value))),
        }
    }
    Value::Object(out)
}
