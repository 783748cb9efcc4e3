//! strace of the running process: a sync has finished before a write or a push is acknowledged. A sync is an fdatasync or
//! fsync, or a write through a descriptor that was opened with O_DSYNC, as the log's are.

use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::cluster::LONG;
use crate::harness::program::{client, wait_for};
use crate::harness::{Cluster, http, kube};

struct Trace {
    child: Child,
    file: std::path::PathBuf,
    pid: u32,
}

/// O_DSYNC on Linux, as `/proc/PID/fdinfo` shows flags.
const O_DSYNC: u32 = 0o10000;

impl Trace {
    /// Whether writes through this descriptor of the process return only when they are on the disk.
    fn synchronous(&self, fd: &str) -> bool {
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", self.pid));
        let flags = info
            .unwrap_or_default()
            .lines()
            .find_map(|l| u32::from_str_radix(l.strip_prefix("flags:")?.trim(), 8).ok());
        flags.is_some_and(|f| f & O_DSYNC != 0)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // strace detaches and leaves the process running.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

/// One finished sync: when it ended, and what it synced.
#[derive(Debug, Clone)]
struct Sync {
    ended: f64,
    path: String,
}

fn attach(c: &Cluster) -> Option<Trace> {
    let strace = client("strace")?;
    let file = c.dir.path().join("trace");
    let child = Command::new(strace)
        .args([
            "-f",
            "-ttt",
            "-T",
            "-y",
            "-s",
            "0",
            "-e",
            "trace=fdatasync,fsync,pwrite64,pwritev,pwritev2",
            "-o",
        ])
        .arg(&file)
        .args(["-p", &c.pid().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = c.pid();
    let trace = Trace { child, file, pid };
    wait_for("strace to be attached", LONG, || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let tracer = status
            .lines()
            .find_map(|l| l.strip_prefix("TracerPid:").map(|t| t.trim().to_string()))
            .unwrap_or_default();
        if tracer != "0" && !tracer.is_empty() {
            Ok(())
        } else {
            Err(status)
        }
    });
    Some(trace)
}

/// Syncs that succeeded, from `PID START fdatasync(3</path>) = 0 <TIME>` or `pwrite64(..) = BYTES`, and their split form.
fn syncs(trace: &Trace) -> Vec<Sync> {
    let text = std::fs::read_to_string(&trace.file).unwrap_or_default();
    let mut open: std::collections::BTreeMap<String, (f64, String)> =
        std::collections::BTreeMap::new();
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(pid), Some(at)) = (
            words.next(),
            words.next().and_then(|t| t.parse::<f64>().ok()),
        ) else {
            continue;
        };
        let path = line
            .split_once('<')
            .and_then(|(_, r)| r.split_once('>'))
            .map(|(p, _)| p.to_string())
            .unwrap_or_default();
        let written = line.contains("pwrite");
        if written && !line.contains("resumed>") {
            let fd = line
                .split_once('(')
                .and_then(|(_, r)| r.split_once('<'))
                .map(|(fd, _)| fd);
            // Only the log's writes are looked at; the descriptor is open as long as the process runs.
            if !path.contains("raft") || !fd.is_some_and(|fd| trace.synchronous(fd)) {
                continue;
            }
        }
        if line.contains("<unfinished") {
            open.insert(pid.into(), (at, path));
            continue;
        }
        let result = line
            .rsplit_once("= ")
            .and_then(|(_, r)| r.split_whitespace().next())
            .and_then(|r| r.parse::<i64>().ok());
        if !result.is_some_and(|r| if written { r > 0 } else { r == 0 }) {
            open.remove(pid);
            continue;
        }
        let took = line
            .rsplit_once('<')
            .and_then(|(_, t)| t.trim_end_matches('>').parse::<f64>().ok())
            .unwrap_or(0.0);
        if line.contains("resumed>") {
            if let Some((start, path)) = open.remove(pid) {
                all.push(Sync {
                    ended: start + took,
                    path,
                });
            }
        } else {
            all.push(Sync {
                ended: at + took,
                path,
            });
        }
    }
    all
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// strace writes a line when the call returns; the file may lag a little behind.
fn settled(trace: &Trace, what: &str, found: impl Fn(&[Sync]) -> bool) {
    wait_for(what, LONG, || {
        let all = syncs(trace);
        if found(&all) {
            Ok(())
        } else {
            Err(format!(
                "{:?}",
                all.iter().rev().take(8).collect::<Vec<_>>()
            ))
        }
    });
}

#[test]
fn every_acknowledged_write_and_push_was_synced_before() {
    if client("strace").is_none() {
        return;
    }
    let c = Cluster::up(None);
    let Some(trace) = attach(&c) else { return };
    let api = kube::Api::of(&c);
    for i in 0..10 {
        let begin = now();
        api.create("/api/v1/namespaces/default/configmaps", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("s{i}")}})).unwrap();
        let end = now();
        settled(
            &trace,
            "a sync of the log between request and answer",
            |all| {
                all.iter()
                    .any(|s| s.ended >= begin && s.ended <= end && s.path.contains("raft"))
            },
        );
    }
    for i in 0..5u8 {
        let blob = vec![i; 10_000];
        let hex = hex::encode(Sha256::digest(&blob));
        let begin = now();
        let r = http::send(
            &c.registry(),
            "POST",
            &format!("/v2/s/blobs/uploads/?digest=sha256:{hex}"),
            &[],
            &blob,
        )
        .unwrap();
        let end = now();
        assert_eq!(r.status, 201, "{}", r.text());
        let within = |s: &Sync| s.ended >= begin && s.ended <= end;
        settled(&trace, "a sync of the blob's bytes before 201", |all| {
            all.iter()
                .any(|s| within(s) && !s.path.contains("raft") && !is_dir(s))
        });
        settled(&trace, "a sync of the blob's directory before 201", |all| {
            all.iter().any(|s| within(s) && is_blob_dir(s, &hex))
        });
        settled(
            &trace,
            "a sync of the log with the link before 201",
            |all| all.iter().any(|s| within(s) && s.path.contains("raft")),
        );
    }
    println!(
        "durability: 10 writes and 5 pushes, each synced before its answer; {} syncs seen",
        syncs(&trace).len()
    );
}

fn is_dir(s: &Sync) -> bool {
    std::path::Path::new(&s.path).is_dir()
}

/// The directory that holds the blob: `blobs/sha256/<2 hex>`.
fn is_blob_dir(s: &Sync, hex: &str) -> bool {
    is_dir(s) && s.path.ends_with(&format!("sha256/{}", &hex[..2]))
}
