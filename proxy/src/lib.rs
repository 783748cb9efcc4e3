//! The data plane: ingress, calls between components, and hops between nodes, in one path.
//!
//! ```text
//!   client ──► core thread: accept → guard → hyper HTTP/1 → edge (one normal form)
//!                                                             │
//!   component's own request ─► Proxy::internal ───────────────┤
//!                                                             ▼
//!                       forward: table in force → pick → ┬─ LocalReplica::call   (this process)
//!                                                        ├─ peers: h2 + mTLS     (another node)
//!                                                        └─ outside: HTTP/1      (hand-written endpoints)
//!   another node's proxy ─► runner's listener ─► Proxy::serve_peer ─► LocalReplica::call
//! ```
//!
//! Decisions (which route, which replica) are [`coracle_route`]'s; this crate owns sockets, TLS, clocks and streams. A
//! request stays on the thread that accepted it, takes no lock and wakes no other thread. Tables are swapped whole.
//!
//! What this crate does not know: where tables come from, what a replica is made of, and who may call the outside world by
//! which name. The runner does.

mod access;
mod body;
mod config;
mod connection;
mod core;
mod edge;
mod failure;
mod forward;
mod guard;
mod ids;
mod inbound;
mod live;
mod outside;
mod peers;
mod proxy;
mod replica;
mod shared;
mod stats;
mod ticket;

#[cfg(test)]
mod tests;

pub use body::{Body, BoxError, boxed, empty, full};
pub use config::{AddressPolicy, Config, PeerConfig, PeerName};
pub use failure::Failure;
pub use inbound::{MEMBERS_GROUP, NODES_GROUP, PeerIdentity};
pub use proxy::{InternalError, Proxy, StartError, absolute};
pub use replica::{CALL_DEPTH_MAX, CallContext, LocalReplica, LocalReplicas, ReplicaError};
