//! Tests of the stores and of a whole single-member replica, with crashes made by copying and cutting its files.

mod bounded;
mod child;
mod cluster;
mod crash;
mod decode;
mod faults;
mod gate;
mod journal;
mod model;
mod net;
mod rebuild;
mod replay;
mod replica;
mod suite;
mod workload;

use std::path::Path;

use bytes::Bytes;
use coracle_state::{Command, Expect, Key};
use openraft::EntryPayload;

use crate::journal::{Done, Journal};
use crate::types::{Data, Entry, LogId};

/// Copies a data directory as a crash would leave it: what is in the page cache, no locks. A copy takes time, a crash
/// does not: what must not be ahead of the rest (the marker) is copied first, then the log, then snapshots.
pub fn copy_dir(from: &Path, to: &Path) {
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
            // A snapshot or chunk may be replaced while we copy.
            match std::fs::copy(entry.path(), &target) {
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => panic!("{e}"),
            }
        }
    }
}

/// A put of a row of an API-like table.
pub fn put(name: &str, bytes: &str) -> Command {
    Command::put(
        "configmaps",
        Key::new("default", name),
        Expect::Any,
        Bytes::copy_from_slice(bytes.as_bytes()),
        Vec::new(),
    )
}

/// An entry of term 1 by node 1.
pub fn entry(index: u64, data: &[u8]) -> Entry {
    Entry {
        log_id: id(1, index),
        payload: EntryPayload::Normal(Data(Bytes::copy_from_slice(data))),
    }
}

/// A position of node 1.
pub fn id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: openraft::impls::leader_id_adv::LeaderId { term, node_id: 1 },
        index,
    }
}

/// Runs one journal write and waits until it is synced.
pub fn synced(write: impl FnOnce(Done) -> std::io::Result<()>) {
    let (tx, rx) = std::sync::mpsc::channel();
    write(Done::new(move |r| tx.send(r).unwrap())).unwrap();
    rx.recv().unwrap().unwrap();
}

/// Appends `n` entries of 100 bytes from `from` on, one sync each.
pub fn fill(journal: &dyn Journal, from: u64, n: u64) {
    for index in from..from + n {
        synced(|done| journal.append(vec![entry(index, &[index as u8; 100])], done));
    }
}

/// Log files of a directory `raft`, in order.
pub fn segments(raft: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(raft.join("wal"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    all.sort();
    all
}

/// Waits until a condition holds that time alone brings about.
pub fn eventually(condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed().as_secs() < 20, "it never came about");
        std::thread::yield_now();
    }
}
