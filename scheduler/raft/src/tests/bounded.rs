//! The disk stays bounded under continuous writes.

use std::path::Path;
use std::sync::Arc;

use coracle_state::Propose;
use tempfile::TempDir;

use super::put;
use crate::config::{Config, Limits};
use crate::replica::Replica;

const KEEP: u64 = 1 << 20;
const CHUNK: u64 = 256 << 10;

/// Bytes of everything but the ballast.
fn used(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        sum += match entry.metadata() {
            // Replaced while we look.
            Err(_) => 0,
            Ok(m) if m.is_dir() => used(&entry.path()),
            Ok(_) if entry.file_name() == "ballast" => 0,
            Ok(m) => m.len(),
        };
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuous_writes_do_not_fill_the_disk() {
    let dir = TempDir::new().unwrap();
    let mut config = Config::new(dir.path(), 7);
    config.limits = Limits {
        chunk_bytes: CHUNK as usize,
        snapshot_log_bytes_min: KEEP / 2,
        keep_log_bytes: KEEP,
        ..Limits::default()
    };
    let replica = Arc::new(Replica::start(config).await.unwrap());
    let value = format!(r#"{{"data":{{"v":"{}"}}}}"#, "x".repeat(60_000));
    let mut most = 0;
    let mut written = 0u64;
    // Overwrites: the state stays small while the log would grow.
    for round in 0..30 {
        let writes = (0..20).map(|n| {
            let (replica, value) = (replica.clone(), value.clone());
            tokio::spawn(async move { replica.propose(vec![put(&format!("n{n}"), &value)]).await })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap().unwrap();
            written += value.len() as u64;
        }
        if round % 10 == 9 {
            // Compaction looks once a second: it must have come by, whatever the speed of this machine.
            let raft = dir.path().join("raft");
            let bound = 2 * KEEP + 4 * CHUNK + 4 * 20 * 60_000;
            tokio::task::block_in_place(|| super::eventually(|| used(&raft) < bound));
        }
        most = most.max(used(&dir.path().join("raft")));
    }
    let left = used(&dir.path().join("raft"));
    println!("{written} bytes written, at most {most} and at the end {left} on disk");
    assert!(written > 30 << 20 && left < written / 4);
    replica.shutdown().await;
}
