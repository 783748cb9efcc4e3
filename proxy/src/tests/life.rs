//! Starting, changing and stopping under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use http::Response;
use tokio::sync::mpsc;

use super::support::*;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (entered_to, mut entered) = mpsc::unbounded_channel();
    let release = Arc::new(tokio::sync::Notify::new());
    let slow = {
        let release = release.clone();
        fake(move |_, _, _| {
            entered_to.send(()).unwrap();
            let release = release.clone();
            Box::pin(async move {
                release.notified().await;
                Ok(Response::new(full("done")))
            })
        })
    };
    // One core, so that the end of the idle connection says that the busy one knows, too.
    let p = web(slow, |c| c.cores = 1);
    let addr = p.ingress_addr();
    let mut idle = Client::new(addr).await;
    let mut busy = Client::new(addr).await;
    busy.send("GET / HTTP/1.1\r\nhost: web.test\r\n\r\n").await;
    entered.recv().await.unwrap();
    let stopping = tokio::spawn({
        let p = p.clone();
        async move { p.shutdown(PATIENCE).await }
    });
    idle.ended().await;
    release.notify_one();
    let seen = busy.answer().await.unwrap();
    assert_eq!((seen.status, seen.body.as_str()), (200, "done"));
    assert_eq!(seen.header("connection"), Some("close"));
    busy.ended().await;
    stopping.await.unwrap();
    assert!(
        tokio::net::TcpStream::connect(addr).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_is_bounded() {
    let (entered_to, mut entered) = mpsc::unbounded_channel();
    let p = web(
        fake(move |_, _, _| {
            entered_to.send(()).unwrap();
            Box::pin(std::future::pending())
        }),
        |_| {},
    );
    let mut client = Client::new(p.ingress_addr()).await;
    client
        .send("GET / HTTP/1.1\r\nhost: web.test\r\n\r\n")
        .await;
    entered.recv().await.unwrap();
    p.shutdown(Duration::from_millis(50)).await;
    client.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_an_error_and_not_shared() {
    let p = web(says("hi"), |_| {});
    let config = Config::new(p.ingress_addr(), Arc::new(Node::default()));
    let error = Proxy::start(config).unwrap_err();
    assert!(
        matches!(&error, StartError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse),
        "{error}"
    );
    p.shutdown(PATIENCE).await;
}

/// Rolls replicas over and over, as a rollout does: new endpoint in the table, old one out of it, then stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_tables_and_replicas_under_load_loses_nothing() {
    const CLIENTS: usize = 8;
    const ROLLOUTS: usize = 60;
    let node = Arc::new(Node::default());
    let p = proxy(&node, |_| {});
    let uid = |generation: usize| format!("u{generation}");
    let put = |generation: usize| {
        node.put(
            &uid(generation),
            fake(|_, _, _| {
                Box::pin(async {
                    tokio::task::yield_now().await;
                    Ok(Response::new(full("ok")))
                })
            }),
        );
    };
    let table = |revision: u64, pods: &[String]| {
        let mut world = World::new("n1");
        world.0.revision = revision;
        let pods: Vec<(&str, &str)> = pods.iter().map(|u| (u.as_str(), "n1")).collect();
        world.service("web", &pods).table()
    };
    put(0);
    put(1);
    p.swap(table(1, &[uid(0), uid(1)]));
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (stop, addr) = (stop.clone(), p.ingress_addr());
        clients.push(tokio::spawn(async move {
            let mut client = Client::new(addr).await;
            let mut requests = 0;
            while !stop.load(SeqCst) {
                let seen = client
                    .get("web.test", "/")
                    .await
                    .expect("the connection stays");
                assert_eq!(seen.status, 200, "{seen:?}");
                requests += 1;
            }
            requests
        }));
    }
    for generation in 2..ROLLOUTS {
        put(generation);
        let revision = generation as u64;
        p.swap(table(revision, &[uid(generation - 1), uid(generation)]));
        assert_eq!(p.applied(), revision);
        node.remove(&uid(generation - 2));
        // A few requests see each table.
        for _ in 0..5 {
            assert_eq!(get(&p, "web.test", "/").await.status, 200);
        }
    }
    stop.store(true, SeqCst);
    let mut total = 0;
    for client in clients {
        total += client.await.unwrap();
    }
    assert!(total > CLIENTS, "{total} requests ran beside the swaps");
    let text = metrics(&p);
    assert!(!text.contains("code=\"5"), "{text}");
    p.shutdown(PATIENCE).await;
}
