//! Named after the bugs that other stores had: each is a property of ours. The numbers are those of the reports.

use std::collections::BTreeMap;

use coracle_state::{Command, Expect, Key, State, snapshot};
use serde_json::json;

use super::*;

fn put(name: &str, data: usize) -> Command {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "data": {"k": data.to_string()}});
    let key = Key::new("default", name);
    let bytes = coracle_api::canonical::encode(&object);
    Command::put("configmaps", key, Expect::Any, bytes, Vec::new())
}

fn delete(name: &str) -> Command {
    Command::delete("configmaps", Key::new("default", name), Expect::Any)
}

fn watch_from(revision: u64) -> String {
    format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}")
}

/// etcd#19179: a watch that began exactly at the compaction revision lost the deletion after it.
#[tokio::test]
async fn a_watch_at_the_floor_of_the_ring_sees_the_deletion_after_it() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    s.config_map("b", "1").await;
    let last_forgotten = s.revision();
    // What is old now is forgotten with the next change.
    s.fake.clock.fetch_add(1_000, Ordering::SeqCst);
    s.delete(&format!("{CONFIG_MAPS}/a"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        s.ctx.view().tables["configmaps"].ring_floor,
        last_forgotten,
        "the watch begins at the floor"
    );
    let mut w = s.get(&watch_from(last_forgotten)).frames().await;
    let (what, name, at) = w.brief().await;
    assert_eq!(
        (what.as_str(), name.as_str(), at),
        ("DELETED", "a", s.revision().to_string())
    );
    // One revision earlier something is missing, and the watch says so instead of beginning later.
    let mut w = s.get(&watch_from(last_forgotten - 1)).frames().await;
    assert_eq!(w.next().await.unwrap()["object"]["code"], 410);
}

/// etcd#15271: after a partition a client that moved to a member behind its revision was shown the past again.
#[tokio::test]
async fn a_watch_never_goes_back_in_time() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    s.fake.lags.store(true, Ordering::SeqCst);
    let newest = s.fake.apply(vec![put("b", 1), put("b", 2)]);
    let newest = newest[1].as_ref().unwrap().revision;
    assert!(s.revision() < newest, "this member is behind");
    let path = watch_from(newest);
    let opening = s.get(&path).frames();
    let catching_up = async {
        s.fake.apply(vec![put("c", 1)]);
        s.fake.publish();
    };
    let (mut w, ()) = tokio::join!(opening, catching_up);
    let (what, name, at) = w.brief().await;
    assert_eq!(
        (what.as_str(), name.as_str(), at),
        ("ADDED", "c", (newest + 1).to_string())
    );
}

/// As above, for a member that does not catch up: it says so, and the client goes elsewhere.
#[tokio::test(start_paused = true)]
async fn a_member_that_stays_behind_says_so() {
    let s = Server::new().await;
    let status = s
        .get(&watch_from(s.revision() + 1))
        .send()
        .await
        .refused(504, "Timeout");
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
}

/// etcd#17529: a starved watch lost events. Here a watch reads nothing while thousands of changes happen, others read
/// along, and each gets every change once and in order.
#[tokio::test]
async fn a_watch_that_was_starved_misses_nothing() {
    const CHANGES: usize = 10_000;
    let s = Server::new().await;
    let from = s.revision();
    let mut slow = s.get(&watch_from(from)).frames().await;
    let mut own = s
        .get(&format!(
            "{}&fieldSelector=metadata.name%3Dm7",
            watch_from(from)
        ))
        .frames()
        .await;
    let mut quick = s.get(&watch_from(from)).frames().await;
    for i in 0..CHANGES / 100 {
        s.fake
            .apply((0..100).map(|n| put(&format!("m{n}"), i)).collect());
        quick.brief().await;
    }
    for i in 1..=CHANGES as u64 {
        assert_eq!(slow.brief().await.2, (from + i).to_string());
    }
    for i in 0..CHANGES as u64 / 100 {
        assert_eq!(own.brief().await.2, (from + i * 100 + 8).to_string());
    }
}

