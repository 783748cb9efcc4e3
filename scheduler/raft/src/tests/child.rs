//! A process of its own that uses the log, under the library of `tests/faults`: this test binary again, told by an
//! environment variable what to do. It notes in `ACKS` what it began and what was acknowledged.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock};

use super::workload::{Model, Workload, start};
use crate::fatal::Fatal;
use crate::journal::wal::{Options, WalJournal};
use crate::journal::{Done, Journal};

const ROLE: &str = "CORACLE_TEST_CHILD";
/// Operations that may be under way at once.
const FLYING: usize = 4;
/// The exit code of a child that was refused when it opened the log.
pub const REFUSED: i32 = 3;

/// What a child does.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub seed: u64,
    pub ops: usize,
    pub direct: bool,
}

impl Job {
    pub fn workload(self) -> Workload {
        Workload::new(self.seed, 5000)
    }

    pub fn options(self) -> Options {
        Options {
            segment_bytes: 64 << 10,
            cache_bytes: 8 << 10,
            direct: self.direct,
            ..Options::default()
        }
    }

    /// What a log must hold after each number of operations, 0 to all.
    pub fn states(self) -> Vec<Model> {
        let mut work = self.workload();
        let mut states = vec![Model::default()];
        for _ in 0..self.ops {
            work.next();
            states.push(work.model.clone());
        }
        states
    }
}

/// The compiled library, kept beside other temporary files under the checksum of its source.
pub fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/faults/faults.c");
        let crc = crc32fast::hash(&std::fs::read(source).unwrap());
        let to = std::env::temp_dir().join(format!("coracle-faults-{crc:08x}.so"));
        if !to.exists() {
            let beside = to.with_extension(std::process::id().to_string());
            let out = Command::new("cc")
                .args(["-shared", "-fPIC", "-O1", "-o"])
                .arg(&beside)
                .arg(source)
                .args(["-ldl", "-lpthread"])
                .output()
                .expect("a C compiler (cc) is needed for the fault tests");
            assert!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            std::fs::rename(beside, &to).unwrap();
        }
        to
    })
}

/// Runs a child on `dir` with these variables of the library.
pub fn run(dir: &Path, job: Job, vars: &[(&str, &str)]) -> Output {
    std::fs::create_dir_all(dir).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "tests::child::child",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, format!("{} {} {}", job.seed, job.ops, job.direct))
        .env("CORACLE_TEST_DIR", dir)
        .env("CORACLE_FAULT_PREFIX", dir)
        .env("LD_PRELOAD", library())
        .env("RUST_BACKTRACE", "0");
    for (name, value) in vars {
        command.env(name, value);
    }
    command.output().unwrap()
}

/// What `ACKS` says: operations begun; operations acknowledged, up to the first that is not.
pub fn acks(text: &str) -> (usize, usize) {
    let numbers = |c: char| -> BTreeSet<usize> {
        text.lines()
            .filter_map(|l| l.strip_prefix(c)?.trim().parse().ok())
            .collect()
    };
    let acked = numbers('A');
    let first_open = (0..).find(|n| !acked.contains(n)).unwrap_or(0);
    (numbers('I').len(), first_open)
}

/// Opens what a child left behind, without faults, and compares: acknowledged must be there, nothing but a prefix of what
/// was begun may be, and the log must go on.
pub fn check(
    dir: &Path,
    job: Job,
    states: &[Model],
    begun: usize,
    acked: usize,
) -> Result<(), String> {
    let journal = WalJournal::open_options(dir, job.options()).map_err(|e| e.to_string())?;
    let found = Model::of(&journal);
    let held = (acked..=begun).rev().any(|n| states[n] == found);
    // Several entries appended at once may be written in two groups, so an append may be there in part.
    let part = || {
        (acked..begun).any(|n| {
            let (before, after) = (&states[n], &states[n + 1]);
            let longer = found.entries.len() > before.entries.len()
                && found.entries.len() < after.entries.len();
            let model = Model {
                last: found.entries.back().map(|e| e.log_id),
                entries: found.entries.clone(),
                ..before.clone()
            };
            longer
                && model == found
                && after
                    .entries
                    .iter()
                    .zip(&found.entries)
                    .all(|(a, b)| a == b)
        })
    };
    if !held && !part() {
        let near = &states[acked];
        return Err(format!(
            "begun {begun}, acknowledged {acked}; found vote {:?} purged {:?} last {:?} with {} entries; acknowledged were vote {:?} purged {:?} last {:?} with {}",
            found.vote,
            found.purged,
            found.last,
            found.entries.len(),
            near.vote,
            near.purged,
            near.last,
            near.entries.len()
        ));
    }
    let next = journal.last().map_or(0, |id| id.index + 1);
    let entry = super::entry(next, b"goes on");
    super::synced(|done| journal.append(vec![entry.clone()], done));
    drop(journal);
    let journal =
        WalJournal::open_options(dir, job.options()).map_err(|e| format!("opened again: {e}"))?;
    match journal.read(next, next + 1, 0).map_err(|e| e.to_string())? {
        found if found == [entry] => Ok(()),
        found => Err(format!("opened again: {found:?} at {next}")),
    }
}

/// Not a test of its own: the child's main function.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let mut words = role.split(' ');
    let mut word = || words.next().unwrap();
    let job = Job {
        seed: word().parse().unwrap(),
        ops: word().parse().unwrap(),
        direct: word().parse().unwrap(),
    };
    let dir = PathBuf::from(std::env::var_os("CORACLE_TEST_DIR").unwrap());
    let acks = OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("ACKS"))
        .unwrap();
    let acks = Arc::new(Mutex::new(acks));
    let options = Options {
        fatal: Some(Fatal::new(|line| {
            eprintln!("{line}");
            std::process::abort()
        })),
        ..job.options()
    };
    let journal = match WalJournal::open_options(&dir, options) {
        Ok(journal) => journal,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(REFUSED)
        }
    };
    let mut work = job.workload();
    let (tx, rx) = std::sync::mpsc::sync_channel::<()>(FLYING);
    for _ in 0..FLYING {
        tx.send(()).unwrap();
    }
    let note =
        |acks: &Mutex<File>, line: &str| acks.lock().unwrap().write_all(line.as_bytes()).unwrap();
    for n in 0..job.ops {
        rx.recv().unwrap();
        let op = work.next();
        note(&acks, &format!("I {n}\n"));
        let (tx, acks) = (tx.clone(), acks.clone());
        let done = Done::new(move |result| {
            if result.is_ok() {
                note(&acks, &format!("A {n}\n"));
                // The receiver is gone once everything was begun.
                let _ = tx.try_send(());
            }
        });
        // A commit position is not waited for, so it counts as acknowledged in its turn.
        start(&journal, &op, done).unwrap();
    }
    drop(journal);
    std::process::exit(0)
}
