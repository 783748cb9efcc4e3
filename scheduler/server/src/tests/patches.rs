//! The patch types through the API.

use serde_json::json;

use super::*;

const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test]
async fn json_patch_tests_and_changes() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    let path = format!("{CONFIG_MAPS}/a");
    let ops = json!([{"op": "test", "path": "/data/k", "value": "1"}, {"op": "replace", "path": "/data/k", "value": "2"}]);
    assert_eq!(
        s.patch(&path, JSON_PATCH, &ops).send().await.expect(200)["data"]["k"],
        "2"
    );
    let failed = s.patch(&path, JSON_PATCH, &ops).send().await;
    assert!((400..500).contains(&failed.code), "{failed:?}");
    s.patch(&path, JSON_PATCH, &json!({"data": {}}))
        .send()
        .await
        .refused(400, "BadRequest");
    s.patch(&path, "text/plain", &json!({}))
        .send()
        .await
        .refused(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn strategic_merge_goes_by_container_name() {
    let s = Server::new().await;
    s.post(DEPLOYMENTS)
        .body(&deployment("web"))
        .send()
        .await
        .expect(201);
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "hello:2"}, {"name": "side", "image": "side:1"}]}}}});
    let patched = s
        .patch(&format!("{DEPLOYMENTS}/web"), STRATEGIC, &patch)
        .send()
        .await
        .expect(200);
    let containers = patched["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    assert_eq!(containers.len(), 2);
    assert!(
        containers
            .iter()
            .any(|c| c["name"] == "main" && c["image"] == "hello:2")
    );
}

#[tokio::test]
async fn apply_makes_then_changes_then_conflicts() {
    let s = Server::new().await;
    let path = format!("{CONFIG_MAPS}/a");
    let config = |v: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": v}});
    s.patch(&path, APPLY, &config("1"))
        .send()
        .await
        .refused(400, "BadRequest");
    let made = s
        .patch(&format!("{path}?fieldManager=one"), APPLY, &config("1"))
        .send()
        .await
        .expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    let before = s.revision();
    s.patch(&format!("{path}?fieldManager=one"), APPLY, &config("1"))
        .send()
        .await
        .expect(200);
    assert_eq!(s.revision(), before, "the same again is no write");
    assert_eq!(
        s.patch(&format!("{path}?fieldManager=one"), APPLY, &config("2"))
            .send()
            .await
            .expect(200)["data"]["k"],
        "2"
    );
    let status = s
        .patch(&format!("{path}?fieldManager=two"), APPLY, &config("3"))
        .send()
        .await
        .refused(409, "Conflict");
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "FieldManagerConflict"
    );
    let forced = s
        .patch(
            &format!("{path}?fieldManager=two&force=true"),
            APPLY,
            &config("3"),
        )
        .send()
        .await
        .expect(200);
    assert_eq!(forced["data"]["k"], "3");
    // YAML, as the type says.
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  k: \"1\"\n";
    s.ask("PATCH", &format!("{CONFIG_MAPS}/y?fieldManager=one"))
        .raw(APPLY, yaml)
        .send()
        .await
        .expect(201);
}

#[tokio::test]
async fn writers_are_recorded() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    let patched = s
        .patch(
            &format!("{CONFIG_MAPS}/a?fieldManager=kubectl-label"),
            MERGE,
            &json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .send()
        .await
        .expect(200);
    let managers: Vec<&str> = patched["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["manager"].as_str().unwrap())
        .collect();
    assert!(
        managers.contains(&"test") && managers.contains(&"kubectl-label"),
        "{managers:?}"
    );
}
