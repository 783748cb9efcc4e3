//! Why a scheduler does not start: a code, a sentence, the fix.

use std::net::SocketAddr;
use std::path::PathBuf;

use coracle_state::ProposeError;

/// A refusal to start. The display text begins with the code.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log or the data directory.
    #[error(transparent)]
    Raft(#[from] coracle_raft::StartError),
    /// Another process uses the directory.
    #[error(
        "E_DATA_LOCKED: {path} is in use by process {pid}; stop that process, or name another directory with --data-dir"
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The holder, `unknown` if it has not written its id yet.
        pid: String,
    },
    /// A file of the data directory does not say what it should.
    #[error("E_DATA_UNREADABLE: {path} {why}; restore it from a backup")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The name is no DNS label.
    #[error(
        "E_BAD_NAME: {name:?} is no node name; use at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit (--name)"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A port is taken.
    #[error(
        "E_PORT_IN_USE: {addr} is in use by another process; stop it, or name another address with {flag} (port 0 takes a free one)"
    )]
    PortInUse {
        /// The address.
        addr: SocketAddr,
        /// The flag that chooses it.
        flag: &'static str,
    },
    /// An address cannot be listened on.
    #[error("E_LISTEN: cannot listen on {addr}: {error}; name another address with {flag}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The flag that chooses it.
        flag: &'static str,
        /// The system's error.
        error: std::io::Error,
    },
    /// The registry would be open to the network.
    #[error(
        "E_REGISTRY_OPEN: {addr} would let anyone who reaches it push and pull without authentication; leave --registry-auth=off out, listen on loopback, or accept it with --insecure-registry (nodes pull through the API with their certificates either way)"
    )]
    RegistryOpen {
        /// The address.
        addr: SocketAddr,
    },
    /// Tokens would cross the network for everybody to read.
    #[error(
        "E_REGISTRY_CLEAR: credentials sent to {addr} could be read on the way without TLS; leave --registry-tls=off out, listen on loopback, or accept it with --insecure-registry"
    )]
    RegistryClear {
        /// The address.
        addr: SocketAddr,
    },
    /// Others could not be told where this member is.
    #[error(
        "E_ADVERTISE: {flag} {addr} is no address that others can connect to; say which host name or IP they reach this machine at with --advertise HOST"
    )]
    Advertise {
        /// The wildcard address.
        addr: SocketAddr,
        /// The flag that chose it.
        flag: &'static str,
    },
    /// The host of `--advertise` is none.
    #[error(
        "E_ADVERTISE: --advertise {host:?} is no host name or IP address; give it without a port"
    )]
    AdvertiseHost {
        /// What was given.
        host: String,
    },
    /// Entering a cluster failed; the text is `CODE: sentence; fix`.
    #[error("{0}")]
    Join(String),
    /// Certificates.
    #[error("E_PKI: {0}")]
    Pki(String),
    /// The key that opens the cluster's CA is gone or wrong.
    #[error(
        "E_PKI_SEAL: {path} does not open this cluster's CA key ({why}); restore the file from a backup of this data directory"
    )]
    Seal {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A restore that did not finish; the text is `CODE: sentence; fix`.
    #[error("{0}")]
    Backup(String),
    /// The registry's directory.
    #[error("{0}")]
    Registry(String),
    /// The first records could not be written.
    #[error("E_FIRST_START: the cluster's first records were not written: {0}")]
    Propose(#[from] ProposeError),
    /// A thread could not be made.
    #[error("E_THREAD: {0}")]
    Thread(std::io::Error),
}

impl StartError {
    /// An I/O error at a path.
    pub(crate) fn io(path: &std::path::Path, error: std::io::Error) -> Self {
        Self::Raft(coracle_raft::StartError::io(path, error))
    }
}
