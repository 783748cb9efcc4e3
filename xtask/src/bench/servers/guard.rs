//! Server processes that never outlive the bench: killed on drop (panics included), and by the kernel if the bench
//! itself is killed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Lines of a dead server's stderr that are shown.
const LAST_WORDS: usize = 15;

/// A running server. Its data is thrown away, so it is killed rather than asked.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command`, both outputs appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let out = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)?;
        command
            // A backtrace captured per error would cost only one side.
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        // SAFETY: between fork and exec only one system call is made; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_path_buf(),
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Fails with the last words of the server if it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        bail!(
            "a server ended with {status}; it said:\n{}",
            self.last_words()
        );
    }

    /// End of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh directory on the disk of the target folder (never a tmpfs), removed on drop.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes one; removes those that killed benches left behind, and waits until the disk is at rest.
    pub fn new() -> Result<Self> {
        let base = crate::root::target().join("bench");
        std::fs::create_dir_all(&base)?;
        for old in std::fs::read_dir(&base)?.flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("run-").and_then(|n| n.split('-').next());
            if let Some(pid) = owner
                && !Path::new("/proc").join(pid).exists()
            {
                std::fs::remove_dir_all(old.path())?;
            }
        }
        let dir = tempfile::Builder::new()
            .prefix(&format!("run-{}-", std::process::id()))
            .tempdir_in(&base)?;
        let kind = rustix::fs::statfs(dir.path())?.f_type as i64;
        // From linux/magic.h.
        const TMPFS: i64 = 0x0102_1994;
        if kind == TMPFS {
            bail!("{} is a tmpfs: a sync there costs nothing", base.display());
        }
        super::rest::wait(dir.path())?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
