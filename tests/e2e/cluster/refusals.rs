//! Every mistake in putting a cluster together gets one clear line: a code, what is wrong and what to do; and the
//! cluster goes on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::fleet::{Fleet, SOON};
use super::member::Member;
use super::net::{self, API_PORT, Net, RAFT_PORT};
use super::shim::Shim;
use crate::harness::cluster::LONG;
use crate::harness::program::{Output, run, wait_for};

/// More lines than this are no longer one clear line and its fix.
const LINES_MAX: usize = 3;

/// A start that must fail at once, in few words.
#[track_caller]
fn refused(member: &Member, net: &Net, more: &[String], words: &[&str]) {
    let mut command = member.command(net, more);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + SOON;
    while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
        std::thread::park_timeout(Duration::from_millis(25));
    }
    let in_time = matches!(child.try_wait(), Ok(Some(_)));
    if !in_time {
        let _ = child.kill();
    }
    let ended = child.wait_with_output().unwrap();
    let out = Output {
        code: ended.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&ended.stdout).into_owned(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
    };
    assert!(in_time, "it was not refused ({words:?}): {out:?}");
    short(&out);
    out.fails_with(words);
}

#[track_caller]
fn short(out: &Output) {
    let lines = out.err.lines().filter(|l| !l.trim().is_empty()).count();
    assert!(lines <= LINES_MAX, "{lines} lines:\n{}", out.err);
}

/// Waits for a line with all words in a member's log; answers how many such lines there are.
#[track_caller]
fn logged(member: &Member, words: &[&str]) -> usize {
    let fits = |l: &&str| words.iter().all(|w| l.contains(w));
    wait_for(
        &format!("{words:?} in the log of {}", member.name),
        LONG,
        || match member.log().lines().filter(fits).count() {
            0 => Err(member.log()),
            n => Ok(n),
        },
    )
}

fn join(address: &str, token: &str) -> Vec<String> {
    ["--join", address, "--token", token]
        .map(String::from)
        .to_vec()
}

