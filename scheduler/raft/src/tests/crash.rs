//! A whole member in a process of its own: killed at any moment, and its recorded file operations replayed. Whatever was
//! acknowledged must be there afterwards.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use coracle_state::{Key, Propose, ProposeError, Views};
use tempfile::TempDir;

use super::child::{REFUSED, library};
use super::replay::{Disk, Keep, read, scratch};
use super::{put, replay};
use crate::config::{Config, Limits};
use crate::fatal::Fatal;
use crate::replica::Replica;

const ROLE: &str = "CORACLE_TEST_MEMBER";
/// Starts of a member from replayed crashes; every prefix if `CORACLE_DEEP` is set.
const STARTS: usize = 40;

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir, 7);
    config.limits = Limits {
        chunk_bytes: 40_000,
        snapshot_log_bytes_min: 60_000,
        keep_entries: 20,
        keep_log_bytes: 80_000,
        ..Limits::default()
    };
    config
}

fn spawn(dir: &Path, writes: u64, library_vars: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "tests::crash::member",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, writes.to_string())
        .env("CORACLE_TEST_DIR", dir)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if !library_vars.is_empty() {
        command
            .env("LD_PRELOAD", library())
            .env("CORACLE_FAULT_PREFIX", dir)
            .envs(library_vars.iter().copied());
    }
    command.spawn().unwrap()
}

/// A failed call is the forerunner of the end of the process, which has to come by itself.
async fn ends(why: &ProposeError) {
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    panic!("the process lives on after: {why}");
}

/// Not a test of its own: the child's main function.
#[test]
fn member() {
    let Ok(writes) = std::env::var(ROLE) else {
        return;
    };
    let dir = PathBuf::from(std::env::var_os("CORACLE_TEST_DIR").unwrap());
    std::fs::create_dir_all(&dir).unwrap();
    let mut acks = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("ACKS"))
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut config = config(&dir);
        config.fatal = Fatal::new(|line| {
            eprintln!("{line}");
            std::process::abort()
        });
        let replica = match Replica::start(config).await {
            Ok(replica) => replica,
            Err(e) => {
                eprintln!("{e}");
                std::process::exit(REFUSED)
            }
        };
        let writes: u64 = writes.parse().unwrap();
        for n in 1..=writes {
            let value = format!(r#"{{"data":{{"v":"{}"}}}}"#, "x".repeat(500));
            let put = put(&format!("n{n}"), &value);
            if let Err(e) = replica.propose(vec![put]).await {
                ends(&e).await;
            }
            acks.write_all(b"A\n").unwrap();
            if n % 60 == 0
                && let Err(e) = replica.snapshot().await
            {
                ends(&e).await;
            }
        }
        replica.shutdown().await;
    });
    std::process::exit(0)
}

fn acked(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("ACKS"))
        .unwrap_or_default()
        .lines()
        .count()
}

