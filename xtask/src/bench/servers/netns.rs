//! A network namespace per member, joined by a bridge to the host where the load generator runs: a cut is then a rule
//! in the member's own packet filter, as if its cable were pulled. Needs root, ip and iptables.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// First part of every name, with the process id of the bench after it.
const MARK: &str = "ccb";

/// Namespaces, veth pairs and the bridge; all removed on drop.
pub struct Net {
    mark: String,
    octet: u8,
    members: usize,
}

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output().context("no ip(8)")?;
    ensure!(
        out.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(())
}

impl Net {
    /// Makes them for `members`.
    pub fn new(members: usize) -> Result<Self> {
        sweep();
        let pid = std::process::id();
        let net = Self {
            mark: format!("{MARK}{pid}"),
            octet: (pid % 250) as u8 + 1,
            members,
        };
        let bridge = net.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", net.host()), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for i in 0..members {
            let (ns, outer) = (net.namespace(i), format!("{}v{i}", net.mark));
            ip(&["netns", "add", &ns])?;
            ip(&[
                "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &ns,
            ])?;
            ip(&["link", "set", &outer, "master", &bridge, "up"])?;
            let inside = |args: &[&str]| {
                let mut all = vec!["-n", &ns];
                all.extend(args);
                ip(&all)
            };
            let address = format!("{}/24", net.address(i));
            inside(&["addr", "add", &address, "dev", "eth0"])?;
            inside(&["link", "set", "lo", "up"])?;
            inside(&["link", "set", "eth0", "up"])?;
            // Proves that cuts will work here.
            net.filter(i, "-A")?;
            net.filter(i, "-D")?;
        }
        Ok(net)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.mark)
    }

    fn namespace(&self, i: usize) -> String {
        format!("{}n{i}", self.mark)
    }

    fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.octet, 1)
    }

    /// Address of a member.
    pub fn address(&self, i: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 213, self.octet, 11 + i as u8))
    }

    /// A command that runs `program` in the namespace of a member, under the same process id.
    pub fn command(&self, i: usize, program: &Path) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &self.namespace(i)]).arg(program);
        c
    }

    /// Drops every packet of a member, both ways; back once the rules hold.
    pub fn cut(&self, i: usize) -> Result<()> {
        self.filter(i, "-A")
    }

    /// Takes the rules away again.
    pub fn heal(&self, i: usize) -> Result<()> {
        self.filter(i, "-D")
    }

    fn filter(&self, i: usize, action: &str) -> Result<()> {
        let ns = self.namespace(i);
        for (chain, side) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            ip(&[
                "netns", "exec", &ns, "iptables", "-w", action, chain, side, "eth0", "-j", "DROP",
            ])?;
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for i in 0..self.members {
            // Each may be missing if `new` failed half-way.
            let _ = ip(&["netns", "del", &self.namespace(i)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

/// Removes what benches left behind that were killed: their process is gone.
fn sweep() {
    let stale = |name: &str| {
        let pid: String = name
            .strip_prefix(MARK)
            .unwrap_or_default()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        !pid.is_empty() && !Path::new("/proc").join(pid).exists()
    };
    let names = |dir: &str| {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    for ns in names("/run/netns").iter().filter(|n| stale(n)) {
        let _ = ip(&["netns", "del", ns]);
    }
    for link in names("/sys/class/net").iter().filter(|n| stale(n)) {
        let _ = ip(&["link", "del", link]);
    }
}
