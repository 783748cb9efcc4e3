//! The walk itself: reads, moves aside, heals and counts, as [`super`] decides.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::{
    BLOB_COST_BYTES, Fate, LOST_NAMED_MAX, LostBlob, REPOSITORIES_NAMED_MAX, ScrubReport,
    ScrubStatus, Step, There, fate, next, pause,
};
use crate::blobs::{ByteStream, Opened, Source, Stored, verify};
use crate::digest::{Digest, Hash};
use crate::error::Error;
use crate::registry::{PAGE_ROWS, Registry};
use crate::rows::{self, BLOBS, BlobRow, LINKS, MANIFESTS};

/// Bytes read between two looks at the clock: 1/32 of a second at the usual bound.
const PACE_BYTES: u64 = 1024 * 1024;

/// Lost blobs remembered until the end, when it is looked up who needs them: about 2 MB. More are counted as needed.
const LOST_REMEMBERED_MAX: usize = 10_000;

/// A scrub that has been begun and not been run yet. Others are refused until it is dropped.
pub struct ScrubRun {
    registry: Arc<Registry>,
    _one: OwnedMutexGuard<()>,
}

impl Drop for ScrubRun {
    fn drop(&mut self) {
        let mut status = self.registry.scrubs.status();
        status.running = false;
        if status.ended.is_none() {
            status.ended = Some(self.registry.now());
            status.error = Some("it was stopped".into());
        }
    }
}

impl ScrubRun {
    /// Reads everything at no more than `bytes_per_second`. Files and rows that come or go meanwhile may be seen or not.
    ///
    /// # Errors
    /// The rows cannot be read, or the store cannot list its blobs. A single blob that cannot be read is none.
    pub async fn run(self, bytes_per_second: u64) -> Result<ScrubReport, Error> {
        let registry = self.registry.clone();
        let mut walk = Walk {
            registry: &registry,
            report: ScrubReport::default(),
            lost: BTreeMap::new(),
            lost_unnamed: 0,
            pace: Pace::new(bytes_per_second),
        };
        let done = walk.all().await;
        let report = walk.report;
        let mut status = registry.scrubs.status();
        status.ended = Some(registry.now());
        status.report = report.clone();
        match done {
            Ok(()) => {
                tracing::info!(
                    checked = report.checked,
                    bytes = report.bytes,
                    corrupt = report.corrupt,
                    missing = report.missing,
                    healed = report.healed,
                    pending = report.pending,
                    lost = report.lost,
                    "blobs scrubbed"
                );
                Ok(report)
            }
            Err(error) => {
                status.error = Some(error.message.clone());
                Err(error)
            }
        }
    }
}

impl Registry {
    /// Begins a scrub of this registry's own copies; `None` if one is under way.
    pub fn begin_scrub(self: &Arc<Self>) -> Option<ScrubRun> {
        let one = self.scrubs.one.clone().try_lock_owned().ok()?;
        *self.scrubs.status() = ScrubStatus {
            running: true,
            began: Some(self.now()),
            ..ScrubStatus::default()
        };
        Some(ScrubRun {
            registry: self.clone(),
            _one: one,
        })
    }

    /// How far the scrub under way has come, or what the last one found.
    pub fn scrub_status(&self) -> ScrubStatus {
        self.scrubs.status().clone()
    }

    /// A whole blob on its way to a client, hashed unless it was lately: damaged bytes end in an error, and the copy is
    /// moved aside. The next request finds a good copy of another member, or none. `modified` is when it was written.
    pub(crate) fn checked(
        &self,
        digest: &Digest,
        modified: Timestamp,
        pieces: ByteStream,
    ) -> ByteStream {
        let began = self.now();
        if self.verified.holds(digest, modified, began) {
            return pieces;
        }
        let (seen, sound) = (self.verified.clone(), digest.clone());
        let sound = move || seen.note(&sound, began);
        let (blobs, counters) = (self.blobs.clone(), self.counters.clone());
        let damaged = digest.clone();
        verify::verified(pieces, digest.clone(), sound, async move {
            match blobs.quarantine(&damaged).await {
                Ok(true) => {
                    counters.blobs_corrupt.add(1);
                    tracing::error!(digest = %damaged, "a stored blob was damaged when it was asked for; it was moved aside");
                }
                // It was replaced meanwhile; this reader had the old one.
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(digest = %damaged, %error, "a damaged blob could not be moved aside");
                }
            }
        })
    }
}

