//! The one load generator, for both systems: HTTP/2 over TLS with client certificates, the same connections, windows
//! and cipher on either side, so that what differs is the server.

pub mod client;
pub mod grpc;
pub mod http2;
pub mod puts;
pub mod streams;
pub mod watchers;
