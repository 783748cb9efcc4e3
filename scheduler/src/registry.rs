//! The embedded registry: its bytes under `DATA/registry`, its rows in the replicated state. (Who may use it: `access`.)

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Timestamp;
use coracle_registry::authorise::Authorise;
use coracle_registry::blobs::disk;
use coracle_registry::meta::Meta;
use coracle_registry::{Clock, Limits, Parts, Registry};
use coracle_state::{Propose, Views};
use tokio_util::sync::CancellationToken;

use crate::blobs::{Peers, Spread};
use crate::error::StartError;
use crate::meta::ReplicatedMeta;

/// How often unreferenced blobs are looked for. Nothing younger than an hour is taken, so more often finds little more.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

struct Time(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock for Time {
    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// The registry of this member, and what is under it.
pub(crate) struct Store {
    pub registry: Arc<Registry>,
    pub blobs: Spread,
    pub meta: Arc<dyn Meta>,
}

/// Opens the registry of this member, which asks `authorise` before anything else. Blobs are copied to and from `peers` until `stop` fires.
pub(crate) async fn open(
    dir: &Path,
    (peers, stop): (Peers, CancellationToken),
    propose: Arc<dyn Propose>,
    views: Arc<dyn Views>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    authorise: Arc<dyn Authorise>,
) -> Result<Store, StartError> {
    let disk = disk::open(dir).map_err(|e| StartError::Registry(format!("E_{e}")))?;
    let blobs = Spread::new(Arc::new(disk), peers, stop);
    let meta: Arc<dyn Meta> = Arc::new(ReplicatedMeta::new(propose, views));
    let parts = Parts {
        blobs: Arc::new(blobs.clone()),
        meta: meta.clone(),
        limits: Limits::default(),
        clock: Arc::new(Time(clock)),
        authorise,
    };
    let registry = Registry::open(parts).await.map_err(|e| {
        StartError::Registry(format!(
            "E_REGISTRY: {e}; check the disk under {}",
            dir.display()
        ))
    })?;
    Ok(Store {
        registry,
        blobs,
        meta,
    })
}

/// Collects garbage until told to stop.
pub(crate) async fn collect(
    registry: Arc<Registry>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(COLLECT_EVERY) => {}
        }
        match registry.collect(clock()).await {
            Ok(report) if report.blobs_removed > 0 => {
                tracing::info!(?report, "registry garbage collected")
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = %error.message, "registry garbage collection did not finish; it is tried again later")
            }
        }
    }
}
