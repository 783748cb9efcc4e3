//! Creating, reading and changing objects.

use std::sync::atomic::Ordering;

use coracle_state::{Command, Expect, Key};
use serde_json::json;

use super::*;

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let s = Server::new().await;
    let made = s.config_map("a", "1").await;
    assert_eq!(made["kind"], "ConfigMap");
    assert_eq!(
        made["metadata"]["creationTimestamp"],
        "2027-01-15T08:00:00Z"
    );
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!(
        made["metadata"]["resourceVersion"],
        s.revision().to_string()
    );
    assert_eq!(
        s.get(&format!("{CONFIG_MAPS}/a")).send().await.expect(200),
        made
    );

    let mut next = made.clone();
    next["data"]["k"] = json!("2");
    let put = s
        .put(&format!("{CONFIG_MAPS}/a"))
        .body(&next)
        .send()
        .await
        .expect(200);
    assert_eq!(put["data"]["k"], "2");
    assert_eq!(put["metadata"]["uid"], made["metadata"]["uid"]);
    // The old revision is a conflict now, and says which object.
    let status = s
        .put(&format!("{CONFIG_MAPS}/a"))
        .body(&next)
        .send()
        .await
        .refused(409, "Conflict");
    assert_eq!(status["details"]["name"], "a");
    // A write that changes nothing takes no revision.
    let before = s.revision();
    let mut same = put.clone();
    same["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    let again = s
        .put(&format!("{CONFIG_MAPS}/a"))
        .body(&same)
        .send()
        .await
        .expect(200);
    assert_eq!(
        (s.revision(), &again["metadata"]["resourceVersion"]),
        (before, &put["metadata"]["resourceVersion"])
    );

    let gone = s
        .delete(&format!("{CONFIG_MAPS}/a"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&gone["status"], &gone["details"]["uid"]),
        (&json!("Success"), &made["metadata"]["uid"])
    );
    s.get(&format!("{CONFIG_MAPS}/a"))
        .send()
        .await
        .refused(404, "NotFound");
    s.delete(&format!("{CONFIG_MAPS}/a"))
        .send()
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn creation_refuses_what_is_there_or_has_no_place() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    let status = s
        .post(CONFIG_MAPS)
        .body(&json!({"metadata": {"name": "a"}}))
        .send()
        .await
        .refused(409, "AlreadyExists");
    assert_eq!(status["message"], "configmaps \"a\" already exists");
    let status = s
        .post("/api/v1/namespaces/none/configmaps")
        .body(&json!({"metadata": {"name": "a"}}))
        .send()
        .await
        .refused(404, "NotFound");
    assert_eq!(status["message"], "namespaces \"none\" not found");
    s.post(CONFIG_MAPS)
        .body(&json!({"metadata": {"name": "b", "namespace": "other"}}))
        .send()
        .await
        .refused(400, "BadRequest");
    s.post(CONFIG_MAPS)
        .body(&json!({"metadata": {"name": "b", "resourceVersion": "1"}}))
        .send()
        .await
        .refused(400, "BadRequest");
    s.put(&format!("{CONFIG_MAPS}/none"))
        .body(&json!({"metadata": {"name": "none"}}))
        .send()
        .await
        .refused(404, "NotFound");
    s.put(&format!("{CONFIG_MAPS}/a"))
        .body(&json!({"metadata": {"name": "b"}}))
        .send()
        .await
        .refused(400, "BadRequest");
}

