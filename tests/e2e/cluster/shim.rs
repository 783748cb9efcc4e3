//! Clocks that a test can turn and disks that it can spoil, one of each per member, by preloaded libraries that look at
//! a file before they act.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::member::Member;
use crate::harness::program::run;

/// The libraries' sources; the second one is that of the log's own crash and fault tests.
const SOURCES: [(&str, &str); 2] = [
    ("clock", include_str!("clock.c")),
    ("faults", include_str!("../../faults/faults.c")),
];
/// Every call by which the log reaches the disk.
const LOG_WRITES: &str = "call=write,fsync,fdatasync times=0";
/// Milliseconds that each of them takes on a disk that is about to die.
const SLOW_MS: u32 = 40;

/// The libraries as LD_PRELOAD wants them, compiled once per test process.
#[track_caller]
fn libraries() -> &'static str {
    static BUILT: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, list) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let build = |(name, text): (&str, &str)| {
            let source = dir.path().join(format!("{name}.c"));
            let library = dir.path().join(format!("{name}.so"));
            std::fs::write(&source, text).unwrap();
            run(Command::new("gcc")
                .args(["-O2", "-shared", "-fPIC", "-o"])
                .args([&library, &source])
                .args(["-ldl", "-lpthread"]))
            .ok();
            library.to_string_lossy().into_owned()
        };
        let list = SOURCES.map(build).join(":");
        (dir, list)
    });
    list
}

/// What one member gets wrong.
pub struct Shim {
    clock: PathBuf,
    disk: PathBuf,
}

impl Shim {
    /// Gives a member, before it starts, a clock and a disk that the test controls; all is well at first.
    #[track_caller]
    pub fn of(member: &mut Member) -> Self {
        let shim = Self {
            clock: member.data.with_extension("clock"),
            disk: member.data.with_extension("faults"),
        };
        shim.well();
        shim.turn(0);
        let mut add = |name: &str, value: &Path| {
            let value = value.to_string_lossy().into_owned();
            member.env.push((name.into(), value));
        };
        add("LD_PRELOAD", Path::new(libraries()));
        add("CORACLE_TEST_CLOCK", &shim.clock);
        add("CORACLE_FAULT_CONTROL", &shim.disk);
        add("CORACLE_FAULT_PREFIX", &member.data.join("raft"));
        shim
    }

    /// Sets the clock this many seconds off.
    #[track_caller]
    pub fn turn(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        // Written in place: the process has mapped it.
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.clock)
            .unwrap();
        let offset = seconds * 1_000_000_000;
        file.write_all_at(&offset.to_ne_bytes(), 0).unwrap();
    }

    #[track_caller]
    fn disk(&self, words: &str) {
        // By rename: it is read at any moment.
        let new = self.disk.with_extension("new");
        std::fs::write(&new, words).unwrap();
        std::fs::rename(&new, &self.disk).unwrap();
    }

    /// Every write and sync of the log takes longer.
    #[track_caller]
    pub fn slow(&self) {
        self.disk(&format!("{LOG_WRITES} delay_ms={SLOW_MS}"));
    }

    /// Every write and sync of the log fails.
    #[track_caller]
    pub fn broken(&self) {
        self.disk(&format!("{LOG_WRITES} errno=EIO"));
    }

    /// The disk is as it should be.
    #[track_caller]
    pub fn well(&self) {
        self.disk("");
    }
}
