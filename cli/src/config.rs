//! Settings of a process: flags, else the TOML file, else the defaults of DESIGN section 7.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::{NodeArgs, RunnerAddrs, SchedulerAddrs};
use crate::error::{self, CliError, Result};

/// The file of `--config`: the flags' names as keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    data_dir: Option<PathBuf>,
    name: Option<String>,
    log: Option<String>,
    api_addr: Option<String>,
    registry_addr: Option<String>,
    insecure_registry: Option<bool>,
    ingress_addr: Option<String>,
    runner_addr: Option<String>,
    join: Option<String>,
    token: Option<String>,
}

/// Resolved settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Name, if one was given.
    pub name: Option<String>,
    /// Log filter.
    pub log: Option<String>,
    /// API listener.
    pub api_addr: SocketAddr,
    /// Registry listener.
    pub registry_addr: SocketAddr,
    /// Registry open to others without authentication.
    pub insecure_registry: bool,
    /// Ingress listener.
    pub ingress_addr: SocketAddr,
    /// Runner listener.
    pub runner_addr: SocketAddr,
    /// Cluster to join.
    pub join: Option<String>,
    /// Token to join with.
    pub token: Option<String>,
}

/// Reads the file, then lets flags win.
pub fn resolve(
    node: &NodeArgs,
    scheduler: &SchedulerAddrs,
    runner: &RunnerAddrs,
    data_dir: &str,
) -> Result<Settings> {
    let file = match &node.config {
        None => File::default(),
        Some(path) => read(path)?,
    };
    let addr = |flag: &str,
                given: Option<&String>,
                filed: Option<&String>,
                default: &str|
     -> Result<SocketAddr> {
        let text = given.or(filed).map_or(default, String::as_str);
        let resolved = std::net::ToSocketAddrs::to_socket_addrs(text)
            .ok()
            .and_then(|mut a| a.next());
        resolved.ok_or_else(|| {
            CliError::new("E_ADDRESS", format!("--{flag} {text:?} is not HOST:PORT"))
                .fix("write for example 127.0.0.1:8080; port 0 takes a free one")
        })
    };
    let name = node.name.clone().or(file.name);
    if let Some(n) = &name {
        let good = !n.is_empty()
            && n.len() <= 63
            && n.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !n.starts_with('-')
            && !n.ends_with('-');
        if !good {
            return Err(
                CliError::new("E_NAME", format!("--name {n:?} is no node name"))
                    .fix("use at most 63 lower-case letters, digits and dashes"),
            );
        }
    }
    Ok(Settings {
        data_dir: node
            .data_dir
            .clone()
            .or(file.data_dir)
            .unwrap_or_else(|| PathBuf::from(data_dir)),
        name,
        log: node.log.clone().or(file.log),
        api_addr: addr(
            "api-addr",
            scheduler.api_addr.as_ref(),
            file.api_addr.as_ref(),
            "127.0.0.1:6443",
        )?,
        registry_addr: addr(
            "registry-addr",
            scheduler.registry_addr.as_ref(),
            file.registry_addr.as_ref(),
            "127.0.0.1:5000",
        )?,
        insecure_registry: scheduler.insecure_registry || file.insecure_registry.unwrap_or(false),
        ingress_addr: addr(
            "ingress-addr",
            runner.ingress_addr.as_ref(),
            file.ingress_addr.as_ref(),
            "127.0.0.1:8080",
        )?,
        runner_addr: addr(
            "runner-addr",
            runner.runner_addr.as_ref(),
            file.runner_addr.as_ref(),
            "127.0.0.1:10250",
        )?,
        join: file.join,
        token: file.token,
    })
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).map_err(|e| error::file(path, &e))?;
    toml::from_str(&text).map_err(|e| {
        CliError::new(
            "E_CONFIG",
            format!("{}: {}", path.display(), e.to_string().trim()),
        )
        .fix("keys are the flags' names, e.g. api-addr = \"127.0.0.1:6443\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(
            &path,
            "api-addr = \"127.0.0.1:1\"\nregistry-addr = \"127.0.0.1:2\"\n",
        )
        .unwrap();
        let node = NodeArgs {
            config: Some(path.clone()),
            ..NodeArgs::default()
        };
        let flags = SchedulerAddrs {
            api_addr: Some("127.0.0.1:9".into()),
            ..SchedulerAddrs::default()
        };
        let s = resolve(&node, &flags, &RunnerAddrs::default(), "x").unwrap();
        assert_eq!(
            (
                s.api_addr.port(),
                s.registry_addr.port(),
                s.ingress_addr.port()
            ),
            (9, 2, 8080)
        );
        std::fs::write(&path, "api-adr = 1\n").unwrap();
        let e = resolve(&node, &flags, &RunnerAddrs::default(), "x").unwrap_err();
        assert!(
            e.code == "E_CONFIG" && e.message.contains("api-adr"),
            "{e:?}"
        );
    }
}
