//! openraft's log storage traits over any [`Journal`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::{Stream, stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use super::{Done, Journal};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Bytes read at a time for appliers: bounds what a long replay holds in memory.
const STREAM_BYTES: usize = 1 << 20;
/// Bytes of entries in one replication message.
const RPC_BYTES_MAX: usize = 1 << 20;

/// The store openraft owns, and its readers. Cloning shares the journal.
#[derive(Clone)]
pub struct LogStore {
    journal: Arc<dyn Journal>,
}

impl LogStore {
    /// A store over a journal.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        Self { journal }
    }

    async fn wait(done: tokio::sync::oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
        done.await
            .unwrap_or_else(|_| Err(io::Error::other("the log's flush thread is gone")))
    }
}

/// `[from, to)` of any range.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => n.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(n) => n.saturating_add(1),
        Bound::Excluded(n) => *n,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        self.journal.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.journal.vote())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.journal.read(start, end, RPC_BYTES_MAX)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let journal = self.journal.clone();
        let chunks = stream::try_unfold(from, move |at| {
            let journal = journal.clone();
            async move {
                let entries = journal.read(at, to, STREAM_BYTES)?;
                let next = entries.last().map(|e| e.log_id.index + 1);
                Ok::<_, io::Error>(
                    next.map(|next| (stream::iter(entries.into_iter().map(Ok)), next)),
                )
            }
        });
        let stream: openraft::base::BoxStream<'static, Result<Entry, io::Error>> =
            Box::pin(futures_util::TryStreamExt::try_flatten(chunks));
        stream
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        Ok(LogState {
            last_purged_log_id: self.journal.purged(),
            last_log_id: self.journal.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, synced) = Done::pair();
        self.journal.save_vote(vote, done)?;
        Self::wait(synced).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        match committed {
            Some(id) => self.journal.save_committed(&id),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.journal.committed())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.journal.append(
            entries.into_iter().collect(),
            Done::new(move |result| callback.io_completed(result)),
        )
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let (done, synced) = Done::pair();
        self.journal
            .truncate(last_log_id.map_or(0, |id| id.index + 1), done)?;
        Self::wait(synced).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let (done, synced) = Done::pair();
        self.journal.purge(&log_id, done)?;
        Self::wait(synced).await
    }
}
