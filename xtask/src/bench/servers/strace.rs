//! Which system calls a load costs, by strace: the proof that both sides sync before they acknowledge. A sync is a
//! call such as fdatasync, or a write that the kernel completes only when it is on stable storage: on a descriptor
//! opened with O_DSYNC or O_SYNC, or with the flag for one call.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::guard::Scratch;

/// What is counted.
const CALLS: &str =
    "fdatasync,fsync,sync_file_range,msync,pwrite64,pwritev,pwritev2,write,writev,io_uring_enter";
/// Calls that make something durable by themselves.
const SYNCS: &[&str] = &["fdatasync", "fsync", "msync"];
/// Calls that write, and do so durably on some descriptors.
const WRITES: &[&str] = &["write", "writev", "pwrite64", "pwritev", "pwritev2"];
/// O_DSYNC; O_SYNC holds the same bit.
const O_DSYNC: u32 = 0o10000;
/// Time strace has to attach and to end.
const LIMIT: Duration = Duration::from_secs(10);

/// What was called.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Calls by name.
    pub by_name: BTreeMap<String, u64>,
    /// Of the writes those that were durable on return.
    pub synced_writes: u64,
}

impl Calls {
    /// Everything that waited for stable storage.
    pub fn syncs(&self) -> u64 {
        self.count(SYNCS) + self.synced_writes
    }

    /// Writes to files and sockets.
    pub fn writes(&self) -> u64 {
        self.count(WRITES)
    }

    fn count(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|n| self.by_name.get(*n)).sum()
    }
}

/// strace attached to some processes.
pub struct Trace {
    child: Child,
    output: PathBuf,
    pids: Vec<u32>,
    /// Descriptors whose writes are durable, as (process, descriptor).
    durable: BTreeSet<(u32, u32)>,
    _scratch: Scratch,
}

impl Trace {
    /// Attaches to every thread of the processes; back once it is attached.
    pub fn attach(pids: &[u32]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let (output, log) = (scratch.path().join("calls"), scratch.path().join("log"));
        let mut command = Command::new("strace");
        command
            .args(["-f", "-s", "0", "-e"])
            .arg(format!("trace={CALLS}"))
            .arg("-o")
            .arg(&output);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .context("strace is missing: `apt-get install strace`")?;
        let mut trace = Self {
            child,
            output,
            pids: pids.to_vec(),
            durable: durable(pids),
            _scratch: scratch,
        };
        let until = Instant::now() + LIMIT;
        loop {
            let said = std::fs::read_to_string(&log)?;
            if said.matches(" attached").count() >= pids.len() {
                return Ok(trace);
            }
            if trace.child.try_wait()?.is_some() || Instant::now() > until {
                bail!("strace did not attach: {said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Detaches; what was called in between.
    pub fn finish(mut self) -> Result<Calls> {
        self.durable.append(&mut durable(&self.pids));
        let pid =
            rustix::process::Pid::from_raw(self.child.id() as i32).context("no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let until = Instant::now() + LIMIT;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < until, "strace does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let owner = |thread: u32| {
            let of = |pid: &u32| Path::new(&format!("/proc/{pid}/task/{thread}")).exists();
            self.pids.iter().copied().find(of)
        };
        let text = std::fs::read_to_string(&self.output)?;
        Ok(parse(&text, owner, &self.durable))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Descriptors of the processes that were opened with O_DSYNC or O_SYNC.
fn durable(pids: &[u32]) -> BTreeSet<(u32, u32)> {
    let mut found = BTreeSet::new();
    for pid in pids {
        let dir = format!("/proc/{pid}/fdinfo");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            // A descriptor that is closed meanwhile has no flags to read.
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let flags = text
                .lines()
                .find_map(|l| u32::from_str_radix(l.strip_prefix("flags:")?.trim(), 8).ok());
            let number = entry.file_name().to_string_lossy().parse();
            if let (Some(flags), Ok(fd)) = (flags, number)
                && flags & O_DSYNC != 0
            {
                found.insert((*pid, fd));
            }
        }
    }
    found
}

/// Lines such as `123 pwrite64(7, ""..., 4096, 0) = 4096`; one that resumes an interrupted line is not a new call.
fn parse(text: &str, owner: impl Fn(u32) -> Option<u32>, durable: &BTreeSet<(u32, u32)>) -> Calls {
    let mut calls = Calls::default();
    let mut owners = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((name, arguments)) = rest.trim_start().split_once('(') else {
            continue;
        };
        let Ok(thread) = thread.parse::<u32>() else {
            continue;
        };
        if name.contains(' ') {
            continue;
        }
        *calls.by_name.entry(name.to_string()).or_default() += 1;
        if !WRITES.contains(&name) {
            continue;
        }
        let digits = arguments.chars().take_while(char::is_ascii_digit).count();
        let pid = *owners.entry(thread).or_insert_with(|| owner(thread));
        let is_durable = pid
            .zip(arguments[..digits].parse().ok())
            .is_some_and(|place| durable.contains(&place));
        if is_durable || arguments.contains("RWF_DSYNC") || arguments.contains("RWF_SYNC") {
            calls.synced_writes += 1;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_and_durable_writes_are_told_from_other_writes() {
        let text = "12    fdatasync(5) = 0\n\
                    12    pwrite64(7, \"\"..., 4096, 0) = 4096\n\
                    13    pwrite64(7, \"\"..., 4096, 4096 <unfinished ...>\n\
                    13    <... pwrite64 resumed>) = 4096\n\
                    12    write(9, \"\"..., 8) = 8\n\
                    12    pwritev2(9, [...], 1, 0, RWF_DSYNC) = 8\n\
                    14    +++ exited with 0 +++\n";
        let calls = parse(text, |_| Some(12), &BTreeSet::from([(12, 7)]));
        assert_eq!(calls.by_name.get("pwrite64"), Some(&2));
        assert_eq!(calls.synced_writes, 3);
        assert_eq!((calls.syncs(), calls.writes()), (4, 4));
    }
}
