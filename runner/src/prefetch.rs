//! Fetches and compiles what [`coracle_agent::Prefetch`] tells, one image after another, behind the backs of pods.

use std::sync::Arc;
use std::time::Duration;

use coracle_agent::{Prefetch, PullPolicy, replica_set_of};
use coracle_api::{Key, meta};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::perform::{Tools, prepare_ahead};
use crate::pull::{Keyring, Pin};
use crate::watch::{self, Change, Target};

/// Images waiting; one more is left to its pod.
const IMAGES: usize = 64;
/// Changes waiting; the watches wait when it is full.
const QUEUE: usize = 256;
/// How long a fetched image is kept without a pod that uses it: a rollout passes over its nodes in minutes.
const KEPT: Duration = Duration::from_secs(600);

/// A change of a pod of this node.
#[derive(Debug)]
pub(crate) enum Local {
    /// These are all, with the ReplicaSets that they belong to.
    All(Vec<(Key, String)>),
    /// New or changed.
    Put(Key, String),
    /// Gone.
    Gone(Key),
}

impl Local {
    /// What a change of the watch of pods means here.
    pub fn of(change: &Change) -> Option<Self> {
        let pod = |object| Some((meta::key(object), replica_set_of(object)?.to_string()));
        match change {
            Change::Listed { items, .. } => Some(Self::All(items.iter().filter_map(pod).collect())),
            Change::Put { object, .. } => pod(object).map(|(key, set)| Self::Put(key, set)),
            Change::Gone { key, .. } => Some(Self::Gone(key.clone())),
            Change::Seen { .. } => None,
        }
    }
}

/// Queue of pod changes into [`run`], which never waits for who fills it.
pub(crate) fn channel() -> (mpsc::Sender<Local>, mpsc::Receiver<Local>) {
    mpsc::channel(QUEUE)
}

/// Runs until `stop` fires.
pub(crate) async fn run(
    tools: Arc<Tools>,
    mut pods: mpsc::Receiver<Local>,
    stop: CancellationToken,
) {
    let (sets_to, mut sets) = mpsc::channel(QUEUE);
    let target = Target::all("/apis/apps/v1/replicasets");
    tokio::spawn(watch::run(tools.api.clone(), target, sets_to, stop.clone()));
    let (images_to, images) = mpsc::channel(IMAGES);
    tokio::spawn(fetch(tools, images, stop.clone()));
    let mut prefetch = Prefetch::default();
    loop {
        let wanted = tokio::select! {
            () = stop.cancelled() => return,
            Some(change) = sets.recv() => match change {
                Change::Listed { items, .. } => prefetch.sets(&items),
                Change::Put { object, .. } => prefetch.set(&object),
                Change::Gone { uid, .. } => {
                    prefetch.set_gone(&uid);
                    Vec::new()
                }
                Change::Seen { .. } => Vec::new(),
            },
            Some(change) = pods.recv() => match change {
                Local::All(all) => prefetch.pods(all),
                Local::Put(pod, set) => prefetch.pod(pod, set),
                Local::Gone(pod) => {
                    prefetch.pod_gone(&pod);
                    Vec::new()
                }
            },
            else => return,
        };
        for image in wanted {
            if let Err(full) = images_to.try_send(image) {
                let (namespace, image) = full.into_inner();
                tracing::debug!(namespace, image, "not fetched ahead: too many are waiting");
            }
        }
    }
}

async fn fetch(
    tools: Arc<Tools>,
    mut images: mpsc::Receiver<(String, String)>,
    stop: CancellationToken,
) {
    while let Some((namespace, image)) = images.recv().await {
        let work = ahead(&tools, &namespace, &image);
        let fetched = tokio::select! {
            () = stop.cancelled() => return,
            fetched = work => fetched,
        };
        match fetched {
            Ok(pin) => {
                tracing::info!(image, "fetched ahead of its pods");
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(KEPT) => {}
                    }
                    drop(pin);
                });
            }
            // Its pod will fail the same way, and show it.
            Err(why) => tracing::debug!(image, why, "not fetched ahead of its pods"),
        }
    }
}

async fn ahead(tools: &Tools, namespace: &str, image: &str) -> Result<Pin, String> {
    let policy = PullPolicy::IfNotPresent;
    // Images behind pull secrets are not fetched ahead.
    let nobody = Keyring::new(tools.api.clone(), namespace, Vec::new());
    let pulled = tools.images.pull(image, policy, None, &nobody, || {}).await;
    let pulled = pulled.map_err(|(_, problem)| problem.to_string())?;
    // What the namespace does not want is not compiled for it either.
    let trusted = tools.trust.check(
        (&tools.api, &tools.images, &nobody),
        namespace,
        (image, &pulled.image),
    );
    trusted.await.map_err(|(_, problem)| problem.to_string())?;
    prepare_ahead(tools, &pulled.image)
        .await
        .map_err(|error| error.problem.to_string())?;
    Ok(pulled.pin)
}
