//! A release `coracle up` in an empty folder, and processes that end with the bench.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::root::{root, run, target};

/// A child that is ended (SIGTERM, then SIGKILL) when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Builds the release binary and tells where it is.
pub fn release_binary() -> Result<PathBuf> {
    run(Command::new("cargo")
        .args(["build", "--release", "--quiet", "--package", "coracle"])
        .current_dir(root()))?;
    Ok(target().join("release/coracle"))
}

/// A free loopback port.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts `coracle up APP` in an empty folder on free ports.
pub fn up(binary: &Path, app: &Path, dir: &Path) -> Result<Process> {
    let child = Command::new(binary)
        .arg("up")
        .arg(app)
        .args([
            "--data-dir",
            "data",
            "--api-addr",
            "127.0.0.1:0",
            "--registry-addr",
            "127.0.0.1:0",
            "--ingress-addr",
            "127.0.0.1:0",
            "--runner-addr",
            "127.0.0.1:0",
        ])
        .current_dir(dir)
        // A backtrace captured per trap or error costs either side about 10 %.
        .env_remove("RUST_BACKTRACE")
        .stdout(Stdio::null())
        .stderr(Stdio::from(std::fs::File::create(dir.join("stderr"))?))
        .spawn()
        .with_context(|| format!("{}", binary.display()))?;
    Ok(Process(child))
}

/// `run.json` once it is there.
pub fn run_json(dir: &Path, limit: Duration) -> Result<serde_json::Value> {
    let until = Instant::now() + limit;
    loop {
        if let Ok(text) = std::fs::read_to_string(dir.join("data/run.json"))
            && let Ok(v) = serde_json::from_str(&text)
        {
            return Ok(v);
        }
        if Instant::now() > until {
            let said = std::fs::read_to_string(dir.join("stderr")).unwrap_or_default();
            bail!(
                "coracle up was not ready within {} s; it said:\n{said}",
                limit.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One GET over a new connection: status and body.
pub fn get(address: &str, host: &str, path: &str) -> Result<(u16, String)> {
    let mut s = TcpStream::connect(address)?;
    s.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(s, "GET {path} HTTP/1.0\r\nhost: {host}\r\n\r\n")?;
    let mut text = Vec::new();
    s.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .context("no status line")?;
    Ok((
        status,
        text.split_once("\r\n\r\n")
            .map(|(_, b)| b.to_string())
            .unwrap_or_default(),
    ))
}

/// Waits for a 200.
pub fn wait_200(address: &str, host: &str, limit: Duration) -> Result<String> {
    let until = Instant::now() + limit;
    loop {
        match get(address, host, "/") {
            Ok((200, body)) => return Ok(body),
            other if Instant::now() > until => bail!(
                "{address} gave no 200 within {} s: {other:?}",
                limit.as_secs()
            ),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
