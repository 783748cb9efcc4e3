//! Planted bugs: a simulation that does not catch them proves nothing.

use bytes::Bytes;
use coracle_state::Batch;
use openraft::EntryPayload;

use crate::types::{Data, Entry};

/// A bug put into a simulated piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The log reports appends as durable before they are.
    AckBeforeSync,
    /// Votes never reach the disk.
    LostVote,
    /// Truncations never reach the disk.
    LostTruncate,
    /// Retried proposals are applied again.
    NoDedupe,
    /// Fresh reads are answered from the member's own view.
    StaleFresh,
    /// Fresh reads trust openraft's confirmation of leadership, as the product did first: after a pause it counts answers
    /// of before the pause (see `Service::read_index`). Not caught any more = openraft was mended, and our own round of
    /// heartbeats may go.
    TrustedConfirmation,
    /// A watch that moves to another member starts at what that member has, not at its position.
    WatchForgets,
    /// A watch moves on by the newest revision it was told of, not by what it was sent.
    WatchSkips,
    /// One member applies an entry differently.
    ForkedApply,
}

/// Turns a proposal into one that does nothing.
pub fn change(entry: &mut Entry) {
    if let EntryPayload::Normal(data) = &entry.payload
        && let Ok(mut batch) = Batch::decode(&data.0)
    {
        batch.commands.clear();
        entry.payload = EntryPayload::Normal(Data(Bytes::from(batch.encode())));
    }
}

/// Takes the identity from a proposal, as if the state machine did not look at it.
pub fn forget_request(entry: &mut Entry) {
    if let EntryPayload::Normal(data) = &entry.payload
        && let Ok(mut batch) = Batch::decode(&data.0)
    {
        batch.request_id = 0;
        entry.payload = EntryPayload::Normal(Data(Bytes::from(batch.encode())));
    }
}
