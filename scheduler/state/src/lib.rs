//! The replicated state machine: what a log entry does to the cluster, and nothing else.
//!
//! One log entry is a [`Batch`] of [`Command`]s. [`State::apply`] checks each command's precondition and claims,
//! changes tables, gives every changed object its own revision (= Kubernetes' resourceVersion) and appends to the
//! table's event ring. It does no validation: whoever proposes has decided already.
//!
//! Invariant: the same log gives the same [`State::hash`] on every member. No clock, no randomness, no iteration over
//! hashed maps; time is the leader's stamp in the batch.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub mod apply;
pub mod command;
pub mod ring;
pub mod rows;
pub mod snapshot;
pub mod table;
pub mod view;

pub use apply::State;
pub use command::{Applied, Batch, Command, Expect, FormatError, Op, Refused};
pub use coracle_api::{Amounts, Attrs, Claim, Key};
pub use ring::{Change, Event, Frame};
pub use rows::{Objects, Tables};
pub use table::{Obj, Table};
pub use view::View;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a proposal got no answer from the state machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// There is no leader now, or leadership moved; the write may or may not have happened. Retryable.
    #[error("no leader at present: {0}")]
    NoLeader(String),
    /// Writes are refused for a reason that will pass (disk space gate, shutting down). Nothing happened. Retryable.
    #[error("{0}")]
    Unavailable(String),
    /// The proposal is too large for the log.
    #[error("the write has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
}

/// Results of one proposal, one per command in order.
pub type Results = Vec<Result<Applied, Refused>>;

/// Puts commands through the log. Answers when they are durable and applied on this member.
pub trait Propose: Send + Sync + 'static {
    /// Proposes commands as one atomic position in the log; each has its own precondition and result.
    fn propose(&self, commands: Vec<Command>) -> BoxFuture<'_, Result<Results, ProposeError>>;
}

/// Reads the state. A view is an immutable snapshot, cheap to take and hold.
pub trait Views: Send + Sync + 'static {
    /// The newest applied view on this member.
    fn view(&self) -> Arc<View>;
    /// Resolves once this member has applied past `revision`.
    fn newer_than(&self, revision: u64) -> BoxFuture<'_, Arc<View>>;
    /// A view that holds every write any member had acknowledged before the call. Costs a round to the leader where
    /// there are several members; an error means that there is none at present.
    fn fresh(&self) -> BoxFuture<'_, Result<Arc<View>, ProposeError>>;
}
