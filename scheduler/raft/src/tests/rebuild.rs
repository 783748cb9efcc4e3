//! Backups of a running member, and work on a log directory whose member does not run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use coracle_state::{Propose, View, Views, snapshot as state_snapshot};
use jiff::Timestamp;
use openraft::{EntryPayload, Membership};
use tempfile::TempDir;

use super::{id, put, synced};
use crate::config::Config;
use crate::error::StartError;
use crate::journal::Journal;
use crate::journal::wal::WalJournal;
use crate::rebuild::{self, Position};
use crate::replica::Replica;
use crate::snapshot;
use crate::types::{Data, Entry, Member};

async fn start(dir: &Path, id: u64) -> Replica {
    Replica::start(Config::new(dir, id)).await.unwrap()
}

/// Everything a client could see of every object.
fn objects(view: &View) -> Vec<(String, String, u64, u64, bytes::Bytes)> {
    let all = view.tables.iter().flat_map(|(name, t)| {
        t.objects.values().map(move |o| {
            (
                name.clone(),
                o.key.to_string(),
                o.created,
                o.revision,
                o.bytes.clone(),
            )
        })
    });
    all.collect()
}

async fn backup(replica: &Replica) -> Vec<u8> {
    let captured = replica.capture().await.unwrap();
    let about = captured.about("c1", "m1", "0.0.0", Timestamp::UNIX_EPOCH);
    let (bytes, len, crc) = captured.write(Vec::new(), &about).unwrap();
    assert_eq!(len, bytes.len() as u64);
    assert_eq!(crc, crc32fast::hash(&bytes[..bytes.len() - 4]));
    bytes
}

#[tokio::test]
async fn a_backup_says_what_is_in_it_and_no_damage_passes() {
    let dir = TempDir::new().unwrap();
    let replica = start(dir.path(), 7).await;
    for n in 0..60 {
        replica
            .propose(vec![put(&format!("n{n}"), &format!("{{\"n\":{n}}}"))])
            .await
            .unwrap();
    }
    let whole = backup(&replica).await;
    let (view, status) = (replica.view(), replica.status());
    replica.shutdown().await;
    let path = dir.path().join("b.backup");
    std::fs::write(&path, &whole).unwrap();

    let begun = snapshot::begin(&path).unwrap();
    let about = begun.about.clone().unwrap();
    assert_eq!(
        (about.cluster.as_str(), about.revision, about.hash),
        ("c1", 60, status.hash)
    );
    assert_eq!(about.tables, state_snapshot::census(&view));
    assert_eq!(
        Position::of(begun.header.meta.last_log_id.as_ref()).index,
        status.applied
    );
    let (_, file, state) = snapshot::load_begun(&path).unwrap();
    assert_eq!(file.len, whole.len() as u64);
    assert_eq!(objects(&state.view()), objects(&view));
    assert_eq!(state.hash(), status.hash);

    let check = |bytes: &[u8], what: String| {
        std::fs::write(&path, bytes).unwrap();
        match snapshot::load_begun(&path) {
            Err(StartError::SnapshotCorrupt { why, .. }) => assert!(!why.is_empty(), "{what}"),
            Err(StartError::Format(e)) => assert!(e.to_string().contains("NEWER"), "{what}: {e}"),
            other => panic!("{what}: {other:?}"),
        }
    };
    // Every byte of the beginning and the end, every so many between.
    let step = (whole.len() / 500).max(1);
    let edges = (0..100).chain(whole.len() - 100..whole.len());
    for at in edges.chain((100..whole.len() - 100).step_by(step)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        check(&flipped, format!("bit flip at {at} of {}", whole.len()));
        if at % 3 == 0 {
            check(&whole[..at], format!("cut at {at}"));
        }
    }
    check(&[&whole[..], b"\0"].concat(), "one byte more".into());
    let mut newer = whole.clone();
    newer[7] = 9;
    std::fs::write(&path, &newer).unwrap();
    assert!(matches!(
        snapshot::load_begun(&path),
        Err(StartError::Format(coracle_state::FormatError::Newer {
            found: 9,
            ..
        }))
    ));
}

#[tokio::test]
async fn a_backup_whose_header_lies_is_found() {
    let dir = TempDir::new().unwrap();
    let replica = start(dir.path(), 7).await;
    replica.propose(vec![put("a", "{}")]).await.unwrap();
    let captured = replica.capture().await.unwrap();
    replica.shutdown().await;
    let mut about = captured.about("c1", "m1", "0.0.0", Timestamp::UNIX_EPOCH);
    about.revision += 1;
    let path = dir.path().join("b.backup");
    let (bytes, ..) = captured.write(Vec::new(), &about).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = snapshot::load_begun(&path).unwrap_err().to_string();
    assert!(error.contains("announces revision 2"), "{error}");
}

