//! Trust: the cluster's own CA and the certificates it issues.
//!
//! The CA's certificate and sealed key are a record of the replicated state, so that every member can issue; the key
//! that opens it never enters the log and lies 0600 in `DATA/pki`.

mod ca;
mod kubeconfig;
mod seal;
mod tls;

pub(crate) use ca::Ca;
pub use ca::NodeIdentity;
pub(crate) use ca::{Profile, renew_at};
pub use kubeconfig::kubeconfig;
pub(crate) use tls::{Resolver, client_config, server_config};
