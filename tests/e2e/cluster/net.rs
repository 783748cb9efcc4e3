//! Network namespaces: one per member, and one with a bridge where the test's own clients live. Nothing of it touches
//! the host's network: all addresses and rules are inside namespaces, which are removed at the end, also after a panic.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::program::{self, client};

/// Where members listen for each other.
pub const RAFT_PORT: u16 = 2380;
/// Where members serve the API.
pub const API_PORT: u16 = 6443;
/// Names of all namespaces begin so; the process id follows.
const PREFIX: &str = "coracle-e2e";
/// The chain that holds the faults of a namespace.
const CHAIN: &str = "FAULTS";

static NEXT: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Whether this thread is in a namespace of a test.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Connections to the test's addresses are made inside its namespaces and nowhere else: outside, somebody else may have
/// these addresses.
pub fn assert_inside() {
    assert!(
        INSIDE.get(),
        "a socket of the test must be made on a thread of its own network"
    );
}

/// The namespaces of one test.
pub struct Net {
    name: String,
    hub: Namespace,
    members: Vec<Namespace>,
}

/// One namespace.
struct Namespace {
    name: String,
    fd: Arc<OwnedFd>,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Whether this machine lets a test make namespaces; if not, the test says that it is skipped. `netns` in
/// `CORACLE_REQUIRE` turns the skip into a failure.
pub fn possible() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let works = *WORKS.get_or_init(|| {
        let tools = client("ip").is_some() && client("iptables").is_some();
        tools && rustix::process::geteuid().is_root() && {
            let probe = format!("{PREFIX}-{}-probe", std::process::id());
            let made = program::run(Command::new("ip").args(["netns", "add", &probe])).code == 0;
            made && program::run(Command::new("ip").args(["netns", "del", &probe])).code == 0
        }
    });
    if !works {
        let required = std::env::var("CORACLE_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|r| r == "netns"),
            "network namespaces are required: this needs root, ip and iptables"
        );
        println!("SKIPPED: no network namespaces here (this needs root, ip and iptables)");
    }
    works
}

#[track_caller]
fn ip(args: &[&str]) {
    program::run(Command::new("ip").args(args)).ok();
}

impl Namespace {
    #[track_caller]
    fn new(name: String) -> Self {
        ip(&["netns", "add", &name]);
        let fd = File::open(format!("/run/netns/{name}")).unwrap();
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self {
            name,
            fd: Arc::new(fd.into()),
        }
    }

    #[track_caller]
    fn iptables(&self, args: &[&str]) {
        let mut command = Command::new("iptables");
        command.arg("-w").args(args);
        inside(&mut command, &self.fd);
        program::run(&mut command).ok();
    }
}

/// Makes the program start in a namespace.
fn inside(command: &mut Command, fd: &Arc<OwnedFd>) {
    let fd = fd.clone();
    // SAFETY: setns is a plain system call, safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(())
        });
    }
}

