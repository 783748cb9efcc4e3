//! A whole member: start, write, restart, snapshot, refuse.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use coracle_state::{Command, Expect, Key, Propose, ProposeError, Refused, Views};
use tempfile::TempDir;

use super::put;
use crate::config::{Config, Limits};
use crate::fatal::Fatal;
use crate::replica::Replica;
use crate::types::{Data, node_id_text, parse_node_id};

fn key(name: &str) -> Key {
    Key::new("default", name)
}

async fn start(dir: &Path) -> Replica {
    Replica::start(Config::new(dir, 7)).await.unwrap()
}

#[tokio::test]
async fn writes_read_back_after_restarts_and_revisions_rise() {
    let dir = TempDir::new().unwrap();
    let mut last = 0;
    for round in 0..3 {
        let replica = start(dir.path()).await;
        assert!(replica.is_leader());
        assert_eq!(
            replica.view().revision,
            last,
            "nothing lost, nothing invented"
        );
        for n in 0..round {
            assert!(
                replica
                    .view()
                    .get("configmaps", &key(&format!("r{n}")))
                    .is_some()
            );
        }
        let results = replica
            .propose(vec![
                put(&format!("r{round}"), "{}"),
                put("same", &format!("{{\"r\":{round}}}")),
            ])
            .await
            .unwrap();
        let revisions: Vec<u64> = results.into_iter().map(|r| r.unwrap().revision).collect();
        assert_eq!(revisions, [last + 1, last + 2]);
        assert_eq!(
            replica.view().revision,
            last + 2,
            "the answer comes after the view"
        );
        last += 2;
        replica.shutdown().await;
    }
}

#[tokio::test]
async fn preconditions_are_checked_in_order() {
    let dir = TempDir::new().unwrap();
    let replica = start(dir.path()).await;
    let absent = || {
        Command::put(
            "configmaps",
            key("one"),
            Expect::Absent,
            Bytes::from_static(b"{}"),
            Vec::new(),
        )
    };
    let results = replica.propose(vec![absent(), absent()]).await.unwrap();
    assert!(results[0].is_ok());
    assert_eq!(results[1], Err(Refused::Precondition { found: Some(1) }));
    assert_eq!(replica.propose(Vec::new()).await.unwrap(), Vec::new());
    replica.shutdown().await;
    assert!(matches!(
        replica.propose(vec![absent()]).await,
        Err(ProposeError::Unavailable(_))
    ));
}

#[tokio::test]
async fn many_concurrent_proposals_all_answer() {
    let dir = TempDir::new().unwrap();
    let replica = Arc::new(start(dir.path()).await);
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let replica = replica.clone();
            tokio::spawn(async move {
                replica
                    .propose(vec![put(&format!("c{n}"), "{}")])
                    .await
                    .unwrap()[0]
                    .clone()
                    .unwrap()
                    .revision
            })
        })
        .collect();
    let mut seen = Vec::new();
    for task in tasks {
        seen.push(task.await.unwrap());
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        (1..=200).collect::<Vec<_>>(),
        "every change has its own revision"
    );
    replica.shutdown().await;
}

#[tokio::test]
async fn too_large_proposals_are_refused_before_the_log() {
    let dir = TempDir::new().unwrap();
    let replica = start(dir.path()).await;
    let big = "x".repeat(9 << 20);
    assert!(matches!(
        replica.propose(vec![put("big", &big)]).await,
        Err(ProposeError::TooLarge { .. })
    ));
    replica.propose(vec![put("small", "{}")]).await.unwrap();
    replica.shutdown().await;
}

#[tokio::test]
async fn snapshots_bound_the_log_and_restore() {
    let dir = TempDir::new().unwrap();
    let config = || {
        let mut c = Config::new(dir.path(), 7);
        c.limits = Limits {
            chunk_bytes: 20_000,
            keep_entries: 10,
            ..Limits::default()
        };
        c
    };
    let replica = Replica::start(config()).await.unwrap();
    let value = format!("{{\"v\":\"{}\"}}", "x".repeat(300));
    for n in 0..300 {
        replica
            .propose(vec![put(&format!("s{n}"), &value)])
            .await
            .unwrap();
    }
    let internal = Command::put(
        "coracle.pki",
        Key::new("", "ca"),
        Expect::Any,
        Bytes::from_static(b"\x00\xff"),
        Vec::new(),
    );
    replica.propose(vec![internal]).await.unwrap();
    let hash = replica.status().hash;
    replica.snapshot().await.unwrap();
    assert!(replica.status().snapshot >= 300);
    replica.propose(vec![put("tail", "{}")]).await.unwrap();
    let (tail_hash, applied) = (replica.status().hash, replica.status().applied);
    assert_ne!(hash, tail_hash);
    replica.shutdown().await;
    let log: u64 = fs::read_dir(dir.path().join("raft/wal"))
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert!(
        log < 200_000,
        "{log} bytes of log are left behind a snapshot of 300 entries"
    );

    let replica = Replica::start(config()).await.unwrap();
    assert_eq!(
        replica.status().hash,
        tail_hash,
        "snapshot plus tail = the whole log"
    );
    assert!(replica.status().applied > applied);
    let view = replica.view();
    assert!(
        view.get("configmaps", &key("s0")).is_some()
            && view.get("configmaps", &key("tail")).is_some()
    );
    assert!(view.get("coracle.pki", &Key::new("", "ca")).is_some());
    assert_eq!(
        view.events_after("configmaps", 290).unwrap().len(),
        11,
        "the ring came back too"
    );
    replica.shutdown().await;

    // A damaged snapshot is refused, not ignored: the log behind it is gone.
    let snap = fs::read_dir(dir.path().join("raft/snapshots"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&snap).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snap, bytes).unwrap();
    let error = Replica::start(config()).await.unwrap_err().to_string();
    assert!(error.starts_with("E_SNAPSHOT_CORRUPT"), "{error}");
    fs::remove_file(&snap).unwrap();
    let error = Replica::start(config()).await.unwrap_err().to_string();
    assert!(error.starts_with("E_SNAPSHOT_CORRUPT"), "{error}");
}

