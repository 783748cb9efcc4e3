//! A runner of a cluster of three: when the member that it talks to dies, requests go on, and the next deployment too.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fleet::Fleet;
use super::net::{self, API_PORT, Net};
use crate::harness::cluster::LONG;
use crate::harness::program::{CORACLE, root, wait_for};

const INGRESS_PORT: u16 = 8080;
/// Requests answered before and after each step.
const REQUESTS: u64 = 50;
/// Deployments: before anybody dies, after the member it joined through has died, and after the leader has.
const NAMES: [&str; 3] = ["before", "after", "last"];

/// A runner process in its own namespace.
struct Runner {
    index: usize,
    data: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Runner {
    #[track_caller]
    fn start(fleet: &mut Fleet, through: usize) -> Self {
        let index = fleet.net.add();
        let ip = Net::ip_of(index);
        let token = fleet.token(through, "runner");
        let (data, log) = (fleet.dir.path().join("r1"), fleet.dir.path().join("r1.log"));
        let file = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(CORACLE);
        command
            .args(["runner", "--name", "r1", "--token", &token, "--data-dir"])
            .arg(&data)
            .args(["--join", &format!("{}:{API_PORT}", Net::ip_of(through))])
            .args(["--ingress-addr", &format!("{ip}:{INGRESS_PORT}")])
            .args(["--runner-addr", &format!("{ip}:10250")])
            .env("HOME", fleet.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::from(file.try_clone().unwrap()))
            .stderr(Stdio::from(file));
        fleet.net.in_member(index, &mut command);
        let child = command.spawn().unwrap();
        let mut runner = Self {
            index,
            data,
            log,
            child,
        };
        runner.ready();
        runner
    }

    #[track_caller]
    fn ready(&mut self) {
        wait_for("the runner", LONG, || {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the runner ended with {status}:\n{log}");
            }
            let text = std::fs::read_to_string(self.data.join("run.json"));
            let v: Value = text
                .ok()
                .and_then(|t| serde_json::from_str(&t).ok())
                .ok_or(log)?;
            if v["pid"] == self.child.id() {
                Ok(())
            } else {
                Err(v.to_string())
            }
        });
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- r1\n{log}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One GET through the ingress; the status and body.
async fn get(ip: &str, host: &str) -> Result<(u16, String), String> {
    net::assert_inside();
    let go = async {
        let mut s = TcpStream::connect((ip, INGRESS_PORT)).await?;
        let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        s.write_all(head.as_bytes()).await?;
        let mut all = Vec::new();
        s.read_to_end(&mut all).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&all).into_owned())
    };
    let text = match tokio::time::timeout(LONG, go).await {
        Ok(done) => done.map_err(|e| e.to_string())?,
        Err(_) => return Err("no answer".into()),
    };
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok((status.ok_or_else(|| text.clone())?, text))
}

#[test]
fn a_runner_outlives_the_member_it_talks_to() {
    if !net::possible() {
        return;
    }
    let mut fleet = Fleet::start(3);
    // It joins through a follower, and later through whom it likes.
    let leader = fleet.leader();
    let through = (0..3).find(|i| *i != leader).unwrap();
    let runner = Runner::start(&mut fleet, through);
    let ip = Net::ip_of(runner.index);
    let wasm = root().join("samples/hello/prebuilt.wasm");
    // An image is on the members that it was pushed to, and the runner may pull from any.
    for name in NAMES {
        for member in 0..3 {
            let file = wasm.to_str().unwrap();
            fleet.coracle(member, &["push", file, name]).ok();
        }
    }
    let deploy = |fleet: &Fleet, member: usize, name: &str| {
        let file = wasm.to_str().unwrap().to_string();
        fleet
            .coracle(member, &["deploy", &file, "--name", name])
            .ok();
        let host = format!("{name}.localhost");
        wait_for(&format!("{name} to serve"), LONG, || {
            let (ip, host) = (ip.clone(), host.clone());
            match fleet.on_bridge(async move { get(&ip, &host).await }) {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    deploy(&fleet, leader, NAMES[0]);

    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let requests = {
        let (stop, answered, ip) = (stop.clone(), answered.clone(), ip.clone());
        fleet.runtime.spawn(async move {
            let mut failed = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                match get(&ip, "before.localhost").await {
                    Ok((200, _)) => drop(answered.fetch_add(1, Ordering::SeqCst)),
                    other => failed.push(format!("{other:?}")),
                }
            }
            failed
        })
    };
    let some_more = |what: &str| {
        let begin = answered.load(Ordering::SeqCst);
        wait_for(what, LONG, || {
            match answered.load(Ordering::SeqCst) - begin {
                n if n >= REQUESTS => Ok(()),
                n => Err(format!("{n} answers")),
            }
        });
    };
    some_more("requests");
    // First the member that it joined through, then, when that one is back, the leader.
    fleet.members[through].kill9();
    some_more("requests without that member");
    deploy(&fleet, leader, NAMES[1]);
    fleet.restart(through);
    fleet.wait_voters(3);
    let leader = fleet.leader();
    fleet.members[leader].kill9();
    some_more("requests without that leader");
    let other = (0..3).find(|i| *i != leader).unwrap();
    fleet.leader();
    deploy(&fleet, other, NAMES[2]);
    some_more("requests at the end");
    stop.store(true, Ordering::SeqCst);
    let failed = fleet.runtime.block_on(requests).unwrap();
    println!(
        "runner: {} requests answered, {} failed",
        answered.load(Ordering::SeqCst),
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:#?}");
    let nodes = fleet.get(other, "/api/v1/nodes").unwrap();
    let ready = nodes["items"][0]["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    assert!(ready, "{nodes}");
}
