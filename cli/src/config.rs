//! Settings of a process: flags, else the TOML file, else the defaults of DESIGN section 7.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_scheduler::{Garbage, LeaseDurability, RegistryListener, Schedule};
use serde::Deserialize;

use crate::args::{NodeArgs, RunnerAddrs, SchedulerAddrs, Switch};
use crate::error::{self, CliError, Result};
use crate::misc;

/// Shortest life of a certificate: below it nothing can be renewed in time.
const LIFE_MIN_S: u64 = 5;
/// Longest: that of a root.
const LIFE_MAX_S: u64 = 3_650 * 86_400;

/// The file of `--config`: the flags' names as keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    data_dir: Option<PathBuf>,
    name: Option<String>,
    log: Option<String>,
    api_addr: Option<String>,
    registry_addr: Option<String>,
    registry_auth: Option<bool>,
    registry_tls: Option<bool>,
    registry_cert: Option<PathBuf>,
    registry_key: Option<PathBuf>,
    insecure_registry: Option<bool>,
    registry_upstream: Option<Vec<String>>,
    registry_storage: Option<String>,
    raft_addr: Option<String>,
    advertise: Option<String>,
    backup_every: Option<String>,
    backup_keep: Option<usize>,
    lease_durability: Option<String>,
    certificate_life: Option<String>,
    registry_gc_age_ms: Option<u64>,
    registry_gc_every_ms: Option<u64>,
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
    /// Credentials and TLS there.
    pub registry: RegistryListener,
    /// Registries outside that the registry may pull through.
    pub registry_upstreams: Vec<String>,
    /// Bucket of the registry's blobs; none: the members' disks.
    pub registry_storage: Option<String>,
    /// Log listener, if one was named: the default differs between `scheduler` and `up`.
    pub raft_addr: Option<SocketAddr>,
    /// How others reach this machine.
    pub advertise: Option<String>,
    /// How durable a heartbeat is when it is answered.
    pub lease_durability: LeaseDurability,
    /// Life of the certificates this member issues.
    pub certificate_life: Option<Duration>,
    /// What the registry's collector takes, and how often it looks.
    pub registry_garbage: Garbage,
    /// This member's own backups.
    pub backups: Schedule,
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
        registry_storage: scheduler.registry_storage.clone().or(file.registry_storage),
        registry: RegistryListener {
            insecure: scheduler.insecure_registry || file.insecure_registry.unwrap_or(false),
            auth: scheduler
                .registry_auth
                .map(Switch::is_on)
                .or(file.registry_auth),
            tls: scheduler
                .registry_tls
                .map(Switch::is_on)
                .or(file.registry_tls),
            certificate: certificate(
                scheduler.registry_cert.clone().or(file.registry_cert),
                scheduler.registry_key.clone().or(file.registry_key),
            )?,
        },
        registry_upstreams: match scheduler.registry_upstream.as_slice() {
            [] => file.registry_upstream.unwrap_or_default(),
            given => given.to_vec(),
        },
        raft_addr: match (&scheduler.raft_addr, &file.raft_addr) {
            (None, None) => None,
            (given, filed) => Some(addr("raft-addr", given.as_ref(), filed.as_ref(), "")?),
        },
        advertise: scheduler.advertise.clone().or(file.advertise),
        backups: backups(
            scheduler
                .backup_every
                .as_ref()
                .or(file.backup_every.as_ref()),
            scheduler.backup_keep.or(file.backup_keep),
        )?,
        certificate_life: certificate_life(
            scheduler
                .certificate_life
                .as_ref()
                .or(file.certificate_life.as_ref()),
        )?,
        registry_garbage: garbage(
            scheduler.registry_gc_age_ms.or(file.registry_gc_age_ms),
            scheduler.registry_gc_every_ms.or(file.registry_gc_every_ms),
        )?,
        lease_durability: durability(
            scheduler
                .lease_durability
                .as_deref()
                .or(file.lease_durability.as_deref()),
        )?,
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

