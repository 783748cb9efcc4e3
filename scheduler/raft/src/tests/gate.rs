//! The space gate and the ballast: who is refused when, and that it opens again by itself.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_state::ProposeError;
use tempfile::TempDir;

use super::{entry, fill, synced};
use crate::gate::{Gate, Space};
use crate::journal::Journal;
use crate::journal::wal::{Options, WalJournal};

const MIB: u64 = 1 << 20;
/// A twentieth of the file system below.
const BALLAST: u64 = 64 * MIB;

fn gate(dir: &Path, free: &Arc<AtomicU64>) -> Gate {
    let asked = free.clone();
    Gate::with(
        dir,
        Some(64 * MIB),
        Box::new(move |_| {
            Ok(Space {
                free: asked.load(Ordering::SeqCst),
                total: 20 * BALLAST,
            })
        }),
    )
}

#[test]
fn the_gate_closes_before_the_disk_is_full_and_opens_again() {
    let dir = TempDir::new().unwrap();
    let free = Arc::new(AtomicU64::new(164 * MIB));
    let gate = gate(dir.path(), &free);
    let ballast = dir.path().join("raft/ballast");
    gate.make_ballast();
    assert_eq!(fs::metadata(&ballast).unwrap().len(), BALLAST);
    free.store(100 * MIB, Ordering::SeqCst);
    gate.admit(8 * MIB).unwrap();
    gate.admit(20 * MIB).unwrap();
    // 28 MiB went through since the file system was asked: what is left is known without asking.
    let error = gate.admit(20 * MIB).unwrap_err();
    assert!(
        matches!(&error, ProposeError::Unavailable(m) if m.starts_with("E_DISK_FULL")),
        "{error}"
    );
    free.store(64 * MIB, Ordering::SeqCst);
    assert!(gate.admit(1).is_err());
    gate.check_start().unwrap();
    assert!(!gate.has_room(1));
    free.store(65 * MIB, Ordering::SeqCst);
    gate.admit(1).unwrap();
    assert!(gate.has_room(1));
    // With the ballast a full disk is enough to start on, without it it is not.
    free.store(1_000, Ordering::SeqCst);
    gate.check_start().unwrap();
    assert_eq!(gate.release_ballast(), BALLAST);
    assert!(!ballast.exists());
    assert!(
        gate.check_start()
            .unwrap_err()
            .to_string()
            .starts_with("E_DISK_FULL")
    );
    // It opens again when the ballast fits beside what is kept free, and puts it back first.
    free.store(100 * MIB, Ordering::SeqCst);
    assert!(gate.admit(1).is_err());
    assert!(!ballast.exists());
    free.store(129 * MIB, Ordering::SeqCst);
    gate.admit(1).unwrap();
    assert_eq!(fs::metadata(&ballast).unwrap().len(), BALLAST);
}

/// A small file system, unmounted at the end.
struct Small(TempDir);

impl Small {
    fn new(mib: u32) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        match out {
            Ok(out) if out.status.success() => Some(Self(dir)),
            _ => {
                println!("SKIPPED: a file system of its own cannot be mounted here");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A mount that stays is gone with the machine; the test has said what it wanted to.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn votes_and_commits_go_on_where_the_disk_is_full() {
    let Some(disk) = Small::new(64) else { return };
    let data = disk.0.path().join("data");
    fs::create_dir(&data).unwrap();
    let gate = Arc::new(Gate::new(&data, None));
    let options = Options {
        gate: Some(gate.clone()),
        ..Options::default()
    };
    let journal = WalJournal::open_options(&data.join("raft"), options.clone()).unwrap();
    let ballast = data.join("raft/ballast");
    let size = fs::metadata(&ballast).unwrap().len();
    assert!(size >= 3 * MIB, "{size}");
    gate.admit(1000).unwrap();
    fill(&journal, 0, 5);
    // Somebody fills the disk to the last byte.
    let filler = data.join("filler");
    let mut len = 64 * MIB;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&filler)
        .unwrap();
    while len > 0 {
        let more = file.metadata().unwrap().len() + len;
        if crate::journal::wal::segment::reserve(&file, more, &|| true).is_err() {
            len /= 2;
        }
    }
    drop(file);
    // Client writes are refused as soon as the file system is asked again; what others have to log goes on, through the
    // prepared file and then the ballast: several files full of it.
    super::eventually(|| gate.admit(1000).is_err());
    let mut next = 5;
    while ballast.exists() {
        synced(|done| journal.append(vec![entry(next, &[1; 100_000])], done));
        next += 1;
    }
    fill(&journal, next, 20);
    next += 20;
    assert!(gate.admit(1).is_err());
    drop(journal);
    let journal = WalJournal::open_options(&data.join("raft"), options).unwrap();
    assert_eq!(journal.last().unwrap().index, next - 1);
    // Room again: open without a restart, and the ballast is back.
    fs::remove_file(filler).unwrap();
    gate.admit(1000).unwrap();
    assert_eq!(fs::metadata(&ballast).unwrap().len(), size);
    fill(&journal, next, 5);
}
