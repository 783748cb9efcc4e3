//! Quotas at work: rows read, refusals made.

use std::collections::{BTreeMap, BTreeSet};

use super::{QUOTAS_MAX, denied};
use crate::authorise::namespace;
use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::meta::Precondition;
use crate::name::Name;
use crate::registry::{PAGE_ROWS, Registry};
use crate::rows::{self, HOLDERS, LINKS, LinkRow, MANIFESTS, ManifestRow, QUOTAS, QuotaRow};
use crate::upload::UploadId;

/// How often the rows are counted for one answer while others push to the same namespace.
const COUNTS_MAX: usize = 4;

/// A namespace as an administrator names it: one segment of a repository's name.
fn one_segment(text: &str) -> Result<Name, Error> {
    let name: Name = text.parse()?;
    if text.contains('/') {
        return Err(Error::new(
            Code::NameInvalid,
            format!("{text} is no namespace: name the first segment of the repositories' names"),
        ));
    }
    Ok(name)
}

impl Registry {
    /// Every quota in bytes, by namespace.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn quotas(&self) -> Result<BTreeMap<String, u64>, Error> {
        let mut quotas = BTreeMap::new();
        for (key, row) in self.rows(QUOTAS, "").await? {
            quotas.insert(key, rows::decode::<QuotaRow>(&row)?.bytes);
        }
        Ok(quotas)
    }

    /// Sets the quota of a namespace, or takes it away. One below what the namespace holds removes nothing: it refuses
    /// what comes.
    ///
    /// # Errors
    /// 400 for a name that no namespace can have, 429 when [`QUOTAS_MAX`] namespaces have one, and what the rows' store
    /// says.
    pub async fn set_quota(&self, text: &str, bytes: Option<u64>) -> Result<(), Error> {
        let name = one_segment(text)?;
        let write = match bytes {
            None => rows::delete(QUOTAS, name.to_string(), Precondition::Any),
            Some(bytes) => {
                let quotas = self.quotas().await?;
                if quotas.len() >= QUOTAS_MAX && !quotas.contains_key(text) {
                    return Err(Error::busy(format!(
                        "{QUOTAS_MAX} namespaces have a quota already; take one away first"
                    )));
                }
                rows::put(QUOTAS, name.to_string(), &QuotaRow { bytes })?
            }
        };
        self.meta.batch(vec![write]).await?;
        self.quota.forget(text);
        tracing::info!(namespace = text, bytes, "registry quota set");
        Ok(())
    }

    /// An upload holds `bytes` now, if the quota lets it.
    pub(crate) async fn quota_upload(
        &self,
        name: &Name,
        id: &UploadId,
        bytes: u64,
    ) -> Result<(), Error> {
        let space = namespace(name);
        match self.row::<QuotaRow>(QUOTAS, space).await? {
            None => {
                self.quota.holds(space, id, bytes);
                Ok(())
            }
            Some((quota, _)) => self.admit(space, Some(id), quota.bytes, bytes).await,
        }
    }

    /// Room for a blob that is mounted, or for a manifest. One that the namespace has already needs none.
    pub(crate) async fn quota_link(
        &self,
        name: &Name,
        digest: &Digest,
        size: u64,
    ) -> Result<(), Error> {
        let space = namespace(name);
        let Some((quota, _)) = self.row::<QuotaRow>(QUOTAS, space).await? else {
            return Ok(());
        };
        let admitted = self.admit(space, None, quota.bytes, size).await;
        if admitted.is_err() && self.is_in(space, name, digest).await? {
            return Ok(());
        }
        admitted
    }

    async fn admit(
        &self,
        space: &str,
        upload: Option<&UploadId>,
        limit: u64,
        more: u64,
    ) -> Result<(), Error> {
        let known = |registry: &Registry| {
            let now = registry.now().as_millisecond();
            registry.quota.admit(space, upload, limit, more, now)
        };
        if let Some(Ok(())) = known(self) {
            return Ok(());
        }
        // Unknown, or it does not fit: never refused by an old count, nor by one that pushes have blurred.
        for _ in 0..COUNTS_MAX {
            let counting = self.quota.begin_count(space);
            let bytes = self.namespace_bytes(space).await?;
            let now = self.now().as_millisecond();
            let exact = self.quota.counted(space, &counting, bytes, now);
            match known(self) {
                Some(Ok(())) => return Ok(()),
                Some(Err(exceeded)) if exact => return Err(denied(space, exceeded)),
                _ => {}
            }
        }
        Err(Error::busy(format!(
            "namespace {space} is nearly full, and many are pushing to it"
        )))
    }

    /// Whether a namespace shows a blob, or the repository has the manifest.
    async fn is_in(&self, space: &str, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let manifest = rows::link_key(name, digest);
        if self.meta.get(MANIFESTS, &manifest).await?.is_some() {
            return Ok(true);
        }
        let whole = format!("{}{space}", rows::holder_prefix(digest));
        if self.meta.get(HOLDERS, &whole).await?.is_some() {
            return Ok(true);
        }
        let below = format!("{whole}/");
        Ok(!self.meta.list(HOLDERS, &below, None, 1).await?.is_empty())
    }

    /// Bytes of the distinct blobs and manifests of a namespace, by the rows.
    async fn namespace_bytes(&self, space: &str) -> Result<u64, Error> {
        let mut seen: BTreeSet<Digest> = BTreeSet::new();
        let mut sum = 0_u64;
        for table in [LINKS, MANIFESTS] {
            // The repository that is named as the namespace is, and those below.
            for prefix in [format!("{space}@"), format!("{space}/")] {
                let mut after: Option<String> = None;
                loop {
                    let page = self
                        .meta
                        .list(table, &prefix, after.as_deref(), PAGE_ROWS)
                        .await?;
                    for (key, row) in &page {
                        let Some((_, digest)) = rows::parse_link_key(key) else {
                            continue;
                        };
                        if seen.insert(digest) {
                            let size = match table {
                                LINKS => rows::decode::<LinkRow>(row)?.size,
                                _ => rows::decode::<ManifestRow>(row)?.size,
                            };
                            sum = sum.saturating_add(size);
                        }
                    }
                    if page.len() < PAGE_ROWS {
                        break;
                    }
                    after = page.into_iter().next_back().map(|(key, _)| key);
                }
            }
        }
        Ok(sum)
    }
}
