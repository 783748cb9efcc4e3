//! The collector: [`crate::retention`] and [`crate::garbage`] decide, this removes, while pushes go on.
//!
//! Every removal is one batch whose preconditions repeat what the decision relied on, made under the digest's guard and
//! after a look at the promises. A push that came in between has touched a row, so the batch fails and the thing stays.
//! The file goes after its row: a crash in between leaves a file without a row, which the last pass finds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::RwLockWriteGuard;

use crate::digest::Digest;
use crate::error::Error;
use crate::garbage;
use crate::meta::{Change, MetaError, Precondition, Row, Write};
use crate::name::Name;
use crate::registry::{PAGE_ROWS, Registry};
use crate::rows::{self, BLOBS, BlobRow, LINKS, LinkRow, MANIFESTS, ManifestRow, REPOSITORIES};

/// How often a repository that is pushed to meanwhile is looked at again in one run; the next run is soon enough.
const ROUNDS_MAX: usize = 3;

/// How long the collector waits, and pushes behind it, for pushes of the same digest to end.
const GUARD_WAIT: Duration = Duration::from_secs(1);

/// Tags, and manifests, that a report names; more are counted.
pub const REMOVED_NAMED_MAX: usize = 1_000;

/// What one run did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Uploads dropped because nobody had asked for them for too long. (A dry run does not look for them.)
    pub uploads_expired: usize,
    /// Tags that a retention policy let go.
    pub tags_removed: usize,
    /// The first [`REMOVED_NAMED_MAX`] of them, as `REPOSITORY:TAG`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Manifests that a retention policy let go.
    pub manifests_removed: usize,
    /// The first [`REMOVED_NAMED_MAX`] of them, as `REPOSITORY@DIGEST`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<String>,
    /// Blob links removed from repositories.
    pub links_removed: usize,
    /// Blobs removed from the store.
    pub blobs_removed: usize,
    /// Their length in bytes.
    pub bytes_removed: u64,
    /// Things left because a client was told that they are there, or is pushing them.
    pub promised: usize,
    /// Things left because somebody pushed meanwhile.
    pub conflicts: usize,
}

/// One run under way.
pub(crate) struct Run {
    pub now: Timestamp,
    /// Only count.
    pub dry: bool,
    /// Rows that a dry run has counted as gone, by table and key: what they hold is counted as unheld. About 200 bytes
    /// each, less than the rows themselves.
    pub gone: BTreeMap<&'static str, BTreeSet<String>>,
    pub report: Report,
}

impl Run {
    fn new(now: Timestamp, dry: bool) -> Run {
        Run {
            now,
            dry,
            gone: BTreeMap::new(),
            report: Report::default(),
        }
    }

    /// Whether a row counts as gone.
    pub(crate) fn is_gone(&self, table: &'static str, key: &str) -> bool {
        self.gone.get(table).is_some_and(|keys| keys.contains(key))
    }

    /// Counts a row as gone in a dry run; in others it is.
    pub(crate) fn take(&mut self, table: &'static str, key: String) {
        if !self.dry {
            return;
        }
        self.gone.entry(table).or_default().insert(key);
    }
}

impl Registry {
    /// What [`Registry::collect`] would do now, if nobody pushes. Nothing is changed.
    pub async fn collect_dry(&self, now: Timestamp) -> Result<Report, Error> {
        let _one = self.collecting.lock().await;
        let mut run = Run::new(now, true);
        self.collect_all(&mut run).await?;
        Ok(run.report)
    }

    async fn collect_all(&self, run: &mut Run) -> Result<(), Error> {
        self.collect_retired(run).await?;
        self.collect_links(run).await?;
        self.collect_blobs(run).await?;
        self.collect_files(run).await
    }

    /// One run. Safe at any time and beside any push; runs of one registry come one after another. To be called now and
    /// then (every few minutes).
    pub async fn collect(&self, now: Timestamp) -> Result<Report, Error> {
        let _one = self.collecting.lock().await;
        let mut run = Run::new(now, false);
        run.report.uploads_expired = self.expire_uploads(now).await?;
        self.collect_all(&mut run).await?;
        let report = run.report;
        self.counters
            .blobs_collected
            .add(report.blobs_removed as u64);
        if report.tags_removed + report.manifests_removed > 0 {
            tracing::info!(
                tags = report.tags_removed,
                manifests = report.manifests_removed,
                "retention policies let go"
            );
        }
        if report.links_removed + report.blobs_removed > 0 {
            tracing::info!(
                links = report.links_removed,
                blobs = report.blobs_removed,
                bytes = report.bytes_removed,
                "garbage collected"
            );
        }
        Ok(report)
    }

    /// Repository by repository.
    async fn collect_links(&self, run: &mut Run) -> Result<(), Error> {
        let mut after: Option<String> = None;
        loop {
            let next = self.meta.list(LINKS, "", after.as_deref(), 1).await?;
            let Some((key, _)) = next.first() else {
                return Ok(());
            };
            let Some((name, _)) = rows::parse_link_key(key) else {
                return Err(Error::internal(format!("the row key {key} is not a link")));
            };
            for _ in 0..ROUNDS_MAX {
                if self.collect_links_of(&name, run).await? {
                    break;
                }
            }
            // '~' sorts after every digest, so this is past the repository's last link.
            after = Some(format!("{}~", rows::link_prefix(&name)));
        }
    }

