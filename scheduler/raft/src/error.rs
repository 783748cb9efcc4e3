//! Why a replica does not start: one code, one sentence, one way out.

use std::path::{Path, PathBuf};

use coracle_state::FormatError;

/// A refusal to start; nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory was written by a newer version.
    #[error(
        "E_DATA_NEWER: {path} has data format {found}, this Coracle reads up to {known}; start the newer version on it, or restore a backup made by this one"
    )]
    DataNewer {
        /// The version file.
        path: PathBuf,
        /// Format found.
        found: u64,
        /// Newest format known.
        known: u64,
    },
    /// The version file is missing beside existing data, or not a number.
    #[error(
        "E_DATA_UNREADABLE: {path} {why}; if this is not a Coracle data directory name another one with --data-dir, else restore it from a backup"
    )]
    DataUnreadable {
        /// The version file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The directory cannot be used.
    #[error("E_DATA_DIR: cannot use {path}: {why}; name a writable directory with --data-dir")]
    DataDir {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The log is damaged where acknowledged writes are.
    #[error(
        "E_LOG_CORRUPT: {path}: {why}; acknowledged writes are affected, so nothing was changed: restore this data directory from a backup, or (with other members alive) move it away and join again"
    )]
    LogCorrupt {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and where.
        why: String,
    },
    /// The snapshot does not read back.
    #[error(
        "E_SNAPSHOT_CORRUPT: {path}: {why}; restore this data directory from a backup, or (with other members alive) move it away and join again"
    )]
    SnapshotCorrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Not even a vote fits on the disk.
    #[error(
        "E_DISK_FULL: the file system of {path} has {free_kib} KiB free; free some space (64 MiB is comfortable) and start again"
    )]
    DiskFull {
        /// The data directory.
        path: PathBuf,
        /// What is free, in KiB.
        free_kib: u64,
    },
    /// An entry or snapshot of an unknown format.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// A file operation failed.
    #[error("E_DATA_IO: {path}: {error}; check the disk and the permissions of the data directory")]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// openraft refused or stopped.
    #[error("E_RAFT: {0}")]
    Raft(String),
}

impl StartError {
    /// An I/O error at a path. A file where a directory is needed, or a directory that may not be written, gets its own code.
    pub fn io(path: &Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::NotADirectory | K::AlreadyExists => Self::DataDir {
                path: path.into(),
                why: "a file is where a directory is needed".into(),
            },
            K::PermissionDenied | K::ReadOnlyFilesystem => Self::DataDir {
                path: path.into(),
                why: error.to_string(),
            },
            _ => Self::Io {
                path: path.into(),
                error,
            },
        }
    }
}
