//! Backups: one file with everything the replicated state holds, made by every member on its own every twelve hours and
//! by whoever asks; and the two ways back when members are lost.
//!
//! [`restore`] makes a new data directory from a file: a new cluster with a new id and a new CA, so that nothing of the
//! old one can talk to it by accident; nodes and members join again. [`Reset`] makes the only member of a cluster out of
//! one that lost its quorum: a new cluster id, so that the others stay out, and the same CA, so that runners stay in.
//! Both begin a new history of revisions, which sends every client to list again.
//!
//! A backup holds Secrets as they are and the CA's key sealed; the key that opens it is not inside, and a restore does not
//! need it. Not inside either: registry blobs, which are files of each member's `DATA/registry`.

mod due;
mod error;
mod file;
mod keeper;
mod reset;
mod restore;

pub use due::Schedule;
pub use error::BackupError;
pub use file::{Inside, Summary, Table, inspect, list, verify};
pub(crate) use keeper::{Keeper, Keeping};
pub(crate) use reset::settle;
pub use reset::{Lost, Reset, Single};
pub(crate) use restore::complete;
pub use restore::{Restored, restore};

/// Folder of a member's own backups in its data directory.
pub const FOLDER: &str = "backups";