#[tokio::test]
async fn generated_names_differ() {
    let s = Server::new().await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let made = s
            .post(CONFIG_MAPS)
            .body(&json!({"metadata": {"generateName": "x-"}}))
            .send()
            .await
            .expect(201);
        let name = made["metadata"]["name"].as_str().unwrap().to_string();
        assert!(name.starts_with("x-") && name.len() == 7, "{name}");
        assert!(names.insert(name));
    }
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let s = Server::new().await;
    let mut d = deployment("web");
    d["status"] = json!({"replicas": 7});
    let made = s.post(DEPLOYMENTS).body(&d).send().await.expect(201);
    assert!(
        made["status"]["replicas"].is_null(),
        "a client cannot create a status: {made}"
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/web");
    let status =
        json!({"status": {"replicas": 2, "observedGeneration": 1}, "spec": {"replicas": 9}});
    let patched = s
        .patch(&format!("{path}/status"), MERGE, &status)
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&patched["status"]["replicas"], &patched["spec"]["replicas"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(patched["metadata"]["generation"], 1);
    let patched = s
        .patch(
            &path,
            MERGE,
            &json!({"spec": {"replicas": 3}, "status": {"replicas": 9}}),
        )
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&patched["status"]["replicas"], &patched["spec"]["replicas"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(patched["metadata"]["generation"], 2);
    let patched = s
        .patch(&path, MERGE, &json!({"metadata": {"labels": {"x": "y"}}}))
        .send()
        .await
        .expect(200);
    assert_eq!(patched["metadata"]["generation"], 2, "labels are no spec");
}

#[tokio::test]
async fn scale_is_a_window_on_replicas() {
    let s = Server::new().await;
    s.post(DEPLOYMENTS)
        .body(&deployment("web"))
        .send()
        .await
        .expect(201);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = s.get(&path).send().await.expect(200);
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(2), &json!("app=web"))
    );
    let scaled = s
        .patch(&path, MERGE, &json!({"spec": {"replicas": 5}}))
        .send()
        .await
        .expect(200);
    assert_eq!(scaled["spec"]["replicas"], 5);
    // The old Scale names a revision that is gone.
    s.put(&path)
        .body(&scale)
        .send()
        .await
        .refused(409, "Conflict");
    let mut fresh = scaled.clone();
    fresh["spec"]["replicas"] = json!(0);
    assert_eq!(
        s.put(&path).body(&fresh).send().await.expect(200)["spec"]["replicas"],
        0
    );
    let status = s
        .patch(&path, MERGE, &json!({"spec": {"replicas": -1}}))
        .send()
        .await
        .refused(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.replicas");
    assert_eq!(
        s.get(&format!("{DEPLOYMENTS}/web")).send().await.json()["metadata"]["generation"],
        3
    );
}

#[tokio::test]
async fn dry_run_does_everything_but_store() {
    let s = Server::new().await;
    let before = s.revision();
    let made = s
        .post(&format!("{DEPLOYMENTS}?dryRun=All"))
        .body(&deployment("web"))
        .send()
        .await
        .expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    s.post(&format!("{DEPLOYMENTS}?dryRun=Some"))
        .body(&deployment("web"))
        .send()
        .await
        .refused(400, "BadRequest");
    s.post(DEPLOYMENTS)
        .body(&deployment("web"))
        .send()
        .await
        .expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let patched = s
        .patch(
            &format!("{path}?dryRun=All"),
            MERGE,
            &json!({"spec": {"replicas": 3}}),
        )
        .send()
        .await
        .expect(200);
    assert_eq!(patched["spec"]["replicas"], 3);
    s.delete(&format!("{path}?dryRun=All"))
        .send()
        .await
        .expect(200);
    s.delete(&path)
        .body(&json!({"dryRun": ["All"]}))
        .send()
        .await
        .expect(200);
    assert_eq!(s.get(&path).send().await.expect(200)["spec"]["replicas"], 2);
    assert_eq!(s.revision(), before + 1);
}

#[tokio::test]
async fn a_lost_race_is_started_again_unless_the_client_named_a_revision() {
    let s = Server::new().await;
    let made = s.config_map("a", "1").await;
    let rival = |s: &Server| {
        let key = Key::new("default", "a");
        let obj = s.ctx.view().get("configmaps", &key).unwrap().clone();
        let mut value = obj.value();
        value["data"]["rival"] = json!(s.revision().to_string());
        Command::put(
            "configmaps",
            key,
            Expect::Any,
            coracle_api::canonical::encode(&value),
            Vec::new(),
        )
    };
    s.fake.rivals.lock().unwrap().push(rival(&s));
    let patched = s
        .patch(
            &format!("{CONFIG_MAPS}/a"),
            MERGE,
            &json!({"data": {"mine": "1"}}),
        )
        .send()
        .await
        .expect(200);
    assert!(
        patched["data"]["rival"].is_string() && patched["data"]["mine"] == "1",
        "both writes hold: {patched}"
    );
    s.fake.rivals.lock().unwrap().push(rival(&s));
    let pinned = json!({"metadata": {"resourceVersion": patched["metadata"]["resourceVersion"]}, "data": {"mine": "2"}});
    s.patch(&format!("{CONFIG_MAPS}/a"), MERGE, &pinned)
        .send()
        .await
        .refused(409, "Conflict");
    let stale = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"mine": "2"}});
    s.patch(&format!("{CONFIG_MAPS}/a"), MERGE, &stale)
        .send()
        .await
        .refused(409, "Conflict");
    s.patch(
        &format!("{CONFIG_MAPS}/a"),
        MERGE,
        &json!({"metadata": {"uid": "other"}}),
    )
    .send()
    .await
    .refused(409, "Conflict");
}

#[tokio::test]
async fn without_a_leader_writes_say_when_to_come_back() {
    let s = Server::new().await;
    s.fake.down.store(true, Ordering::SeqCst);
    let reply = s
        .post(CONFIG_MAPS)
        .body(&json!({"metadata": {"name": "a"}}))
        .send()
        .await;
    assert_eq!(reply.header("retry-after"), ["1"]);
    assert_eq!(
        reply.refused(503, "ServiceUnavailable")["details"]["retryAfterSeconds"],
        1
    );
    // A read must not miss what others were told, unless the client says that it may.
    let reply = s.get(CONFIG_MAPS).send().await;
    assert_eq!(reply.header("retry-after"), ["1"]);
    reply.refused(503, "ServiceUnavailable");
    s.get(&format!("{CONFIG_MAPS}?resourceVersion=0"))
        .send()
        .await
        .expect(200);
}

#[tokio::test]
async fn tables_and_metadata_are_made_by_the_server() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let t = s.get(CONFIG_MAPS).accept(table).send().await.expect(200);
    assert_eq!(
        (&t["kind"], &t["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(t["columnDefinitions"][0]["name"], "Name");
    assert_eq!(t["rows"][0]["cells"][0], "a");
    assert_eq!(
        t["columnDefinitions"].as_array().unwrap().len(),
        t["rows"][0]["cells"].as_array().unwrap().len()
    );
    assert_eq!(t["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let t = s
        .get(&format!("{CONFIG_MAPS}/a?includeObject=Object"))
        .accept(table)
        .send()
        .await
        .expect(200);
    assert_eq!(t["rows"][0]["object"]["data"]["k"], "1");
    let m = s
        .get(CONFIG_MAPS)
        .accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&m["kind"], m["items"][0].get("data")),
        (&json!("PartialObjectMetadataList"), None)
    );
    s.get(CONFIG_MAPS)
        .accept("application/xml")
        .send()
        .await
        .refused(406, "NotAcceptable");
    let reply = s
        .get(CONFIG_MAPS)
        .accept("application/vnd.kubernetes.protobuf,application/json")
        .send()
        .await;
    assert_eq!(reply.header("content-type"), ["application/json"]);
}