#[tokio::test]
async fn data_directories_that_do_not_fit_are_refused() {
    let start_error = async |dir: &Path, id: u64| {
        Replica::start(Config::new(dir, id))
            .await
            .unwrap_err()
            .to_string()
    };

    let dir = TempDir::new().unwrap();
    start(dir.path()).await.shutdown().await;
    assert_eq!(
        fs::read_to_string(dir.path().join("VERSION")).unwrap(),
        "2\n"
    );
    let error = start_error(dir.path(), 8).await;
    assert!(
        error.contains(&node_id_text(7)),
        "another node's log: {error}"
    );
    fs::write(dir.path().join("VERSION"), "99\n").unwrap();
    let error = start_error(dir.path(), 7).await;
    assert!(
        error.starts_with("E_DATA_NEWER") && error.contains("99"),
        "{error}"
    );
    fs::write(dir.path().join("VERSION"), "hello").unwrap();
    assert!(
        start_error(dir.path(), 7)
            .await
            .starts_with("E_DATA_UNREADABLE")
    );
    fs::remove_file(dir.path().join("VERSION")).unwrap();
    assert!(
        start_error(dir.path(), 7)
            .await
            .starts_with("E_DATA_UNREADABLE")
    );
    fs::write(dir.path().join("VERSION"), "1\n").unwrap();
    start(dir.path()).await.shutdown().await;

    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(start_error(&file, 7).await.starts_with("E_DATA_DIR"));
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("VERSION"), "1\n").unwrap();
    fs::write(dir.path().join("raft"), "x").unwrap();
    assert!(start_error(dir.path(), 7).await.starts_with("E_DATA_DIR"));
}

#[tokio::test]
async fn an_entry_of_a_newer_format_ends_the_process_with_one_line() {
    let dir = TempDir::new().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let mut config = Config::new(dir.path(), 7);
    let seen = lines.clone();
    config.fatal = Fatal::new(move |line| seen.lock().unwrap().push(line.to_string()));
    let replica = Replica::start(config).await.unwrap();
    let answer = replica
        .raft()
        .client_write(Data(Bytes::from_static(&[99, 1, 2])))
        .await;
    assert!(answer.is_err());
    replica.shutdown().await;
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("E_FORMAT_NEWER"), "{lines:?}");
}

#[tokio::test]
async fn a_stopped_core_ends_the_process_with_one_line() {
    let dir = TempDir::new().unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let mut config = Config::new(dir.path(), 7);
    config.fatal = Fatal::new(move |line| tx.send(line.to_string()).unwrap());
    let replica = Replica::start(config).await.unwrap();
    let panicked = replica
        .raft()
        .with_raft_state(|_| -> () { panic!("a planted bug") })
        .await;
    assert!(panicked.is_err());
    let line = tokio::task::spawn_blocking(move || rx.recv().unwrap())
        .await
        .unwrap();
    assert!(
        line.starts_with("E_RAFT_STOPPED") && line.contains("restart"),
        "{line}"
    );
    assert!(replica.propose(vec![put("a", "{}")]).await.is_err());
    replica.shutdown().await;
}

#[tokio::test]
async fn logged_time_and_clock_come_from_the_config() {
    let dir = TempDir::new().unwrap();
    let mut config = Config::new(dir.path(), 7);
    let at: jiff::Timestamp = "2031-01-01T00:00:00Z".parse().unwrap();
    config.clock = Arc::new(move || at);
    let replica = Replica::start(config).await.unwrap();
    replica.propose(vec![put("a", "{}")]).await.unwrap();
    assert_eq!(replica.view().at, at);
    replica.propose(vec![put("b", "{}")]).await.unwrap();
    assert!(
        replica.view().at > at,
        "logged time rises even if the clock stands still"
    );
    replica.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_serves_reads() {
    let dir = TempDir::new().unwrap();
    let replica = start(dir.path()).await;
    replica.propose(vec![put("a", "{}")]).await.unwrap();
    replica.shutdown().await;
    let mut config = Config::new(dir.path(), 7);
    config.limits.keep_free_bytes = Some(u64::MAX / 2);
    let replica = Replica::start(config).await.unwrap();
    let error = replica.propose(vec![put("b", "{}")]).await.unwrap_err();
    assert!(error.to_string().contains("E_DISK_FULL"), "{error}");
    assert!(replica.view().get("configmaps", &key("a")).is_some());
    replica.shutdown().await;
}

#[test]
fn node_ids_are_sixteen_hex_digits() {
    assert_eq!(node_id_text(255), "00000000000000ff");
    assert_eq!(parse_node_id("00000000000000ff"), Some(255));
    for bad in [
        "",
        "ff",
        "00000000000000fg",
        "+0000000000000ff",
        "00000000000000ff0",
    ] {
        assert_eq!(parse_node_id(bad), None, "{bad}");
    }
}
