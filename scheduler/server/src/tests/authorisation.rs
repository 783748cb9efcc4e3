//! The table of who may do what, and that requests obey it.

use serde_json::json;

use super::*;
use crate::authorise::{Attributes, Decision, authorise};

#[test]
fn the_table() {
    let node = Identity::new("system:node:n1", &["system:nodes"]);
    let member = Identity::new("system:member:m", &["system:members"]);
    let user = Identity::new("somebody", &["people"]);
    let nobody = Identity::anonymous();
    let a = |verb, resource, subresource, namespace, name, on_node| Attributes {
        verb,
        group: "",
        resource,
        subresource,
        namespace,
        name,
        on_node,
        path: "",
    };
    let lease = |verb, namespace, name| Attributes {
        verb,
        group: "coordination.k8s.io",
        resource: "leases",
        namespace,
        name,
        ..Attributes::default()
    };
    let path = |verb, path| Attributes {
        verb,
        path,
        ..Attributes::default()
    };
    for (who, what, allowed) in [
        (&admin(), a("delete", "secrets", "", "x", "y", ""), true),
        (&member, a("update", "pods", "", "x", "y", ""), true),
        (&node, a("list", "pods", "", "", "", ""), true),
        (&node, a("watch", "endpoints", "", "", "", ""), true),
        (&node, a("create", "nodes", "", "", "", ""), true),
        (&node, a("create", "nodes", "", "", "n1", ""), true),
        (&node, a("create", "nodes", "", "", "n2", ""), false),
        (&node, a("patch", "nodes", "status", "", "n1", ""), true),
        (&node, a("patch", "nodes", "status", "", "n2", ""), false),
        (&node, a("delete", "nodes", "", "", "n1", ""), false),
        (&node, a("patch", "pods", "status", "d", "p", "n1"), true),
        (&node, a("patch", "pods", "status", "d", "p", "n2"), false),
        (&node, a("patch", "pods", "status", "d", "p", ""), false),
        (&node, a("patch", "pods", "", "d", "p", "n1"), false),
        (&node, a("delete", "pods", "", "d", "p", "n1"), true),
        (&node, a("delete", "pods", "", "d", "p", "n2"), false),
        (&node, a("deletecollection", "pods", "", "d", "", ""), false),
        (&node, a("create", "pods", "", "d", "", ""), false),
        (&node, a("create", "events", "", "d", "", ""), true),
        (&node, a("create", "configmaps", "", "d", "", ""), false),
        (&node, lease("patch", "kube-node-lease", "n1"), true),
        (&node, lease("patch", "kube-node-lease", "n2"), false),
        (&node, lease("patch", "default", "n1"), false),
        (&node, path("put", "/coracle/v1/proxies/n1"), true),
        (&node, path("put", "/coracle/v1/proxies/n2"), false),
        (&node, path("get", "/coracle/v1/endpoints"), true),
        (&node, path("post", "/coracle/v1/renew"), true),
        (&user, path("post", "/coracle/v1/renew"), false),
        (&node, path("get", "/coracle/v1/ca"), true),
        (&node, path("get", "/coracle/v1/ca/status"), false),
        (&user, path("post", "/coracle/v1/ca/rotate"), false),
        (&nobody, path("get", "/coracle/v1/ca"), true),
        (&nobody, path("post", "/coracle/v1/ca/rotate"), false),
        (&nobody, path("post", "/coracle/v1/join/x"), false),
        (&member, path("get", "/coracle/v1/ca/status"), true),
        (&node, path("put", "/coracle/v1/endpoints"), false),
        (&node, path("get", "/coracle/v1/members"), false),
        (&node, path("get", "/coracle/v1/backup"), false),
        (&node, path("get", "/coracle/v1/backups"), false),
        (&user, path("get", "/coracle/v1/endpoints"), false),
        (&node, path("get", "/openapi/v3"), true),
        (&node, path("get", "/metrics"), false),
        (&user, a("get", "pods", "", "d", "p", ""), false),
        (&user, path("get", "/apis/apps/v1"), true),
        (&user, path("post", "/coracle/v1/tokens"), false),
        (&nobody, path("get", "/version"), true),
        (&nobody, path("get", "/livez/ping"), true),
        (&nobody, path("post", "/coracle/v1/join"), true),
        (&nobody, path("get", "/coracle/v1/ca"), true),
        (&nobody, path("get", "/coracle/v1/status"), false),
        (&nobody, path("get", "/versions"), false),
        (&nobody, path("get", "/api"), false),
        (&nobody, a("get", "pods", "", "d", "p", ""), false),
    ] {
        assert_eq!(
            authorise(who, &what) == Decision::Allow,
            allowed,
            "{} {what:?}",
            who.user
        );
    }
}

#[tokio::test]
async fn requests_obey_it() {
    let s = Server::new().await;
    let n1 = || Some(Identity::new("system:node:n1", &["system:nodes"]));
    let status = s
        .get(CONFIG_MAPS)
        .identity(None)
        .send()
        .await
        .refused(401, "Unauthorized");
    assert_eq!(status["code"], 401);
    let status = s
        .get(CONFIG_MAPS)
        .identity(Some(Identity::new("somebody", &[])))
        .send()
        .await
        .refused(403, "Forbidden");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("User \"somebody\" cannot list resource \"configmaps\""),
        "{status}"
    );
    s.post("/api/v1/nodes")
        .identity(n1())
        .body(&node("n2"))
        .send()
        .await
        .refused(403, "Forbidden");
    s.post("/api/v1/nodes")
        .identity(n1())
        .body(&node("n1"))
        .send()
        .await
        .expect(201);
    let lease = json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40}});
    s.post("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        .identity(n1())
        .body(&lease)
        .send()
        .await
        .expect(201);
    // A pod is the node's only once it is bound there.
    s.post(PODS).body(&pod("p")).send().await.expect(201);
    let running = json!({"status": {"phase": "Running"}});
    s.patch(&format!("{PODS}/p/status"), MERGE, &running)
        .identity(n1())
        .send()
        .await
        .refused(403, "Forbidden");
    s.post(&format!("{PODS}/p/binding"))
        .body(&json!({"target": {"name": "n1"}}))
        .send()
        .await
        .expect(201);
    let patched = s
        .patch(&format!("{PODS}/p/status"), MERGE, &running)
        .identity(n1())
        .send()
        .await
        .expect(200);
    assert_eq!(patched["status"]["phase"], "Running");
    assert_eq!(patched["spec"]["nodeName"], "n1");
    s.get(CONFIG_MAPS)
        .identity(None)
        .header("authorization", "Bearer good")
        .send()
        .await
        .expect(200);
    s.get(CONFIG_MAPS)
        .header("authorization", "Bearer bad")
        .send()
        .await
        .refused(401, "Unauthorized");
}
