//! The ports a member takes before anything else, and the addresses it announces for them.

use std::net::{IpAddr, SocketAddr};

use coracle_raft::Member;
use tokio::net::TcpListener;

use crate::config::SchedulerConfig;
use crate::data::DataDir;
use crate::error::StartError;
use crate::upstream;

/// Taken ports.
pub(crate) struct Ports {
    pub api: TcpListener,
    pub api_addr: SocketAddr,
    pub registry: Option<TcpListener>,
    pub raft: TcpListener,
    /// This member as others know it.
    pub me: Member,
}

/// Refuses addresses that would be announced as something nobody can connect to, before anything is written.
pub(crate) fn check(config: &SchedulerConfig) -> Result<(), StartError> {
    if let Some(addr) = config.registry_addr {
        config.registry.at(addr)?;
    }
    upstream::check_hosts(&config.registry_upstreams).map_err(|why| {
        let fix = "name registries as --registry-upstream ghcr.io,docker.io";
        StartError::Registry(format!("E_REGISTRY_UPSTREAM: {why}; {fix}"))
    })?;
    if let Some(host) = &config.advertise {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let name = !host.is_empty() && host.len() <= 253 && host.chars().all(letter);
        if !name && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err() {
            return Err(StartError::AdvertiseHost { host: host.clone() });
        }
        return Ok(());
    }
    let others = config.join.is_some() || !config.raft_addr.ip().is_loopback();
    for (addr, flag, needed) in [
        (config.raft_addr, "--raft-addr", true),
        (config.api_addr, "--api-addr", others),
    ] {
        if needed && addr.ip().is_unspecified() {
            return Err(StartError::Advertise { addr, flag });
        }
    }
    Ok(())
}

impl Ports {
    /// Takes them. The mistake that is made most often is found before anything is written.
    pub async fn take(data: &DataDir, config: &SchedulerConfig) -> Result<Self, StartError> {
        let api = data.listen("api", "--api-addr", config.api_addr).await?;
        let registry = match config.registry_addr {
            Some(addr) => Some(data.listen("registry", "--registry-addr", addr).await?),
            None => None,
        };
        let raft = data.listen("raft", "--raft-addr", config.raft_addr).await?;
        let local = |l: &TcpListener| l.local_addr().map_err(|e| StartError::io(data.path(), e));
        let (api_addr, raft_addr) = (local(&api)?, local(&raft)?);
        let advertise = config.advertise.as_deref();
        let me = Member {
            name: data.identity().name.clone(),
            // On loopback it is reached there and nowhere else, whatever the host is called.
            raft: authority(
                raft_addr,
                advertise.filter(|_| !raft_addr.ip().is_loopback()),
            ),
            api: format!("https://{}", authority(api_addr, advertise)),
        };
        Ok(Self {
            api,
            api_addr,
            registry,
            raft,
            me,
        })
    }
}

/// `HOST:PORT`; a wildcard address is reached on loopback.
pub(crate) fn authority(addr: SocketAddr, advertise: Option<&str>) -> String {
    let host = match advertise {
        Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        Some(host) => host.to_string(),
        None => match addr {
            SocketAddr::V4(a) if a.ip().is_unspecified() => "127.0.0.1".into(),
            SocketAddr::V6(a) if a.ip().is_unspecified() => "[::1]".into(),
            SocketAddr::V4(a) => a.ip().to_string(),
            SocketAddr::V6(a) => format!("[{}]", a.ip()),
        },
    };
    format!("{host}:{}", addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_can_be_connected_to() {
        for (addr, advertise, expected) in [
            ("127.0.0.1:1", None, "127.0.0.1:1"),
            ("0.0.0.0:1", None, "127.0.0.1:1"),
            ("[::]:1", None, "[::1]:1"),
            ("0.0.0.0:1", Some("a.example"), "a.example:1"),
            ("0.0.0.0:1", Some("fd00::1"), "[fd00::1]:1"),
            ("10.0.0.1:1", Some("[fd00::1]"), "[fd00::1]:1"),
        ] {
            assert_eq!(authority(addr.parse().unwrap(), advertise), expected);
        }
    }

    #[test]
    fn wildcards_need_a_name() {
        for (api, raft, join, advertise, code) in [
            ("127.0.0.1:0", "127.0.0.1:0", None, None, ""),
            ("10.0.0.1:0", "10.0.0.1:0", Some("h:1"), None, ""),
            ("0.0.0.0:0", "127.0.0.1:0", None, None, ""),
            (
                "0.0.0.0:0",
                "127.0.0.1:0",
                Some("h:1"),
                None,
                "E_ADVERTISE: --api-addr",
            ),
            (
                "0.0.0.0:0",
                "10.0.0.1:0",
                None,
                None,
                "E_ADVERTISE: --api-addr",
            ),
            (
                "127.0.0.1:0",
                "0.0.0.0:0",
                None,
                None,
                "E_ADVERTISE: --raft-addr",
            ),
            ("0.0.0.0:0", "[::]:0", None, Some("a.example"), ""),
            ("0.0.0.0:0", "[::]:0", None, Some("fd00::1"), ""),
            (
                "0.0.0.0:0",
                "[::]:0",
                None,
                Some("a:6443"),
                "E_ADVERTISE: --advertise \"a:6443\"",
            ),
            (
                "0.0.0.0:0",
                "[::]:0",
                None,
                Some("https://a"),
                "E_ADVERTISE: --advertise",
            ),
        ] {
            let mut config = SchedulerConfig::new("x");
            config.api_addr = api.parse().unwrap();
            config.raft_addr = raft.parse().unwrap();
            config.join = join.map(str::to_string);
            config.advertise = advertise.map(str::to_string);
            let said = check(&config).map_or_else(|e| e.to_string(), |()| String::new());
            assert!(
                said.starts_with(code) && said.is_empty() == code.is_empty(),
                "{api} {raft}: {said}"
            );
        }
    }
}