/// etcd#15220: a progress notification named a revision of which the stream had not delivered everything yet.
#[tokio::test(start_paused = true)]
async fn a_bookmark_is_never_ahead_of_its_stream() {
    let s = Server::new().await;
    let from = s.revision();
    let path = format!(
        "{}&allowWatchBookmarks=true&timeoutSeconds=600",
        watch_from(from)
    );
    let mut w = s.get(&path).frames().await;
    let (mut expected, mut bookmarks, mut written) = (from, 0, 0);
    while bookmarks < 5 {
        // The change and the bookmark become due at about the same time, in either order.
        tokio::time::advance(Duration::from_secs(7)).await;
        s.fake.apply(vec![put("a", written)]);
        written += 1;
        s.fake.apply(vec![Command::put(
            "secrets",
            Key::new("default", "x"),
            Expect::Any,
            Bytes::from(format!(
                "{{\"metadata\":{{\"name\":\"x\"}},\"n\":{written}}}"
            )),
            Vec::new(),
        )]);
        let newest = s.revision();
        loop {
            let (what, name, at) = w.brief().await;
            let at: u64 = at.parse().unwrap();
            if what == "BOOKMARK" {
                bookmarks += 1;
                assert!(
                    at <= newest && at >= expected,
                    "{at} of {expected} to {newest}"
                );
                expected = at;
                // Everything up to it came before it.
                let seen = s.ctx.view().events_after("configmaps", at).unwrap();
                assert!(seen.iter().all(|e| e.revision > at));
                if at >= newest - 1 {
                    break;
                }
            } else {
                assert!(
                    at > expected,
                    "{name} at {at} came after a bookmark of {expected}"
                );
                expected = at;
                break;
            }
        }
    }
}

/// A bookmark of a watch that hears nothing of a busy table is up to date, and the watch is not expired for it.
#[tokio::test(start_paused = true)]
async fn a_quiet_watch_in_a_busy_table_is_not_expired() {
    let s = Server::new().await;
    s.config_map("quiet", "1").await;
    let path = format!(
        "{CONFIG_MAPS}/quiet?watch=true&allowWatchBookmarks=true&timeoutSeconds=1000&resourceVersion={}",
        s.revision()
    );
    let mut w = s.get(&path).frames().await;
    let reading = tokio::spawn(async move { (w.brief().await, w) });
    tokio::task::yield_now().await;
    for i in 0..20 {
        // Each of these changes pushes all before it out of the ring.
        s.fake.clock.fetch_add(1_000, Ordering::SeqCst);
        s.fake.apply(vec![put("busy", i)]);
        tokio::time::advance(Duration::from_millis(100)).await;
        tokio::task::yield_now().await;
    }
    let ((what, _, at), mut w) = reading.await.unwrap();
    assert_eq!((what.as_str(), at), ("BOOKMARK", s.revision().to_string()));
    s.fake.clock.fetch_add(1_000, Ordering::SeqCst);
    s.fake.apply(vec![put("busy", 99)]);
    s.fake.apply(vec![put("quiet", 2)]);
    let (what, name, _) = w.brief().await;
    assert_eq!((what.as_str(), name.as_str()), ("MODIFIED", "quiet"));
}

/// etcd#20418: a member that was paused answered reads from before the pause.
#[tokio::test]
async fn a_read_never_misses_what_another_member_acknowledged() {
    let s = Server::new().await;
    s.config_map("a", "1").await;
    s.fake.lags.store(true, Ordering::SeqCst);
    s.fake.apply(vec![put("b", 1)]);
    // Whoever says that it may be old gets it old, and at once.
    s.get(&format!("{CONFIG_MAPS}/b?resourceVersion=0"))
        .send()
        .await
        .refused(404, "NotFound");
    s.get(&format!("{CONFIG_MAPS}/b")).send().await.expect(200);
    s.fake.apply(vec![put("c", 1), delete("a")]);
    let list = s.get(CONFIG_MAPS).send().await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    s.fake.apply(vec![put("d", 1)]);
    let mut w = s.get(&format!("{CONFIG_MAPS}?watch=true")).frames().await;
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(w.brief().await.1);
    }
    assert_eq!(names, ["b", "c", "d"]);
    // Without a leader nobody knows.
    s.fake.down.store(true, Ordering::SeqCst);
    let reply = s.get(&format!("{CONFIG_MAPS}/b")).send().await;
    assert_eq!(reply.header("retry-after"), ["1"]);
    reply.refused(503, "ServiceUnavailable");
    s.get(&format!("{CONFIG_MAPS}/b?resourceVersion=0"))
        .send()
        .await
        .expect(200);
}