/// A member on this directory has everything that was acknowledged, and goes on.
async fn check(dir: &Path, acked: usize) -> Result<(), String> {
    let replica = Replica::start(config(dir))
        .await
        .map_err(|e| e.to_string())?;
    let view = replica.view();
    for n in 1..=acked {
        if view
            .get("configmaps", &Key::new("default", format!("n{n}")))
            .is_none()
        {
            return Err(format!("{n} of {acked} is lost"));
        }
    }
    let at = view.revision;
    if at < acked as u64 {
        return Err(format!("revision {at} after {acked} writes"));
    }
    replica
        .propose(vec![put("after", "{}")])
        .await
        .map_err(|e| e.to_string())?;
    let went_on = replica.newer_than(at).await.revision > at;
    replica.shutdown().await;
    went_on
        .then_some(())
        .ok_or_else(|| "revisions do not rise".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_9_at_any_moment() {
    let home = TempDir::new().unwrap();
    for want in [0usize, 1, 59, 60, 61, 130, 200] {
        let dir = home.path().join(format!("killed-{want}"));
        let mut child = spawn(&dir, 100_000, &[]);
        while acked(&dir) < want {
            tokio::task::yield_now().await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let acked = acked(&dir);
        assert!(acked >= want);
        if let Err(why) = check(&dir, acked).await {
            panic!("killed after {acked}: {why}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_starts_from_every_prefix_of_its_recorded_life() {
    let home = TempDir::new().unwrap();
    let (dir, trace) = (home.path().join("data"), home.path().join("trace"));
    let vars = [("CORACLE_FAULT_TRACE", trace.to_str().unwrap())];
    assert!(spawn(&dir, 150, &vars).wait().unwrap().success());
    let events = read(&std::fs::read(&trace).unwrap());
    let deep = std::env::var_os("CORACLE_DEEP").is_some();
    let every = if deep {
        1
    } else {
        events.len().div_ceil(STARTS)
    };
    let mut disk = Disk::default();
    let mut images = 0;
    for (i, event) in events.iter().enumerate() {
        disk.step(event);
        // What a snapshot does to its directory is looked at event by event.
        let snapshot = matches!(event, replay::Event::Renamed(_, to) if to.extension().is_some_and(|e| e == "snap"))
            || matches!(event, replay::Event::Unlinked(p) if p.extension().is_some_and(|e| e == "snap"));
        if i % every != 0 && !snapshot {
            continue;
        }
        let acked = disk.acks.lines().count();
        let keeps = [Keep::Nothing, Keep::All, Keep::Some(i as u64)];
        for keep in if deep || snapshot {
            &keeps[..]
        } else {
            &keeps[images % 3..][..1]
        } {
            let image = scratch();
            disk.crash(*keep, &dir, image.path());
            images += 1;
            if let Err(why) = check(image.path(), acked).await {
                panic!(
                    "after {} of {} events ({keep:?}, {}): {why}",
                    i + 1,
                    events.len(),
                    image.keep().display()
                );
            }
        }
    }
    println!("{} events, {images} starts", events.len());
    assert_eq!(disk.acks.lines().count(), 150);
}

/// Faults of the files around the log: the snapshots, the version, the ballast.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_survives_io_errors_around_its_snapshots() {
    let deep = std::env::var_os("CORACLE_DEEP").is_some();
    let mut seen = [0; 3];
    for (errno, path) in [
        ("EIO", "/snapshots"),
        ("ENOSPC", "/snapshots"),
        ("EIO", "/VERSION"),
        ("EIO", "/.VERSION"),
        ("ENOSPC", "/ballast"),
    ] {
        for nth in 1..if deep { 100 } else { 9 } {
            let home = TempDir::new().unwrap();
            let (dir, report) = (home.path().join("data"), home.path().join("report"));
            std::fs::create_dir(&dir).unwrap();
            let fault = format!("call=any errno={errno} nth={nth} path={path}");
            let vars = [
                ("CORACLE_FAULT", fault.as_str()),
                ("CORACLE_FAULT_REPORT", report.to_str().unwrap()),
            ];
            let out = spawn(&dir, 70, &vars).wait_with_output().unwrap();
            if !report.exists() {
                assert!(out.status.success(), "{out:?}");
                break;
            }
            let text = String::from_utf8_lossy(&out.stderr);
            let told = text.lines().filter(|l| l.starts_with("E_")).count();
            match out.status.code() {
                Some(0) => seen[0] += 1,
                Some(REFUSED) => {
                    seen[1] += 1;
                    assert_eq!(told, 1, "{fault}: {text}");
                }
                None => {
                    seen[2] += 1;
                    assert_eq!(told, 1, "{fault}: {text}");
                }
                Some(_) => panic!("{fault}: {:?} {text}", out.status),
            }
            if let Err(why) = check(&dir, acked(&dir)).await {
                panic!("{fault}: {why}");
            }
        }
    }
    println!(
        "went on {}, refused {}, ended {}",
        seen[0], seen[1], seen[2]
    );
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
}
