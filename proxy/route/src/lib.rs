//! Where a request goes: every traffic decision as a pure function over an immutable table.
//!
//! Ingress, Service, EndpointSlice, Node and Pod objects are parsed once into [`Sources`]; [`Table::build`] turns them into
//! a [`Table`] that is never edited afterwards. The proxy swaps whole tables, so a route change is atomic: a request sees
//! either the old world or the new one, never a mixture.
//!
//! Invariant: nothing here can fail for reasons outside its arguments. No sockets, clocks, locks or random sources; a seed
//! and a monotonic time come in as arguments.
//!
//! What this crate is not: it does not know HTTP libraries, connections or retries in progress. Those are the proxy's.

pub mod breaker;
pub mod endpoints;
pub mod headers;
mod hosts;
pub mod miss;
pub mod path;
pub mod pick;
mod service;
pub mod source;
pub mod table;

#[cfg(test)]
mod tests;

pub use endpoints::{Endpoint, Endpoints};
pub use miss::Miss;
pub use path::{BadPath, Normal, normalise};
pub use pick::{Load, pick, pick_except};
pub use service::find_service;
pub use source::{BadObject, Sources};
pub use table::{Match, Parts, PodEntry, PortEntry, ServiceEntry, Table, find};