/// A client that lost its member goes on at another one, which has its history from a snapshot: no gap, no repeat.
#[tokio::test]
async fn after_a_failover_a_watch_resumes_without_a_gap() {
    let one = Server::new().await;
    let from = one.revision();
    for i in 0..300 {
        one.fake.apply(vec![put(&format!("m{}", i % 7), i)]);
    }
    one.fake.apply(vec![delete("m3")]);
    let mut w = one.get(&watch_from(from)).frames().await;
    let mut seen = Vec::new();
    for _ in 0..100 {
        seen.push(w.brief().await);
    }
    let last: u64 = seen[99].2.parse().unwrap();
    let mut file = Vec::new();
    snapshot::write(&one.fake.state.lock().unwrap(), &mut file).unwrap();
    let state: State = snapshot::read(&mut &file[..]).unwrap();
    let two = Server::over(state);
    let mut w = two.get(&watch_from(last)).frames().await;
    two.fake.apply(vec![put("m9", 1)]);
    for _ in 100..302 {
        seen.push(w.brief().await);
    }
    let revisions: Vec<u64> = seen.iter().map(|s| s.2.parse().unwrap()).collect();
    assert_eq!(revisions, (from + 1..=from + 302).collect::<Vec<_>>());
    // The stream alone gives the state.
    let mut state = BTreeMap::new();
    for (what, name, at) in seen {
        match what.as_str() {
            "DELETED" => state.remove(&name),
            _ => state.insert(name, at),
        };
    }
    let list = two.get(CONFIG_MAPS).send().await.expect(200);
    let listed: BTreeMap<String, String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| {
            let text = |f: &str| o["metadata"][f].as_str().unwrap().to_string();
            (text("name"), text("resourceVersion"))
        })
        .collect();
    assert_eq!(state, listed);
}

/// Many watches of every sort at once: each sees its own changes, all of them, in order.
#[tokio::test]
async fn watches_are_woken_for_what_concerns_them() {
    let s = Server::new().await;
    for i in 0..3 {
        s.post("/api/v1/nodes")
            .body(&node(&format!("n{i}")))
            .send()
            .await
            .expect(201);
    }
    let from = s.revision();
    let open = |path: String| {
        s.get(&format!("{path}watch=true&resourceVersion={from}"))
            .frames()
    };
    let mut all = open("/api/v1/configmaps?".into()).await;
    let mut other = open("/api/v1/namespaces/kube-system/configmaps?".into()).await;
    let mut one = open(format!("{CONFIG_MAPS}/m1?")).await;
    let mut label = open(format!("{CONFIG_MAPS}?labelSelector=d%3D2&")).await;
    let mut on_node = open("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&".into()).await;
    for (i, d) in [(1, "1"), (2, "2"), (3, "1")] {
        s.config_map(&format!("m{i}"), d).await;
    }
    s.post("/api/v1/namespaces/kube-system/configmaps")
        .body(&json!({"metadata": {"name": "m4"}}))
        .send()
        .await
        .expect(201);
    for (pod_name, on) in [("p0", "n0"), ("p1", "n1")] {
        s.post(PODS).body(&pod(pod_name)).send().await.expect(201);
        s.post(&format!("{PODS}/{pod_name}/binding"))
            .body(&json!({"target": {"kind": "Node", "name": on}}))
            .send()
            .await
            .expect(201);
    }
    for name in ["m1", "m2", "m3", "m4"] {
        assert_eq!(all.brief().await.1, name);
    }
    assert_eq!(other.brief().await.1, "m4");
    assert_eq!(one.brief().await.1, "m1");
    assert_eq!(label.brief().await.1, "m2");
    let (what, name, _) = on_node.brief().await;
    assert_eq!((what.as_str(), name.as_str()), ("ADDED", "p1"));
    // Nobody watches any more: nothing is followed either.
    drop((all, other, one, label, on_node));
    while !s.ctx.hub.is_idle() {
        tokio::task::yield_now().await;
    }
}

/// Shutdown ends watches spread over a time that grows with their number, and an idle member at once.
#[tokio::test(start_paused = true)]
async fn watches_are_closed_spread_over_time() {
    let s = Server::new().await;
    let closing = crate::tls::Closing::default();
    let mut watches = Vec::new();
    for _ in 0..2_000 {
        let path = format!("{}&allowWatchBookmarks=true", watch_from(s.revision()));
        watches.push(s.get(&path).closing(&closing).frames().await);
    }
    let started = tokio::time::Instant::now();
    closing.0.cancel();
    let ends = watches.into_iter().map(|mut w| async move {
        let mut frames = Vec::new();
        while let Some(frame) = w.next().await {
            frames.push(frame["type"].clone());
        }
        assert_eq!(frames, ["BOOKMARK"], "the client learns where to go on");
        started.elapsed().as_millis()
    });
    let ends = futures_util::future::join_all(ends).await;
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(
        *first < 100 && *last > 1_500 && *last <= 2_100,
        "{first} to {last} ms"
    );
    let early = ends.iter().filter(|e| **e < 1_000).count();
    assert!(
        (700..1_300).contains(&early),
        "{early} of 2,000 in the first half"
    );
}
