//! One member: a `coracle scheduler` process in its own namespace with its own data directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use super::net::{API_PORT, Net, RAFT_PORT};
use crate::harness::cluster::LONG;
use crate::harness::program::{CORACLE, wait_for};

/// A member's process and folder.
pub struct Member {
    /// Index of its namespace.
    pub index: usize,
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// The binary it runs.
    pub binary: PathBuf,
    /// More environment, such as LD_PRELOAD.
    pub env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
    stopped: bool,
}

impl Member {
    pub fn new(index: usize, dir: &Path) -> Self {
        let name = format!("m{}", index + 1);
        Self {
            index,
            data: dir.join(&name),
            log: dir.join(format!("{name}.log")),
            name,
            binary: CORACLE.into(),
            env: Vec::new(),
            child: None,
            stopped: false,
        }
    }

    /// The command line of this member; `more` says how it enters.
    pub fn command(&self, net: &Net, more: &[String]) -> Command {
        let ip = Net::ip_of(self.index);
        let mut command = Command::new(&self.binary);
        command
            .args(["scheduler", "--name", &self.name, "--data-dir"])
            .arg(&self.data)
            .args(["--api-addr", &format!("{ip}:{API_PORT}")])
            .args(["--raft-addr", &format!("{ip}:{RAFT_PORT}")])
            .args(["--registry-addr", "127.0.0.1:5000"])
            .args(more)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .env("HOME", self.data.parent().unwrap_or(Path::new("/")))
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null());
        net.in_member(self.index, &mut command);
        command
    }

    /// Starts the process without waiting.
    #[track_caller]
    pub fn spawn(&mut self, net: &Net, more: &[String]) {
        assert!(self.child.is_none(), "{} is running", self.name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let child = self
            .command(net, more)
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits until run.json names this process; answers it.
    #[track_caller]
    pub fn ready(&mut self) -> Value {
        let (path, pid, log) = (self.data.join("run.json"), self.pid(), self.log.clone());
        let name = self.name.clone();
        let child = self.child.as_mut().unwrap();
        wait_for(&format!("{name} to be ready"), LONG, || {
            let seen = || std::fs::read_to_string(&log).unwrap_or_default();
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{name} ended with {status}:\n{}", seen());
            }
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{e}; {}", seen()))?;
            let v: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            if v["pid"] == pid {
                Ok(v)
            } else {
                Err(format!("run.json of another process; {}", seen()))
            }
        })
    }

    /// Whether there is a process (it may be stopped by SIGSTOP).
    pub fn running(&mut self) -> bool {
        match &mut self.child {
            None => false,
            Some(c) => matches!(c.try_wait(), Ok(None)),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    #[track_caller]
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        self.signal(rustix::process::Signal::STOP);
        self.stopped = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(rustix::process::Signal::CONT);
        self.stopped = false;
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.stopped = false;
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let (name, log) = (self.name.clone(), self.log());
        let mut child = self.child.take().expect("it was started");
        let status = wait_for(&format!("{name} to end"), LONG, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(log.clone()),
        });
        self.stopped = false;
        status
    }

    /// What the processes of this member printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its data is gone, as after a lost disk.
    pub fn wipe(&mut self) {
        assert!(!self.running(), "{} is running", self.name);
        // A mount point stays.
        for entry in std::fs::read_dir(&self.data)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            let gone = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            gone.unwrap();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.stopped {
            self.resume();
        }
        self.kill9();
    }
}
