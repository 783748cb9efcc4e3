//! The replicated log under the state machine: openraft, its log on disk, snapshots and (for several members) its network.
//!
//! [`Replica`] is one member. It runs on a thread of its own, so that JSON and TLS work elsewhere cannot delay votes and
//! heartbeats, and offers two things to the rest of the process: [`coracle_state::Propose`] and [`coracle_state::Views`].
//!
//! Invariants: an acknowledged write is on stable storage; an error of the log or of a file sync is never retried (the
//! page cache may have dropped the data) but ends the process with one line; a snapshot travels as a file, never as a
//! buffer; what this binary cannot read, it refuses with a code and changes nothing.

mod ballast;
mod blocks;
mod capture;
pub mod compact;
pub mod config;
pub mod durable;
pub mod error;
pub mod fatal;
mod forward;
pub mod gate;
pub mod journal;
pub mod machine;
pub mod members;
pub mod net;
mod priority;
pub mod publish;
pub mod pulse;
pub mod rebuild;
pub mod replica;
pub mod service;
pub mod snapshot;
mod thread;
pub mod types;
pub mod version;

pub use capture::Captured;
pub use config::{Begin, Clock, Config, Limits};
pub use error::StartError;
pub use fatal::Fatal;
pub use members::MemberError;
pub use net::{TcpTransport, Transport, Trust};
pub use replica::{Leadership, MemberInfo, Replica, Status};
pub use service::{Desk, Service};
pub use types::{Member, node_id_text, parse_node_id};

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
