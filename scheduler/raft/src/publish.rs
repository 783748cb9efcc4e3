//! What appliers publish and everybody else reads: the newest view, lock-free, and a wake-up when it is newer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use coracle_state::{State, View};
use tokio::sync::watch;

/// The published state of one member.
#[derive(Debug)]
pub struct Published {
    view: ArcSwap<View>,
    revision: watch::Sender<u64>,
    applied: AtomicU64,
    hash: AtomicU64,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            view: ArcSwap::default(),
            revision: watch::channel(0).0,
            applied: AtomicU64::new(0),
            hash: AtomicU64::new(0),
        }
    }
}

impl Published {
    /// Publishes a state as of log index `applied`. Readers see the view before anyone is woken.
    pub fn set(&self, state: &State, applied: u64) {
        self.view.store(Arc::new(state.view()));
        self.hash.store(state.hash(), Ordering::Release);
        self.applied.store(applied, Ordering::Release);
        let revision = state.revision();
        self.revision
            .send_if_modified(|r| std::mem::replace(r, revision) != revision);
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Resolves once a revision above `revision` is applied.
    pub async fn newer_than(&self, revision: u64) -> Arc<View> {
        let mut watched = self.revision.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = watched.wait_for(|r| *r > revision).await;
        self.view()
    }

    /// Log index of the published state.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Hash of the published state; equal on members at equal [`Self::applied`].
    pub fn hash(&self) -> u64 {
        self.hash.load(Ordering::Acquire)
    }
}
