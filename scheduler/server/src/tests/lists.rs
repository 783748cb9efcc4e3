//! Lists: selectors, pages, revisions.

use serde_json::json;

use super::*;

async fn names(s: &Server, query: &str) -> Vec<String> {
    let list = s
        .get(&format!("{CONFIG_MAPS}?{query}"))
        .send()
        .await
        .expect(200);
    assert_eq!(list["kind"], "ConfigMapList");
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap().to_string())
        .collect()
}

#[tokio::test]
async fn selectors_choose() {
    let s = Server::new().await;
    for (name, data) in [("a", "1"), ("b", "2"), ("c", "1")] {
        s.config_map(name, data).await;
    }
    assert_eq!(names(&s, "").await, ["a", "b", "c"]);
    assert_eq!(names(&s, "labelSelector=d%3D1").await, ["a", "c"]);
    assert_eq!(names(&s, "labelSelector=d+in+(2,3)").await, ["b"]);
    assert_eq!(names(&s, "labelSelector=!d").await, [""; 0]);
    assert_eq!(names(&s, "fieldSelector=metadata.name%3Db").await, ["b"]);
    assert_eq!(
        names(&s, "fieldSelector=metadata.name!%3Db").await,
        ["a", "c"]
    );
    s.get(&format!("{CONFIG_MAPS}?fieldSelector=data.k%3D1"))
        .send()
        .await
        .refused(400, "BadRequest");
    s.get(&format!("{CONFIG_MAPS}?labelSelector=a+b%3D1"))
        .send()
        .await
        .refused(400, "BadRequest");
    let all = s.get("/api/v1/configmaps").send().await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 3);
    assert_eq!(all["metadata"]["resourceVersion"], s.revision().to_string());
}

#[tokio::test]
async fn pods_are_found_by_node() {
    let s = Server::new().await;
    s.post("/api/v1/nodes")
        .body(&node("n1"))
        .send()
        .await
        .expect(201);
    for name in ["p1", "p2"] {
        s.post(PODS).body(&pod(name)).send().await.expect(201);
    }
    s.post(&format!("{PODS}/p2/binding"))
        .body(&json!({"target": {"kind": "Node", "name": "n1"}}))
        .send()
        .await
        .expect(201);
    let list = s
        .get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=500")
        .send()
        .await
        .expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "p2");
}

#[tokio::test]
async fn pages_show_one_snapshot() {
    let s = Server::new().await;
    for i in 0..5 {
        s.config_map(&format!("m{i}"), "1").await;
    }
    let first = s
        .get(&format!("{CONFIG_MAPS}?limit=2"))
        .send()
        .await
        .expect(200);
    let rv = first["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_string();
    assert_eq!(
        (
            first["items"].as_array().unwrap().len(),
            &first["metadata"]["remainingItemCount"]
        ),
        (2, &json!(3))
    );
    // What happens now is not in the snapshot.
    s.config_map("m11", "1").await;
    s.delete(&format!("{CONFIG_MAPS}/m4"))
        .send()
        .await
        .expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap().to_string();
    let second = s
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .send()
        .await
        .expect(200);
    assert_eq!(second["metadata"]["resourceVersion"], rv);
    let token = second["metadata"]["continue"].as_str().unwrap().to_string();
    let third = s
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .send()
        .await
        .expect(200);
    let seen: Vec<&str> = [&first, &second, &third]
        .iter()
        .flat_map(|l| l["items"].as_array().unwrap())
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4"]);
    assert!(third["metadata"]["continue"].is_null());
    // The same revision can be asked for exactly while it is kept.
    let exact = s
        .get(&format!(
            "{CONFIG_MAPS}?resourceVersion={rv}&resourceVersionMatch=Exact"
        ))
        .send()
        .await
        .expect(200);
    assert_eq!(exact["items"].as_array().unwrap().len(), 5);
    s.forget().await;
    s.get(&format!(
        "{CONFIG_MAPS}?resourceVersion=1&resourceVersionMatch=Exact"
    ))
    .send()
    .await
    .refused(410, "Expired");
    s.get(&format!("{CONFIG_MAPS}?continue=nonsense"))
        .send()
        .await
        .refused(400, "BadRequest");
}

#[tokio::test]
async fn a_forgotten_snapshot_is_410_with_a_way_on() {
    let s = Server::new().await;
    for i in 0..4 {
        s.config_map(&format!("m{i}"), "1").await;
    }
    s.forget().await;
    let after = coracle_state::Key::new("default", "m1");
    let token = crate::pages::Continue { revision: 1, after }.encode();
    let status = s
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .send()
        .await
        .refused(410, "Expired");
    let token = status["metadata"]["continue"].as_str().unwrap().to_string();
    let rest = s
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .send()
        .await
        .expect(200);
    let seen: Vec<&str> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(seen, ["m2", "m3"]);
}

/// A page asked for at another member than the one before shows the same snapshot: it is made again from the changes.
#[tokio::test]
async fn a_page_may_follow_one_of_another_member() {
    let s = Server::new().await;
    for i in 0..4 {
        s.config_map(&format!("m{i}"), "1").await;
    }
    let revision = s.revision();
    s.delete(&format!("{CONFIG_MAPS}/m2"))
        .send()
        .await
        .expect(200);
    s.config_map("m2", "again").await;
    s.delete(&format!("{CONFIG_MAPS}/m3"))
        .send()
        .await
        .expect(200);
    s.config_map("m4", "1").await;
    let after = coracle_state::Key::new("default", "m1");
    let token = crate::pages::Continue { revision, after }.encode();
    let rest = s
        .get(&format!("{CONFIG_MAPS}?limit=9&continue={token}"))
        .send()
        .await
        .expect(200);
    let seen: Vec<(&str, &str)> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| {
            (
                i["metadata"]["name"].as_str().unwrap(),
                i["data"]["k"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("m2", "1"), ("m3", "1")]);
    assert_eq!(rest["metadata"]["resourceVersion"], revision.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_revision_from_the_future_is_waited_for_and_then_refused() {
    let s = Server::new().await;
    let far = s.revision() + 100;
    let reply = s
        .get(&format!("{CONFIG_MAPS}?resourceVersion={far}"))
        .send()
        .await;
    assert_eq!(reply.header("retry-after"), ["1"]);
    assert_eq!(
        reply.refused(504, "Timeout")["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    let next = s.revision() + 1;
    let path = format!("{CONFIG_MAPS}?resourceVersion={next}");
    let (list, _) = tokio::join!(s.get(&path).send(), s.config_map("a", "1"));
    assert_eq!(list.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_long_list_is_streamed_whole() {
    let s = Server::new().await;
    let big = "x".repeat(30_000);
    for i in 0..10 {
        s.post(CONFIG_MAPS)
            .body(&json!({"metadata": {"name": format!("m{i}")}, "data": {"k": big}}))
            .send()
            .await
            .expect(201);
    }
    let list = s.get(CONFIG_MAPS).send().await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 10);
}
