//! I/O faults at every call: the n-th change to a file fails or falls short, for every n. The process ends with one line
//! or refuses to start with one, and afterwards the log opens and holds everything that was acknowledged.

use tempfile::TempDir;

use super::child::{self, Job, REFUSED};

/// Calls made to fail per run and error; all of them if `CORACLE_DEEP` is set.
const CALLS: usize = 40;

fn at_every_call(calls: &str, errno: &str, job: Job) {
    let states = job.states();
    let deep = std::env::var_os("CORACLE_DEEP").is_some();
    // How many calls there are.
    let count = {
        let home = TempDir::new().unwrap();
        let report = home.path().join("report");
        let fault = format!("call={calls} times=0");
        let out = child::run(
            &home.path().join("raft"),
            job,
            &[
                ("CORACLE_FAULT", &fault),
                ("CORACLE_FAULT_REPORT", report.to_str().unwrap()),
            ],
        );
        assert!(out.status.success(), "{out:?}");
        std::fs::read_to_string(&report).unwrap().lines().count()
    };
    assert!(count > 20, "{count} calls of {calls}");
    let every = if deep { 1 } else { count.div_ceil(CALLS) };
    let (mut ended, mut refused, mut went_on) = (0, 0, 0);
    for nth in (1..=count).filter(|n| *n < 16 || n % every == 0) {
        let home = TempDir::new().unwrap();
        let (dir, report) = (home.path().join("raft"), home.path().join("report"));
        let fault = format!("call={calls} errno={errno} nth={nth}");
        let out = child::run(
            &dir,
            job,
            &[
                ("CORACLE_FAULT", &fault),
                ("CORACLE_FAULT_REPORT", report.to_str().unwrap()),
            ],
        );
        let fired = std::fs::read_to_string(&report).unwrap_or_default();
        let text = String::from_utf8_lossy(&out.stderr);
        let told: Vec<&str> = text.lines().filter(|l| l.starts_with("E_")).collect();
        let what = format!(
            "{calls} {errno} {nth} of {count}: {fired} {:?} {text}",
            out.status
        );
        match out.status.code() {
            Some(0) => {
                went_on += 1;
                assert!(
                    !(errno == "EIO"
                        && fired.contains(".seg")
                        && (fired.contains("sync") || fired.contains("write"))),
                    "a failed write or sync was passed over: {what}"
                );
            }
            Some(REFUSED) => {
                refused += 1;
                assert_eq!(told.len(), 1, "{what}");
            }
            // Aborted.
            None => {
                ended += 1;
                assert_eq!(told.len(), 1, "{what}");
                assert!(told[0].starts_with("E_LOG_IO"), "{what}");
            }
            Some(other) => panic!("exit {other}: {what}"),
        }
        let acks = std::fs::read_to_string(dir.join("ACKS")).unwrap();
        let (begun, acked) = child::acks(&acks);
        if let Err(why) = child::check(&dir, job, &states, begun, acked) {
            panic!("{what}: {why}");
        }
    }
    println!("{calls} {errno}: {count} calls, ended {ended}, refused {refused}, went on {went_on}");
    if errno == "EIO" {
        assert!(ended > 0 && refused > 0);
    }
}

const JOB: Job = Job {
    seed: 3,
    ops: 60,
    direct: true,
};
const CACHED: Job = Job {
    seed: 4,
    ops: 60,
    direct: false,
};

#[test]
fn errors_at_every_call() {
    at_every_call("any", "EIO", JOB);
}

#[test]
fn errors_at_every_call_through_the_page_cache() {
    at_every_call("any", "EIO", CACHED);
}

#[test]
fn a_full_disk_at_every_call() {
    at_every_call("open,write,rename,ftruncate,fallocate,mkdir", "ENOSPC", JOB);
}

#[test]
fn short_writes_at_every_call() {
    at_every_call("write", "SHORT", JOB);
    at_every_call("write", "SHORT", CACHED);
}
