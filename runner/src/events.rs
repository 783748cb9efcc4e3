//! Writes Events, one after another, repeats as a count on the first one.

use std::collections::VecDeque;

use coracle_agent::EventType;
use coracle_api::{Key, Timestamp, meta};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::Api;

/// Events waiting to be written; one more is dropped and counted. A burst of 1,000 pods starting has about this many.
const QUEUE_MAX: usize = 4_096;
/// Events remembered to count repeats on.
const RECENT_MAX: usize = 512;
/// Component name in Events.
const COMPONENT: &str = "coracle-runner";

/// An Event to write.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub key: Key,
    pub uid: String,
    pub container: String,
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
    pub at: Timestamp,
}

/// The queue into the writer.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Note>);

impl Events {
    /// Starts the writer; it ends when the last handle is gone.
    pub fn start(api: Api, node: String) -> Self {
        let (tx, rx) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write_all(api, node, rx));
        Self(tx)
    }

    /// Queues an Event; never waits.
    pub fn note(&self, note: Note) {
        if let Err(e) = self.0.try_send(note) {
            tracing::warn!(error = %e, "an Event was dropped");
        }
    }
}

struct Recent {
    note: Note,
    name: String,
    count: u64,
}

async fn write_all(api: Api, node: String, mut queue: mpsc::Receiver<Note>) {
    let mut recent: VecDeque<Recent> = VecDeque::new();
    while let Some(note) = queue.recv().await {
        let same = |r: &Recent| {
            r.note.uid == note.uid
                && r.note.container == note.container
                && r.note.reason == note.reason
                && r.note.message == note.message
        };
        let path = format!("/api/v1/namespaces/{}/events", note.key.namespace);
        if let Some(known) = recent.iter_mut().find(|r| same(r)) {
            known.count += 1;
            let patch = json!({"count": known.count, "lastTimestamp": meta::time_text(note.at)});
            match api.merge(&format!("{path}/{}", known.name), &patch).await {
                Ok(_) => continue,
                Err(e) if e.code() == 404 => recent.retain(|r| !same(r)),
                Err(error) => {
                    tracing::warn!(%error, "an Event could not be written");
                    continue;
                }
            }
        }
        let name = format!("{}.{:016x}", note.key.name, rand::random::<u64>());
        match api.create(&path, &object(&note, &name, &node)).await {
            Ok(_) => {
                if recent.len() >= RECENT_MAX {
                    recent.pop_front();
                }
                recent.push_back(Recent {
                    note,
                    name,
                    count: 1,
                });
            }
            // The namespace is going away, and the pod with it.
            Err(e) if matches!(e.code(), 403 | 404) => {}
            Err(error) => tracing::warn!(%error, "an Event could not be written"),
        }
    }
}

fn object(note: &Note, name: &str, node: &str) -> Value {
    let at = meta::time_text(note.at);
    let mut about = json!({
        "apiVersion": "v1", "kind": "Pod", "name": note.key.name, "namespace": note.key.namespace, "uid": note.uid,
    });
    if !note.container.is_empty() {
        about["fieldPath"] = json!(format!("spec.containers{{{}}}", note.container));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": note.key.namespace},
        "involvedObject": about,
        "type": note.kind.word(),
        "reason": note.reason,
        "message": note.message,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    })
}
