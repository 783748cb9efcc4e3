//! What proxies report on its way to the control loop: the newest report of each node, never a queue.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Nodes remembered at most; a certificate is needed for each, so only a bug comes near.
const NODES_MAX: usize = 200_000;

/// Reports that the control loop has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    newest: Mutex<BTreeMap<String, u64>>,
    arrived: Notify,
}

impl Acks {
    /// Notes a report; called by request handlers.
    pub fn put(&self, node: &str, applied: u64) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.len() < NODES_MAX || newest.contains_key(node) {
            newest.insert(node.into(), applied);
        }
        drop(newest);
        self.arrived.notify_one();
    }

    /// Takes what there is.
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves when a report has come since the last call.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}
