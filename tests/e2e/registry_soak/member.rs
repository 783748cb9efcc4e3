//! One member: a `coracle scheduler` process on ports of loopback that it keeps, with a disk that the test can spoil.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::cluster::LONG;
use crate::harness::program::{CORACLE, run, wait_for};

/// Below the ports that the system gives to outgoing connections, so that nobody takes one while its member is down.
const PORTS: std::ops::Range<u16> = 17_000..30_000;
/// Lines of a member's log in a failure's report.
const LOG_TAIL: usize = 80;
/// What is logged: each pass of the collector, and what is always worth a line.
const LOG: &str = "warn,openraft=error,coracle::members=info,coracle_registry=warn,coracle_scheduler::registry=debug";

/// A port that nobody has.
#[track_caller]
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Other test processes begin elsewhere.
    let begin = u16::try_from(std::process::id() % u32::from(span)).unwrap_or(0);
    for _ in 0..span {
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let port = PORTS.start + (begin + n % span) % span;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port in {PORTS:?} is free")
}

/// How the collector of every member is set.
#[derive(Clone, Copy, Debug)]
pub struct Garbage {
    pub age: Duration,
    pub every: Duration,
}

/// A member's process and folder.
pub struct Member {
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// HOST:PORT of its registry.
    pub registry: String,
    pub log: PathBuf,
    pub disk: Disk,
    api: String,
    args: Vec<String>,
    child: Option<Child>,
}

impl Member {
    #[track_caller]
    pub fn new(index: usize, dir: &Path, garbage: Garbage) -> Self {
        let name = format!("m{}", index + 1);
        let data = dir.join(&name);
        let [api, registry, raft] = [(); 3].map(|()| format!("127.0.0.1:{}", port()));
        let ms = |d: Duration| d.as_millis().to_string();
        let args = [
            ("--name", name.clone()),
            ("--data-dir", data.to_string_lossy().into_owned()),
            ("--api-addr", api.clone()),
            ("--registry-addr", registry.clone()),
            ("--raft-addr", raft),
            ("--registry-gc-age-ms", ms(garbage.age)),
            ("--registry-gc-every-ms", ms(garbage.every)),
            ("--backup-every", "0".into()),
            ("--log", LOG.into()),
        ];
        Self {
            log: dir.join(format!("{name}.log")),
            disk: Disk::new(dir, &name, &data.join("registry")),
            args: args
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_string(), value])
                .collect(),
            name,
            data,
            registry,
            api,
            child: None,
        }
    }

    /// Starts the process without waiting.
    #[track_caller]
    pub fn spawn(&mut self, more: &[String]) {
        assert!(self.child.is_none(), "{} is running", self.name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let child = Command::new(CORACLE)
            .arg("scheduler")
            .args(&self.args)
            .args(more)
            .envs(self.disk.env())
            .env("HOME", self.data.parent().unwrap())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits until run.json names this process.
    #[track_caller]
    pub fn ready(&mut self) {
        let tail = || tail(&self.log);
        let (name, path) = (&self.name, self.data.join("run.json"));
        let child = self.child.as_mut().unwrap();
        let pid = child.id();
        wait_for(&format!("{name} to be ready"), LONG, || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{name} ended with {status}:\n{}", tail());
            }
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{e}; {}", tail()))?;
            let v: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            match v["pid"] == pid {
                true => Ok(()),
                false => Err(format!("run.json of another process; {}", tail())),
            }
        });
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether the process lives.
    pub fn running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// `coracle ARGS` as the administrator, against this member.
    #[track_caller]
    fn coracle(&self, args: &[&str]) -> Result<String, String> {
        let out = run(Command::new(CORACLE)
            .args(args)
            .env("KUBECONFIG", self.data.join("kubeconfig"))
            .env("HOME", self.data.parent().unwrap()));
        match out.code {
            0 => Ok(out.out),
            _ => Err(out.err),
        }
    }

    /// `--join` and a token, for another member.
    #[track_caller]
    pub fn join_args(&self) -> Vec<String> {
        let token = wait_for("a token", LONG, || {
            self.coracle(&["token", "create", "--role", "scheduler"])
        });
        ["--join", &self.api, "--token", token.trim()]
            .map(String::from)
            .to_vec()
    }

    /// Waits until so many members vote.
    #[track_caller]
    pub fn wait_voters(&self, n: usize) {
        wait_for(&format!("{n} voters"), LONG, || {
            let text = self.coracle(&["members", "-o", "json"])?;
            let list: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let members = list.as_array().into_iter().flatten();
            match members.filter(|m| m["voter"] == true).count() == n {
                true => Ok(()),
                false => Err(text),
            }
        });
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        format!("--- {}\n{}\n", self.name, tail(&self.log))
    }

    /// Where it keeps a blob.
    pub fn file(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').unwrap_or(("", digest));
        let blobs = self.data.join("registry/blobs").join(algorithm);
        blobs.join(&hex[..2]).join(hex)
    }

    /// The digests it keeps.
    pub fn stored(&self) -> Vec<String> {
        let list = |path: PathBuf| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|e| e.path()).collect::<Vec<_>>()
        };
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut all = Vec::new();
        for algorithm in list(self.data.join("registry/blobs")) {
            for file in list(algorithm.clone()).into_iter().flat_map(list) {
                all.push(format!("{}:{}", name(&algorithm), name(&file)));
            }
        }
        all
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The last lines of a log, without those that only count.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let worth = |line: &&str| !line.contains("a collection of the registry has ended");
    let lines: Vec<&str> = text.lines().filter(worth).collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

/// The library that spoils disks, compiled once per test process.
#[track_caller]
fn library() -> &'static str {
    static BUILT: std::sync::OnceLock<(tempfile::TempDir, String)> = std::sync::OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, built) = (dir.path().join("faults.c"), dir.path().join("faults.so"));
        std::fs::write(&source, include_str!("../../faults/faults.c")).unwrap();
        run(Command::new("gcc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&built, &source])
            .args(["-ldl", "-lpthread"]))
        .ok();
        let path = built.to_string_lossy().into_owned();
        (dir, path)
    });
    path
}

/// What goes wrong on one member's registry disk; the log's disk is well.
pub struct Disk {
    control: PathBuf,
    report: PathBuf,
    prefix: PathBuf,
}

impl Disk {
    #[track_caller]
    fn new(dir: &Path, name: &str, prefix: &Path) -> Self {
        let disk = Self {
            control: dir.join(format!("{name}.faults")),
            report: dir.join(format!("{name}.fired")),
            prefix: prefix.to_owned(),
        };
        disk.well();
        disk
    }

    fn env(&self) -> [(&'static str, String); 4] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD", library().to_string()),
            ("CORACLE_FAULT_PREFIX", text(&self.prefix)),
            ("CORACLE_FAULT_CONTROL", text(&self.control)),
            ("CORACLE_FAULT_REPORT", text(&self.report)),
        ]
    }

    /// From now on this happens; the words are those of `faults.c`.
    #[track_caller]
    pub fn does(&self, words: &str) {
        // By rename: it is read at any moment.
        let new = self.control.with_extension("new");
        std::fs::write(&new, words).unwrap();
        std::fs::rename(&new, &self.control).unwrap();
    }

    /// The disk is as it should be.
    #[track_caller]
    pub fn well(&self) {
        self.does("");
    }

    /// Calls that were spoilt so far.
    pub fn fired(&self) -> usize {
        let text = std::fs::read_to_string(&self.report).unwrap_or_default();
        text.lines().count()
    }
}
