//! The log on disk: what reopens, what is cut, what is refused.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use tempfile::TempDir;

use super::{chunks, entry, fill, id, synced};
use crate::error::StartError;
use crate::journal::Journal;
use crate::journal::wal::WalJournal;
use crate::types::Vote;

#[test]
fn reopens_with_vote_entries_and_commit() {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open(dir.path()).unwrap();
    let vote = Vote::new_committed(3, 1);
    synced(|done| journal.save_vote(&vote, done));
    fill(&journal, 0, 20);
    journal.save_committed(&id(1, 10)).unwrap();
    synced(|done| journal.append(vec![entry(20, b"last")], done));
    drop(journal);

    let journal = WalJournal::open(dir.path()).unwrap();
    assert_eq!(journal.vote(), Some(vote));
    assert_eq!(journal.committed(), Some(id(1, 10)));
    assert_eq!(journal.last(), Some(id(1, 20)));
    assert_eq!(journal.read(0, 100, usize::MAX).unwrap().len(), 21);
    assert_eq!(
        journal.read(0, 100, 250).unwrap().len(),
        2,
        "bounded by bytes"
    );
    assert_eq!(
        journal.read(20, 21, 0).unwrap(),
        vec![entry(20, b"last")],
        "at least one"
    );
}

#[test]
fn truncates_and_purges_across_files() {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open_with(dir.path(), 2_000).unwrap();
    fill(&journal, 0, 100);
    assert!(chunks(dir.path()).len() > 4);
    synced(|done| journal.truncate(90, done));
    assert_eq!(journal.last(), Some(id(1, 89)));
    let before = journal.disk_bytes();
    synced(|done| journal.purge(&id(1, 80), done));
    assert!(journal.disk_bytes() < before / 2);
    assert_eq!(journal.purged(), Some(id(1, 80)));
    fill(&journal, 90, 5);
    drop(journal);

    let journal = WalJournal::open_with(dir.path(), 2_000).unwrap();
    assert!(chunks(dir.path()).len() < 5, "purged files are gone");
    let all = journal.read(0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(all.first().unwrap().log_id.index, 81);
    assert_eq!(all.last().unwrap().log_id.index, 94);
}

/// Appends raw bytes to the last file, as an interrupted, never synced write leaves them.
fn append_raw(dir: &TempDir, bytes: &[u8]) {
    let last = chunks(dir.path()).pop().unwrap();
    let file = OpenOptions::new().write(true).open(&last).unwrap();
    file.write_all_at(bytes, file.metadata().unwrap().len())
        .unwrap();
}

#[test]
fn cuts_torn_tails() {
    // A cut record, a hole of zeros, a hole with bytes behind it.
    let cut: Vec<u8> = vec![0, 0, 0, 1, 0, 0, 0];
    let mut hole = vec![0u8; 600];
    hole[300..400].fill(7);
    for tail in [cut, vec![0u8; 4096], hole] {
        let dir = TempDir::new().unwrap();
        let journal = WalJournal::open(dir.path()).unwrap();
        fill(&journal, 0, 10);
        drop(journal);
        append_raw(&dir, &tail);
        let journal = WalJournal::open(dir.path()).unwrap();
        assert_eq!(journal.last(), Some(id(1, 9)));
        assert_eq!(
            fs::read(dir.path().join("log/torn-tail.bin")).unwrap(),
            tail
        );
        fill(&journal, 10, 5);
        drop(journal);
        let journal = WalJournal::open(dir.path()).unwrap();
        assert_eq!(journal.read(0, 100, usize::MAX).unwrap().len(), 15);
    }
}

fn refused(dir: &TempDir) -> String {
    match WalJournal::open_with(dir.path(), 2_000) {
        Err(e @ StartError::LogCorrupt { .. }) => e.to_string(),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("opened"),
    }
}

fn filled() -> TempDir {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open_with(dir.path(), 2_000).unwrap();
    fill(&journal, 0, 100);
    drop(journal);
    dir
}

#[test]
fn refuses_damage_below_the_synced_offset() {
    // A flipped bit in the middle of the last file and of an older one.
    for pick in [0, 1] {
        let dir = filled();
        let all = chunks(dir.path());
        let path = if pick == 0 {
            all.last().unwrap()
        } else {
            &all[1]
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let at = file.metadata().unwrap().len() / 2;
        let mut byte = [0u8];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
        let before = fs::read(path).unwrap();
        let error = refused(&dir);
        assert!(
            error.starts_with("E_LOG_CORRUPT") && error.contains("backup"),
            "{error}"
        );
        assert_eq!(fs::read(path).unwrap(), before, "nothing was changed");
    }
}

#[test]
fn refuses_missing_bytes_and_files() {
    // The last file shorter than what was synced: raft-log alone would take it for a torn tail.
    let dir = filled();
    let last = chunks(dir.path()).pop().unwrap();
    let len = fs::metadata(&last).unwrap().len();
    OpenOptions::new()
        .write(true)
        .open(&last)
        .unwrap()
        .set_len(len - 3)
        .unwrap();
    assert!(refused(&dir).contains("had been synced"));

    for pick in [0usize, 2, usize::MAX] {
        let dir = filled();
        let all = chunks(dir.path());
        fs::remove_file(&all[pick.min(all.len() - 1)]).unwrap();
        refused(&dir);
    }

    let dir = filled();
    for chunk in chunks(dir.path()) {
        fs::remove_file(chunk).unwrap();
    }
    assert!(refused(&dir).contains("gone"));
}

#[test]
fn a_rotten_length_is_not_taken_for_a_torn_tail() {
    let dir = TempDir::new().unwrap();
    let journal = WalJournal::open(dir.path()).unwrap();
    fill(&journal, 0, 10);
    drop(journal);
    let last = chunks(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    // The length field of some record's payload: 100 = 0x64 before a run of equal bytes.
    let at = bytes
        .windows(8)
        .position(|w| w == [0, 0, 0, 100, 5, 5, 5, 5])
        .unwrap();
    bytes[at + 1] = 0x7f;
    fs::write(&last, bytes).unwrap();
    assert!(matches!(
        WalJournal::open(dir.path()),
        Err(StartError::LogCorrupt { .. })
    ));
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