    /// `false` if somebody pushed to the repository meanwhile.
    async fn collect_links_of(&self, name: &Name, run: &mut Run) -> Result<bool, Error> {
        // First the row that every manifest push touches, then what is decided upon.
        let repository = self.meta.get(REPOSITORIES, name.as_str()).await?;
        let prefix = rows::link_prefix(name);
        let (links, versions) = self.decoded::<LinkRow>(LINKS, &prefix).await?;
        let (mut manifests, _) = self.decoded::<ManifestRow>(MANIFESTS, &prefix).await?;
        manifests.retain(|digest, _| !run.is_gone(MANIFESTS, &rows::link_key(name, digest)));
        let age_ms = self.limits.garbage_age_ms;
        for digest in garbage::unneeded_links(&links, &manifests, run.now, age_ms) {
            let Some(_guard) = self.alone_with(digest).await else {
                run.report.promised += 1;
                continue;
            };
            if self.leases.holds(digest, run.now) {
                run.report.promised += 1;
                continue;
            }
            if run.dry {
                run.report.links_removed += 1;
                run.take(LINKS, rows::link_key(name, digest));
                continue;
            }
            let version = rows::as_read(versions.get(digest));
            let mut writes = self.unlink_rows(name, digest, version)?;
            writes.push(rows::unchanged(
                REPOSITORIES,
                name.to_string(),
                repository.as_ref(),
            ));
            match self.meta.batch(writes).await {
                Ok(()) => run.report.links_removed += 1,
                Err(MetaError::Conflict { .. }) => {
                    run.report.conflicts += 1;
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Rows under a link prefix (or all) by digest, with their versions.
    pub(crate) async fn decoded<T: serde::de::DeserializeOwned>(
        &self,
        table: &'static str,
        prefix: &str,
    ) -> Result<(BTreeMap<Digest, T>, BTreeMap<Digest, Row>), Error> {
        let mut values = BTreeMap::new();
        let mut versions = BTreeMap::new();
        for (key, row) in self.rows(table, prefix).await? {
            let digest: Digest = key[prefix.len()..].parse()?;
            values.insert(digest.clone(), rows::decode(&row)?);
            versions.insert(digest, row);
        }
        Ok((values, versions))
    }

    /// Blobs nobody links. The blob rows are read before the links: a link made after touches its blob's row.
    async fn collect_blobs(&self, run: &mut Run) -> Result<(), Error> {
        let (blobs, versions) = self.decoded::<BlobRow>(BLOBS, "").await?;
        let mut held = BTreeSet::new();
        for table in [LINKS, MANIFESTS] {
            let mut after: Option<String> = None;
            loop {
                let page = self
                    .meta
                    .list(table, "", after.as_deref(), PAGE_ROWS)
                    .await?;
                held.extend(
                    page.iter()
                        .filter(|(key, _)| !run.is_gone(table, key))
                        .filter_map(|(key, _)| rows::parse_link_key(key))
                        .map(|(_, digest)| digest),
                );
                if page.len() < PAGE_ROWS {
                    break;
                }
                after = page.last().map(|(key, _)| key.clone());
            }
        }
        for digest in garbage::unheld_blobs(&blobs, &held, run.now, self.limits.garbage_age_ms) {
            let gone = rows::delete(
                BLOBS,
                digest.to_string(),
                rows::as_read(versions.get(digest)),
            );
            let size = blobs.get(digest).map_or(0, |blob| blob.size);
            self.remove_blob(digest, size, gone, run).await?;
        }
        Ok(())
    }

    /// Files without a row: what a crash or a failed batch left.
    async fn collect_files(&self, run: &mut Run) -> Result<(), Error> {
        let age_ms = self.limits.garbage_age_ms;
        let mut after: Option<Digest> = None;
        loop {
            let page = self.blobs.list(after.as_ref(), PAGE_ROWS).await?;
            for stored in &page {
                let key = stored.digest.to_string();
                let young = !garbage::is_old(stored.modified, run.now, age_ms);
                if young || self.meta.get(BLOBS, &key).await?.is_some() {
                    continue;
                }
                let absent = Write {
                    table: BLOBS,
                    key,
                    precondition: Precondition::Absent,
                    change: Change::Keep,
                };
                self.remove_blob(&stored.digest, stored.size, absent, run)
                    .await?;
            }
            if page.len() < PAGE_ROWS {
                return Ok(());
            }
            after = page.last().map(|stored| stored.digest.clone());
        }
    }

    /// A digest's guard, unless pushes hold it for long. A push may be waiting for other members to take its blob, which
    /// wait for *their* collectors; and pushes queue behind a collector that waits. The next run is soon enough.
    async fn alone_with(&self, digest: &Digest) -> Option<RwLockWriteGuard<'_, ()>> {
        tokio::time::timeout(GUARD_WAIT, self.guard(digest).write())
            .await
            .ok()
    }

    /// Removes a blob's row and then its bytes, unless somebody needs it by now.
    async fn remove_blob(
        &self,
        digest: &Digest,
        size: u64,
        row: Write,
        run: &mut Run,
    ) -> Result<(), Error> {
        let report = &mut run.report;
        let Some(_guard) = self.alone_with(digest).await else {
            report.promised += 1;
            return Ok(());
        };
        if self.leases.holds(digest, run.now) {
            report.promised += 1;
            return Ok(());
        }
        if run.dry {
            report.blobs_removed += 1;
            report.bytes_removed += size;
            return Ok(());
        }
        match self.meta.batch(vec![row]).await {
            Ok(()) => {}
            Err(MetaError::Conflict { .. }) => {
                report.conflicts += 1;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        if self.blobs.remove(digest).await? {
            report.blobs_removed += 1;
            report.bytes_removed += size;
        }
        Ok(())
    }
}
