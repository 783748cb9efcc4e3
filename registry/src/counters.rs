//! What the registry counts: plain numbers that whoever serves metrics reads and names.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything counted since the process began.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests answered.
    pub requests: Counter,
    /// Of these, answered with 4xx.
    pub refused: Counter,
    /// Of these, answered with 5xx.
    pub failed: Counter,
    /// Body bytes of uploads written.
    pub received_bytes: Counter,
    /// Body bytes of blobs and manifests handed out.
    pub sent_bytes: Counter,
    /// Blobs acknowledged by upload.
    pub blobs_pushed: Counter,
    /// Blobs acknowledged by mount.
    pub blobs_mounted: Counter,
    /// Manifests acknowledged.
    pub manifests_pushed: Counter,
    /// Upload sessions dropped for their age.
    pub uploads_expired: Counter,
    /// Blobs that a row names and the disk lacks, or has with another length.
    pub blobs_damaged: Counter,
    /// Copies of blobs that were moved aside because their bytes were not what their digest says.
    pub blobs_corrupt: Counter,
    /// Blobs that a scrub brought from another member.
    pub blobs_healed: Counter,
    /// Blobs without a good copy anywhere, counted anew by every scrub.
    pub blobs_lost: Counter,
    /// Blobs collected.
    pub blobs_collected: Counter,
}