#[test]
fn each_refusal_has_one_clear_line() {
    if !net::possible() {
        return;
    }
    let mut fleet = Fleet::start(3);
    let api = format!("{}:{API_PORT}", Net::ip_of(0));
    let dir = fleet.dir.path().to_path_buf();
    let fourth = fleet.net.add();
    let newcomer = |name: &str| {
        let mut m = Member::new(fourth, &dir);
        m.name = name.into();
        m.data = dir.join(name);
        m
    };

    // Tokens: none at all, nonsense, a wrong secret, one of the other role, one used before, a server that is not there.
    let token = fleet.token(0, "scheduler");
    let mut wrong = token.clone();
    let last = if wrong.ends_with('0') { '1' } else { '0' };
    wrong.pop();
    wrong.push(last);
    let runner = fleet.token(0, "runner");
    for (name, token, words) in [
        ("nonsense", "nonsense", ["E_JOIN_TOKEN", "token create"]),
        ("secret", wrong.as_str(), ["E_TOKEN", "token create"]),
        ("role", runner.as_str(), ["E_", "scheduler"]),
    ] {
        refused(&newcomer(name), &fleet.net, &join(&api, token), &words);
    }
    let nowhere = format!("{}:{API_PORT}", Net::ip_of(99));
    let words = ["E_JOIN_UNREACHABLE", &nowhere];
    refused(
        &newcomer("nowhere"),
        &fleet.net,
        &join(&nowhere, &token),
        &words,
    );
    let mut alone = newcomer("alone");
    alone.data = dir.join("nonsense");
    refused(
        &alone,
        &fleet.net,
        &join(&api, "").split_off(2),
        &["--token"],
    );

    // A clock that is off, either way.
    for (name, seconds) in [("early", 3_600), ("late", -3_600)] {
        let mut m = newcomer(name);
        Shim::of(&mut m).turn(seconds);
        refused(&m, &fleet.net, &join(&api, &token), &["E_CLOCK_SKEW"]);
    }

    // Another cluster, in the fourth namespace: its token, and its directory.
    let mut other = newcomer("other");
    other.spawn(&fleet.net, &[]);
    other.ready();
    let foreign = foreign_token(&fleet, &other);
    let mut m = Member::new(fourth, &dir);
    m.data = dir.join("ca");
    other.kill9();
    refused(&m, &fleet.net, &join(&api, &foreign), &["E_JOIN_CA"]);
    m.data = other.data.clone();
    refused(
        &m,
        &fleet.net,
        &join(&api, &token),
        &["E_CLUSTER_MISMATCH", "--data-dir"],
    );

    // A member of that other cluster at the address of one of ours.
    let leader = fleet.leader();
    let gone = (0..3).find(|i| *i != leader).unwrap();
    fleet.members[gone].kill9();
    let mut stranger = Member::new(gone, &dir);
    stranger.name = "stranger".into();
    stranger.data = dir.join("stranger");
    stranger.spawn(&fleet.net, &[]);
    stranger.ready();
    let n = logged(
        &fleet.members[leader],
        &["E_RAFT_TRUST", &Net::ip_of(gone), "member of this cluster"],
    );
    assert!(n <= 2, "told {n} times:\n{}", fleet.members[leader].log());
    stranger.kill9();

    // A foreign process on its raft port: the others say so, and it cannot start.
    let squatter = Squatter::start(&fleet, gone);
    let leader = fleet.leader();
    let n = logged(&fleet.members[leader], &["E_RAFT_FOREIGN"]);
    assert!(n <= 2, "told {n} times:\n{}", fleet.members[leader].log());
    let words = ["E_PORT_IN_USE", "--raft-addr", &RAFT_PORT.to_string()];
    refused(&fleet.members[gone], &fleet.net, &[], &words);
    drop(squatter);
    fleet.restart(gone);
    fleet.wait_voters(3);

    // A copied directory: the same id twice. The copy ends, the member goes on.
    let follower = (0..3).find(|i| *i != fleet.leader()).unwrap();
    let mut copy = newcomer("copy");
    copy_dir(&fleet.members[follower].data, &copy.data);
    copy.name = fleet.members[follower].name.clone();
    copy.spawn(&fleet.net, &[]);
    let status = copy.ended();
    assert!(!status.success());
    logged(&copy, &["E_MEMBER_DUPLICATE"]);

    // After all this the three are as they were.
    fleet.wait_voters(3);
    fleet.wait_writable();
}

/// A token of the other cluster, made with its own kubeconfig.
#[track_caller]
fn foreign_token(fleet: &Fleet, other: &Member) -> String {
    let mut command = Command::new(crate::harness::program::CORACLE);
    command
        .args(["token", "create", "--role", "scheduler", "--kubeconfig"])
        .arg(other.data.join("kubeconfig"));
    fleet.net.in_hub(&mut command);
    run(&mut command).ok().trim().to_string()
}

#[track_caller]
fn copy_dir(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).ok();
    let _ = std::fs::remove_file(to.join("run.json"));
}

/// Something else that listens on a member's raft port and answers as a web server does.
struct Squatter(
    #[allow(dead_code, reason = "held: its end closes the port")] tokio::runtime::Runtime,
);

impl Squatter {
    #[track_caller]
    fn start(fleet: &Fleet, member: usize) -> Self {
        let runtime = fleet.net.runtime_in(member);
        let address = format!("0.0.0.0:{RAFT_PORT}");
        let bind = runtime.spawn(tokio::net::TcpListener::bind(address));
        let listener = runtime.block_on(bind).unwrap().unwrap();
        runtime.spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut some = [0; 64];
                    let _ = stream.read(&mut some).await;
                    let _ = stream
                        .write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
                        .await;
                });
            }
        });
        Self(runtime)
    }
}