/// Waits as often as the bound asks for.
struct Pace {
    bytes_per_second: u64,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Pace {
        Pace {
            bytes_per_second,
            since: Instant::now(),
            bytes: 0,
        }
    }

    async fn took(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes < PACE_BYTES {
            return;
        }
        let rest = pause(self.bytes, self.since.elapsed(), self.bytes_per_second);
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        self.since = Instant::now();
        self.bytes = 0;
    }
}

/// One scrub under way.
struct Walk<'a> {
    registry: &'a Registry,
    report: ScrubReport,
    /// Lost so far with their lengths, as many as are remembered.
    lost: BTreeMap<Digest, u64>,
    /// Lost beyond these.
    lost_unnamed: u64,
    pace: Pace,
}

impl Walk<'_> {
    async fn all(&mut self) -> Result<(), Error> {
        let registry = self.registry;
        let (mut rows, mut files) = (Rows::default(), Files::default());
        loop {
            // Rows before files: a blob that is pushed in between has its file by the time files are listed.
            rows.fill(registry).await?;
            files.fill(registry).await?;
            match next(rows.page.front(), files.page.front().map(|f| &f.digest)) {
                None => break,
                Some(Step::File { row }) => {
                    if row {
                        rows.page.pop_front();
                    }
                    if let Some(stored) = files.page.pop_front() {
                        self.file(&stored.digest).await?;
                        files.last = Some(stored.digest);
                    }
                }
                Some(Step::Row) => {
                    if let Some(digest) = rows.page.pop_front() {
                        self.row(&digest, files.last.as_ref()).await?;
                    }
                }
            }
            self.report.lost = self.lost.len() as u64 + self.lost_unnamed;
            registry.scrubs.status().report = self.report.clone();
        }
        self.name_lost().await
    }

    /// Hashes a file; moves it aside and looks for another copy if it is damaged.
    async fn file(&mut self, digest: &Digest) -> Result<(), Error> {
        let blobs = &self.registry.blobs;
        let opened = match blobs.open(&Source::Blob(digest.clone())).await {
            Ok(Some(opened)) => opened,
            // It was removed meanwhile.
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(%digest, %error, "a stored blob cannot be opened; it is scrubbed next time");
                self.report.pending += 1;
                return Ok(());
            }
        };
        if self.is_sound(digest, opened).await {
            return Ok(());
        }
        match blobs.quarantine(digest).await {
            Ok(true) => {}
            // It was read wrongly once, or has been replaced: the store looked again.
            Ok(false) => return Ok(()),
            Err(error) => {
                tracing::error!(%digest, %error, "a damaged blob could not be moved aside");
                self.report.pending += 1;
                return Ok(());
            }
        }
        self.report.corrupt += 1;
        self.registry.counters.blobs_corrupt.add(1);
        tracing::error!(%digest, "a stored blob is damaged; it was moved aside");
        self.settle(digest).await
    }

    async fn is_sound(&mut self, digest: &Digest, opened: Opened) -> bool {
        let mut hash = Hash::new(digest.algorithm());
        let mut pieces = (opened.body)(0..opened.size);
        let mut read = 0;
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    hash.update(&piece);
                    read += piece.len() as u64;
                    self.pace.took(piece.len() as u64).await;
                }
                Err(error) => {
                    tracing::warn!(%digest, %error, "a stored blob cannot be read");
                    return false;
                }
            }
        }
        self.report.checked += 1;
        self.report.bytes += read;
        self.pace.took(BLOB_COST_BYTES.saturating_sub(read)).await;
        hash.digest() == *digest
    }

    /// A row whose file was not listed after `before`: looks once more, for it may have come since.
    async fn row(&mut self, digest: &Digest, before: Option<&Digest>) -> Result<(), Error> {
        let again = self.registry.blobs.list(before, 1).await?;
        if again.first().is_some_and(|stored| stored.digest == *digest) {
            return self.file(digest).await;
        }
        let row = self.registry.meta.get(BLOBS, &digest.to_string()).await?;
        if row.is_none() {
            return Ok(());
        }
        self.report.missing += 1;
        self.settle(digest).await
    }

    /// Brings a blob that is not here (any more), if anybody needs and has it.
    async fn settle(&mut self, digest: &Digest) -> Result<(), Error> {
        let registry = self.registry;
        let row = registry.row::<BlobRow>(BLOBS, &digest.to_string()).await?;
        let needed = row.map(|(blob, _)| blob.size);
        let there = match needed {
            None => There::Nowhere,
            Some(_) => match registry.blobs.open(&Source::Blob(digest.clone())).await {
                Ok(Some(opened)) => There::Bytes(opened.size),
                Ok(None) => There::Nowhere,
                Err(error) => {
                    tracing::warn!(%digest, %error, "a blob cannot be healed now");
                    There::Unknown
                }
            },
        };
        match fate(needed, there) {
            Fate::Unneeded => {}
            Fate::Pending => self.report.pending += 1,
            Fate::Healed => {
                self.report.healed += 1;
                registry.counters.blobs_healed.add(1);
                tracing::info!(%digest, "a blob was healed from another copy");
                self.pace.took(needed.unwrap_or_default()).await;
            }
            Fate::Lost if self.lost.len() < LOST_REMEMBERED_MAX => {
                self.lost.insert(digest.clone(), needed.unwrap_or_default());
            }
            Fate::Lost => self.lost_unnamed += 1,
        }
        Ok(())
    }

    /// Finds out who needs the lost blobs. Those of nobody are garbage that the collector has not come to.
    async fn name_lost(&mut self) -> Result<(), Error> {
        let mut needing: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        if !self.lost.is_empty() {
            for table in [LINKS, MANIFESTS] {
                self.name_lost_in(table, &mut needing).await?;
            }
        }
        for (digest, repositories) in &needing {
            tracing::error!(%digest, repositories = repositories.join(", "), "E_REGISTRY_LOST: no member has a good copy of a blob that repositories need; push it again to one of them");
        }
        self.report.lost = needing.len() as u64 + self.lost_unnamed;
        self.registry.counters.blobs_lost.add(self.report.lost);
        let named = needing.into_iter().take(LOST_NAMED_MAX);
        self.report.lost_blobs = named
            .map(|(digest, repositories)| LostBlob {
                size: self.lost.get(&digest).copied().unwrap_or_default(),
                digest,
                repositories,
            })
            .collect();
        Ok(())
    }

    async fn name_lost_in(
        &self,
        table: &'static str,
        needing: &mut BTreeMap<Digest, Vec<String>>,
    ) -> Result<(), Error> {
        let mut after: Option<String> = None;
        loop {
            let meta = &self.registry.meta;
            let page = meta.list(table, "", after.as_deref(), PAGE_ROWS).await?;
            for (name, digest) in page.iter().filter_map(|(key, _)| rows::parse_link_key(key)) {
                if !self.lost.contains_key(&digest) {
                    continue;
                }
                let repositories = needing.entry(digest).or_default();
                let name = name.to_string();
                if repositories.len() < REPOSITORIES_NAMED_MAX && !repositories.contains(&name) {
                    repositories.push(name);
                }
            }
            if page.len() < PAGE_ROWS {
                return Ok(());
            }
            after = page.into_iter().next_back().map(|(key, _)| key);
        }
    }
}