/// The registry's own certificate: both files or none.
fn certificate(chain: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<(PathBuf, PathBuf)>> {
    match (chain, key) {
        (Some(chain), Some(key)) => Ok(Some((chain, key))),
        (None, None) => Ok(None),
        _ => Err(CliError::new(
            "E_REGISTRY_CERT",
            "registry-cert and registry-key go together",
        )
        .fix("give the chain and its key, or neither")),
    }
}

/// The life of certificates.
fn certificate_life(given: Option<&String>) -> Result<Option<Duration>> {
    let Some(text) = given else { return Ok(None) };
    match misc::seconds(text) {
        Ok(seconds) if (LIFE_MIN_S..=LIFE_MAX_S).contains(&seconds) => {
            Ok(Some(Duration::from_secs(seconds)))
        }
        _ => Err(CliError::new(
            "E_CERTIFICATE_LIFE",
            format!("--certificate-life {text:?} is no life for a certificate"),
        )
        .fix("write a number with s, m, h or d between 5s and 3650d, such as 90d")),
    }
}

/// How the registry's garbage is collected.
fn garbage(age_ms: Option<u64>, every_ms: Option<u64>) -> Result<Garbage> {
    let default = Garbage::default();
    let age_ms = age_ms.map_or(Ok(default.age_ms), i64::try_from);
    let every = every_ms.map_or(default.every, Duration::from_millis);
    match age_ms {
        Ok(age_ms) if !every.is_zero() => Ok(Garbage { age_ms, every }),
        _ => Err(CliError::new(
            "E_REGISTRY_GC",
            "--registry-gc-age-ms or --registry-gc-every-ms is out of bounds",
        )
        .fix("write milliseconds: an age of 0 or more, and at least 1 between two collections")),
    }
}

fn durability(given: Option<&str>) -> Result<LeaseDurability> {
    match given {
        None | Some("batched") => Ok(LeaseDurability::Batched),
        Some("sync") => Ok(LeaseDurability::Sync),
        Some(other) => Err(CliError::new(
            "E_LEASE_DURABILITY",
            format!("--lease-durability {other:?} is not known"),
        )
        .fix("use batched or sync")),
    }
}

/// The schedule of a member's own backups.
fn backups(every: Option<&String>, keep: Option<usize>) -> Result<Schedule> {
    let default = Schedule::default();
    let every = match every.map(|t| t.trim()) {
        None => default.every,
        Some("0") => Duration::ZERO,
        Some(text) => Duration::from_secs(misc::seconds(text).map_err(|_| {
            CliError::new(
                "E_BACKUP_EVERY",
                format!("--backup-every {text:?} is no duration"),
            )
            .fix("write a number with s, m, h or d, such as 12h; 0 saves none")
        })?),
    };
    Ok(Schedule {
        every,
        keep: keep.unwrap_or(default.keep),
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
            "api-addr = \"127.0.0.1:1\"\nregistry-addr = \"127.0.0.1:2\"\nraft-addr = \"127.0.0.1:3\"\nadvertise = \"a\"\n",
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
        assert_eq!(
            (s.raft_addr.map(|a| a.port()), s.advertise.as_deref()),
            (Some(3), Some("a"))
        );
        std::fs::write(&path, "backup-every = \"90m\"\nbackup-keep = 2\n").unwrap();
        let s = resolve(&node, &flags, &RunnerAddrs::default(), "x").unwrap();
        assert_eq!((s.backups.every.as_secs(), s.backups.keep), (5_400, 2));
        let off = SchedulerAddrs {
            backup_every: Some("0".into()),
            ..flags.clone()
        };
        let s = resolve(&node, &off, &RunnerAddrs::default(), "x").unwrap();
        assert!(!s.backups.on());
        let file = "registry-auth = true\nregistry-tls = true\ninsecure-registry = true\n";
        std::fs::write(&path, file).unwrap();
        let off = SchedulerAddrs {
            registry_tls: Some(Switch::Off),
            ..flags.clone()
        };
        let s = resolve(&node, &off, &RunnerAddrs::default(), "x").unwrap();
        assert_eq!((s.registry.auth, s.registry.tls), (Some(true), Some(false)));
        assert!(s.registry.insecure && s.registry.certificate.is_none());
        std::fs::write(&path, "registry-key = \"k\"\n").unwrap();
        let e = resolve(&node, &flags, &RunnerAddrs::default(), "x").unwrap_err();
        assert_eq!(e.code, "E_REGISTRY_CERT");
        std::fs::write(&path, "api-adr = 1\n").unwrap();
        let e = resolve(&node, &flags, &RunnerAddrs::default(), "x").unwrap_err();
        assert!(
            e.code == "E_CONFIG" && e.message.contains("api-adr"),
            "{e:?}"
        );
    }
}
