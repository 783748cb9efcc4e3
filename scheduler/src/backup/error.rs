//! Why a backup is not read, restored or saved: a code, a sentence, the fix.

use std::path::{Path, PathBuf};

use coracle_state::FormatError;

use crate::error::StartError;

/// A refusal; the display text begins with the code. Nothing that was there before has changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is damaged, cut off or no backup.
    #[error(
        "E_BACKUP_CORRUPT: {path}: {why}; use another backup (`coracle backup ls` shows those of a member)"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        why: String,
    },
    /// The file is of a newer version.
    #[error(
        "E_FORMAT_NEWER: {path} has format {found}, this Coracle reads up to {known}; use the newer version for it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Format found.
        found: u8,
        /// Newest format known.
        known: u8,
    },
    /// A restore makes a directory, it does not change one.
    #[error(
        "E_RESTORE_NOT_EMPTY: {path} is not empty (there is {found:?}); a restore makes a new data directory, name an empty one with --data-dir"
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// A restore was interrupted.
    #[error(
        "E_RESTORE_UNFINISHED: a restore into {path} did not finish; delete that directory and restore again"
    )]
    Unfinished {
        /// The directory.
        path: PathBuf,
    },
    /// There is no member's data.
    #[error(
        "E_RESET_NO_DATA: {path} holds no data of a control-plane member; name the right directory with --data-dir"
    )]
    NoData {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing is lost.
    #[error(
        "E_RESET_SINGLE: {path} is of a cluster whose only voter is this member, there is no quorum to lose; start it normally"
    )]
    Single {
        /// The directory.
        path: PathBuf,
    },
    /// The directory, its lock, its log.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl BackupError {
    /// An error of reading a backup file.
    pub(crate) fn reading(path: &Path, error: coracle_raft::StartError) -> Self {
        use coracle_raft::StartError as E;
        let path = path.into();
        match error {
            E::SnapshotCorrupt { why, .. } => Self::Corrupt { path, why },
            E::Format(FormatError::Newer { found, known }) => Self::Newer { path, found, known },
            E::Format(FormatError::Corrupt(why)) => Self::Corrupt { path, why },
            other => Self::Start(StartError::Raft(other)),
        }
    }

    /// An I/O error at a path.
    pub(crate) fn io(path: &Path, error: std::io::Error) -> Self {
        Self::Start(StartError::io(path, error))
    }
}
