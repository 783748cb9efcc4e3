//! A cluster from its first moment over restarts: objects, certificates, registry, controllers.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use coracle_state::Views;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::client::Client;
use super::scheduler;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"k": "v"}})
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_objects_ports_and_trust_over_restarts() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let (url, registry, ca, name, id) = (
        s.api_url().to_string(),
        s.registry_url().unwrap().to_string(),
        s.ca_pem(),
        s.name().to_string(),
        s.id().to_string(),
    );
    let admin = Client::admin(&s);
    let (_, version) = Client::anonymous(&s).get("/version").await;
    assert_eq!(version["product"], "Coracle");
    let (_, list) = admin.get("/api/v1/namespaces").await;
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    let (_, service) = admin
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await;
    assert_eq!(
        service["spec"]["ports"][0]["targetPort"],
        s.api_addr().port()
    );
    let (_, root) = admin
        .get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
        .await;
    assert_eq!(root["data"]["ca.crt"], ca);
    assert_eq!(admin.get("/readyz").await.0, StatusCode::OK);
    assert_eq!(
        Client::anonymous(&s).get("/api/v1/namespaces").await.0,
        StatusCode::UNAUTHORIZED
    );

    let made = admin
        .post("/api/v1/namespaces/default/configmaps", &config_map("one"))
        .await;
    let (_, status) = admin.get("/coracle/v1/status").await;
    assert_eq!(
        (&status["id"], &status["name"], &status["ready"]),
        (&json!(id), &json!(name), &json!(true))
    );
    assert_eq!(status["leader"], json!(id));

    assert_eq!(mode(&dir.path().join("pki")), 0o700);
    for secret in ["kubeconfig", "pki/seal.key", "pki/node.key"] {
        assert_eq!(mode(&dir.path().join(secret)), 0o600, "{secret}");
    }
    s.keep_port("runner", 4711).unwrap();
    s.shutdown().await;
    drop(s);

    let s = scheduler(dir.path()).await;
    assert_eq!(s.kept_port("runner"), Some(4711));
    assert_eq!(
        (s.api_url(), s.registry_url().unwrap()),
        (url.as_str(), registry.as_str()),
        "ports are kept"
    );
    assert_eq!(
        (s.ca_pem(), s.name(), s.id()),
        (ca, name.as_str(), id.as_str())
    );
    // The certificate of before the restart still works.
    let (status, read) = admin.get("/api/v1/namespaces/default/configmaps/one").await;
    assert_eq!((status, &read), (StatusCode::OK, &made));
    let more = Client::admin(&s)
        .post("/api/v1/namespaces/default/configmaps", &config_map("two"))
        .await;
    assert!(revision(&more) > revision(&made), "resourceVersions rise");
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_taken_while_running_has_every_acknowledged_object() {
    let (dir, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let s = scheduler(dir.path()).await;
    let admin = Client::admin(&s);
    for n in 0..10 {
        admin
            .post(
                "/api/v1/namespaces/default/configmaps",
                &config_map(&format!("n{n}")),
            )
            .await;
    }
    copy_dir(dir.path(), copy.path());
    let crashed = scheduler(copy.path()).await;
    assert_ne!(
        crashed.api_url(),
        s.api_url(),
        "the kept port is taken, so another one is used"
    );
    let admin = Client::admin(&crashed);
    for n in 0..10 {
        assert_eq!(
            admin
                .get(&format!("/api/v1/namespaces/default/configmaps/n{n}"))
                .await
                .0,
            StatusCode::OK
        );
    }
    crashed.shutdown().await;
    s.shutdown().await;
}

/// The marker of what was synced must not be newer than the log, so `raft/synced` goes first.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = std::fs::read_dir(from)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    entries.sort_by_key(|e| (e.file_name() != "synced", e.file_name()));
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_keeps_tags_in_the_log_and_asks_for_certificates_at_the_api() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let plain = Client::plain(s.registry_url().unwrap());
    let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    let config = b"{}";
    let layer = b"\0asm\x01\0\0\0";
    for blob in [&config[..], &layer[..]] {
        let path = format!("/v2/demo/blobs/uploads/?digest={}", digest(blob));
        let (status, _, body) = plain
            .bytes(
                Method::POST,
                &path,
                "application/octet-stream",
                Bytes::copy_from_slice(blob),
            )
            .await
            .unwrap();
        assert_eq!(status, StatusCode::CREATED, "{body:?}");
    }
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": digest(config), "size": config.len()},
        "layers": [{"mediaType": "application/wasm", "digest": digest(layer), "size": layer.len()}],
    })
    .to_string();
    let (status, _, body) = plain
        .bytes(
            Method::PUT,
            "/v2/demo/manifests/v1",
            kind,
            manifest.clone().into(),
        )
        .await
        .unwrap();
    assert_eq!(status, StatusCode::CREATED, "{body:?}");
    s.shutdown().await;
    drop(s);

    let s = scheduler(dir.path()).await;
    let get = |client: Client, path: String| async move {
        client
            .bytes(Method::GET, &path, "", Bytes::new())
            .await
            .unwrap()
    };
    let node = Client::node(&s, &s.node_identity_for_local_runner("n1").unwrap());
    let (status, _, body) = get(node.clone(), "/v2/demo/manifests/v1".into()).await;
    assert_eq!(
        (status, &body[..]),
        (StatusCode::OK, manifest.as_bytes()),
        "a node pulls through the API, after a restart"
    );
    let (status, _, body) = get(node.clone(), format!("/v2/demo/blobs/{}", digest(layer))).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &layer[..]));
    assert_eq!(
        get(Client::anonymous(&s), "/v2/demo/manifests/v1".into())
            .await
            .0,
        StatusCode::UNAUTHORIZED
    );
    let (status, _, _) = node
        .bytes(Method::DELETE, "/v2/demo/manifests/v1", "", Bytes::new())
        .await
        .unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN, "nodes only read");
    assert_eq!(
        get(Client::admin(&s), "/v2/demo/tags/list".into()).await.0,
        StatusCode::OK
    );
    s.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_loop_turns_a_deployment_into_bound_pods() {
    let dir = TempDir::new().unwrap();
    let s = scheduler(dir.path()).await;
    let admin = Client::admin(&s);
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    admin
        .post("/apis/apps/v1/namespaces/default/deployments", &deployment)
        .await;
    wait(&s, |view| view.list("pods", Some("default")).count() == 3).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
    admin.post("/api/v1/nodes", &node).await;
    wait(&s, |view| view.on_node("n1").count() == 3).await;
    let (_, pods) = admin
        .get("/api/v1/namespaces/default/pods?labelSelector=app%3Dweb")
        .await;
    for pod in pods["items"].as_array().unwrap() {
        assert!(
            pod["status"]["podIP"]
                .as_str()
                .unwrap()
                .starts_with("10.42."),
            "{pod}"
        );
    }
    let (status, _) = admin
        .send(
            Method::DELETE,
            "/apis/apps/v1/namespaces/default/deployments/web",
            &json!({"propagationPolicy": "Background"}),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    wait(&s, |view| {
        view.list("pods", Some("default")).all(|p| p.attrs.deleting)
    })
    .await;
    s.shutdown().await;
}

/// Waits until the state is as wanted; the test's own time limit is the bound.
async fn wait(s: &crate::Scheduler, done: impl Fn(&coracle_state::View) -> bool) {
    let mut view = s.replica().view();
    while !done(&view) {
        view = s.replica().newer_than(view.revision).await;
    }
}
