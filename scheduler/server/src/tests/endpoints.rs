//! What is beside the objects: version, health, discovery, reviews, logs, Coracle's own paths.

use serde_json::json;

use super::*;

#[tokio::test]
async fn version_names_us() {
    let s = Server::new().await;
    let v = s
        .get("/version?timeout=5s")
        .identity(None)
        .send()
        .await
        .expect(200);
    assert_eq!((&v["major"], &v["minor"]), (&json!("1"), &json!("34")));
    assert_eq!(v["gitVersion"], "v1.34.0+coracle-0.1.0");
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(s.get(path).identity(None).send().await.text, "ok");
    }
}

#[tokio::test]
async fn discovery_in_both_forms() {
    let s = Server::new().await;
    let asked = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    for path in ["/api", "/apis"] {
        let reply = s.get(path).accept(asked).send().await;
        assert_eq!(
            reply.header("content-type"),
            ["application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"]
        );
        assert_eq!(reply.expect(200)["kind"], "APIGroupDiscoveryList");
    }
    assert_eq!(
        s.get("/api").send().await.expect(200)["kind"],
        "APIVersions"
    );
    assert_eq!(
        s.get("/apis").send().await.expect(200)["kind"],
        "APIGroupList"
    );
    let core = s.get("/api/v1").send().await.expect(200);
    assert!(
        core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "pods/eviction" && r["group"] == "policy")
    );
    assert_eq!(
        s.get("/apis/apps/v1").send().await.expect(200)["kind"],
        "APIResourceList"
    );
    assert_eq!(
        s.get("/apis/apps").send().await.expect(200)["kind"],
        "APIGroup"
    );
    let index = s.get("/openapi/v3").send().await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_string();
    let reply = s.get(&url).send().await;
    let tag = reply.header("etag")[0].clone();
    assert!(reply.expect(200)["components"]["schemas"].is_object());
    assert_eq!(
        s.get(&url).header("if-none-match", &tag).send().await.code,
        304
    );
    s.get("/openapi/v3/apis/none/v1")
        .send()
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn reviews_answer_about_oneself() {
    let s = Server::new().await;
    let node = Identity::new("system:node:n1", &["system:nodes"]);
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask = |verb: &str| json!({"spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}});
    for (who, verb, allowed) in [
        (admin(), "create", true),
        (node.clone(), "list", true),
        (node.clone(), "create", false),
    ] {
        let review = s
            .post(path)
            .identity(Some(who))
            .body(&ask(verb))
            .send()
            .await
            .expect(201);
        assert_eq!(review["status"]["allowed"], allowed, "{review}");
    }
    s.post(path)
        .identity(None)
        .body(&ask("get"))
        .send()
        .await
        .refused(401, "Unauthorized");
    let who = s
        .post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .identity(Some(node))
        .body(&json!({}))
        .send()
        .await
        .expect(201);
    assert_eq!(
        who["status"]["userInfo"],
        json!({"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]})
    );
}

#[tokio::test]
async fn logs_come_from_the_runner_of_the_pod() {
    let s = Server::new().await;
    s.post("/api/v1/nodes")
        .body(&node("n1"))
        .send()
        .await
        .expect(201);
    s.post(PODS).body(&pod("p")).send().await.expect(201);
    let log = format!("{PODS}/p/log");
    s.get(&log).send().await.refused(400, "BadRequest");
    s.post(&format!("{PODS}/p/binding"))
        .body(&json!({"target": {"name": "n1"}}))
        .send()
        .await
        .expect(201);
    let reply = s
        .get(&format!("{log}?follow=true&tailLines=3"))
        .send()
        .await;
    assert_eq!(reply.header("content-type"), ["text/plain; charset=utf-8"]);
    assert_eq!(reply.text, "127.0.0.1:10250 main true\nSome(3)\n");
    s.get(&format!("{log}?container=none"))
        .send()
        .await
        .refused(400, "BadRequest");
    let mut two = pod("two");
    two["spec"]["containers"] =
        json!([{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}]);
    s.post(PODS).body(&two).send().await.expect(201);
    let status = s
        .get(&format!("{PODS}/two/log"))
        .send()
        .await
        .refused(400, "BadRequest");
    assert!(
        status["message"].as_str().unwrap().contains("[a b]"),
        "{status}"
    );
}

#[tokio::test]
async fn coracle_paths() {
    let s = Server::new().await;
    assert_eq!(
        s.get("/coracle/v1/ca").identity(None).send().await.text,
        "PEM"
    );
    let joined = s
        .post("/coracle/v1/join")
        .identity(None)
        .body(&json!({"secret": "x"}))
        .send()
        .await
        .expect(200);
    assert_eq!(joined["joined"], "x");
    assert_eq!(
        s.post("/coracle/v1/tokens")
            .body(&json!({"role": "runner"}))
            .send()
            .await
            .expect(201)["token"],
        "runner"
    );
    s.post("/coracle/v1/tokens")
        .identity(None)
        .body(&json!({}))
        .send()
        .await
        .refused(401, "Unauthorized");
    let tokens = s.get("/coracle/v1/tokens").send().await.expect(200);
    assert_eq!(tokens["tokens"][0]["id"], "t1");
    let gone = s.delete("/coracle/v1/tokens/t1").send().await.expect(200);
    assert_eq!(gone["deleted"], "t1");
    let status = s.get("/coracle/v1/status").send().await.expect(200);
    assert_eq!(
        (&status["name"], &status["revision"]),
        (&json!("one"), &json!(s.revision()))
    );
    let n1 = Some(Identity::new("system:node:n1", &["system:nodes"]));
    assert_eq!(
        s.put("/coracle/v1/proxies/n1")
            .identity(n1.clone())
            .body(&json!({"applied": 7}))
            .send()
            .await
            .code,
        204
    );
    s.put("/coracle/v1/proxies/n2")
        .identity(n1.clone())
        .body(&json!({"applied": 7}))
        .send()
        .await
        .refused(403, "Forbidden");
    s.put("/coracle/v1/proxies/n1")
        .identity(n1)
        .body(&json!({}))
        .send()
        .await
        .refused(400, "BadRequest");
    assert_eq!(*s.fake.acks.lock().unwrap(), [("n1".to_string(), 7)]);
    s.get("/coracle/v1/nope")
        .send()
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn certificate_paths() {
    let s = Server::new().await;
    let mut n1 = Identity::new("system:node:n1", &["system:nodes"]);
    n1.node_id = Some("00000000000000a1".into());
    let renewed = s
        .post("/coracle/v1/renew")
        .identity(Some(n1.clone()))
        .body(&json!({"csr": "PEM"}))
        .send()
        .await
        .expect(200);
    assert_eq!(
        renewed,
        json!({"for": "system:node:n1", "id": "00000000000000a1", "csr": "PEM"})
    );
    let rotate = "/coracle/v1/ca/rotate";
    let done = s.post(rotate).body(&json!({"finish": true})).send().await;
    assert_eq!(done.expect(200), json!({"finish": true}));
    let member = Identity::new("system:member:b", &["system:members"]);
    for who in [n1.clone(), member] {
        s.post(rotate)
            .identity(Some(who))
            .body(&json!({}))
            .send()
            .await
            .refused(403, "Forbidden");
    }
    let status = "/coracle/v1/ca/status";
    assert_eq!(
        s.get(status).send().await.expect(200),
        json!({"rotation": null})
    );
    s.get(status)
        .identity(Some(n1))
        .send()
        .await
        .refused(403, "Forbidden");
    s.get(rotate).send().await.refused(405, "MethodNotAllowed");
}

#[tokio::test]
async fn backup_paths() {
    let s = Server::new().await;
    let backup = s.get("/coracle/v1/backup").send().await;
    assert_eq!(backup.code, 200);
    assert_eq!(backup.text, "first second");
    assert_eq!(
        backup.headers["content-disposition"],
        "attachment; filename=\"one.backup\""
    );
    let list = s.get("/coracle/v1/backups").send().await.expect(200);
    assert_eq!(list["backups"], json!([]));
    let refusal = s.post("/coracle/v1/backup").send().await;
    refusal.refused(405, "MethodNotAllowed");
    for who in [
        None,
        Some(Identity::new("system:node:n1", &["system:nodes"])),
    ] {
        let code = s.get("/coracle/v1/backup").identity(who).send().await.code;
        assert!(matches!(code, 401 | 403), "Secrets are in a backup: {code}");
    }
}

#[tokio::test]
async fn member_paths() {
    let s = Server::new().await;
    let base = "/coracle/v1/members";
    let list = s.get(base).send().await.expect(200);
    assert_eq!(list["members"], json!([]));
    let refusal = s.post(base).body(&json!({"name": "b"})).send().await;
    let refusal = refusal.refused(403, "Forbidden");
    assert!(
        refusal["message"]
            .as_str()
            .unwrap()
            .contains("E_MEMBER_ADD"),
        "an administrator adds no member by hand: {refusal}"
    );
    let b = Identity::new("system:member:b", &["system:members"]);
    let added = s
        .post(base)
        .identity(Some(b))
        .body(&json!({"name": "b"}))
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&added["added"], &added["by"]),
        (&json!("b"), &json!("system:member:b"))
    );
    let removed = s.delete(&format!("{base}/b")).send().await.expect(200);
    assert_eq!(
        (&removed["removed"], &removed["force"]),
        (&json!("b"), &Value::Null)
    );
    let promoted = s
        .post(&format!("{base}/b/promote"))
        .body(&json!({"force": true}))
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&promoted["promoted"], &promoted["force"]),
        (&json!("b"), &json!(true))
    );
    let to = json!({"to": "b"});
    let moved = s.post(&format!("{base}/transfer")).body(&to).send().await;
    assert_eq!(moved.expect(200), to);
    s.put(&format!("{base}/b"))
        .body(&json!({}))
        .send()
        .await
        .refused(405, "MethodNotAllowed");
    s.get(&format!("{base}/b/nope"))
        .send()
        .await
        .refused(404, "NotFound");

    let n1 = Some(Identity::new("system:node:n1", &["system:nodes"]));
    let list = s
        .get("/coracle/v1/endpoints")
        .identity(n1.clone())
        .send()
        .await;
    assert_eq!(list.expect(200)["api"], json!(["https://127.0.0.1:6443"]));
    s.get(base)
        .identity(n1)
        .send()
        .await
        .refused(403, "Forbidden");
}

#[tokio::test]
async fn answers_are_counted_and_named() {
    let s = Server::new().await;
    let reply = s
        .get(CONFIG_MAPS)
        .header("x-request-id", "mine")
        .send()
        .await;
    assert_eq!(reply.header("x-request-id"), ["mine"]);
    assert_eq!(reply.header("audit-id")[0].len(), 36);
    let text = s.get("/metrics").send().await.text;
    assert!(
        text.contains(r#"apiserver_request_total{verb="LIST",resource="configmaps",code="200"} 1"#),
        "{text}"
    );
    s.get("/metrics")
        .identity(None)
        .send()
        .await
        .refused(401, "Unauthorized");
}

#[tokio::test]
async fn another_router_may_be_merged_in() {
    let mut s = Server::new().await;
    let registry = axum::Router::new().route(
        "/v2/",
        axum::routing::get(|who: axum::Extension<Identity>| async move { who.0.user }),
    );
    s.router = s.router.clone().merge(registry);
    assert_eq!(s.get("/v2/").send().await.text, "coracle-admin");
    s.get("/v3/").send().await.refused(404, "NotFound");
}

#[tokio::test]
async fn a_handler_that_panics_costs_one_answer() {
    struct Broken;
    impl Join for Broken {
        fn join(&self, _: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
            panic!("planted")
        }
    }
    let mut s = Server::new().await;
    let fake = s.fake.clone();
    s.ctx = Context::new(ContextConfig {
        join: Arc::new(Broken),
        ..config(fake, Range::SERVICES)
    });
    s.router = crate::router(s.ctx.clone());
    s.post("/coracle/v1/join")
        .body(&json!({}))
        .send()
        .await
        .refused(500, "InternalError");
    s.get("/version").send().await.expect(200);
}
