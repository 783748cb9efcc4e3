//! Writes to the API about pods. Answers decide nothing here; the agent repeats what has to be repeated.

use std::sync::Arc;

use coracle_agent::{Input, StatusFailure};
use coracle_api::{Key, meta};
use serde_json::{Value, json};

use super::Tools;

/// Status writes under way at once: enough to fill log batches.
pub(crate) const WRITES_MAX: usize = 64;

/// Writes a status, if the pod is still the one and at the revision it was rendered from.
pub(super) async fn status(
    tools: Arc<Tools>,
    key: Key,
    uid: String,
    revision: u64,
    seq: u64,
    status: Value,
) {
    let Ok(_permit) = tools.writes.acquire().await else {
        return;
    };
    let patch = json!({"metadata": {"uid": uid, "resourceVersion": revision.to_string()}, "status": status});
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/status",
        key.namespace, key.name
    );
    let input = match tools.api.merge(&path, &patch).await {
        Ok(pod) if meta::uid(&pod) == uid => match meta::revision(&pod) {
            Some(revision) => Input::StatusWritten { uid, seq, revision },
            None => Input::StatusFailed {
                uid,
                seq,
                why: StatusFailure::Retry,
            },
        },
        Ok(_) => Input::StatusFailed {
            uid,
            seq,
            why: StatusFailure::Gone,
        },
        Err(e) => {
            let why = match e.code() {
                404 => StatusFailure::Gone,
                409 => StatusFailure::Conflict,
                _ => {
                    tracing::warn!(pod = %key, error = %e, "a status could not be written");
                    StatusFailure::Retry
                }
            };
            Input::StatusFailed { uid, seq, why }
        }
    };
    drop(tools.results.send(input).await);
}

/// The final delete.
pub(super) async fn delete(tools: Arc<Tools>, key: Key, uid: String) {
    let Ok(_permit) = tools.writes.acquire().await else {
        return;
    };
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}", key.namespace, key.name);
    match tools.api.delete(&path, &options).await {
        Ok(_) => {}
        // Gone, or another pod has the name: the watch says so too.
        Err(e) if matches!(e.code(), 404 | 409) => {}
        Err(error) => {
            tracing::warn!(pod = %key, %error, "a pod could not be deleted; trying again")
        }
    }
}
