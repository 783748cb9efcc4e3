//! Lists: tags, repositories, referrers. Each is sorted, and pages with an exclusive `last`.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use serde::Serialize;

use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::manifest::{self, Descriptor};
use crate::manifests::{Reference, Referrer};
use crate::meta::Row;
use crate::name::Name;
use crate::registry::{PAGE_ROWS, Registry};
use crate::rows::{self, REFERRERS, REPOSITORIES, TAGS};

/// Referrers in one answer. An index of a thousand descriptors is some 300 KB; the next page is one link away.
const REFERRERS_PAGE_MAX: usize = 1_000;

/// Referrers a subject can have before listing says so: the list is merged and sorted in memory.
const REFERRERS_MAX: usize = 100_000;

/// One page and whether more follow.
pub(crate) struct Page<T> {
    pub items: Vec<T>,
    pub more: bool,
}

/// A referrer as an index shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Registry {
    /// Tags of a repository; without `n` all of them, because common clients never ask for a second page.
    pub(crate) async fn tags(
        &self,
        name: &Name,
        n: Option<usize>,
        last: Option<&str>,
    ) -> Result<Page<String>, Error> {
        if self.meta.get(REPOSITORIES, name.as_str()).await?.is_none() {
            return Err(Error::new(
                Code::NameUnknown,
                format!("there is no repository {name}"),
            ));
        }
        let prefix = rows::tag_prefix(name);
        let after = last.map(|last| format!("{prefix}{last}"));
        let rows = self.take(TAGS, &prefix, after, n).await?;
        let items = rows.items.into_iter().map(|(key, _)| key);
        Ok(Page {
            items: items.map(|key| key[prefix.len()..].to_owned()).collect(),
            more: rows.more,
        })
    }

    /// Repositories with at least one manifest pushed.
    pub(crate) async fn catalog(
        &self,
        n: Option<usize>,
        last: Option<&str>,
    ) -> Result<Page<String>, Error> {
        let after = last.map(str::to_owned);
        let rows = self.take(REPOSITORIES, "", after, n).await?;
        Ok(Page {
            items: rows.items.into_iter().map(|(key, _)| key).collect(),
            more: rows.more,
        })
    }

    /// Up to `n` rows and whether there are more; `n` = 0 is an empty page with nothing after it.
    async fn take(
        &self,
        table: &'static str,
        prefix: &str,
        mut after: Option<String>,
        n: Option<usize>,
    ) -> Result<Page<(String, Row)>, Error> {
        let want = n.unwrap_or(usize::MAX);
        let mut items: Vec<(String, Row)> = Vec::new();
        if want == 0 {
            return Ok(Page { items, more: false });
        }
        loop {
            // One more than wanted tells whether a next page exists.
            let limit = (want - items.len()).saturating_add(1).min(PAGE_ROWS);
            let page = self
                .meta
                .list(table, prefix, after.as_deref(), limit)
                .await?;
            let end = page.len() < limit;
            items.extend(page);
            if items.len() > want {
                items.truncate(want);
                return Ok(Page { items, more: true });
            }
            if end {
                return Ok(Page { items, more: false });
            }
            after = items.last().map(|(key, _)| key.clone());
        }
    }

    /// Who refers to a manifest: the recorded ones, and those of an index under the fallback tag `sha256-<hex>` that
    /// clients write where referrers are not supported. Sorted by digest.
    pub(crate) async fn referrers(
        &self,
        name: &Name,
        subject: &Digest,
        artifact_type: Option<&str>,
        n: Option<usize>,
        last: Option<&str>,
    ) -> Result<Page<Shown>, Error> {
        let prefix = rows::referrer_prefix(name, subject);
        let mut all: BTreeMap<String, Option<Referrer>> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self
                .meta
                .list(REFERRERS, &prefix, after.as_deref(), PAGE_ROWS)
                .await?;
            let end = page.len() < PAGE_ROWS;
            for (key, row) in &page {
                let digest = key[prefix.len()..].to_owned();
                all.insert(digest, Some(rows::decode(row)?));
            }
            if end || all.len() >= REFERRERS_MAX {
                break;
            }
            after = page.last().map(|(key, _)| key.clone());
        }
        let fallback = self.fallback(name, subject).await?;
        for digest in fallback.keys() {
            all.entry(digest.clone()).or_insert(None);
        }

        let want = n.unwrap_or(REFERRERS_PAGE_MAX).min(REFERRERS_PAGE_MAX);
        let mut items = Vec::new();
        for (digest, recorded) in all {
            if last.is_some_and(|last| digest.as_str() <= last) {
                continue;
            }
            let shown = match recorded {
                Some(referrer) => self.shown(name, digest, referrer).await?,
                None => match fallback.get(&digest) {
                    Some(descriptor) => from_fallback(descriptor),
                    None => continue,
                },
            };
            if artifact_type.is_some_and(|want| shown.artifact_type.as_deref() != Some(want)) {
                continue;
            }
            if items.len() == want {
                return Ok(Page {
                    items,
                    more: want > 0,
                });
            }
            items.push(shown);
        }
        Ok(Page { items, more: false })
    }

    async fn shown(&self, name: &Name, digest: String, row: Referrer) -> Result<Shown, Error> {
        let mut annotations = row.annotations;
        if row.annotations_in_manifest {
            let bytes = self.manifest_bytes(name, &digest).await?;
            annotations = manifest::view(&bytes)?.annotations;
        }
        Ok(Shown {
            media_type: row.media_type,
            digest,
            size: row.size,
            artifact_type: row.artifact_type,
            annotations,
        })
    }

    /// Descriptors in the index under the fallback tag; none if there is no such tag or it is not an index.
    async fn fallback(
        &self,
        name: &Name,
        subject: &Digest,
    ) -> Result<BTreeMap<String, Descriptor>, Error> {
        let tag = format!("{}-{}", subject.algorithm().name(), subject.hex());
        // The tag of a sha512 digest would be too long for the grammar; clients cut it to 128 characters.
        let tag: String = tag.chars().take(crate::name::TAG_BYTES_MAX).collect();
        let bytes = match self.manifest_bytes(name, &tag).await {
            Ok(bytes) => bytes,
            Err(error) if error.code == Code::ManifestUnknown => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let listed = manifest::view(&bytes)?.manifests.unwrap_or_default();
        Ok(listed
            .into_iter()
            .filter(|descriptor| descriptor.digest.parse::<Digest>().is_ok())
            .map(|descriptor| (descriptor.digest.clone(), descriptor))
            .collect())
    }

    /// A whole manifest; its length is bounded by what was accepted.
    async fn manifest_bytes(&self, name: &Name, reference: &str) -> Result<Vec<u8>, Error> {
        let found = self.manifest(name, &Reference::parse(reference)?).await?;
        let mut all = Vec::new();
        let mut pieces = (found.opened.body)(0..found.opened.size);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| {
                Error::internal(format!("manifest {reference} cannot be read: {error}"))
            })?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

fn from_fallback(descriptor: &Descriptor) -> Shown {
    Shown {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        artifact_type: descriptor.artifact_type.clone(),
        annotations: descriptor.annotations.clone(),
    }
}
