//! How far a scrub has come, for whoever asks while it runs and after.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Mutex as AsyncMutex;

use super::ScrubReport;

/// The scrub that runs, or the last one since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubStatus {
    /// Whether it runs.
    pub running: bool,
    /// When it began; `None`: there has been none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Why it ended before it had seen everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it has found so far. Which lost blobs nobody needs is looked up at its end: until then they are counted.
    pub report: ScrubReport,
}

/// The scrubs of one registry: one at a time.
#[derive(Default)]
pub(crate) struct Scrubs {
    pub(super) one: Arc<AsyncMutex<()>>,
    status: Mutex<ScrubStatus>,
}

impl Scrubs {
    pub(super) fn status(&self) -> MutexGuard<'_, ScrubStatus> {
        // The status is whole after every line, so a panicking holder does not spoil it.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
