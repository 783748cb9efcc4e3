//! ConfigMaps and Secrets that pods of this node name: one watch each, from first to last use.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_agent::{ConfigKind, ConfigRef, Input};
use coracle_api::meta;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::watch::{self, Change, Target};

/// Changes of one object waiting to be taken; the watch waits when it is full.
const QUEUE: usize = 8;

/// The watches.
pub(crate) struct Configs {
    api: Api,
    into: mpsc::Sender<Input>,
    open: BTreeMap<ConfigRef, CancellationToken>,
}

impl Configs {
    pub fn new(api: Api, into: mpsc::Sender<Input>) -> Self {
        Self {
            api,
            into,
            open: BTreeMap::new(),
        }
    }

    /// Begins to tell about an object.
    pub fn watch(&mut self, config: ConfigRef) {
        let stop = CancellationToken::new();
        if let Some(old) = self.open.insert(config.clone(), stop.clone()) {
            old.cancel();
        }
        let plural = match config.kind {
            ConfigKind::ConfigMap => "configmaps",
            ConfigKind::Secret => "secrets",
        };
        let target = Target {
            path: format!("/api/v1/namespaces/{}/{plural}", config.key.namespace),
            fields: format!("metadata.name={}", config.key.name),
        };
        let (tx, rx) = mpsc::channel(QUEUE);
        tokio::spawn(watch::run(self.api.clone(), target, tx, stop));
        tokio::spawn(tell(config, rx, self.into.clone()));
    }

    /// Ends it.
    pub fn unwatch(&mut self, config: &ConfigRef) {
        if let Some(stop) = self.open.remove(config) {
            stop.cancel();
        }
    }
}

impl Drop for Configs {
    fn drop(&mut self) {
        self.open.values().for_each(CancellationToken::cancel);
    }
}

async fn tell(config: ConfigRef, mut changes: mpsc::Receiver<Change>, into: mpsc::Sender<Input>) {
    let mut known: Option<Option<Arc<Value>>> = None;
    while let Some(change) = changes.recv().await {
        let object = match change {
            Change::Listed { items, .. } => items
                .into_iter()
                .find(|i| meta::name(i) == config.key.name)
                .map(Arc::new),
            Change::Put { object, .. } => Some(Arc::new(object)),
            Change::Gone { .. } => None,
            Change::Seen { .. } => continue,
        };
        if known.as_ref() == Some(&object) {
            continue;
        }
        known = Some(object.clone());
        if into
            .send(Input::Config {
                config: config.clone(),
                object,
            })
            .await
            .is_err()
        {
            return;
        }
    }
}
