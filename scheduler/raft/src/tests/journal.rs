//! The log on disk: what reopens, what is dropped, what is refused, what is taken over.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::workload::{Model, Workload, start};
use super::{entry, fill, id, segments, synced};
use crate::error::StartError;
use crate::journal::Journal;
use crate::journal::raftlog::RaftLogJournal;
use crate::journal::wal::group::{Body, Group};
use crate::journal::wal::record::{self, BLOCK, Records, Seed};
use crate::journal::wal::{Options, WalJournal};
use crate::types::Vote;
use crate::version;

/// Files of four blocks.
const SMALL: usize = 4 * BLOCK;

#[test]
fn reopens_with_vote_entries_and_commit() {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open(dir.path()).unwrap();
    let vote = Vote::new_committed(3, 1);
    synced(|done| journal.save_vote(&vote, done));
    fill(&journal, 0, 20);
    journal.save_committed(&id(1, 10)).unwrap();
    synced(|done| journal.append(vec![entry(20, b"last")], done));
    let end = journal.end_offset();
    drop(journal);

    let journal = WalJournal::open(dir.path()).unwrap();
    assert_eq!(journal.vote(), Some(vote));
    assert_eq!(journal.committed(), Some(id(1, 10)));
    assert_eq!(journal.last(), Some(id(1, 20)));
    assert_eq!(journal.end_offset(), end);
    assert_eq!(journal.read(0, 100, usize::MAX).unwrap().len(), 21);
    let some = journal.read(0, 100, 500).unwrap().len();
    assert!((1..5).contains(&some), "bounded by bytes: {some}");
    assert_eq!(
        journal.read(20, 21, 0).unwrap(),
        vec![entry(20, b"last")],
        "at least one"
    );
    let gap = journal.append(vec![entry(22, b"x")], crate::journal::Done::new(drop));
    assert!(gap.is_err(), "a gap is refused");
}

