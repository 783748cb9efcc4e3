//! The embedded registry: its bytes under `DATA/registry`, its rows in the replicated state. (Who may use it: `access`.)

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Timestamp;
use coracle_objects::{AddressError, Bucket, Objects};
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

/// How often the bucket is looked through for objects that no row names; they are a day old before they go.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the collector takes, and how often it looks. Tests make both short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Age in milliseconds below which nothing is taken; a promise to a client lasts as long.
    pub age_ms: i64,
    /// Time from the end of one pass to the next one; more than 0.
    pub every: Duration,
}

impl Default for Garbage {
    fn default() -> Self {
        Self {
            age_ms: Limits::default().garbage_age_ms,
            every: COLLECT_EVERY,
        }
    }
}

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
    /// The bucket, where the blobs are in one.
    pub objects: Option<Arc<Objects>>,
}

/// What a member's registry is opened with.
pub(crate) struct Opening<'a> {
    /// Its folder: blobs and uploads, or uploads alone where there is a bucket.
    pub dir: &'a Path,
    /// URL of the bucket, if the blobs are in one.
    pub storage: Option<&'a str>,
    /// Age in milliseconds below which nothing is collected.
    pub garbage_age_ms: i64,
    /// Blobs are copied to and from these until `stop` fires.
    pub peers: Peers,
    pub stop: CancellationToken,
    pub propose: Arc<dyn Propose>,
    pub views: Arc<dyn Views>,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Asked before anything else.
    pub authorise: Arc<dyn Authorise>,
}

/// Opens the registry of this member.
pub(crate) async fn open(opening: Opening<'_>) -> Result<Store, StartError> {
    let Opening {
        dir, peers, stop, ..
    } = opening;
    let disk = disk::open(dir).map_err(|e| StartError::Registry(format!("E_{e}")))?;
    let meta: Arc<dyn Meta> = Arc::new(ReplicatedMeta::new(opening.propose, opening.views));
    let clock: Arc<dyn Clock> = Arc::new(Time(opening.clock));
    let limits = Limits {
        garbage_age_ms: opening.garbage_age_ms,
        ..Limits::default()
    };
    let (blobs, objects) = match opening.storage {
        None => (Spread::new(Arc::new(disk), peers, stop), None),
        Some(url) => {
            let unusable = |e: AddressError| StartError::Registry(format!("E_{e}"));
            let bucket = Bucket::parse(url, std::env::vars()).map_err(unusable)?;
            let probe = format!("{:016x}", rand::random::<u64>());
            bucket.probe(url, &probe).await.map_err(unusable)?;
            let objects = Arc::new(Objects::new(coracle_objects::Parts {
                bucket,
                staging: Arc::new(disk),
                meta: meta.clone(),
                clock: clock.clone(),
                garbage_age_ms: limits.garbage_age_ms,
            }));
            (Spread::shared(objects.clone(), peers, stop), Some(objects))
        }
    };
    let parts = Parts {
        blobs: Arc::new(blobs.clone()),
        meta: meta.clone(),
        limits,
        clock,
        authorise: opening.authorise,
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
        objects,
    })
}

/// Sweeps the bucket once a day until told to stop.
pub(crate) async fn sweep(
    objects: Arc<Objects>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        match objects.sweep(clock()).await {
            Ok(swept) => tracing::info!(?swept, "the registry's bucket was swept"),
            Err(error) => {
                tracing::warn!(%error, "the registry's bucket could not be swept; it is tried again tomorrow")
            }
        }
    }
}

/// Collects garbage until told to stop.
pub(crate) async fn collect(
    registry: Arc<Registry>,
    every: Duration,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match registry.collect(clock()).await {
            Ok(report) => {
                if report.blobs_removed > 0 {
                    tracing::info!(?report, "registry garbage collected");
                }
                tracing::debug!("a collection of the registry has ended");
            }
            Err(error) => {
                tracing::warn!(error = %error.message, "registry garbage collection did not finish; it is tried again later")
            }
        }
    }
}
