//! The data directory: who holds it, who this node is, which ports it had.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coracle_raft::{Member, durable, node_id_text, parse_node_id, version};
use serde::{Deserialize, Serialize};

use crate::error::StartError;

/// How long the lock is waited for: a process that was killed a moment ago may still be on its way out.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Wait between two attempts.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Who this node is; kept in `DATA/identity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Node name.
    pub name: String,
    /// Node id: 16 hex digits, random, never reused.
    pub id: String,
    /// Id of the cluster it belongs to, 16 hex digits; empty until it belongs to one.
    #[serde(default)]
    pub cluster: String,
}

impl Identity {
    /// The id as raft has it.
    pub fn node_id(&self) -> Option<u64> {
        parse_node_id(&self.id)
    }
}

/// File of [`Places`].
const PLACES: &str = "members.json";

/// Where members are, kept for a start at other addresses: the others must hear of them before they can send anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// This member as the others know it.
    pub me: Member,
    /// APIs of the others, `HOST:PORT`.
    pub others: Vec<String>,
}

impl Places {
    /// Keeps them in a data directory.
    pub fn save(&self, data: &Path) -> Result<(), StartError> {
        save(&data.join(PLACES), self)
    }
}

/// An opened data directory. The lock is held until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if needed, locks it, checks its version and reads (or makes up) the identity.
    pub fn open(path: &Path, name: Option<&str>) -> Result<Self, StartError> {
        durable::create_dir(path).map_err(|e| StartError::io(path, e))?;
        let lock = lock(path)?;
        crate::backup::settle(path)?;
        version::check(path)?;
        let identity = identity(path, name)?;
        Ok(Self {
            path: path.into(),
            identity,
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Notes which cluster this node belongs to; refuses if it belonged to another one.
    pub fn join_cluster(&mut self, cluster: &str) -> Result<(), StartError> {
        if self.identity.cluster == cluster {
            return Ok(());
        }
        let path = self.path.join("identity");
        if !self.identity.cluster.is_empty() {
            let why = format!(
                "names cluster {}, but the log beside it is of cluster {cluster}",
                self.identity.cluster
            );
            return Err(StartError::File { path, why });
        }
        self.identity.cluster = cluster.into();
        save(&path, &self.identity)
    }

    /// Takes the id and the cluster that a join answered. Files of an unfinished join are written before this: from here
    /// on the directory belongs to the cluster.
    pub fn adopt(&mut self, cluster: &str, id: &str) -> Result<(), StartError> {
        self.identity.cluster = cluster.into();
        self.identity.id = id.into();
        save(&self.path.join("identity"), &self.identity)
    }

    /// Whether there is a log (or a snapshot of one), of however little.
    pub fn has_log(&self) -> bool {
        fs::read_dir(self.path.join("raft")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The API addresses through which this member asks to be let in, if it was not let in yet.
    pub fn joining(&self) -> Option<Vec<String>> {
        let bytes = fs::read(self.path.join("joining")).ok()?;
        // Without an identity in the cluster the join never came to its end.
        serde_json::from_slice(&bytes)
            .ok()
            .filter(|_| !self.identity.cluster.is_empty())
    }

    /// Notes through which API addresses this member asks to be let in; `None`: it is in.
    pub fn set_joining(&self, through: Option<&[String]>) -> Result<(), StartError> {
        let path = self.path.join("joining");
        match through {
            Some(through) => save(&path, &through),
            None => match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StartError::io(&path, e)),
                _ => Ok(()),
            },
        }
    }

    /// Where this member and the others were, as it last knew; losing the file costs an announcement.
    pub fn places(&self) -> Option<Places> {
        serde_json::from_slice(&fs::read(self.path.join(PLACES)).ok()?).ok()
    }

    /// `DATA/pki`, made with mode 0700.
    pub fn pki(&self) -> Result<PathBuf, StartError> {
        use std::os::unix::fs::PermissionsExt;
        let dir = self.path.join("pki");
        durable::create_dir(&dir).map_err(|e| StartError::io(&dir, e))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
            .map_err(|e| StartError::io(&dir, e))?;
        Ok(dir)
    }

    /// The port that `role` had in place of port 0, if any.
    pub fn kept_port(&self, role: &str) -> Option<u16> {
        self.ports().get(role).copied()
    }

    /// Keeps the port of a role for the next start.
    pub fn keep_port(&self, role: &str, port: u16) -> Result<(), StartError> {
        let mut ports = self.ports();
        if ports.insert(role.into(), port) == Some(port) {
            return Ok(());
        }
        save(&self.path.join("ports.json"), &ports)
    }

    /// Other roles of the same process keep theirs in the same file. Losing it costs a new port, so a bad one is ignored.
    fn ports(&self) -> BTreeMap<String, u16> {
        fs::read(self.path.join("ports.json"))
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default()
    }

    /// Binds a listener for a role. Port 0 tries the kept port first.
    pub async fn listen(
        &self,
        role: &str,
        flag: &'static str,
        addr: SocketAddr,
    ) -> Result<tokio::net::TcpListener, StartError> {
        let bind = tokio::net::TcpListener::bind;
        if addr.port() != 0 {
            return bind(addr).await.map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => StartError::PortInUse { addr, flag },
                _ => StartError::Listen { addr, flag, error },
            });
        }
        let kept = match self.kept_port(role) {
            Some(port) => bind(SocketAddr::new(addr.ip(), port)).await.ok(),
            None => None,
        };
        let listen_error = |error| StartError::Listen { addr, flag, error };
        let listener = match kept {
            Some(listener) => listener,
            None => bind(addr).await.map_err(listen_error)?,
        };
        self.keep_port(role, listener.local_addr().map_err(listen_error)?.port())?;
        Ok(listener)
    }
}

