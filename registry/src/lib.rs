//! An OCI distribution registry as a library: push and pull of the 1.1 specification, Wasm artifacts known by name.
//!
//! The registry is three decisions wrapped in I/O. *What may come next* in an upload is [`upload`], *what a manifest
//! says* is [`manifest`], *what nothing needs any more* is [`garbage`]; they are plain functions over values. Bytes go
//! out through [`blobs::Blobs`], rows through [`meta::Meta`], time through [`Clock`] and permission through
//! [`authorise::Authorise`]. [`router`] is the HTTP face, to be merged into another server or served on its own port.
//!
//! What a `201` promises: the bytes are synced under their digest, the link is in a durable batch, and nothing collects
//! either while it is young, promised to a client, or named by a manifest.

#![forbid(unsafe_code)]

pub mod authorise;
pub mod blobs;
pub mod client;
pub mod counters;
pub mod digest;
pub mod error;
pub mod garbage;
pub mod leases;
pub mod limits;
pub mod manifest;
pub mod meta;
pub mod name;
pub mod quota;
pub mod range;
pub mod retention;
pub mod rows;
pub mod scrub;
pub mod through;
pub mod upload;
pub mod usage;
pub mod wasm;

mod attached;
mod body;
mod collect;
mod conditions;
mod links;
mod listing;
mod manifests;
mod opaque;
mod push;
mod registry;
mod serve;
mod verified;
mod warnings;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
#[path = "tests/fuzz/mod.rs"]
pub mod fuzz;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;

pub use attached::Document;
pub use collect::Report;
pub use limits::Limits;
pub use push::READ_BYTES_MAX;
pub use registry::{Parts, Registry};
pub use serve::{PACKAGE_PREFIX, refuse, router, router_with_packages};

/// A boxed future: the outward traits are objects and name no runtime.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where the registry gets the time from.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
