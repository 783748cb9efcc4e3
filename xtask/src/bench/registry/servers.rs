//! The two registries, each over a fresh directory of the same disk, on plain HTTP.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::{Method, StatusCode};

use super::http::{Connection, Pieces};
use crate::bench::peers;
use crate::bench::servers::guard::{Scratch, Server};

/// Time a registry has to come up.
const READY: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// One member of Coracle.
    Ours,
    /// docker-registry as packaged.
    Docker,
}

impl System {
    /// Its name in figures.
    pub fn label(self) -> String {
        match self {
            Self::Ours => "coracle".to_string(),
            Self::Docker => {
                let out = Command::new("docker-registry").arg("--version").output();
                let text = out
                    .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
                    .unwrap_or_default();
                let version = text.split_whitespace().last().unwrap_or("unknown");
                format!("docker-registry {version}")
            }
        }
    }
}

/// A running registry; dropping it kills it and removes its data.
pub struct Registry {
    /// Which.
    pub system: System,
    /// Where it listens.
    pub address: SocketAddr,
    server: Server,
    scratch: Scratch,
}

impl Registry {
    /// Starts one; back when it answers.
    pub async fn start(system: System, coracle: &Path) -> Result<Self> {
        Self::start_with(system, coracle, &[]).await
    }

    /// The same with more arguments of `coracle scheduler`; the other side has none.
    pub async fn start_with(system: System, coracle: &Path, more: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let log = scratch.path().join("log");
        let (server, address) = match system {
            System::Ours => ours(coracle, scratch.path(), &log, more).await?,
            System::Docker => docker(&peers::docker_registry()?, scratch.path(), &log)?,
        };
        let mut registry = Self {
            system,
            address,
            server,
            scratch,
        };
        registry.wait_ready().await?;
        Ok(registry)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Blobs of ours on disk.
    pub fn blobs(&self) -> Result<u64> {
        let mut count = 0;
        let root = self.scratch.path().join("data/registry/blobs/sha256");
        for shard in std::fs::read_dir(root)? {
            count += std::fs::read_dir(shard?.path())?.count() as u64;
        }
        Ok(count)
    }

    /// Fails with its last words if it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        self.server.check_alive()
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY;
        loop {
            self.check_alive()?;
            let why = match self.ping().await {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            if Instant::now() > until {
                bail!(
                    "{} does not answer: {why:#}\n{}",
                    self.system.label(),
                    self.server.last_words()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ping(&self) -> Result<()> {
        let mut connection = Connection::open(self.address).await?;
        connection
            .call(Method::GET, "/v2/", None, Pieces::default(), StatusCode::OK)
            .await?;
        Ok(())
    }
}

async fn ours(
    binary: &Path,
    dir: &Path,
    log: &Path,
    more: &[&str],
) -> Result<(Server, SocketAddr)> {
    let data = dir.join("data");
    let mut command = Command::new(binary);
    command
        .args(["scheduler", "--name", "m0", "--data-dir"])
        .arg(&data);
    for flag in ["--api-addr", "--registry-addr", "--raft-addr"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.args(more);
    let mut server = Server::start(command, log)?;
    let until = Instant::now() + READY;
    loop {
        server.check_alive()?;
        let text = std::fs::read_to_string(data.join("run.json")).unwrap_or_default();
        if let Ok(v) = serde_json::from_str::<serde_json::Value>(&text) {
            let url = v["registry"]
                .as_str()
                .context("run.json names no registry")?;
            let address = url
                .trim_start_matches("http://")
                .trim_end_matches('/')
                .parse()
                .with_context(|| url.to_string())?;
            return Ok((server, address));
        }
        if Instant::now() > until {
            bail!("no run.json; it said:\n{}", server.last_words());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// As packaged, on a directory of ours, its log at `error` because ours does not log requests either.
fn docker(binary: &PathBuf, dir: &Path, log: &Path) -> Result<(Server, SocketAddr)> {
    // Taken and let go: the server cannot be handed a listener, nor tell which port it was given.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = dir.join("config.yml");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  delete:\n    enabled: true\n  \
             cache:\n    blobdescriptor: inmemory\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            dir.join("data").display()
        ),
    )?;
    let mut command = Command::new(binary);
    command.arg("serve").arg(&config);
    Ok((Server::start(command, log)?, address))
}