fn save(path: &Path, value: &impl Serialize) -> Result<(), StartError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| StartError::File {
        path: path.into(),
        why: e.to_string(),
    })?;
    bytes.push(b'\n');
    durable::write(path, &bytes, 0o644).map_err(|e| StartError::io(path, e))
}

/// An error if a process uses this directory.
pub(crate) fn check_lock(data: &Path) -> Result<(), StartError> {
    lock(data).map(drop)
}

fn lock(data: &Path) -> Result<File, StartError> {
    let path = data.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| StartError::io(&path, e))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_RETRY)
            }
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The holder may be about to write it; then nobody can say more.
                let read = file.read_to_string(&mut pid).unwrap_or(0);
                let pid = if read == 0 {
                    "unknown".into()
                } else {
                    pid.trim().to_string()
                };
                return Err(StartError::Locked {
                    path: data.into(),
                    pid,
                });
            }
            Err(TryLockError::Error(e)) => return Err(StartError::io(&path, e)),
        }
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    match written {
        Ok(()) => Ok(file),
        // A full disk: the lock holds all the same, only the pid is not shown.
        Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(file),
        Err(e) => Err(StartError::io(&path, e)),
    }
}

fn identity(data: &Path, name: Option<&str>) -> Result<Identity, StartError> {
    let path = data.join("identity");
    if let Some(name) = name {
        check_name(name)?;
    }
    match fs::read(&path) {
        Ok(bytes) => {
            let mut identity: Identity =
                serde_json::from_slice(&bytes).map_err(|e| StartError::File {
                    path: path.clone(),
                    why: format!("does not read: {e}"),
                })?;
            if identity.node_id().is_none() {
                return Err(StartError::File {
                    path,
                    why: format!("has the id {:?}, not 16 hex digits", identity.id),
                });
            }
            if let Some(name) = name.filter(|n| *n != identity.name) {
                identity.name = name.into();
                save(&path, &identity)?;
            }
            Ok(identity)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let name = name.map_or_else(
                || format!("{}-{:04x}", host_label(), rand::random::<u16>()),
                str::to_string,
            );
            // 0 is no id: raft state that was never set would look like it.
            let identity = Identity {
                name,
                id: node_id_text(rand::random::<u64>().max(1)),
                cluster: String::new(),
            };
            save(&path, &identity)?;
            Ok(identity)
        }
        Err(e) => Err(StartError::io(&path, e)),
    }
}

/// The host name as far as it is a DNS label, leaving room for a suffix.
fn host_label() -> String {
    let raw = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let first = raw
        .trim()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let clean: String = first
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(50)
        .collect();
    let clean = clean.trim_matches('-');
    if clean.is_empty() {
        "node".into()
    } else {
        clean.into()
    }
}

fn check_name(name: &str) -> Result<(), StartError> {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (1..=63).contains(&name.len())
        && name.chars().all(|c| letter(c) || c == '-')
        && name.starts_with(letter)
        && name.ends_with(letter);
    if fits {
        Ok(())
    } else {
        Err(StartError::Name { name: name.into() })
    }
}