/// Digests of the blob rows, page by page.
#[derive(Default)]
struct Rows {
    page: VecDeque<Digest>,
    after: Option<String>,
    ended: bool,
}

impl Rows {
    async fn fill(&mut self, registry: &Registry) -> Result<(), Error> {
        if !self.page.is_empty() || self.ended {
            return Ok(());
        }
        let page = registry
            .meta
            .list(BLOBS, "", self.after.as_deref(), PAGE_ROWS)
            .await?;
        self.ended = page.len() < PAGE_ROWS;
        for (key, _) in &page {
            self.page.push_back(key.parse()?);
        }
        self.after = page.into_iter().next_back().map(|(key, _)| key);
        Ok(())
    }
}

/// Stored files, page by page.
#[derive(Default)]
struct Files {
    page: VecDeque<Stored>,
    /// The last of the page that was read.
    after: Option<Digest>,
    /// The last one that was taken.
    last: Option<Digest>,
    ended: bool,
}

impl Files {
    async fn fill(&mut self, registry: &Registry) -> Result<(), Error> {
        if !self.page.is_empty() || self.ended {
            return Ok(());
        }
        let page = registry.blobs.list(self.after.as_ref(), PAGE_ROWS).await?;
        self.ended = page.len() < PAGE_ROWS;
        self.after = page.last().map(|stored| stored.digest.clone());
        self.page = page.into();
        Ok(())
    }
}
