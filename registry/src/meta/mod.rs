//! Where repositories, tags and links live: rows of bytes in named tables, changed by atomic batches.
//!
//! The cluster implements this over its replicated state, tests over a map. The registry never locks a row: it reads,
//! decides, and writes a batch whose preconditions say what it relied on.

pub mod memory;

use bytes::Bytes;

use crate::BoxFuture;

/// A stored row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Grows with every change of this row; a key that is deleted and made again never sees an old version again.
    /// Writing the bytes that are there already may leave it as it is.
    pub version: u64,
    /// The row's bytes.
    pub value: Bytes,
}

/// What must hold of a row for its batch to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Anything.
    Any,
    /// There is no such row.
    Absent,
    /// The row is there in exactly this version.
    Version(u64),
}

/// What happens to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the entry is there for its precondition.
    Keep,
    /// The row gets these bytes.
    Put(Bytes),
    /// The row goes; one that is not there is no error.
    Delete,
}

/// One entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// One of [`crate::rows::TABLES`].
    pub table: &'static str,
    /// The row's key, unique in its table.
    pub key: String,
    /// What must hold.
    pub precondition: Precondition,
    /// What happens.
    pub change: Change,
}

/// Why the metadata store said no.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// A precondition did not hold; nothing was changed.
    #[error("{table} {key} changed meanwhile")]
    Conflict {
        /// The table.
        table: String,
        /// The key.
        key: String,
    },
    /// No quorum, no leader, shutting down: the batch may or may not have happened.
    #[error("the registry's metadata is not available: {0}")]
    Unavailable(String),
    /// A fault that trying again does not cure.
    #[error("the registry's metadata failed: {0}")]
    Internal(String),
}

/// A transactional table store.
///
/// Reads see every batch this instance has acknowledged; they may lag behind batches acknowledged elsewhere, which is
/// why decisions are repeated as preconditions, and why [`Meta::fresh`] comes before an answer to a client.
pub trait Meta: Send + Sync + 'static {
    /// One row.
    fn get<'a>(
        &'a self,
        table: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Row>, MetaError>>;

    /// Up to `limit` rows whose keys begin with `prefix` and are greater than `after`, in byte order of keys. Fewer
    /// than `limit` means there are no more.
    fn list<'a>(
        &'a self,
        table: &'static str,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, MetaError>>;

    /// Returns when reads see every batch that any instance had acknowledged before the call. A store with one instance
    /// has nothing to wait for.
    fn fresh(&self) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// All of it or nothing, durable when it returns. A key stands at most once in a batch.
    fn batch(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<(), MetaError>>;
}
