//! What the raft transport is given: this member's certificate on both sides, peers verified by the cluster's roots.

use std::sync::Arc;

use coracle_raft::net::Trust;
use rustls::server::WebPkiClientVerifier;

use super::identity::NodeIdentity;
use super::tls::{Resolver, certified, client_config, provider, root_store, tls};
use crate::error::StartError;

/// Protocol name in the handshake, so that another service's clients are turned away early.
const ALPN: &[u8] = b"coracle-raft/1";

/// Trust of the raft transport. A client certificate is required; which member it names is checked by the transport.
pub(crate) fn raft_trust(cluster: &str, identity: &NodeIdentity) -> Result<Trust, StartError> {
    let mut client = client_config(&identity.ca, identity)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not look at the peer's certificate again.
    client.resumption = rustls::client::Resumption::disabled();
    let roots = Arc::new(root_store(&identity.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(tls)?;
    let mut server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Resolver::of(certified(identity)?));
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Trust {
        cluster: cluster.into(),
        client: Arc::new(client),
        server: Arc::new(server),
    })
}
