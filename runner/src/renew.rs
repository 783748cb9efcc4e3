//! What a runner keeps up to date about its cluster: where the API is served, which roots count, and its own
//! certificate. All of it is replaced in place; pods, connections and watches go on.
//!
//! A certificate is renewed at two thirds of its life, and when the cluster issues from another root. Whatever happened,
//! the runner then tells what it uses now: the leader moves a rotation of the CA on by these reports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Failure};
use crate::join::{self, Identity, JoinError};
use crate::live::Live;
use crate::tls::{BadTls, certificates};

/// Wait after a look that failed; shorter than the usual one only.
const RETRY: Duration = Duration::from_secs(2);
/// Looks in a certificate's life, at least: a short life (in tests) needs shorter waits.
const LOOKS: i32 = 20;
/// Shortest wait.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// Why something was not renewed.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error(transparent)]
    Api(#[from] Failure),
    #[error(transparent)]
    Tls(#[from] BadTls),
    #[error(transparent)]
    Store(#[from] JoinError),
    #[error("the cluster answered with {0}")]
    Answer(&'static str),
    #[error("the files could not be written: {0}")]
    Thread(String),
}

/// Keeps everything up to date.
pub(crate) struct Keeper {
    pub api: Api,
    pub live: Arc<Live>,
    /// Name of the node.
    pub name: String,
    /// Directory whose `pki` holds the identity; `None`: it is issued anew at each start.
    pub dir: Option<PathBuf>,
    /// Time between two looks.
    pub every: Duration,
}

impl Keeper {
    /// Looks after it until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut moves = self.api.endpoints().moves();
        let (mut reported, mut warned) = (None, false);
        loop {
            let failed = match self.look(&mut reported).await {
                Ok(()) => {
                    warned = false;
                    false
                }
                Err(error) if !std::mem::replace(&mut warned, true) => {
                    tracing::warn!(%error, "the cluster's members and certificates could not be looked at; again soon");
                    true
                }
                Err(error) => {
                    tracing::debug!(%error, "the cluster could not be looked at");
                    true
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.wait(failed)) => {}
                // Another member is in use: the list may have changed.
                Ok(()) = moves.changed() => {}
            }
        }
    }

    fn wait(&self, failed: bool) -> Duration {
        let (from, to) = self.live.facts().valid;
        let life = Duration::try_from(to.duration_since(from) / LOOKS).unwrap_or(WAIT_MIN);
        let mut wait = self.every.min(life);
        if failed {
            wait = wait.min(RETRY);
        }
        // Not every runner at the same moment.
        wait.mul_f64(rand::random_range(0.75..1.25)).max(WAIT_MIN)
    }

    /// One look; `reported` is what the cluster was told last.
    async fn look(&self, reported: &mut Option<Identity>) -> Result<(), NotRenewed> {
        match self.api.get("/coracle/v1/endpoints").await {
            Ok(answer) => self.api.endpoints().learn(&answer),
            // A member of an earlier version: what is known stays.
            Err(Failure::Status {
                code: 403..=405, ..
            }) => {}
            Err(e) => return Err(e.into()),
        }
        let roots = self.api.text("/coracle/v1/ca").await?;
        let mut identity = self.live.identity();
        if roots != identity.ca_pem {
            certificates(&roots).map_err(|_| NotRenewed::Answer("roots that do not read"))?;
            identity.ca_pem = roots;
            self.use_from_now(identity).await?;
            tracing::info!("the cluster's roots have changed");
        }
        let facts = self.live.facts();
        if facts.renew_at() <= Timestamp::now() || facts.issuer.as_ref() != facts.trusts.first() {
            self.renew().await?;
        }
        self.report(reported).await
    }

    async fn renew(&self) -> Result<(), NotRenewed> {
        let (key_pem, csr) = join::request_for(&self.name)?;
        let answer = self
            .api
            .create("/coracle/v1/renew", &json!({"csr": csr}))
            .await?;
        let text = |field: &str| answer[field].as_str().map(String::from);
        let (Some(cert_pem), Some(ca_pem)) = (text("certificate"), text("ca")) else {
            return Err(NotRenewed::Answer("no certificate"));
        };
        let identity = Identity {
            ca_pem,
            cert_pem,
            key_pem,
        };
        if !identity.fits() {
            return Err(NotRenewed::Answer("a certificate for another key"));
        }
        self.use_from_now(identity).await?;
        let until = self.live.facts().valid.1;
        tracing::info!(%until, "this node's certificate was renewed");
        Ok(())
    }

    /// Stored first: after a crash the node starts with what the cluster was told of.
    async fn use_from_now(&self, identity: Identity) -> Result<(), NotRenewed> {
        if let Some(dir) = self.dir.clone() {
            let kept = identity.clone();
            // Files are synced to disk: not on a thread that carries requests.
            tokio::task::spawn_blocking(move || join::save(&dir, &kept))
                .await
                .map_err(|e| NotRenewed::Thread(e.to_string()))??;
        }
        self.live.replace(identity)?;
        self.api.renew();
        Ok(())
    }

    /// Tells what is used now, once for each.
    async fn report(&self, reported: &mut Option<Identity>) -> Result<(), NotRenewed> {
        let (current, facts) = (self.live.identity(), self.live.facts());
        if reported.as_ref() == Some(&current) {
            return Ok(());
        }
        let body = json!({"issuer": facts.issuer, "trusts": facts.trusts, "expires": facts.valid.1.to_string()});
        match self.api.create("/coracle/v1/renew", &body).await {
            // A member of an earlier version does not ask.
            Ok(_)
            | Err(Failure::Status {
                code: 404 | 405, ..
            }) => *reported = Some(current),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}
