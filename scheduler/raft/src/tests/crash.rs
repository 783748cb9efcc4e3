//! Crashes: the directory is copied while a writer runs (what `kill -9` leaves), its tail is torn at every length, and
//! whatever was acknowledged before the copy must be there.

use std::fs::{self, OpenOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_state::{Key, Propose, Views};
use tempfile::TempDir;

use super::{chunks, copy_dir, put};
use crate::config::{Config, Limits};
use crate::journal::synced::Synced;
use crate::replica::Replica;

fn config(dir: &std::path::Path) -> Config {
    let mut config = Config::new(dir, 7);
    config.limits = Limits {
        chunk_bytes: 40_000,
        snapshot_log_bytes_min: 60_000,
        keep_entries: 20,
        keep_log_bytes: 80_000,
        ..Limits::default()
    };
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_crash_at_any_moment() {
    let home = TempDir::new().unwrap();
    let replica = Arc::new(
        Replica::start(config(&home.path().join("live")))
            .await
            .unwrap(),
    );
    let acked = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (replica, acked) = (replica.clone(), acked.clone());
        async move {
            for n in 1..=400u64 {
                let value = format!(
                    r#"{{"metadata":{{"name":"n{n}"}},"data":{{"v":"{}"}}}}"#,
                    "x".repeat(500)
                );
                replica
                    .propose(vec![put(&format!("n{n}"), &value)])
                    .await
                    .unwrap();
                acked.store(n, Ordering::SeqCst);
                if n == 200 {
                    replica.snapshot().await.unwrap();
                }
            }
        }
    });
    let mut crashes = Vec::new();
    for want in [1, 60, 150, 199, 201, 260, 333, 399] {
        while acked.load(Ordering::SeqCst) < want {
            tokio::task::yield_now().await;
        }
        let copy = home.path().join(format!("crash-{want}"));
        let before = acked.load(Ordering::SeqCst);
        copy_dir(&home.path().join("live"), &copy);
        crashes.push((copy, before));
    }
    writer.await.unwrap();
    replica.shutdown().await;
    for (copy, acked) in crashes {
        let revived = Replica::start(config(&copy))
            .await
            .unwrap_or_else(|e| panic!("after {acked} acknowledged: {e}"));
        let view = revived.view();
        for n in 1..=acked {
            assert!(
                view.get("configmaps", &Key::new("default", format!("n{n}")))
                    .is_some(),
                "{n} of {acked} is lost"
            );
        }
        assert!(view.revision >= acked, "revisions never go back");
        let at = view.revision;
        revived.propose(vec![put("after", "{}")]).await.unwrap();
        assert!(revived.newer_than(at).await.revision > at);
        revived.shutdown().await;
    }
}

#[tokio::test]
async fn every_torn_length_of_an_unsynced_tail_opens() {
    let home = TempDir::new().unwrap();
    let live = home.path().join("live");
    let replica = Replica::start(config(&live)).await.unwrap();
    replica.propose(vec![put("first", "{}")]).await.unwrap();
    replica.shutdown().await;
    let raft = live.join("raft");
    let synced = Synced::open(&raft.join("synced")).unwrap().offset();
    let base = fs::metadata(chunks(&raft).pop().unwrap()).unwrap().len();
    // One more write, whose bytes are then torn at every length (the marker of the copy knows nothing of it).
    let again = home.path().join("again");
    copy_dir(&live, &again);
    let replica = Replica::start(config(&again)).await.unwrap();
    replica.propose(vec![put("second", "{}")]).await.unwrap();
    replica.shutdown().await;
    let full = fs::metadata(chunks(&again.join("raft")).pop().unwrap())
        .unwrap()
        .len();
    assert!(synced <= base && base < full);
    for len in (base..full).step_by(7) {
        let torn = home.path().join(format!("torn-{len}"));
        copy_dir(&again, &torn);
        fs::copy(raft.join("synced"), torn.join("raft/synced")).unwrap();
        OpenOptions::new()
            .write(true)
            .open(chunks(&torn.join("raft")).pop().unwrap())
            .unwrap()
            .set_len(len)
            .unwrap();
        let replica = Replica::start(config(&torn))
            .await
            .unwrap_or_else(|e| panic!("cut to {len}: {e}"));
        assert!(
            replica
                .view()
                .get("configmaps", &Key::new("default", "first"))
                .is_some()
        );
        replica.shutdown().await;
    }
}
