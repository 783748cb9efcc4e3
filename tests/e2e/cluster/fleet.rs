//! A cluster of several members on a bridge, and its operator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;

use super::client::{Client, Credentials, Reply};
use super::member::Member;
use super::net::{API_PORT, Net};
use crate::harness::cluster::LONG;
use crate::harness::program::{CORACLE, Output, run, wait_for};

/// Threads of the clients' runtime: they share the machine with all members.
const CLIENT_THREADS: usize = 2;

/// A running cluster.
pub struct Fleet {
    // Dropped in this order: clients, processes, namespaces, folders.
    pub runtime: Arc<tokio::runtime::Runtime>,
    pub members: Vec<Member>,
    pub net: Net,
    pub credentials: Credentials,
    pub dir: Arc<tempfile::TempDir>,
}

/// What `coracle members -o json` says of one member.
#[derive(Clone, Debug)]
pub struct Seat {
    pub name: String,
    pub id: String,
    pub voter: bool,
    pub leader: bool,
    pub applied: Option<u64>,
}

/// Changes a member before its first start: environment, another binary, another disk.
pub type Prepare<'a> = &'a dyn Fn(&mut Member);

impl Fleet {
    /// A cluster of `n` voters.
    #[track_caller]
    pub fn start(n: usize) -> Self {
        Self::start_with(n, &|_| {})
    }

    #[track_caller]
    pub fn start_with(n: usize, prepare: Prepare<'_>) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let net = Net::new(n);
        let mut first = Member::new(0, dir.path());
        prepare(&mut first);
        first.spawn(&net, &[]);
        let info = first.ready();
        let credentials = Credentials::read(Path::new(info["kubeconfig"].as_str().unwrap()));
        let runtime = Arc::new(net.runtime(CLIENT_THREADS));
        let mut fleet = Self {
            runtime,
            members: vec![first],
            net,
            credentials,
            dir,
        };
        for i in 1..n {
            let mut member = Member::new(i, fleet.dir.path());
            prepare(&mut member);
            let join = fleet.join_args(0);
            member.spawn(&fleet.net, &join);
            fleet.members.push(member);
        }
        for i in 1..n {
            fleet.members[i].ready();
        }
        fleet.wait_voters(n);
        fleet
    }

    /// One more member, joining through member `through`, ready (not yet a voter).
    #[track_caller]
    pub fn grow(&mut self, through: usize) -> usize {
        let i = self.net.add();
        let member = Member::new(i, self.dir.path());
        self.members.push(member);
        self.enter(i, through);
        i
    }

    /// Member `i`, whose directory is empty, joins through another and is ready.
    #[track_caller]
    pub fn enter(&mut self, i: usize, through: usize) {
        let join = self.join_args(through);
        self.members[i].spawn(&self.net, &join);
        self.members[i].ready();
    }

    /// Member `i`, which has its data, runs again.
    #[track_caller]
    pub fn restart(&mut self, i: usize) {
        self.members[i].spawn(&self.net, &[]);
        self.members[i].ready();
    }

    /// `--join` and a token made on member `through`.
    #[track_caller]
    pub fn join_args(&self, through: usize) -> Vec<String> {
        let token = self.token(through, "scheduler");
        let address = format!("{}:{API_PORT}", Net::ip_of(through));
        ["--join", &address, "--token", &token]
            .map(String::from)
            .to_vec()
    }

    /// A join token; a leader that is just changing gets another try.
    #[track_caller]
    pub fn token(&self, through: usize, role: &str) -> String {
        wait_for("a token", LONG, || {
            let made = self.coracle(through, &["token", "create", "--role", role]);
            match made.code {
                0 => Ok(made.out.trim().to_string()),
                _ => Err(made.err),
            }
        })
    }

    /// A kubeconfig file for one member.
    pub fn kubeconfig(&self, member: usize) -> PathBuf {
        let path = self.dir.path().join(format!("kubeconfig-{}", member + 1));
        let text = self.credentials.kubeconfig_for(&Net::ip_of(member));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `coracle ARGS` beside the bridge, against one member.
    #[track_caller]
    pub fn coracle(&self, member: usize, args: &[&str]) -> Output {
        let mut command = Command::new(CORACLE);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("KUBECONFIG", self.kubeconfig(member))
            .env("HOME", self.dir.path());
        self.net.in_hub(&mut command);
        run(&mut command)
    }

    /// One call to a member.
    pub fn call(&self, member: usize, method: Method, path: &str, body: Option<&Value>) -> Reply {
        let mut client = Client::new(&self.credentials, member);
        let (path, body) = (path.to_string(), body.cloned());
        self.on_bridge(async move { client.call(method, &path, body.as_ref()).await })
    }

    /// Waits for something that is done beside the bridge: on a thread of the runtime, not on this one.
    pub fn on_bridge<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.runtime.block_on(self.runtime.spawn(work)).unwrap()
    }

