//! What appliers publish and everybody else reads: the newest view, lock-free, and a wake-up when it is newer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use coracle_state::{State, View};

use crate::pulse::Sample;
use crate::types::watch;

/// State hashes are kept for comparison at every so many entries: the same indexes on every member.
pub const SAMPLE_EVERY: u64 = 64;
/// Hashes kept: those of the last 2,048 entries, so that members some hundred milliseconds apart share one.
const SAMPLES_MAX: usize = 32;

/// The published state of one member.
#[derive(Debug)]
pub struct Published {
    view: ArcSwap<View>,
    revision: watch::Sender<u64>,
    applied: watch::Sender<u64>,
    hash: AtomicU64,
    samples: Mutex<VecDeque<Sample>>,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            view: ArcSwap::default(),
            revision: watch::channel(0).0,
            applied: watch::channel(0).0,
            hash: AtomicU64::new(0),
            samples: Mutex::default(),
        }
    }
}

impl Published {
    /// Publishes a state as of log index `applied`. Readers see the view before anyone is woken.
    pub fn set(&self, state: &State, applied: u64) {
        self.view.store(Arc::new(state.view()));
        self.hash.store(state.hash(), Ordering::Release);
        let revision = state.revision();
        self.revision
            .send_if_modified(|r| std::mem::replace(r, revision) != revision);
        self.applied
            .send_if_modified(|a| std::mem::replace(a, applied) != applied);
        #[cfg(test)]
        crate::sim::host::published(applied, state.hash(), revision);
    }

    /// Notes the hash after an entry, at the indexes where members compare.
    pub fn sample(&self, index: u64, hash: u64) {
        if index.is_multiple_of(SAMPLE_EVERY) {
            let mut samples = self
                .samples
                .lock()
                .expect("no panic while holding this lock");
            if samples.len() == SAMPLES_MAX {
                samples.pop_front();
            }
            samples.push_back(Sample { index, hash });
        }
    }

    /// Hashes at recent indexes, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        let samples = self
            .samples
            .lock()
            .expect("no panic while holding this lock");
        samples.iter().copied().collect()
    }

    /// The state has become another one altogether (a snapshot was installed).
    pub fn forget_samples(&self) {
        self.samples
            .lock()
            .expect("no panic while holding this lock")
            .clear();
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
        *self.applied.borrow()
    }

    /// Resolves once this log index is applied and published.
    pub async fn wait_applied(&self, index: u64) {
        let mut watched = self.applied.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = watched.wait_for(|a| *a >= index).await;
    }

    /// Hash of the published state; equal on members at equal [`Self::applied`].
    pub fn hash(&self) -> u64 {
        self.hash.load(Ordering::Acquire)
    }
}
