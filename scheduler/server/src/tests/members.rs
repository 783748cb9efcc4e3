//! One of several members: what it has applied may be behind what others have acknowledged.

use coracle_state::{Command, Expect, Key};
use serde_json::json;

use super::*;
use crate::write::renewal::{LEASES, NODE_LEASES, Renewal, Renewals};

fn put(table: &str, object: &Value) -> Command {
    let key = coracle_api::meta::key(object);
    let bytes = coracle_api::canonical::encode(object);
    Command::put(table, key, Expect::Any, bytes, Vec::new())
}

fn map(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", "uid": name}, "data": {"k": data}})
}

/// A server that has seen `before`; `after` was written elsewhere.
async fn behind(before: &[Value], after: Vec<Command>) -> (Server, u64) {
    let s = Server::new().await;
    s.fake
        .apply(before.iter().map(|o| put("configmaps", o)).collect());
    s.fake.lags.store(true, Ordering::SeqCst);
    let results = s.fake.apply(after);
    let revision = results.last().unwrap().as_ref().unwrap().revision;
    (s, revision)
}

fn gone(name: &str) -> Command {
    Command::delete("configmaps", Key::new("default", name), Expect::Any)
}

#[tokio::test]
async fn what_is_not_here_yet_can_be_written() {
    for (method, body) in [
        ("PUT", map("a", "2")),
        ("PATCH", json!({"data": {"k": "2"}})),
        ("DELETE", json!({})),
    ] {
        let (s, _) = behind(&[], vec![put("configmaps", &map("a", "1"))]).await;
        let path = format!("{CONFIG_MAPS}/a");
        let ask = match method {
            "PATCH" => s.patch(&path, MERGE, &body),
            method => s.ask(method, &path).body(&body),
        };
        ask.send().await.expect(200);
    }
    // Server-side apply makes it or changes it.
    let (s, _) = behind(&[], vec![put("configmaps", &map("a", "1"))]).await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"j": "2"}});
    let path = format!("{CONFIG_MAPS}/a?fieldManager=test");
    let applied = s.patch(&path, "application/apply-patch+yaml", &body);
    let applied = applied.send().await.expect(200);
    assert_eq!(applied["data"], json!({"k": "1", "j": "2"}));
}

#[tokio::test]
async fn what_has_gone_elsewhere_can_be_made_again() {
    let (s, _) = behind(&[map("a", "1")], vec![gone("a")]).await;
    s.config_map("a", "2").await;
    let (s, _) = behind(
        &[],
        vec![put("namespaces", &json!({"metadata": {"name": "new"}}))],
    )
    .await;
    s.post("/api/v1/namespaces/new/configmaps")
        .body(&json!({"metadata": {"name": "a"}}))
        .send()
        .await
        .expect(201);
}

#[tokio::test]
async fn what_looks_unchanged_here_is_written_if_others_changed_it() {
    let (s, _) = behind(&[map("a", "1")], vec![put("configmaps", &map("a", "2"))]).await;
    let path = format!("{CONFIG_MAPS}/a");
    s.put(&path).body(&map("a", "1")).send().await.expect(200);
    assert_eq!(s.get(&path).send().await.expect(200)["data"]["k"], "1");
    let (s, _) = behind(&[map("a", "1")], vec![put("configmaps", &map("a", "2"))]).await;
    s.patch(&path, MERGE, &json!({"data": {"k": "1"}}))
        .send()
        .await
        .expect(200);
    assert_eq!(s.get(&path).send().await.expect(200)["data"]["k"], "1");
}

#[tokio::test]
async fn a_revision_from_another_member_is_no_conflict() {
    let (s, revision) = behind(&[map("a", "1")], vec![put("configmaps", &map("a", "2"))]).await;
    let mut wanted = map("a", "3");
    wanted["metadata"]["resourceVersion"] = json!(revision.to_string());
    let path = format!("{CONFIG_MAPS}/a");
    s.put(&path).body(&wanted).send().await.expect(200);
    // And one that others have passed is, though it is the newest here.
    let (s, revision) = behind(&[map("a", "1")], vec![put("configmaps", &map("a", "2"))]).await;
    wanted["metadata"]["resourceVersion"] = json!((revision - 1).to_string());
    s.put(&path)
        .body(&wanted)
        .send()
        .await
        .refused(409, "Conflict");
    let (s, revision) = behind(&[map("a", "1")], vec![put("configmaps", &map("a", "2"))]).await;
    let options = json!({"preconditions": {"resourceVersion": revision.to_string()}});
    s.delete(&path).body(&options).send().await.expect(200);
}

