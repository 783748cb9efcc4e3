//! Renewal of this member's own certificates: the one it shows and calls with, and the administrator's kubeconfig.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Timestamp;
use coracle_raft::durable;
use tokio_util::sync::CancellationToken;

use crate::error::StartError;
use crate::pki::{Ca, NodeIdentity, Profile, Resolver, client_config, kubeconfig, renew_at};
use crate::runners::RunnerClient;

/// How often the time is looked at; renewal is due months before expiry, so an hour is soon.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// Everything that shows this member's certificates.
pub(crate) struct Renewal {
    pub ca: Arc<Ca>,
    pub name: String,
    pub id: String,
    pub hosts: Vec<String>,
    pub pki: PathBuf,
    pub kubeconfig: PathBuf,
    pub api_url: String,
}

impl Renewal {
    /// Issues this member's identity and writes it beside the roots.
    pub fn member(&self, now: Timestamp) -> Result<NodeIdentity, StartError> {
        let profile = Profile::Member {
            name: &self.name,
            id: &self.id,
            hosts: &self.hosts,
        };
        let identity = self.ca.identity(&profile, now)?;
        for (file, text, mode) in [
            ("node.key", &identity.key, 0o600),
            ("node.crt", &identity.certificate, 0o644),
            ("ca.crt", &identity.ca, 0o644),
        ] {
            let path = self.pki.join(file);
            self.write(&path, text, mode)?;
        }
        Ok(identity)
    }

    /// Issues the administrator's identity and writes the kubeconfig.
    pub fn admin(&self, now: Timestamp) -> Result<(), StartError> {
        let admin = self.ca.identity(&Profile::Admin, now)?;
        self.write(&self.kubeconfig, &kubeconfig(&self.api_url, &admin), 0o600)
    }

    /// On a full disk the files of an earlier start stay, which still work: reading must go on.
    fn write(&self, path: &std::path::Path, text: &str, mode: u32) -> Result<(), StartError> {
        match durable::write(path, text.as_bytes(), mode) {
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull && path.exists() => {
                tracing::warn!(path = %path.display(), "the disk is full: the file of the last start is kept");
                Ok(())
            }
            other => other.map_err(|e| StartError::io(path, e)),
        }
    }

    /// Renews at two thirds of each certificate's life, until told to stop.
    pub async fn run(
        self,
        issued: Timestamp,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        resolver: Arc<Resolver>,
        runners: Arc<RunnerClient>,
        stop: CancellationToken,
    ) {
        let mut due = renew_at(issued);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = clock();
            if now < due {
                continue;
            }
            match self.renew(now, &resolver, &runners) {
                Ok(()) => {
                    due = renew_at(now);
                    tracing::info!("this member's certificates were renewed");
                }
                Err(error) => {
                    tracing::error!(%error, "this member's certificates were not renewed; it is tried again in an hour")
                }
            }
        }
    }

    fn renew(
        &self,
        now: Timestamp,
        resolver: &Resolver,
        runners: &RunnerClient,
    ) -> Result<(), StartError> {
        let identity = self.member(now)?;
        resolver.replace(&identity)?;
        runners
            .tls
            .store(Arc::new(client_config(self.ca.root_store()?, &identity)?));
        self.admin(now)
    }
}
