//! The data plane through real sockets, with fake replicas in process.

mod edge;
mod inside;
mod life;
mod remote;
mod support;
