//! Starting, asking and ending real processes. Every port is a free one and every folder a temporary one.

pub mod cluster;
pub mod http;
pub mod kube;
pub mod program;

pub use cluster::Cluster;
pub use program::client;
