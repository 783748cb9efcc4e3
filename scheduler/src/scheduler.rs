//! One running member: what it offers, and the order in which it stops.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use coracle_api::{ApiError, Timestamp};
use coracle_raft::Replica;
use coracle_state::{Propose, Views};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::RegistryRole;
use crate::data::DataDir;
use crate::error::StartError;
use crate::members::heir;
use crate::pki::{Ca, NodeIdentity, Profile};
use crate::tokens::{Role, TokenStore};

/// Patience with a hand-over at the stop: it takes less than a tenth of a second where there is somebody to take over.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// A running scheduler member.
pub struct Scheduler {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) api_addr: SocketAddr,
    pub(crate) api_url: String,
    pub(crate) registry_url: Option<String>,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) ca: Arc<Ca>,
    pub(crate) clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub(crate) tokens: Arc<TokenStore>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) stop_control: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) control: Mutex<Option<JoinHandle<()>>>,
    pub(crate) data: Mutex<Option<DataDir>>,
    #[cfg(test)]
    pub(crate) acks: Arc<crate::acks::Acks>,
}

/// Waits for the control thread to end.
pub(crate) async fn join(thread: JoinHandle<()>) {
    // The thread handles panics itself; an error here would be one of the runtime's.
    if !matches!(
        tokio::task::spawn_blocking(move || thread.join()).await,
        Ok(Ok(()))
    ) {
        tracing::warn!("the control thread ended by a panic");
    }
}

impl Scheduler {
    /// This node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This node's id: 16 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The cluster's id: 16 hex digits.
    pub fn cluster(&self) -> &str {
        self.ca.cluster()
    }

    /// `https://HOST:PORT` of the API.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// Where the API listens.
    pub fn api_addr(&self) -> SocketAddr {
        self.api_addr
    }

    /// `http://HOST:PORT` or `https://HOST:PORT` of the registry's own listener, if there is one.
    pub fn registry_url(&self) -> Option<&str> {
        self.registry_url.as_deref()
    }

    /// The cluster's roots, PEM.
    pub fn ca_pem(&self) -> String {
        self.ca.bundle()
    }

    /// The administrator's kubeconfig, mode 0600.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// A node certificate for the runner in this process, which needs no token. `id` is the runner's node id.
    pub fn node_identity_for_local_runner(&self, name: &str) -> Result<NodeIdentity, StartError> {
        self.ca
            .identity(&Profile::Node { name, id: &self.id }, (self.clock)())
    }

    /// The port another role of this process had in place of port 0 at the last start, if any.
    pub fn kept_port(&self, role: &str) -> Option<u16> {
        self.data
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()?
            .kept_port(role)
    }

    /// Keeps the port of another role of this process for the next start. After the shutdown nothing is kept.
    pub fn keep_port(&self, role: &str, port: u16) -> Result<(), StartError> {
        match self
            .data
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
        {
            Some(data) => data.keep_port(role, port),
            None => Ok(()),
        }
    }

    /// Makes a join token.
    pub async fn create_token(&self, role: Role, ttl: Duration) -> Result<String, ApiError> {
        Ok(self.tokens.create(role, ttl).await?.token)
    }

    /// Makes a token for the registry that works in `namespaces`, everywhere if there are none.
    pub async fn create_registry_token(
        &self,
        role: RegistryRole,
        namespaces: Vec<String>,
        ttl: Duration,
    ) -> Result<String, ApiError> {
        let made = self.tokens.logins.create(role, namespaces, ttl);
        Ok(made.await?.token)
    }

    /// The state as this member has applied it.
    pub fn views(&self) -> Arc<dyn Views> {
        self.replica.clone()
    }

    /// The log, for what a process proposes about itself.
    pub fn propose(&self) -> Arc<dyn Propose> {
        self.replica.clone()
    }

    /// The log's thread, for reports.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Gives leadership away, first of all: while clients are still being answered here, another member takes their
    /// writes already. Bounded, since the whole cluster may be stopping at once.
    async fn hand_over(&self) {
        let Some(heir) = heir(&self.replica.members()).filter(|_| self.replica.is_leader()) else {
            return;
        };
        let mut leadership = self.replica.leader_changes();
        tokio::select! {
            handed = self.replica.transfer(Some(heir)) => match handed {
                Ok(()) => tracing::info!(target: crate::LOG, "leadership was handed over"),
                // Raft tries once more when it stops, and says it.
                Err(error) => tracing::debug!(%error, "leadership was not handed over yet"),
            },
            // Handed over as well, or there is nobody to hand it to.
            _ = leadership.wait_for(|l| !l.is_leader) => {}
            () = tokio::time::sleep(HAND_OVER_PATIENCE) => {}
        }
    }

    /// Hands leadership over, stops planning, then the listeners (requests under way finish, watches close), then raft;
    /// releases the directory.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.stop_control.cancel();
        let control = self
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(control) = control {
            join(control).await;
        }
        self.stop.cancel();
        self.tasks.wait().await;
        self.replica.shutdown().await;
        drop(
            self.data
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.stop_control.cancel();
        self.stop.cancel();
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("name", &self.name)
            .field("api", &self.api_url)
            .finish_non_exhaustive()
    }
}
