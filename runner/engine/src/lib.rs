//! The Wasm host of a node: checks bytes, compiles them in a limited child, links granted capabilities and runs guests.
//!
//! The path of a component is `inspect` → `compose` (pods with several containers) → [`Engine::artifact`] (compiled
//! once per node, cached on disk with a MAC) → [`Engine::link`] (a [`Replica`] with what it is granted) →
//! [`Replica::call`] for a service, [`Replica::run`] for a command.
//!
//! This crate knows nothing of Kubernetes. Everything it needs arrives as values: paths, limits, and the two traits
//! [`Outbound`] (the guest's own HTTP requests) and [`LogSink`] (its stdout and stderr).
//!
//! The call path is built for one current-thread tokio runtime per core: a request is polled on the task that brought
//! it, a guest that answers without waiting never leaves that task, and a guest that spins is interrupted every
//! millisecond and goes to the back of the run queue.

mod artifact;
mod body;
mod cache;
mod call;
mod capabilities;
mod command;
mod compile_child;
mod compile_parent;
mod componentize;
mod compose;
mod config;
mod core_imports;
mod cpu;
mod engine;
mod error;
mod exit_code;
mod grants;
mod host;
mod hosted;
mod inspect;
mod looks;
mod mac;
mod memory;
mod metrics;
mod problem;
mod replica;
mod reuse;
mod state;
mod ticker;

pub use artifact::{Artifact, WasmSource, digest_of};
pub use body::{Body, BoxError, empty_body, full_body};
pub use capabilities::capabilities;
pub use command::{ExitStatus, RunOptions, Stdin};
pub use compile_child::compile_child_main;
pub use componentize::componentize;
pub use compose::compose;
pub use config::{CompilerCommand, EngineConfig};
pub use engine::{Capacity, Engine};
pub use error::CallError;
pub use grants::{
    CallContext, DenyOutbound, DiscardLogs, Grants, LogSink, MAX_CALL_DEPTH, Mount, Outbound,
    OutboundError, Stream,
};
pub use hosted::hosted_interfaces;
pub use inspect::{Import, Inspected, Kind, MAX_WASM_BYTES, WasiVersion, inspect};
pub use metrics::MetricsSnapshot;
pub use problem::{BadWasm, EngineError, LinkError, PrepareError, Problem};
pub use replica::Replica;