#[tokio::test]
async fn a_node_may_write_to_a_pod_that_was_bound_to_it_elsewhere() {
    let s = Server::new().await;
    s.post("/api/v1/nodes")
        .body(&node("n1"))
        .send()
        .await
        .expect(201);
    let mut bound = s.post(PODS).body(&pod("p")).send().await.expect(201);
    bound["spec"]["nodeName"] = json!("n1");
    s.fake.lags.store(true, Ordering::SeqCst);
    s.fake.apply(vec![put("pods", &bound)]);
    let status = json!({"status": {"phase": "Running"}});
    for (name, code) in [("n1", 200), ("n2", 403)] {
        let user = format!("system:node:{name}");
        let who = Identity::new(user, &["system:nodes"]);
        s.patch(&format!("{PODS}/p/status"), MERGE, &status)
            .identity(Some(who))
            .send()
            .await
            .expect(code);
    }
}

/// Renewals that are held until told to be logged.
#[derive(Default)]
struct Held(Mutex<Vec<Renewal>>);

impl Renewals for Held {
    fn renew(&self, renewal: Renewal) -> BoxFuture<'_, Result<(), ProposeError>> {
        self.0.lock().unwrap().push(renewal);
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test]
async fn a_heartbeat_is_answered_with_the_committed_revision() {
    let held = Arc::new(Held::default());
    let s = Server::with_renewals(held.clone()).await;
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{NODE_LEASES}/leases");
    let time = |n: u32| format!("2026-01-01T00:00:{n:02}.000000Z");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1"},
        "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40, "renewTime": time(0)}});
    let made = s.post(&leases).body(&lease).send().await.expect(201);
    let committed = s.revision();
    let path = format!("{leases}/n1");
    let beat = |n: u32| json!({"spec": {"renewTime": time(n)}});
    let answer = s.patch(&path, MERGE, &beat(1)).send().await.expect(200);
    assert_eq!(answer["metadata"]["resourceVersion"], committed.to_string());
    assert_eq!(answer["spec"]["renewTime"], time(1));
    assert_eq!(s.revision(), committed, "nothing was logged for it");
    // The batch is logged; a client that pins the revision of its last answer is not punished for it.
    for renewal in std::mem::take(&mut *held.0.lock().unwrap()) {
        assert_eq!((renewal.name.as_str(), renewal.revision), ("n1", committed));
        let key = Key::new(NODE_LEASES, renewal.name);
        s.fake.apply(vec![Command::put(
            LEASES,
            key,
            Expect::Revision(renewal.revision),
            renewal.bytes,
            Vec::new(),
        )]);
    }
    assert_eq!(
        s.get(&path).send().await.expect(200)["spec"]["renewTime"],
        time(1)
    );
    let mut pinned = made.clone();
    pinned["spec"]["renewTime"] = json!(time(2));
    s.put(&path).body(&pinned).send().await.expect(200);
    assert_eq!(held.0.lock().unwrap().len(), 1);
    // Anything else is a write like every other, and with a lock that has been passed by one a conflict.
    s.patch(&path, MERGE, &json!({"spec": {"holderIdentity": "n2"}}))
        .send()
        .await
        .expect(200);
    assert!(s.revision() > committed + 1);
    s.put(&path)
        .body(&pinned)
        .send()
        .await
        .refused(409, "Conflict");
}

#[tokio::test]
async fn events_are_shed_and_nothing_else() {
    let s = Server::new().await;
    let events = "/api/v1/namespaces/default/events";
    let event = |i: usize| {
        json!({"metadata": {"name": format!("e{i}")}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "reason": "Test", "type": "Normal", "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z"})
    };
    let mut codes = std::collections::BTreeMap::<u16, usize>::new();
    for i in 0..2_300 {
        let reply = s.post(events).body(&event(i)).send().await;
        *codes.entry(reply.code).or_default() += 1;
    }
    assert!(codes[&201] >= 2_000 && codes[&429] > 0, "{codes:?}");
    s.config_map("a", "1").await;
}