#[test]
fn truncates_and_purges_across_files() {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open_with(dir.path(), SMALL).unwrap();
    fill(&journal, 0, 100);
    assert!(segments(dir.path()).len() > 20);
    synced(|done| journal.truncate(90, done));
    assert_eq!(journal.last(), Some(id(1, 89)));
    let before = journal.disk_bytes();
    synced(|done| journal.purge(&id(1, 80), done));
    // Files go after the purge is on disk: with the next write at the latest.
    fill(&journal, 90, 5);
    assert!(journal.disk_bytes() < before / 2);
    assert_eq!(journal.purged(), Some(id(1, 80)));
    drop(journal);

    let journal = WalJournal::open_with(dir.path(), SMALL).unwrap();
    assert!(segments(dir.path()).len() < 12, "purged files are gone");
    let all = journal.read(0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(all.first().unwrap().log_id.index, 81);
    assert_eq!(all.last().unwrap().log_id.index, 94);
}

#[test]
fn files_are_used_again_and_what_they_held_is_not_read() {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open_with(dir.path(), SMALL).unwrap();
    for round in 0..40 {
        fill(&journal, round * 10, 10);
        synced(|done| journal.purge(&id(1, round * 10 + 7), done));
    }
    drop(journal);
    assert!(segments(dir.path()).len() <= 8);
    let journal = WalJournal::open_with(dir.path(), SMALL).unwrap();
    assert_eq!(journal.purged(), Some(id(1, 397)));
    assert_eq!(journal.read(0, u64::MAX, usize::MAX).unwrap().len(), 2);
}

#[test]
fn entries_larger_than_a_file_and_groups_larger_than_a_write() {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open_with(dir.path(), SMALL).unwrap();
    let big = vec![7u8; 5 << 20];
    let many: Vec<_> = (0..3).map(|i| entry(i, &big)).collect();
    synced(|done| journal.append(many.clone(), done));
    fill(&journal, 3, 3);
    drop(journal);
    let options = Options {
        cache_bytes: 0,
        ..Options::default()
    };
    let journal = WalJournal::open_options(dir.path(), options).unwrap();
    assert_eq!(journal.read(0, 3, usize::MAX).unwrap(), many);
    assert_eq!(journal.read(1, 9, 0).unwrap().len(), 1);
    assert_eq!(journal.last(), Some(id(1, 5)));
}

/// Where the log of `raft` ends: its last file with groups, and the offset after them.
fn end(raft: &Path) -> (std::path::PathBuf, u64) {
    let path = segments(raft)
        .into_iter()
        .rfind(|p| fs::read(p).unwrap()[..3] == *b"CWL")
        .unwrap();
    let raw = fs::read(&path).unwrap();
    // Blocks of zeros up to the end of the file.
    let used = raw
        .chunks(BLOCK)
        .rposition(|b| b.iter().any(|b| *b != 0))
        .unwrap();
    (path, ((used + 1) * BLOCK) as u64)
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn drops_torn_tails() {
    // Noise, a hole with bytes behind it, and a group of which only the first or only the later sectors arrived.
    let base = TempDir::new().unwrap();
    let journal = WalJournal::open(base.path()).unwrap();
    fill(&journal, 0, 10);
    drop(journal);
    let (path, before) = end(base.path());
    let mut raw = fs::read(&path).unwrap();
    // The next group, as a process would write it, from a copy.
    let copy = TempDir::new().unwrap();
    super::copy_dir(base.path(), copy.path());
    let journal = WalJournal::open(copy.path()).unwrap();
    synced(|done| journal.append(vec![entry(10, &[9; 9000])], done));
    drop(journal);
    let (other, after) = end(copy.path());
    let whole = fs::read(&other).unwrap()[before as usize..after as usize].to_vec();
    assert_eq!(whole.len(), 3 * BLOCK);
    let mut tails = vec![vec![0xa5; 5000], [vec![0; 700], vec![7; 100]].concat()];
    for keep in [512, 4096, 8192, 8704] {
        tails.push(whole[..keep].to_vec());
        tails.push([vec![0; keep], whole[keep..].to_vec()].concat());
    }
    for tail in tails {
        raw.truncate(before as usize);
        raw.extend_from_slice(&tail);
        raw.resize(4 << 20, 0);
        let dir = TempDir::new().unwrap();
        super::copy_dir(base.path(), dir.path());
        fs::write(dir.path().join("wal").join(path.file_name().unwrap()), &raw).unwrap();
        let journal = WalJournal::open(dir.path()).unwrap();
        assert_eq!(journal.last(), Some(id(1, 9)), "{} bytes", tail.len());
        fill(&journal, 10, 5);
        drop(journal);
        let journal = WalJournal::open(dir.path()).unwrap();
        assert_eq!(journal.read(0, 100, usize::MAX).unwrap().len(), 15);
    }
}

fn refused(dir: &Path) -> String {
    match WalJournal::open_with(dir, SMALL) {
        Err(e @ StartError::LogCorrupt { .. }) => e.to_string(),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("opened"),
    }
}

fn filled() -> TempDir {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open_with(dir.path(), SMALL).unwrap();
    fill(&journal, 0, 50);
    drop(journal);
    dir
}

#[test]
fn refuses_damage_where_something_was_synced_after_it() {
    let all = filled();
    let count = segments(all.path()).len();
    // The first block of a file, one in the middle, in an old file and in the newest ones; and the very last group,
    // which only the marker knows about.
    for pick in [0, 1, count / 2, count - 3, count - 2] {
        for at in [5, 40, BLOCK + 100, 2 * BLOCK + 17] {
            let dir = TempDir::new().unwrap();
            super::copy_dir(all.path(), dir.path());
            let path = &segments(dir.path())[pick];
            let mut raw = fs::read(path).unwrap();
            let block = at / BLOCK * BLOCK;
            if raw[block..block + 4].iter().all(|b| *b == 0) {
                continue;
            }
            raw[at] ^= 0x40;
            fs::write(path, &raw).unwrap();
            let error = refused(dir.path());
            assert!(
                error.starts_with("E_LOG_CORRUPT") && error.contains("backup"),
                "{error}"
            );
            assert_eq!(fs::read(path).unwrap(), raw, "nothing was changed");
            assert_eq!(refused(dir.path()), error, "and says the same again");
        }
    }
}

#[test]
fn refuses_missing_bytes_and_files() {
    for pick in [0usize, 2, 11] {
        let dir = filled();
        fs::remove_file(&segments(dir.path())[pick]).unwrap();
        refused(dir.path());
    }
    // The newest file with groups.
    let dir = filled();
    let (path, at) = end(dir.path());
    write_at(&path, at - BLOCK as u64, &[0; BLOCK]);
    assert!(refused(dir.path()).contains("had been synced up to"));
    fs::remove_file(path).unwrap();
    assert!(refused(dir.path()).contains("had been synced up to"));

    let dir = filled();
    for path in segments(dir.path()) {
        fs::remove_file(path).unwrap();
    }
    assert!(refused(dir.path()).contains("gone"));
}

#[test]
fn a_second_opener_is_refused() {
    let dir = TempDir::new().unwrap();
    let _journal = WalJournal::open(dir.path()).unwrap();
    assert!(matches!(
        WalJournal::open(dir.path()),
        Err(StartError::DataDir { .. })
    ));
}

/// A data directory as data format 1 left it.
fn old(data: &Path, seed: u64, ops: usize) -> Model {
    fs::create_dir_all(data).unwrap();
    fs::write(data.join("VERSION"), "1\n").unwrap();
    let journal = RaftLogJournal::open_with(&data.join("raft"), 30_000).unwrap();
    let mut work = Workload::new(seed, 4000);
    for _ in 0..ops {
        let op = work.next();
        synced(|done| start(&journal, &op, done));
    }
    work.model
}

#[test]
fn the_log_of_the_format_before_is_taken_over() {
    for seed in 0..5 {
        let data = TempDir::new().unwrap();
        let raft = data.path().join("raft");
        let model = old(data.path(), seed, 60);
        version::check(data.path()).unwrap();
        // Left behind by a conversion that was interrupted.
        fs::create_dir(raft.join("wal.new")).unwrap();
        fs::write(raft.join("wal.new/x"), "y").unwrap();
        let journal = WalJournal::open(&raft).unwrap();
        assert_eq!(Model::of(&journal), model);
        drop(journal);
        assert_eq!(
            fs::read_to_string(data.path().join("VERSION")).unwrap(),
            "2\n"
        );
        let left: Vec<_> = fs::read_dir(&raft)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["wal"], "the old log is gone");
        let journal = WalJournal::open(&raft).unwrap();
        assert_eq!(Model::of(&journal), model);
    }
}

#[test]
fn a_damaged_log_of_the_format_before_is_left_alone() {
    let data = TempDir::new().unwrap();
    old(data.path(), 1, 60);
    let raft = data.path().join("raft");
    let chunk = fs::read_dir(raft.join("log"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "wal"))
        .unwrap();
    let mut raw = fs::read(&chunk).unwrap();
    let middle = raw.len() / 2;
    raw[middle] ^= 1;
    fs::write(&chunk, raw).unwrap();
    assert!(matches!(
        WalJournal::open(&raft),
        Err(StartError::LogCorrupt { .. })
    ));
    assert_eq!(
        fs::read_to_string(data.path().join("VERSION")).unwrap(),
        "1\n"
    );
    assert!(!raft.join("wal").exists());
}

#[test]
fn formats_are_refused_and_read_politely() {
    let data = TempDir::new().unwrap();
    version::check(data.path()).unwrap();
    assert_eq!(
        fs::read_to_string(data.path().join("VERSION")).unwrap(),
        "2\n"
    );
    fs::write(data.path().join("VERSION"), "1\n").unwrap();
    version::check(data.path()).unwrap();
    // Nothing was written yet that format 1 does not know; the first byte of a log is.
    assert_eq!(
        fs::read_to_string(data.path().join("VERSION")).unwrap(),
        "1\n"
    );
    drop(WalJournal::open(&data.path().join("raft")).unwrap());
    assert_eq!(
        fs::read_to_string(data.path().join("VERSION")).unwrap(),
        "2\n"
    );
    fs::write(data.path().join("VERSION"), "3\n").unwrap();
    let error = version::check(data.path()).unwrap_err().to_string();
    assert!(
        error.starts_with("E_DATA_NEWER") && error.contains("up to 2"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes from anywhere are an error, never a panic, and never pass for a record.
    #[test]
    fn any_bytes_decode_to_something_or_nothing(raw in proptest::collection::vec(any::<u8>(), 0..600)) {
        let seed = Seed { salt: 1, life: 2, group: 3 };
        // A panic is what is looked for.
        let _ = record::decode(&raw);
        prop_assert!(Records::new(&raw, seed).all(|(_, r)| r.is_err()));
        prop_assert!(record::read_head(&raw, 1).is_none());
    }

    /// A flipped byte anywhere in a group is noticed, and so is a group of another file, life or number.
    #[test]
    fn a_changed_group_is_noticed(at: prop::sample::Index, flip in 1u8.., body in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let seed = Seed { salt: 1, life: 2, group: 3 };
        let mut group = Group::new(Vec::new(), seed);
        let e = entry(7, &body);
        group.vote(&Vote::new(3, 1));
        group.entry(&e.log_id, &Body::of(&e).unwrap());
        let used = group.size();
        let mut raw = group.finish().to_vec();
        let intact = |raw: &[u8], salt| {
            let Some(head) = record::read_head(raw, salt) else { return false };
            let body = &raw[record::GROUP_HEAD..][..head.body];
            head.seed == seed && Records::new(body, head.seed).filter(|(_, r)| r.is_ok()).count() == 2
        };
        prop_assert!(intact(&raw, 1));
        prop_assert!(!intact(&raw, 4));
        let at = at.index(used);
        raw[at] ^= flip;
        prop_assert!(!intact(&raw, 1), "byte {at}");
    }
}
