//! etcd, as packaged: TLS with client certificates on both of its ports, as ours has.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Result;

use super::guard::{Scratch, Server};
use super::pki::Pki;
use super::{Cluster, Ground, Member, System};
use crate::bench::load::client::Side;
use crate::bench::peers;

/// Our timeouts, and the history that a long run needs (a quota of 2 GB would end it).
const TUNED: &[&str] = &[
    "--heartbeat-interval=75",
    "--election-timeout=400",
    "--pre-vote",
    "--auto-compaction-mode=revision",
    "--auto-compaction-retention=10000",
    "--quota-backend-bytes=8589934592",
];

/// Version of the etcd found.
pub fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let out = Command::new("etcd").arg("--version").output();
        let text = out
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default();
        text.lines()
            .find_map(|l| l.strip_prefix("etcd Version: "))
            .unwrap_or("unknown")
            .trim()
            .to_string()
    })
}

/// Starts the members.
pub fn start(ground: &Ground, members: usize, tuned: bool) -> Result<Cluster> {
    let binary = peers::etcd()?;
    let scratch = Scratch::new()?;
    let addresses: Vec<_> = (0..members).map(|i| ground.address(i)).collect();
    let pki = Pki::new(scratch.path(), &addresses)?;
    // In a namespace of their own the usual ports are free; on loopback the kernel picks, all at once.
    let mut ports = Vec::new();
    if ground.net.is_none() {
        let held: Vec<TcpListener> = (0..members * 2)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        for l in &held {
            ports.push(l.local_addr()?.port());
        }
    } else {
        ports = [2379, 2380].repeat(members);
    }
    let client = |i: usize| SocketAddr::new(addresses[i], ports[2 * i]);
    let peer = |i: usize| SocketAddr::new(addresses[i], ports[2 * i + 1]);
    let initial: Vec<String> = (0..members)
        .map(|i| format!("m{i}=https://{}", peer(i)))
        .collect();
    let mut list = Vec::new();
    for i in 0..members {
        let dir = scratch.path().join(format!("m{i}"));
        let path = |p: &PathBuf| p.display().to_string();
        let mut args: Vec<String> = vec![
            "--name".into(),
            format!("m{i}"),
            "--data-dir".into(),
            path(&dir),
            "--initial-cluster".into(),
            initial.join(","),
            "--initial-cluster-state=new".into(),
            "--client-cert-auth".into(),
            "--peer-client-cert-auth".into(),
            "--logger=zap".into(),
            "--log-level=warn".into(),
            "--log-outputs=stderr".into(),
        ];
        for (flag, url) in [
            ("--listen-client-urls", client(i)),
            ("--advertise-client-urls", client(i)),
            ("--listen-peer-urls", peer(i)),
            ("--initial-advertise-peer-urls", peer(i)),
        ] {
            args.extend([flag.into(), format!("https://{url}")]);
        }
        for (flag, file) in [
            ("--trusted-ca-file", &pki.ca),
            ("--cert-file", &pki.cert),
            ("--key-file", &pki.key),
            ("--peer-trusted-ca-file", &pki.ca),
            ("--peer-cert-file", &pki.cert),
            ("--peer-key-file", &pki.key),
        ] {
            args.extend([flag.into(), path(file)]);
        }
        if tuned {
            args.extend(TUNED.iter().map(ToString::to_string));
        }
        let (net, binary) = (ground.net.clone(), binary.clone());
        let again = move || {
            let mut c = match &net {
                Some(n) => n.command(i, &binary),
                None => Command::new(&binary),
            };
            c.args(&args);
            c
        };
        let log = scratch.path().join(format!("m{i}.log"));
        let server = Server::start(again(), &log)?;
        list.push(Member::new(client(i), log, server, Box::new(again)));
    }
    Ok(Cluster {
        system: if tuned {
            System::EtcdTuned
        } else {
            System::EtcdDefaults
        },
        side: Side::Etcd,
        members: list,
        overhead: 0,
        tls: pki.client,
        _scratch: scratch,
    })
}