    /// An answer that must be 2xx.
    pub fn get(&self, member: usize, path: &str) -> Result<Value, String> {
        match self.call(member, Method::GET, path, None) {
            Reply::Answer(status, v) if status.is_success() => Ok(v),
            other => Err(format!("{other:?}")),
        }
    }

    /// The members as member `through` sees them.
    pub fn seats(&self, through: usize) -> Result<Vec<Seat>, String> {
        let v = self.get(through, "/coracle/v1/members")?;
        let list = v["members"].as_array().ok_or_else(|| v.to_string())?;
        Ok(list.iter().map(seat).collect())
    }

    /// The members as any running member sees them.
    pub fn any_seats(&mut self) -> Result<Vec<Seat>, String> {
        let mut last = "nobody runs".to_string();
        for i in 0..self.members.len() {
            if self.members[i].running() {
                match self.seats(i) {
                    Ok(seats) => return Ok(seats),
                    Err(e) => last = e,
                }
            }
        }
        Err(last)
    }

    /// Index of the leader, as the members agree.
    #[track_caller]
    pub fn leader(&mut self) -> usize {
        wait_for("a leader", LONG, || {
            let seats = self.any_seats()?;
            let leader = seats.iter().find(|s| s.leader);
            let found = leader.and_then(|s| self.members.iter().position(|m| m.name == s.name));
            found.ok_or_else(|| format!("{seats:?}"))
        })
    }

    /// Waits until exactly `n` members vote and nobody waits to.
    #[track_caller]
    pub fn wait_voters(&mut self, n: usize) {
        wait_for(&format!("{n} voters"), LONG, || {
            let seats = self.any_seats()?;
            let voters = seats.iter().filter(|s| s.voter).count();
            if voters == n && seats.iter().any(|s| s.leader) {
                Ok(())
            } else {
                Err(format!("{seats:?}"))
            }
        });
    }

    /// Waits until every running member takes a write; answers the greatest resourceVersion of them.
    #[track_caller]
    pub fn wait_writable(&mut self) -> u64 {
        let running: Vec<usize> = (0..self.members.len())
            .filter(|i| self.members[*i].running())
            .collect();
        let mut last = 0;
        for i in running {
            last = last.max(wait_for(
                &format!("a write through {}", self.members[i].name),
                LONG,
                || self.write_marker(i),
            ));
        }
        last
    }

    /// A write through one member; its resourceVersion.
    pub fn write_marker(&self, member: usize) -> Result<u64, String> {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "marker-"}});
        let path = "/api/v1/namespaces/default/configmaps";
        match self.call(member, Method::POST, path, Some(&object)) {
            Reply::Answer(StatusCode::CREATED, v) => {
                revision(&v).ok_or_else(|| format!("no resourceVersion in {v}"))
            }
            other => Err(format!("{other:?}")),
        }
    }

    /// The logs of all members, for a failure's report.
    pub fn logs(&self) -> String {
        let each = |m: &Member| {
            let log = m.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(LOG_TAIL);
            format!("--- {}\n{}\n", m.name, lines[tail..].join("\n"))
        };
        self.members.iter().map(each).collect()
    }
}

/// Lines of each member's log in a failure's report.
const LOG_TAIL: usize = 60;

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

fn seat(v: &Value) -> Seat {
    let text = |f: &str| v[f].as_str().unwrap_or_default().to_string();
    Seat {
        name: text("name"),
        id: text("id"),
        voter: v["voter"] == true,
        leader: v["leader"] == true,
        applied: v["applied"].as_u64(),
    }
}

/// The resourceVersion of an object.
pub fn revision(v: &Value) -> Option<u64> {
    v["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// A small file system of a member's own; unmounted when dropped.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    #[track_caller]
    pub fn new(path: PathBuf, mib: u32) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={mib}m");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path))
        .ok();
        Self(path)
    }

    /// Takes all the space there is.
    pub fn fill(&self) {
        // It ends with "no space left", which is what it is for.
        let _ = run(Command::new("dd")
            .args(["if=/dev/zero", "bs=1M"])
            .arg(format!("of={}", self.filler().display())));
    }

    /// Gives the space back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A limit for things that take a moment when all is well.
pub const SOON: Duration = Duration::from_secs(30);
