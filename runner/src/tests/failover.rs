//! A runner goes on when a member dies, falls silent or has lost its quorum.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::fake::{Answer, Asked, Member, Root, api, streaming, text, until};
use crate::pull::test_blob;
use crate::watch::{self, Change, Target};

/// A day, for certificates that are not the subject.
const DAY: Duration = Duration::from_secs(86_400);

/// Says who it is.
async fn named(root: &Root, name: &'static str) -> Member {
    Member::start(root, &[root], move |_| async move {
        text(200, format!("{{\"name\":\"{name}\"}}"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_costs_little_and_a_silent_one_five_seconds() {
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let (a, b) = (named(&root, "a").await, named(&root, "b").await);
    let gone = named(&root, "gone").await;
    let (api, endpoints, _) = api(dir.path(), &[&gone, &a, &b], root.node(DAY, &[&root]));
    drop(gone);
    until("the port is free", || {
        std::net::TcpStream::connect(endpoints.order()[0].as_str()).is_err()
    })
    .await;
    let since = Instant::now();
    assert_eq!(api.get("/x").await.unwrap()["name"], "a");
    assert!(since.elapsed() < Duration::from_secs(3), "{since:?}");
    assert_eq!(endpoints.order()[0], a.addr.to_string());

    // It accepts connections and says nothing more, as a stopped process does; no reset tells of it.
    assert_eq!(api.get("/x").await.unwrap()["name"], "a");
    a.freeze();
    let since = Instant::now();
    assert_eq!(api.get("/x").await.unwrap()["name"], "b");
    let took = since.elapsed();
    assert!(
        Duration::from_secs(1) < took && took < Duration::from_secs(9),
        "by a ping, not by luck and not by the request's own end: {took:?}"
    );
    assert_eq!(endpoints.order()[0], b.addr.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_cluster_is_passed_over() {
    let (dir, root, other) = (
        tempfile::tempdir().unwrap(),
        Root::new("root"),
        Root::new("other"),
    );
    let (stranger, b) = (named(&other, "stranger").await, named(&root, "b").await);
    let (api, _, _) = api(dir.path(), &[&stranger, &b], root.node(DAY, &[&root]));
    assert_eq!(api.get("/x").await.unwrap()["name"], "b");
    assert_eq!(stranger.count("/"), 0, "nothing was sent to it");
}

/// A member with one pod at revision 5, whose watch stays silent until `news` and then tells of revision 6.
async fn watched(root: &Root, quorum: Arc<AtomicBool>, news: CancellationToken) -> Member {
    Member::start(root, &[root], move |asked: Asked| {
        let (quorum, news) = (quorum.clone(), news.clone());
        async move {
            if asked.path.contains("watch=true") {
                let line = async move {
                    news.cancelled().await;
                    Ok::<_, String>(event(6))
                };
                let silence = stream::pending();
                return streaming(200, stream::once(line).chain(silence).boxed());
            }
            if asked.method == http::Method::PATCH && !quorum.load(SeqCst) {
                return text(
                    503,
                    "{\"reason\":\"ServiceUnavailable\",\"message\":\"no leader\"}",
                );
            }
            let pod = pod(5);
            text(
                200,
                json!({"metadata": {"resourceVersion": "5"}, "items": [pod]}).to_string(),
            )
        }
    })
    .await
}

fn pod(revision: u64) -> Value {
    json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": revision.to_string()}})
}

fn event(revision: u64) -> bytes::Bytes {
    format!("{}\n", json!({"type": "MODIFIED", "object": pod(revision)})).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_leave_a_member_without_a_quorum_and_go_on_where_they_were() {
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let (cut, never, news) = (
        Arc::new(AtomicBool::new(false)),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let a = watched(&root, cut, never).await;
    let b = watched(&root, Arc::new(AtomicBool::new(true)), news.clone()).await;
    let (api, _, _) = api(dir.path(), &[&a, &b], root.node(DAY, &[&root]));
    let (tx, mut rx) = mpsc::channel(8);
    let stop = CancellationToken::new();
    tokio::spawn(watch::run(
        api.clone(),
        Target::all("/api/v1/pods"),
        tx,
        stop.clone(),
    ));
    assert!(matches!(
        rx.recv().await,
        Some(Change::Listed { revision: 5, .. })
    ));
    until("the watch is at the first member", || {
        a.count("/api/v1/pods?watch=true") == 1
    })
    .await;
    // A heartbeat finds out; the watch itself would be silent for ever.
    let beat = api.merge("/apis/lease", &json!({})).await;
    assert_eq!(beat.unwrap_err().code(), 503);
    until("the watch is at the second member", || {
        b.count("/api/v1/pods?watch=true") == 1
    })
    .await;
    let path = b.asked.lock().unwrap().last().unwrap().path.clone();
    assert!(path.contains("resourceVersion=5"), "{path}");
    api.merge("/apis/lease", &json!({})).await.unwrap();
    news.cancel();
    assert!(matches!(
        rx.recv().await,
        Some(Change::Put { revision: 6, .. })
    ));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_on_a_stopped_member_goes_on_at_the_next_one() {
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let (yes, news) = (Arc::new(AtomicBool::new(true)), CancellationToken::new());
    let a = watched(&root, yes.clone(), CancellationToken::new()).await;
    let b = watched(&root, yes, news.clone()).await;
    let (api, _, _) = api(dir.path(), &[&a, &b], root.node(DAY, &[&root]));
    let (tx, mut rx) = mpsc::channel(8);
    let stop = CancellationToken::new();
    tokio::spawn(watch::run(
        api,
        Target::all("/api/v1/pods"),
        tx,
        stop.clone(),
    ));
    assert!(matches!(rx.recv().await, Some(Change::Listed { .. })));
    until("the watch stands", || {
        a.count("/api/v1/pods?watch=true") == 1
    })
    .await;
    a.freeze();
    news.cancel();
    let since = Instant::now();
    let next = rx.recv().await;
    assert!(
        matches!(next, Some(Change::Put { revision: 6, .. })),
        "{next:?}"
    );
    assert!(since.elapsed() < Duration::from_secs(10), "{since:?}");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_member_nothing_is_said_to_be_gone() {
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let yes = Arc::new(AtomicBool::new(true));
    let news = CancellationToken::new();
    let a = watched(&root, yes.clone(), CancellationToken::new()).await;
    let (api, endpoints, _) = api(dir.path(), &[&a], root.node(DAY, &[&root]));
    let (tx, mut rx) = mpsc::channel(8);
    let stop = CancellationToken::new();
    tokio::spawn(watch::run(
        api.clone(),
        Target::all("/api/v1/pods"),
        tx,
        stop.clone(),
    ));
    assert!(matches!(rx.recv().await, Some(Change::Listed { .. })));
    until("the watch stands", || {
        a.count("/api/v1/pods?watch=true") == 1
    })
    .await;
    drop(a);
    let lost = api.get("/x").await.unwrap_err();
    assert_eq!(lost.code(), 0, "{lost}");
    // Whatever the watch does now, it tells nothing.
    assert!(
        tokio::time::timeout(Duration::from_millis(700), rx.recv())
            .await
            .is_err()
    );
    let b = watched(&root, yes, news.clone()).await;
    endpoints.learn(&json!({"api": [b.url()]}));
    news.cancel();
    let next = rx.recv().await;
    assert!(
        matches!(next, Some(Change::Put { revision: 6, .. })),
        "it goes on from its revision without a new list: {next:?}"
    );
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_watches_do_not_stand_in_the_way_of_a_heartbeat() {
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let yes = Arc::new(AtomicBool::new(true));
    let a = watched(&root, yes, CancellationToken::new()).await;
    let (api, _, _) = api(dir.path(), &[&a], root.node(DAY, &[&root]));
    let mut open = Vec::new();
    // More than one connection takes.
    for _ in 0..1_200 {
        open.push(api.stream("/api/v1/pods?watch=true", "*/*").await.unwrap());
    }
    api.merge("/apis/lease", &json!({})).await.unwrap();
    assert_eq!(a.count("/api/v1/pods?watch=true"), 1_200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_breaks_off_goes_on_at_the_next_member() {
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let whole: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let served = Arc::new(AtomicUsize::new(0));
    for parts in [true, false] {
        let (bytes, served) = (whole.clone(), served.clone());
        served.store(0, SeqCst);
        let handler = move |asked: Asked| {
            let (bytes, n) = (bytes.clone(), served.fetch_add(1, SeqCst));
            async move { layer(&bytes, &asked, n == 0, parts) }
        };
        let a = Member::start(&root, &[&root], handler).await;
        let (api, _, _) = api(dir.path(), &[&a], root.node(DAY, &[&root]));
        let got = test_blob(api, dir.path(), &whole).await;
        assert_eq!(got, whole, "parts: {parts}");
        let ranges: Vec<Option<String>> = a
            .asked
            .lock()
            .unwrap()
            .iter()
            .map(|a| a.range.clone())
            .collect();
        assert_eq!(ranges, [None, Some("bytes=40000-".to_string())]);
    }
}

fn layer(bytes: &[u8], asked: &Asked, breaks: bool, parts: bool) -> Answer {
    if breaks {
        let first = bytes::Bytes::copy_from_slice(&bytes[..40_000]);
        let end = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Err("the member is gone".to_string())
        };
        let first = stream::iter([Ok(first)]);
        return streaming(200, first.chain(stream::once(end)).boxed());
    }
    match asked.range.as_deref() {
        Some("bytes=40000-") if parts => text(206, bytes[40_000..].to_vec()),
        _ => text(200, bytes.to_vec()),
    }
}
