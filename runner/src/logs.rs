//! What containers print: one file per run, read back for `kubectl logs`.
//!
//! A guest prints on the thread that serves requests, so [`LogSink::write`](coracle_engine::LogSink) only copies bytes
//! into a bounded queue; one thread of the node takes them out, frames them into lines and writes the files. A guest
//! that prints more than the queue, or more than its rate, loses bytes and its log says how many; it is never slowed.
//!
//! Files are `DATA/logs/NAMESPACE_POD_UID/CONTAINER/RUN.log`, and `RUN.log.1` once that was full. A line is
//! `TIME STREAM TAG TEXT` as the container runtime interface writes it; tag `P` marks a piece without its line end.

mod line;
mod read;
mod sink;
mod store;

pub(crate) use read::{Query, stream};
pub(crate) use sink::{ContainerLog, Logs};
pub(crate) use store::LogStore;