/// Namespaces of test runs that were killed before they could clean up.
fn sweep() {
    let list = program::run(Command::new("ip").args(["netns", "list"])).out;
    for name in list.lines().filter_map(|l| l.split_whitespace().next()) {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.trim_start_matches('-').split('-').next());
        if let Some(pid) = pid
            && !std::path::Path::new(&format!("/proc/{pid}")).exists()
        {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

impl Net {
    /// A bridge with `members` namespaces on it.
    #[track_caller]
    pub fn new(members: usize) -> Self {
        sweep();
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("{PREFIX}-{}-{n}", std::process::id());
        let hub = Namespace::new(format!("{name}-hub"));
        ip(&["-n", &hub.name, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &hub.name, "link", "set", "br0", "up"]);
        let address = format!("{}/24", Self::hub_ip());
        ip(&["-n", &hub.name, "addr", "add", &address, "dev", "br0"]);
        let mut net = Self {
            name,
            hub,
            members: Vec::new(),
        };
        for _ in 0..members {
            net.add();
        }
        net
    }

    /// One more member's namespace; answers its index.
    #[track_caller]
    pub fn add(&mut self) -> usize {
        let i = self.members.len();
        let ns = Namespace::new(format!("{}-m{}", self.name, i + 1));
        let (hub, port) = (&self.hub.name, format!("m{}", i + 1));
        ip(&[
            "-n", hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            &ns.name,
        ]);
        ip(&["-n", hub, "link", "set", &port, "master", "br0", "up"]);
        let address = format!("{}/24", Self::ip_of(i));
        ip(&["-n", &ns.name, "addr", "add", &address, "dev", "eth0"]);
        ip(&["-n", &ns.name, "link", "set", "eth0", "up"]);
        ns.iptables(&["-N", CHAIN]);
        ns.iptables(&["-A", "INPUT", "-j", CHAIN]);
        ns.iptables(&["-t", "nat", "-N", CHAIN]);
        ns.iptables(&["-t", "nat", "-A", "OUTPUT", "-j", CHAIN]);
        self.members.push(ns);
        i
    }

    /// The clients' address.
    pub fn hub_ip() -> &'static str {
        "10.77.0.254"
    }

    /// A member's address.
    pub fn ip_of(member: usize) -> String {
        format!("10.77.0.{}", member + 1)
    }

    /// Makes the program start beside the bridge, where the clients are.
    pub fn in_hub(&self, command: &mut Command) {
        inside(command, &self.hub.fd);
    }

    /// Makes the program start in a member's namespace.
    pub fn in_member(&self, member: usize, command: &mut Command) {
        inside(command, &self.members[member].fd);
    }

    /// A runtime whose sockets are beside the bridge.
    pub fn runtime(&self, threads: usize) -> tokio::runtime::Runtime {
        runtime(&self.hub.fd, threads)
    }

    /// A runtime whose sockets are in a member's namespace.
    pub fn runtime_in(&self, member: usize) -> tokio::runtime::Runtime {
        runtime(&self.members[member].fd, 1)
    }

    /// Nothing that `from` sends reaches `to` any more.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.members[to].iptables(&["-A", CHAIN, "-s", &Self::ip_of(from), "-j", "DROP"]);
    }

    /// Neither hears the other.
    pub fn cut(&self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// A part of the packets from `from` to `to` is lost.
    pub fn lose(&self, from: usize, to: usize, probability: f64) {
        let (ip, p) = (Self::ip_of(from), probability.to_string());
        let rule = ["-m", "statistic", "--mode", "random", "--probability", &p];
        let mut args = vec!["-A", CHAIN, "-s", &ip];
        args.extend(rule);
        args.extend(["-j", "DROP"]);
        self.members[to].iptables(&args);
    }

    /// New connections from `from` to the raft port of `to` go to a port of the hub instead; those that are open are
    /// reset.
    pub fn detour(&self, from: usize, to: usize, port: u16) {
        let (ip, raft) = (Self::ip_of(to), RAFT_PORT.to_string());
        let target = format!("{}:{port}", Self::hub_ip());
        self.members[from].iptables(&[
            "-t",
            "nat",
            "-A",
            CHAIN,
            "-p",
            "tcp",
            "-d",
            &ip,
            "--dport",
            &raft,
            "-j",
            "DNAT",
            "--to-destination",
            &target,
        ]);
        self.members[to].iptables(&[
            "-A",
            CHAIN,
            "-p",
            "tcp",
            "-s",
            &Self::ip_of(from),
            "--dport",
            &raft,
            "-j",
            "REJECT",
            "--reject-with",
            "tcp-reset",
        ]);
    }

    /// Takes every fault out of the network.
    pub fn heal(&self) {
        for m in &self.members {
            m.iptables(&["-F", CHAIN]);
            m.iptables(&["-t", "nat", "-F", CHAIN]);
        }
    }
}

fn runtime(fd: &Arc<OwnedFd>, threads: usize) -> tokio::runtime::Runtime {
    let fd = fd.clone();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .on_thread_start(move || {
            move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("a thread of the test enters its namespace");
            INSIDE.set(true);
        })
        .enable_all()
        .build()
        .unwrap()
}
