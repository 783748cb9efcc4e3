//! The Kubernetes-compatible HTTP API: it records intent and answers from views, and decides nothing.
//!
//! A request goes through one pipeline: authenticate ([`identity`]), find the resource ([`path`]), authorise
//! ([`authorise`]), decode ([`body`], [`protobuf`]), then read ([`read`], [`watch`]) from a [`coracle_state::View`]
//! or write ([`write`]) through [`coracle_state::Propose`] with a precondition. What a client may get wrong is
//! answered with a `Status` object ([`reply`]); nothing else ever leaves this crate.
//!
//! It must not know: raft, placement, controllers, Wasm. Runners, joining and tokens are traits in [`context`].

// `ApiError` carries everything a Status needs and is built only on the way out; boxing it would buy nothing.
#![allow(clippy::result_large_err)]

pub mod authorise;
pub mod body;
pub mod call;
pub mod context;
pub mod coracle;
mod cork;
pub mod discovery;
pub mod health;
pub mod hub;
pub mod identity;
pub mod json;
pub mod list;
pub mod metrics;
pub mod negotiate;
pub mod pages;
pub mod path;
mod pieces;
pub mod protobuf;
pub mod query;
pub mod read;
pub mod reply;
pub mod reviews;
pub mod router;
pub mod service_alloc;
pub mod shed;
pub mod subresources;
pub mod tls;
pub mod watch;
pub mod write;

pub use authorise::{Attributes, Decision, authorise};
pub use context::{
    BackupStream, Backups, Certificates, Context, ContextConfig, Join, LogRequest, LogStream,
    Members, Runners, Tokens,
};
pub use identity::Identity;
pub use router::router;
pub use tls::serve;
pub use write::admission::Admission;
pub use write::renewal::{Renewal, Renewals};

#[cfg(test)]
mod tests;
