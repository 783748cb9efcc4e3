//! Coracle: `coracle scheduler`, the others by `--join` with a token, as a user would.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::guard::{Scratch, Server};
use super::{Cluster, Ground, LOOK, Member, READY, System};
use crate::bench::load::client::{MemberStatus, Side, get_json};
use crate::bench::load::http2::client_tls;

/// Starts the members, one after the other.
pub async fn start(ground: &Ground, members: usize) -> Result<Cluster> {
    let scratch = Scratch::new()?;
    let mut list: Vec<Member> = Vec::new();
    for i in 0..members {
        let dir = scratch.path().join(format!("m{i}"));
        let any = format!("{}:0", ground.address(i));
        let mut args: Vec<String> = ["scheduler", "--name", &format!("m{i}"), "--data-dir"]
            .map(String::from)
            .to_vec();
        args.push(dir.display().to_string());
        let mut flags = vec!["--api-addr", "--registry-addr"];
        if members > 1 || knows(&ground.coracle, "--raft-addr")? {
            flags.push("--raft-addr");
        }
        for flag in flags {
            args.extend([flag.to_string(), any.clone()]);
        }
        if ground.net.is_some() {
            // The registry speaks plain HTTP; nobody but the bench reaches these addresses.
            args.push("--insecure-registry".to_string());
        }
        let mut first = ground.command(i, &ground.coracle);
        first.args(&args);
        if let Some(leader) = list.first() {
            // A token is good for one member.
            let token = make_token(
                &ground.command(0, &ground.coracle),
                &scratch.path().join("m0"),
            )?;
            first.args(["--join", &leader.address.to_string(), "--token", &token]);
        }
        let log = scratch.path().join(format!("m{i}.log"));
        let mut server = Server::start(first, &log)?;
        let address = wait_run_json(&dir, &mut server).await?;
        let (net, binary) = (ground.net.clone(), ground.coracle.clone());
        let again = move || {
            let mut c = match &net {
                Some(n) => n.command(i, &binary),
                None => Command::new(&binary),
            };
            c.args(&args);
            c
        };
        list.push(Member::new(address, log, server, Box::new(again)));
    }
    let kubeconfig = std::fs::read_to_string(scratch.path().join("m0/kubeconfig"))?;
    let tls = client_tls(
        &embedded(&kubeconfig, "certificate-authority-data")?,
        &embedded(&kubeconfig, "client-certificate-data")?,
        &embedded(&kubeconfig, "client-key-data")?,
    )?;
    Ok(Cluster {
        system: System::Ours,
        side: Side::Ours,
        members: list,
        overhead: 0,
        tls,
        _scratch: scratch,
    })
}

/// State of each member: every member's own answer for "it answers", the list for the rest.
pub async fn status(cluster: &Cluster) -> Result<Vec<MemberStatus>> {
    let single = cluster.members.len() == 1;
    let mut all = Vec::new();
    for i in 0..cluster.members.len() {
        let endpoint = cluster.endpoint(i);
        let list = match get_json(&endpoint, "/coracle/v1/members").await {
            Ok(v) => v,
            // A release from before clusters: one member, which leads.
            Err(e) if single && format!("{e:#}").contains("404") => {
                return Ok(vec![MemberStatus {
                    leader: true,
                    led: true,
                    applied: 0,
                    term: None,
                }]);
            }
            Err(e) => return Err(e),
        };
        let list = list["members"].as_array().context("no list of members")?;
        let me = list
            .iter()
            .find(|m| m["name"] == format!("m{i}"))
            .with_context(|| format!("m{i} is not in the list"))?;
        ensure!(me["voter"] == true, "m{i} is not a voter yet");
        all.push(MemberStatus {
            leader: me["leader"] == true,
            led: list.iter().any(|m| m["leader"] == true),
            applied: me["applied"].as_u64().context("no applied index")?,
            term: None,
        });
    }
    Ok(all)
}

/// Whether the binary has this flag of `scheduler`.
fn knows(binary: &Path, flag: &str) -> Result<bool> {
    let out = Command::new(binary)
        .args(["scheduler", "--help"])
        .output()?;
    Ok(String::from_utf8_lossy(&out.stdout).contains(flag))
}

async fn wait_run_json(dir: &Path, server: &mut Server) -> Result<std::net::SocketAddr> {
    let until = Instant::now() + READY;
    loop {
        server.check_alive()?;
        let text = std::fs::read_to_string(dir.join("run.json")).unwrap_or_default();
        if let Ok(v) = serde_json::from_str::<serde_json::Value>(&text) {
            let api = v["api"].as_str().context("run.json names no api")?;
            return api
                .trim_start_matches("https://")
                .parse()
                .with_context(|| api.to_string());
        }
        if Instant::now() > until {
            bail!("no run.json; it said:\n{}", server.last_words());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn make_token(program: &Command, dir: &Path) -> Result<String> {
    let mut c = Command::new(program.get_program());
    c.args(program.get_args());
    let out = c
        .args(["token", "create", "--role", "scheduler", "--kubeconfig"])
        .arg(dir.join("kubeconfig"))
        .output()?;
    ensure!(
        out.status.success(),
        "no token: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?.trim().to_string())
}

/// A base64 value of the kubeconfig, which has each key once.
fn embedded(kubeconfig: &str, key: &str) -> Result<Vec<u8>> {
    let value = kubeconfig
        .lines()
        .find_map(|l| l.trim().strip_prefix(key)?.strip_prefix(':'))
        .with_context(|| format!("the kubeconfig has no {key}"))?;
    Ok(STANDARD.decode(value.trim())?)
}

/// Highest term that any member tells in its status; none where the release does not tell it.
pub async fn term(cluster: &Cluster) -> Result<Option<u64>> {
    let mut highest = None;
    for i in 0..cluster.members.len() {
        let status = get_json(&cluster.endpoint(i), "/coracle/v1/status").await?;
        highest = highest.max(status["term"].as_u64());
    }
    Ok(highest)
}