#[tokio::test]
async fn a_directory_is_read_offline_and_a_new_one_begins_with_its_state() {
    let dir = TempDir::new().unwrap();
    let replica = start(dir.path(), 7).await;
    replica.propose(vec![put("a", "{}")]).await.unwrap();
    replica.snapshot().await.unwrap();
    replica
        .propose(vec![put("b", "{}"), put("a", "{\"x\":1}")])
        .await
        .unwrap();
    let (view, status) = (replica.view(), replica.status());
    replica.shutdown().await;

    let found = rebuild::read(&dir.path().join("raft")).unwrap();
    assert_eq!(found.state.hash(), status.hash);
    assert_eq!(found.last.index, status.last_log);
    assert_eq!(found.snapshot.index, 2);
    assert!(found.committed <= found.last && found.committed >= found.snapshot);
    assert_eq!(
        found
            .members
            .iter()
            .map(|m| (m.id, m.voter))
            .collect::<Vec<_>>(),
        [(7, true)]
    );

    let mut state = found.state.clone();
    state_snapshot::new_history(&mut state);
    let fresh = TempDir::new().unwrap();
    crate::version::check(fresh.path()).unwrap();
    let raft = fresh.path().join("raft");
    let after = Position {
        term: found.voted.max(found.last.term),
        ..found.last
    };
    let member = Member {
        name: "new".into(),
        ..Member::default()
    };
    rebuild::write(&raft, &state, after, 99, &member).unwrap();
    assert!(
        rebuild::write(&raft, &state, after, 99, &member).is_err(),
        "never over something"
    );

    for round in 1..=2u64 {
        let replica = start(fresh.path(), 99).await;
        assert!(replica.is_leader());
        assert!(replica.leader_changes().borrow().term > after.term);
        let seen = replica.view();
        assert_eq!(
            seen.revision,
            view.revision + state_snapshot::NEW_HISTORY + round - 1
        );
        if round == 1 {
            assert_eq!(objects(&seen), objects(&view), "not a byte differs");
        }
        for table in ["configmaps", "secrets", "pods"] {
            for old in [0, 1, view.revision, view.revision + 500] {
                assert!(seen.events_after(table, old).is_none(), "{table} at {old}");
            }
            assert!(seen.events_after(table, seen.revision).is_some());
        }
        let name = format!("r{round}");
        let results = replica.propose(vec![put(&name, "{}")]).await.unwrap();
        assert_eq!(results[0].as_ref().unwrap().revision, seen.revision + 1);
        assert_eq!(replica.status().members[0].1.name, "new");
        replica.shutdown().await;
    }
}

#[tokio::test]
async fn entries_that_were_never_committed_here_are_read_too() {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open(dir.path()).unwrap();
    let ids = BTreeSet::from([1, 2, 3]);
    let nodes: BTreeMap<u64, Member> = ids
        .iter()
        .map(|i| {
            let name = format!("m{i}");
            (
                *i,
                Member {
                    name,
                    ..Member::default()
                },
            )
        })
        .collect();
    let membership = Entry {
        log_id: id(1, 0),
        payload: EntryPayload::Membership(Membership::new(vec![ids], nodes).unwrap()),
    };
    let write = |index: u64| Entry {
        log_id: id(2, index),
        payload: EntryPayload::Normal(Data(
            coracle_state::Batch {
                at: Timestamp::UNIX_EPOCH,
                request_id: index,
                commands: vec![put(&format!("w{index}"), "{}")],
            }
            .encode()
            .into(),
        )),
    };
    synced(|done| journal.append(vec![membership, write(1), write(2), write(3)], done));
    journal.save_committed(&id(2, 2)).unwrap();
    synced(|done| journal.save_vote(&crate::types::Vote::new(5, 2), done));
    drop(journal);

    let found = rebuild::read(dir.path()).unwrap();
    assert_eq!(
        (found.last, found.committed, found.voted),
        (
            Position { term: 2, index: 3 },
            Position { term: 2, index: 2 },
            5
        )
    );
    assert_eq!(found.state.revision(), 3);
    let names: Vec<_> = found
        .members
        .iter()
        .map(|m| m.member.name.as_str())
        .collect();
    assert_eq!(names, ["m1", "m2", "m3"]);
    assert!(rebuild::read(&dir.path().join("nothing")).is_err());
}

#[tokio::test]
async fn a_snapshot_of_format_1_is_still_read() {
    use std::io::Write;
    let dir = TempDir::new().unwrap();
    let replica = start(dir.path(), 7).await;
    replica.propose(vec![put("a", "{}")]).await.unwrap();
    let captured = replica.capture().await.unwrap();
    replica.shutdown().await;
    let header = snapshot::Header {
        meta: captured.meta.clone(),
        log_end: 5,
    };
    let (mut head, mut file) = (Vec::new(), b"CORSNAP\x01".to_vec());
    ciborium::into_writer(&header, &mut head).unwrap();
    file.write_all(&(head.len() as u32).to_le_bytes()).unwrap();
    file.extend(head);
    state_snapshot::write(&captured.state, &mut file).unwrap();
    let crc = crc32fast::hash(&file).to_le_bytes();
    file.extend(crc);
    let path = dir.path().join("1.snap");
    std::fs::write(&path, &file).unwrap();
    let (stored, state) = snapshot::load(&path).unwrap();
    assert_eq!(
        (stored.header.log_end, stored.file.len, state.hash()),
        (5, file.len() as u64, captured.state.hash())
    );
    let begun = snapshot::begin(&path).unwrap();
    assert_eq!((begun.format, begun.about), (1, None));
    for at in (0..file.len()).step_by(3) {
        let mut flipped = file.clone();
        flipped[at] ^= 4;
        std::fs::write(&path, &flipped).unwrap();
        assert!(snapshot::load(&path).is_err(), "bit flip at {at}");
    }
}
