//! Keeps the proxy's table true: watches what routes are made of, builds a whole table, swaps it in, and tells the
//! leader which revision is in force.
//!
//! The acknowledgement is one half of the drain handshake: a pod is stopped only after every proxy has said that it has
//! swapped in a table without it. So nothing here waits on purpose: a table is built as soon as anything has changed;
//! what changes while one is built goes into the next.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::{Key, meta};
use coracle_proxy::Proxy;
use coracle_route::{Sources, Table};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::watch::{self as list_watch, Change, Target};

/// Resources that routes are made of: plural and path.
const RESOURCES: [(&str, &str); 4] = [
    ("services", "/api/v1/services"),
    ("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices"),
    ("ingresses", "/apis/networking.k8s.io/v1/ingresses"),
    ("nodes", "/api/v1/nodes"),
];
/// The resource whose revision is acknowledged.
const ACKNOWLEDGED: &str = "endpointslices";
/// Changes waiting; the watches wait when it is full.
const QUEUE: usize = 1_024;
/// An acknowledgement is repeated after this time: the leader keeps it in memory, and a new leader has to hear it.
const ACK_REPEAT: Duration = Duration::from_secs(3);
/// Pause after an acknowledgement that did not arrive.
const ACK_RETRY: Duration = Duration::from_millis(200);

/// A change of a pod of this node, for routing by its own address.
#[derive(Debug)]
pub(crate) enum PodChange {
    /// These are all.
    All(Vec<Value>),
    /// New or changed.
    Put(Value),
    /// Gone.
    Gone(Key),
}

/// Queue of pod changes into the feed.
pub(crate) fn pod_channel() -> (mpsc::Sender<PodChange>, mpsc::Receiver<PodChange>) {
    mpsc::channel(QUEUE)
}

/// Runs the feed. `ready` is told when the first complete table is in force.
pub(crate) async fn run(
    api: Api,
    node: String,
    proxy: Proxy,
    mut pods: mpsc::Receiver<PodChange>,
    ready: oneshot::Sender<()>,
    stop: CancellationToken,
) {
    let (tx, mut changes) = mpsc::channel(QUEUE);
    for (plural, path) in RESOURCES {
        let (from, mut to) = mpsc::channel(QUEUE);
        tokio::spawn(list_watch::run(
            api.clone(),
            Target::all(path),
            from,
            stop.clone(),
        ));
        let tx: mpsc::Sender<(&'static str, Change)> = tx.clone();
        tokio::spawn(async move {
            while let Some(change) = to.recv().await {
                if tx.send((plural, change)).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(tx);
    let (applied_to, applied) = watch::channel(0);
    tokio::spawn(acknowledge(api, node.clone(), applied, stop.clone()));
    let mut feed = Feed {
        sources: Sources::new(&node),
        listed: Vec::new(),
        dirty: false,
    };
    let mut ready = Some(ready);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => match change {
                Some((plural, change)) => feed.take(plural, change),
                None => return,
            },
            Some(change) = pods.recv() => feed.take_pod(change),
        }
        // Everything that is there by now goes into the same table.
        while let Ok((plural, change)) = changes.try_recv() {
            feed.take(plural, change);
        }
        while let Ok(change) = pods.try_recv() {
            feed.take_pod(change);
        }
        if feed.listed.len() < RESOURCES.len() {
            continue;
        }
        if std::mem::take(&mut feed.dirty) {
            proxy.swap(Arc::new(Table::build(&feed.sources)));
            if let Some(ready) = ready.take() {
                // An error says that nobody waits for it any more.
                ready.send(()).ok();
            }
        }
        // After the swap: everything up to here is in force.
        applied_to.send_if_modified(|a| {
            let newer = *a < feed.sources.revision;
            *a = (*a).max(feed.sources.revision);
            newer
        });
    }
}

struct Feed {
    sources: Sources,
    /// Resources that were listed at least once.
    listed: Vec<&'static str>,
    /// Whether the table in force is older than the sources.
    dirty: bool,
}

impl Feed {
    fn take(&mut self, plural: &'static str, change: Change) {
        let revision = match change {
            Change::Listed { items, revision } => {
                self.sources.clear(plural);
                items.iter().for_each(|object| self.put(plural, object));
                if !self.listed.contains(&plural) {
                    self.listed.push(plural);
                }
                self.dirty = true;
                revision
            }
            Change::Put { object, revision } => {
                self.put(plural, &object);
                revision
            }
            Change::Gone { key, revision, .. } => {
                self.sources.remove(plural, &key);
                self.dirty = true;
                revision
            }
            Change::Seen { revision } => revision,
        };
        if plural == ACKNOWLEDGED {
            self.sources.revision = self.sources.revision.max(revision);
        }
    }

    fn take_pod(&mut self, change: PodChange) {
        match change {
            PodChange::All(items) => {
                self.sources.clear("pods");
                items.iter().for_each(|object| self.put("pods", object));
            }
            PodChange::Put(object) => self.put("pods", &object),
            PodChange::Gone(key) => self.sources.remove("pods", &key),
        }
        self.dirty = true;
    }

    fn put(&mut self, plural: &str, object: &Value) {
        self.dirty = true;
        if let Err(bad) = self.sources.put(plural, object) {
            tracing::warn!(kind = plural, object = %meta::key(object), %bad, "an object is not used for routing");
        }
    }
}

/// Tells the leader what is in force: at once when it changes, and again while it does not.
async fn acknowledge(
    api: Api,
    node: String,
    mut applied: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let path = format!("/coracle/v1/proxies/{node}");
    loop {
        let revision = *applied.borrow_and_update();
        let mut pause = ACK_REPEAT;
        if revision > 0
            && let Err(error) = api.put(&path, &json!({"applied": revision})).await
        {
            tracing::warn!(%error, "the leader could not be told which routes are in force");
            pause = ACK_RETRY;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = applied.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}
