//! Watches: order, resumption, selectors, bookmarks, expiry.

use coracle_state::ring::EVENTS_MAX;
use coracle_state::{Command, Expect, Key};
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_watch_continues_a_list_without_gap_or_repeat() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    let rv = s.get(CONFIG_MAPS).send().await.expect(200)["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_string();
    s.config_map("b", "1").await;
    let mut w = s
        .get(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={rv}"))
        .frames()
        .await;
    let (what, name, first) = w.brief().await;
    assert_eq!((what.as_str(), name.as_str()), ("ADDED", "b"));
    s.patch(
        &format!("{CONFIG_MAPS}/a"),
        MERGE,
        &json!({"data": {"k": "2"}}),
    )
    .send()
    .await
    .expect(200);
    s.delete(&format!("{CONFIG_MAPS}/b"))
        .send()
        .await
        .expect(200);
    assert_eq!(w.brief().await.0, "MODIFIED");
    let (what, name, last) = w.brief().await;
    assert_eq!(
        (what.as_str(), name.as_str(), last),
        ("DELETED", "b", s.revision().to_string())
    );
    // From the middle, the rest comes once more and nothing else.
    let mut again = s
        .get(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={first}"))
        .frames()
        .await;
    assert_eq!(again.brief().await.0, "MODIFIED");
    assert_eq!(again.brief().await.0, "DELETED");
}

#[tokio::test]
async fn without_a_revision_what_is_there_comes_first() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    s.config_map("b", "1").await;
    for query in ["watch=true", "watch=true&resourceVersion=0"] {
        let mut w = s.get(&format!("{CONFIG_MAPS}?{query}")).frames().await;
        assert_eq!(
            (w.brief().await.1, w.brief().await.1),
            ("a".into(), "b".into())
        );
    }
    // One object by its own path.
    let mut w = s.get(&format!("{CONFIG_MAPS}/b?watch=true")).frames().await;
    assert_eq!(w.brief().await.1, "b");
}

#[tokio::test]
async fn objects_enter_and_leave_a_selector() {
    let s = Server::new().await;
    let rv = s.revision();
    let mut w = s
        .get(&format!(
            "{CONFIG_MAPS}?watch=true&labelSelector=d%3D1&resourceVersion={rv}"
        ))
        .frames()
        .await;
    let set = |d: &str| json!({"metadata": {"labels": {"d": d}}});
    s.config_map("a", "0").await;
    s.patch(&format!("{CONFIG_MAPS}/a"), MERGE, &set("1"))
        .send()
        .await
        .expect(200);
    assert_eq!(w.brief().await.0, "ADDED");
    s.patch(
        &format!("{CONFIG_MAPS}/a"),
        MERGE,
        &json!({"data": {"k": "9"}}),
    )
    .send()
    .await
    .expect(200);
    assert_eq!(w.brief().await.0, "MODIFIED");
    let left = s
        .patch(&format!("{CONFIG_MAPS}/a"), MERGE, &set("2"))
        .send()
        .await
        .expect(200);
    let frame = w.next().await.unwrap();
    // The old form, at the revision of the change.
    assert_eq!(
        (&frame["type"], &frame["object"]["metadata"]["labels"]["d"]),
        (&json!("DELETED"), &json!("1"))
    );
    assert_eq!(
        frame["object"]["metadata"]["resourceVersion"],
        left["metadata"]["resourceVersion"]
    );
    s.delete(&format!("{CONFIG_MAPS}/a"))
        .send()
        .await
        .expect(200);
    s.config_map("b", "1").await;
    assert_eq!(
        w.brief().await.1,
        "b",
        "the deletion of what is not selected is not seen"
    );
}

#[tokio::test]
async fn a_revision_older_than_the_ring_is_expired() {
    let s = Server::new().await;
    let rv = s.revision();
    let bytes = |i: usize| {
        coracle_api::canonical::encode(
            &json!({"metadata": {"name": "a", "namespace": "default"}, "data": {"i": i.to_string()}}),
        )
    };
    let many = (0..=EVENTS_MAX + 1)
        .map(|i| {
            Command::put(
                "configmaps",
                Key::new("default", "a"),
                Expect::Any,
                bytes(i),
                Vec::new(),
            )
        })
        .collect();
    s.fake.apply(many);
    let mut w = s
        .get(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={rv}"))
        .frames()
        .await;
    let frame = w.next().await.unwrap();
    assert_eq!(
        (
            &frame["type"],
            &frame["object"]["reason"],
            &frame["object"]["code"]
        ),
        (&json!("ERROR"), &json!("Expired"), &json!(410))
    );
    assert!(w.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_when_asked_for_only() {
    let s = Server::new().await;
    let rv = s.revision();
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={rv}&timeoutSeconds=90");
    let mut w = s
        .get(&format!("{path}&allowWatchBookmarks=true"))
        .frames()
        .await;
    // A change of another kind moves the position without a frame.
    s.post("/api/v1/namespaces")
        .body(&json!({"metadata": {"name": "x"}}))
        .send()
        .await
        .expect(201);
    let frame = w.next().await.unwrap();
    assert_eq!(
        (&frame["type"], &frame["object"]["kind"]),
        (&json!("BOOKMARK"), &json!("ConfigMap"))
    );
    assert_eq!(
        frame["object"]["metadata"]["resourceVersion"],
        s.revision().to_string()
    );
    assert_eq!(
        w.next().await.unwrap()["type"],
        "BOOKMARK",
        "and one more at the timeout"
    );
    assert!(w.next().await.is_none());
    let mut quiet = s.get(&path).frames().await;
    let started = tokio::time::Instant::now();
    let end = tokio::time::timeout(Duration::from_secs(120), quiet.body.next())
        .await
        .unwrap();
    assert!(end.is_none() && started.elapsed() >= Duration::from_secs(90));
}

#[tokio::test]
async fn a_table_watch_sends_columns_once() {
    let s = Server::new().await;
    let rv = s.revision();
    let mut w = s
        .get(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={rv}"))
        .accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .frames()
        .await;
    s.config_map("a", "1").await;
    s.config_map("b", "1").await;
    let (first, second) = (w.next().await.unwrap(), w.next().await.unwrap());
    assert!(
        !first["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(
        second["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn streaming_lists_are_declined_so_that_clients_fall_back() {
    let s = Server::new().await;
    s.get(&format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    ))
    .send()
    .await
    .refused(422, "Invalid");
}

#[tokio::test]
async fn many_watchers_see_the_same_order() {
    let s = Server::new().await;
    let rv = s.revision();
    let mut watchers = Vec::new();
    for _ in 0..5 {
        watchers.push(
            s.get(&format!(
                "/api/v1/configmaps?watch=true&resourceVersion={rv}"
            ))
            .frames()
            .await,
        );
    }
    for i in 0..50 {
        s.config_map(&format!("m{i}"), "1").await;
    }
    let mut seen = Vec::new();
    for w in &mut watchers {
        let mut all = Vec::new();
        for _ in 0..50 {
            all.push(w.brief().await.2.parse::<u64>().unwrap());
        }
        assert!(all.windows(2).all(|p| p[0] < p[1]));
        seen.push(all);
    }
    assert!(seen.windows(2).all(|p| p[0] == p[1]));
}

/// Watches that share pieces read while others write, from different starts and at different paces, with watches of one
/// namespace, of all and with a selector side by side: each sees every change of its own once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shared_pieces_neither_repeat_nor_skip() {
    const WRITES: usize = 400;
    let s = Arc::new(Server::new().await);
    let start = s.revision();
    let paths = [
        CONFIG_MAPS.to_string(),
        "/api/v1/configmaps".into(),
        format!("{CONFIG_MAPS}?fieldSelector=metadata.name!%3Dm7"),
    ];
    let mut watches = tokio::task::JoinSet::new();
    for n in 0..24usize {
        let path = &paths[n % paths.len()];
        let sign = if path.contains('?') { '&' } else { '?' };
        // What is missed at the start is read from the ring.
        let mut frames = s
            .get(&format!("{path}{sign}watch=1&resourceVersion={start}"))
            .frames()
            .await;
        let expected = WRITES - usize::from(path.contains("m7"));
        watches.spawn(async move {
            let mut seen: Vec<u64> = Vec::with_capacity(expected);
            while seen.len() < expected {
                seen.push(frames.brief().await.2.parse().unwrap());
                if n % 5 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            seen
        });
    }
    let mut writers = tokio::task::JoinSet::new();
    for w in 0..8 {
        let s = s.clone();
        writers.spawn(async move {
            for i in (w..WRITES).step_by(8) {
                s.config_map(&format!("m{i}"), "1").await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    while let Some(seen) = watches.join_next().await {
        let seen = seen.unwrap();
        assert!(seen.windows(2).all(|p| p[0] < p[1]), "{seen:?}");
        assert_eq!(*seen.last().unwrap(), s.revision());
    }
}
