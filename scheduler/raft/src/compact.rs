//! When to write a snapshot and how much log to keep behind it. Ours, since openraft's policy counts entries only.

use crate::config::Limits;
use crate::journal::Journal;
use crate::snapshot::Snapshots;
use crate::types::Raft;

/// A snapshot is due when the log since the last one outweighs the state, or has very many entries. Entries on disk
/// behind a snapshot save a briefly absent member from a whole snapshot (and openraft from issue #2116), but only so many bytes.
pub async fn step(
    raft: &Raft,
    journal: &dyn Journal,
    snapshots: &Snapshots,
    applied: u64,
    limits: &Limits,
) {
    let current = snapshots.current();
    let (at, log_end, state_bytes) = current.as_ref().map_or((0, 0, 0), |s| {
        (
            s.header.meta.last_log_id.as_ref().map_or(0, |id| id.index),
            s.header.log_end,
            s.file.len,
        )
    });
    let bytes = journal.end_offset().saturating_sub(log_end);
    let entries = applied.saturating_sub(at);
    let disk = journal.disk_bytes();
    let first = journal.purged().map_or(0, |id| id.index.saturating_add(1));
    let held = at.saturating_sub(first);
    // Bytes per entry of the whole log stand for those since the snapshot, and for those behind it. Small entries that are
    // synced one by one take a block each, so this can be far more than their bytes.
    let per_entry = (disk / held.saturating_add(entries).max(1)).max(1);
    let state_twice = state_bytes.saturating_mul(2);
    let due = bytes > limits.snapshot_log_bytes_min.max(state_twice)
        || per_entry.saturating_mul(entries) > limits.keep_log_bytes.max(state_twice)
        || entries > limits.snapshot_entries_max;
    if due && entries > 0 {
        tracing::info!(log_bytes = bytes, entries, "a snapshot is due");
        if let Err(error) = raft.trigger().snapshot().await {
            tracing::debug!(%error, "no snapshot: raft has stopped");
        }
        return;
    }
    if disk > limits.keep_log_bytes && held > 0 {
        let keep = (limits.keep_log_bytes / 2 / per_entry).min(held);
        let upto = at.saturating_sub(keep);
        if upto > first
            && let Err(error) = raft.trigger().purge_log(upto).await
        {
            tracing::debug!(%error, "no purge: raft has stopped");
        }
    }
}
