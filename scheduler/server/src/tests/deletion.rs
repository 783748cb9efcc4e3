//! Deletion: finalizers, propagation, preconditions, grace, namespaces, eviction.

use serde_json::json;

use super::*;

#[tokio::test]
async fn finalizers_hold_an_object() {
    let s = Server::new().await;
    let body = json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}});
    s.post(CONFIG_MAPS).body(&body).send().await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let marked = s.delete(&path).send().await.expect(200);
    assert_eq!(
        marked["metadata"]["deletionTimestamp"],
        "2027-01-15T08:00:00Z"
    );
    let before = s.revision();
    s.delete(&path).send().await.expect(200);
    assert_eq!(s.revision(), before, "a second deletion changes nothing");
    // A client cannot take the mark off again.
    let patched = s
        .patch(
            &path,
            MERGE,
            &json!({"metadata": {"deletionTimestamp": null}, "data": {"k": "1"}}),
        )
        .send()
        .await
        .expect(200);
    assert!(patched["metadata"]["deletionTimestamp"].is_string());
    s.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}}))
        .send()
        .await
        .expect(200);
    s.get(&path).send().await.refused(404, "NotFound");
}

#[tokio::test]
async fn propagation_is_written_as_a_finalizer() {
    let s = Server::new().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let name = policy.to_lowercase();
        s.post(DEPLOYMENTS)
            .body(&deployment(&name))
            .send()
            .await
            .expect(201);
        let marked = s
            .delete(&format!("{DEPLOYMENTS}/{name}"))
            .body(&json!({"propagationPolicy": policy}))
            .send()
            .await
            .expect(200);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        assert_eq!(marked["metadata"]["generation"], 2);
    }
    s.post(DEPLOYMENTS)
        .body(&deployment("web"))
        .send()
        .await
        .expect(201);
    s.delete(&format!("{DEPLOYMENTS}/web"))
        .body(&json!({"propagationPolicy": "Sideways"}))
        .send()
        .await
        .refused(400, "BadRequest");
    let gone = s
        .delete(&format!("{DEPLOYMENTS}/web?propagationPolicy=Background"))
        .send()
        .await
        .expect(200);
    assert_eq!(gone["details"]["group"], "apps");
}

#[tokio::test]
async fn preconditions_protect() {
    let s = Server::new().await;
    let made = s.config_map("a", "1").await;
    let path = format!("{CONFIG_MAPS}/a");
    s.delete(&path)
        .body(&json!({"preconditions": {"uid": "other"}}))
        .send()
        .await
        .refused(409, "Conflict");
    s.delete(&path)
        .body(&json!({"preconditions": {"resourceVersion": "1"}}))
        .send()
        .await
        .refused(409, "Conflict");
    let right = json!({"preconditions": {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}});
    s.delete(&path).body(&right).send().await.expect(200);
}

