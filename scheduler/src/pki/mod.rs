//! Trust: the cluster's own CA and the certificates it issues.
//!
//! The CA's certificates and sealed key are a record of the replicated state, so that every member can issue; the key
//! that opens it never enters the log and lies 0600 in `DATA/pki`.

mod ca;
mod identity;
mod issue;
mod kubeconfig;
mod lives;
mod readdress;
mod record;
mod seal;
mod tls;
mod trust;

pub(crate) use ca::{CLUSTER, Ca, PKI, hash_of, record_key};
pub use identity::NodeIdentity;
pub(crate) use identity::{ends, load_identity, store_identity};
pub(crate) use issue::Profile;
pub use kubeconfig::kubeconfig;
pub use lives::Lives;
pub(crate) use lives::{after, renew_at};
pub(crate) use readdress::{cluster_of, readdress};
pub(crate) use record::{CaRecord, Phase};
pub(crate) use tls::{Clients, Resolver, client_config, server_config};
pub(crate) use trust::raft_trust;
