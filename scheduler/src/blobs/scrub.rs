//! Scrubs of this member's disk: once a day by itself, and whenever somebody asks.

use std::sync::Arc;
use std::time::Duration;

use coracle_registry::Registry;
use tokio_util::sync::CancellationToken;

/// From the start of a process to its first scrub: a start has enough to do. A member that is restarted every day is
/// scrubbed every day all the same.
const FIRST: Duration = Duration::from_secs(600);
/// Between two scrubs.
const EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Scrubs once a day until told to stop.
pub(crate) async fn scrub(registry: Arc<Registry>, stop: CancellationToken) {
    let mut wait = FIRST;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = EVERY;
        let rate = registry.limits().scrub_bytes_per_second;
        // `None`: somebody has asked for one that still runs, and it is as good.
        if let Some(run) = registry.begin_scrub() {
            tokio::select! {
                () = stop.cancelled() => return,
                done = run.run(rate) => told(done),
            }
        }
    }
}

/// Begins a scrub unless one is under way. It runs on its own; its status is the registry's.
pub(super) fn begin(registry: &Arc<Registry>, bytes_per_second: u64, stop: &CancellationToken) {
    let Some(run) = registry.begin_scrub() else {
        return;
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            done = run.run(bytes_per_second) => told(done),
        }
    });
}

fn told(done: Result<coracle_registry::scrub::ScrubReport, coracle_registry::error::Error>) {
    // What it found is logged by the registry.
    if let Err(error) = done {
        tracing::warn!(target: crate::LOG, error = %error.message, "the scrub of the registry did not finish");
    }
}