#[tokio::test]
async fn a_bound_pod_gets_its_grace() {
    let s = Server::new().await;
    s.post("/api/v1/nodes")
        .body(&node("n1"))
        .send()
        .await
        .expect(201);
    s.post(PODS).body(&pod("unbound")).send().await.expect(201);
    s.delete(&format!("{PODS}/unbound"))
        .send()
        .await
        .expect(200);
    s.get(&format!("{PODS}/unbound"))
        .send()
        .await
        .refused(404, "NotFound");

    s.post(PODS).body(&pod("p")).send().await.expect(201);
    let path = format!("{PODS}/p");
    s.post(&format!("{path}/binding"))
        .body(&json!({"target": {"kind": "Node", "name": "n1"}}))
        .send()
        .await
        .expect(201);
    let bound = s.get(&path).send().await.expect(200);
    assert!(
        bound["status"]["podIP"]
            .as_str()
            .unwrap()
            .starts_with("10.42.")
    );
    assert_eq!(bound["status"]["podIPs"][0]["ip"], bound["status"]["podIP"]);
    s.post(&format!("{path}/binding"))
        .body(&json!({"target": {"kind": "Node", "name": "n1"}}))
        .send()
        .await
        .refused(409, "Conflict");
    let marked = s.delete(&path).send().await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(
        marked["metadata"]["deletionTimestamp"],
        "2027-01-15T08:00:30Z"
    );
    let longer = s
        .delete(&format!("{path}?gracePeriodSeconds=60"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        longer["metadata"]["deletionGracePeriodSeconds"], 30,
        "never longer"
    );
    let shorter = s
        .delete(&format!("{path}?gracePeriodSeconds=5"))
        .send()
        .await
        .expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    // The runner reports the end.
    s.delete(&path)
        .body(
            &json!({"gracePeriodSeconds": 0, "preconditions": {"uid": marked["metadata"]["uid"]}}),
        )
        .send()
        .await
        .expect(200);
    s.get(&path).send().await.refused(404, "NotFound");
}

#[tokio::test]
async fn a_full_node_takes_no_more() {
    let s = Server::new().await;
    s.post("/api/v1/nodes")
        .body(&node("n1"))
        .send()
        .await
        .expect(201);
    let mut big = pod("big");
    big["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "3"}});
    s.post(PODS).body(&big).send().await.expect(201);
    big["metadata"]["name"] = json!("big2");
    s.post(PODS).body(&big).send().await.expect(201);
    let target = json!({"target": {"kind": "Node", "name": "n1"}});
    s.post(&format!("{PODS}/big/binding"))
        .body(&target)
        .send()
        .await
        .expect(201);
    let status = s
        .post(&format!("{PODS}/big2/binding"))
        .body(&target)
        .send()
        .await
        .refused(409, "Conflict");
    assert!(
        status["message"].as_str().unwrap().contains("cpu"),
        "{status}"
    );
    s.post(&format!("{PODS}/big2/binding"))
        .body(&json!({"target": {"name": "n2"}}))
        .send()
        .await
        .refused(409, "Conflict");
}

#[tokio::test]
async fn eviction_is_a_deletion_with_201() {
    let s = Server::new().await;
    s.post(PODS).body(&pod("p")).send().await.expect(201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "default"}});
    let done = s
        .post(&format!("{PODS}/p/eviction"))
        .body(&eviction)
        .send()
        .await
        .expect(201);
    assert_eq!(
        (&done["kind"], &done["status"]),
        (&json!("Status"), &json!("Success"))
    );
    s.post(&format!("{PODS}/p/eviction"))
        .body(&eviction)
        .send()
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn a_namespace_goes_when_its_finalizer_goes() {
    let s = Server::new().await;
    let made = s
        .post("/api/v1/namespaces")
        .body(&json!({"metadata": {"name": "team"}}))
        .send()
        .await
        .expect(201);
    assert_eq!(
        (&made["spec"]["finalizers"], &made["status"]["phase"]),
        (&json!(["kubernetes"]), &json!("Active"))
    );
    assert_eq!(
        made["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "team"
    );
    let marked = s.delete("/api/v1/namespaces/team").send().await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let status = s
        .post("/api/v1/namespaces/team/configmaps")
        .body(&json!({"metadata": {"name": "a"}}))
        .send()
        .await
        .refused(403, "Forbidden");
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    // spec is not for clients.
    s.patch(
        "/api/v1/namespaces/team",
        MERGE,
        &json!({"spec": {"finalizers": []}}),
    )
    .send()
    .await
    .expect(200);
    let mut last = s.get("/api/v1/namespaces/team").send().await.expect(200);
    last["spec"]["finalizers"] = json!([]);
    s.put("/api/v1/namespaces/team/finalize")
        .body(&last)
        .send()
        .await
        .expect(200);
    s.get("/api/v1/namespaces/team")
        .send()
        .await
        .refused(404, "NotFound");
    s.delete("/api/v1/namespaces/default")
        .send()
        .await
        .refused(403, "Forbidden");
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let s = Server::new().await;
    for (name, data) in [("a", "1"), ("b", "2"), ("c", "1")] {
        s.config_map(name, data).await;
    }
    let gone = s
        .delete(&format!("{CONFIG_MAPS}?labelSelector=d%3D1"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&gone["kind"], gone["items"].as_array().unwrap().len()),
        (&json!("ConfigMapList"), 2)
    );
    let left = s.get(CONFIG_MAPS).send().await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
    s.delete("/api/v1/configmaps")
        .send()
        .await
        .refused(405, "MethodNotAllowed");
}
