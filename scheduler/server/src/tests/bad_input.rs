//! What users get wrong: each a coded answer that names the field, and nothing changes.

use serde_json::json;

use super::*;

#[tokio::test]
async fn every_mistake_is_named_and_changes_nothing() {
    let s = Server::new().await;
    let before = s.revision();
    let mut unknown = deployment("web");
    unknown["spec"]["replica"] = json!(3);
    let mut wrong = deployment("web");
    wrong["spec"]["replicas"] = json!("three");
    let mut label = deployment("web");
    label["metadata"]["labels"] = json!({"bad key!": "x"});
    let mut missing = deployment("web");
    missing["spec"].as_object_mut().unwrap().remove("selector");
    let mut mismatch = deployment("web");
    mismatch["spec"]["selector"]["matchLabels"]["app"] = json!("other");
    let mut climbing = deployment("web");
    climbing["metadata"]["name"] = json!("../etc");
    for (what, object, code, names) in [
        ("unknown field", unknown, 400, "replica"),
        ("wrong type", wrong, 400, "replicas"),
        ("bad label", label, 422, "metadata.labels"),
        ("missing selector", missing, 422, "spec.selector"),
        ("selector mismatch", mismatch, 422, "selector"),
        ("name with ..", climbing, 422, "metadata.name"),
    ] {
        let reply = s
            .post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"))
            .body(&object)
            .send()
            .await;
        assert_eq!(reply.code, code, "{what}: {}", reply.text);
        let status = reply.json();
        assert_eq!(status["kind"], "Status");
        assert!(
            status["message"].as_str().unwrap().contains(names),
            "{what}: {status}"
        );
    }
    assert_eq!(s.revision(), before);
}

#[tokio::test]
async fn unknown_and_duplicate_fields_by_field_validation() {
    let s = Server::new().await;
    let text = |name: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}","x":1}},"data":{{"a":"1","a":"2"}},"oops":true}}"#
        )
    };
    let post = |mode: &str, name: &str| {
        s.post(&format!("{CONFIG_MAPS}?fieldValidation={mode}"))
            .raw("application/json", text(name))
    };
    let status = post("Strict", "s").send().await.refused(400, "BadRequest");
    let message = status["message"].as_str().unwrap();
    for part in ["oops", "metadata.x", "duplicate field \"data.a\""] {
        assert!(message.contains(part), "{message}");
    }
    let reply = post("Warn", "w").send().await;
    let warnings = reply.header("warning");
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings.iter().all(|w| w.starts_with("299 - \"")),
        "{warnings:?}"
    );
    let made = reply.expect(201);
    assert_eq!((made.get("oops"), &made["data"]["a"]), (None, &json!("2")));
    let reply = post("Ignore", "i").send().await;
    assert!(reply.header("warning").is_empty());
    reply.expect(201);
    post("Maybe", "m").send().await.refused(400, "BadRequest");
}

#[tokio::test]
async fn bodies_that_are_no_objects() {
    let s = Server::new().await;
    for (content_type, body, code) in [
        ("application/json", "{", 400),
        ("application/json", "", 400),
        ("application/json", "[]", 400),
        (
            "application/json",
            r#"{"kind":"Pod","apiVersion":"v1"}"#,
            400,
        ),
        ("application/yaml", "a: 1\na: 2\n", 400),
        ("application/yaml", "a: 1\n---\nb: 2\n", 400),
        ("application/octet-stream", "{}", 415),
        ("application/vnd.kubernetes.protobuf", "nonsense", 400),
        (
            "application/vnd.kubernetes.protobuf",
            "k8s\0\u{1}\u{1}\u{1}",
            400,
        ),
    ] {
        let reply = s.post(CONFIG_MAPS).raw(content_type, body).send().await;
        assert_eq!(reply.code, code, "{content_type} {body:?}: {}", reply.text);
        assert_eq!(reply.json()["kind"], "Status");
    }
    s.post(CONFIG_MAPS)
        .raw("application/yaml", "metadata:\n  name: y\ndata:\n  k: v\n")
        .send()
        .await
        .expect(201);
}

#[tokio::test]
async fn a_body_of_ten_megabytes_is_refused_with_a_code() {
    let s = Server::new().await;
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(10 << 20)}});
    let status = s
        .post(CONFIG_MAPS)
        .body(&body)
        .send()
        .await
        .refused(413, "RequestEntityTooLarge");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("E_BODY_TOO_LARGE"),
        "{status}"
    );
    s.get(CONFIG_MAPS).send().await.expect(200);
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let s = Server::new().await;
    for (method, path, code) in [
        ("GET", "/nope", 404),
        ("GET", "/api/v2/pods", 404),
        ("GET", "/api/v1/gadgets", 404),
        ("GET", "/apis/none.example/v1/things", 404),
        ("GET", "/api/v1/namespaces/default/pods/p/nope", 404),
        ("GET", "/api/v1/pods/p", 404),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("GET", "/api/v1/namespaces/../pods", 400),
        ("GET", "/api/v1/namespaces/default/configmaps/%2e%2e", 400),
        ("POST", "/api/v1/namespaces/default/pods/p", 405),
        ("PUT", "/api/v1/namespaces/default/pods", 405),
        ("POST", "/api/v1/pods", 405),
        ("OPTIONS", "/api/v1/pods", 405),
        (
            "GET",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            405,
        ),
        ("POST", "/version", 405),
        ("GET", "/api/v1/pods?limit=many", 400),
        ("GET", "/api/v1/pods?watch=perhaps", 400),
        ("GET", "/api/v1/pods?resourceVersion=x", 400),
    ] {
        let reply = s.ask(method, path).send().await;
        assert_eq!(reply.code, code, "{method} {path}: {}", reply.text);
        assert_eq!(reply.json()["kind"], "Status", "{method} {path}");
    }
}
