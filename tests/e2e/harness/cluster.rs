//! A `coracle` process with its data folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::http;
use super::program::{self, CORACLE, Output, wait_for};

/// Long enough for a debug build on a busy machine; nothing waits this long unless it is broken.
pub const LONG: Duration = Duration::from_secs(90);

/// A running process and its folder. Dropping it kills the process and, with the last owner, the folder.
pub struct Cluster {
    pub dir: std::sync::Arc<tempfile::TempDir>,
    pub data: String,
    args: Vec<String>,
    /// More environment of the process.
    env: Vec<(String, String)>,
    child: Option<Child>,
    pub info: Value,
}

impl Cluster {
    /// `coracle up [APP]` in a new folder, ready.
    #[track_caller]
    pub fn up(app: Option<&Path>) -> Self {
        Self::start(
            std::sync::Arc::new(tempfile::tempdir().unwrap()),
            ".coracle",
            Self::up_args(app),
        )
    }

    /// `up [APP]` with every port a free one.
    pub fn up_args(app: Option<&Path>) -> Vec<String> {
        let mut args = vec!["up".to_string()];
        args.extend(app.map(|a| a.to_string_lossy().into_owned()));
        for flag in [
            "--api-addr",
            "--registry-addr",
            "--ingress-addr",
            "--runner-addr",
        ] {
            args.extend([flag.to_string(), "127.0.0.1:0".to_string()]);
        }
        args
    }

    /// Any role in a folder; `args` lack the data directory.
    #[track_caller]
    pub fn start(dir: std::sync::Arc<tempfile::TempDir>, data: &str, args: Vec<String>) -> Self {
        Self::start_in(dir, data, args, Vec::new())
    }

    /// The same with more environment.
    #[track_caller]
    pub fn start_in(
        dir: std::sync::Arc<tempfile::TempDir>,
        data: &str,
        args: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Self {
        let mut c = Self {
            dir,
            data: data.into(),
            args,
            env,
            child: None,
            info: Value::Null,
        };
        c.spawn();
        c.ready();
        c
    }

    /// Starts the process (again) without waiting.
    #[track_caller]
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let child = Command::new(CORACLE)
            .args(&self.args)
            .args(["--data-dir", &self.data])
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .env_remove("KUBECONFIG")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
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
        let (path, pid) = (
            self.dir.path().join(&self.data).join("run.json"),
            self.pid(),
        );
        let log = self.log_path();
        let child = self.child.as_mut().unwrap();
        self.info = wait_for("run.json", LONG, || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!(
                    "it ended with {status}:\n{}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            let text = std::fs::read_to_string(&path).map_err(|e| {
                format!(
                    "{e}; log:\n{}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                )
            })?;
            let v: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            if v["pid"] == pid {
                Ok(v)
            } else {
                Err(format!("run.json of another process: {v}"))
            }
        });
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir
            .path()
            .join(format!("{}.log", self.data.trim_start_matches('.')))
    }

    /// What the process printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it is not running").id()
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGINT, as Ctrl-C does; answers the exit code.
    #[track_caller]
    pub fn interrupt(&mut self) -> i32 {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        let mut child = self.child.take().unwrap();
        let log = self.log_path();
        wait_for("the process to end", LONG, || match child.try_wait() {
            Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
            _ => Err(std::fs::read_to_string(&log).unwrap_or_default()),
        })
    }

    fn text(&self, field: &str) -> String {
        self.info[field]
            .as_str()
            .unwrap_or_else(|| panic!("run.json has no {field}: {}", self.info))
            .to_string()
    }

    /// HOST:PORT of the ingress.
    pub fn ingress(&self) -> String {
        http::authority(&self.text("ingress"))
    }

    /// HOST:PORT of the registry.
    pub fn registry(&self) -> String {
        http::authority(&self.text("registry"))
    }

    /// HOST:PORT of the API.
    pub fn api(&self) -> String {
        http::authority(&self.text("api"))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        let path = PathBuf::from(self.text("kubeconfig"));
        if path.is_absolute() {
            path
        } else {
            self.dir.path().join(path)
        }
    }

    /// `coracle ARGS` against this cluster.
    #[track_caller]
    pub fn coracle(&self, args: &[&str]) -> Output {
        program::run(
            Command::new(CORACLE)
                .args(args)
                .current_dir(self.dir.path())
                .env("KUBECONFIG", self.kubeconfig())
                .env("HOME", self.dir.path()),
        )
    }

    /// `kubectl ARGS` against this cluster; `None` if there is no kubectl.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Option<Output> {
        let kubectl = program::client("kubectl")?;
        Some(program::run(
            Command::new(kubectl)
                .args(args)
                .current_dir(self.dir.path())
                .env("KUBECONFIG", self.kubeconfig())
                .env("HOME", self.dir.path()),
        ))
    }

    /// GET through the ingress.
    pub fn get(&self, host: &str, path: &str) -> std::io::Result<http::Response> {
        http::get(&self.ingress(), host, path)
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.data, self.log());
        }
        self.kill9();
    }
}
