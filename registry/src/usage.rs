//! How much repositories and namespaces hold: counted from the rows, whenever somebody asks.
//!
//! Nothing here is kept: the rows of links and manifests are the truth, and a count that is made anew cannot drift from
//! it. *Logical* bytes are those of every digest a repository or namespace holds, each once; *unique* bytes are those that
//! nothing else holds, which is what would be freed without it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::authorise::namespace;
use crate::digest::Digest;
use crate::error::Error;
use crate::name::Name;
use crate::registry::{PAGE_ROWS, Registry};
use crate::rows::{self, LINKS, LinkRow, MANIFESTS, ManifestRow, TAGS};

/// What one repository or namespace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Bytes of its blobs and manifests, each digest once.
    pub logical_bytes: u64,
    /// Those of digests that no other repository (for a namespace: no other namespace) holds.
    pub unique_bytes: u64,
    /// Its blobs, each digest once.
    pub blobs: u64,
    /// Its manifests, each digest once.
    pub manifests: u64,
    /// Its tags.
    pub tags: u64,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepositoryUsage {
    /// Its name.
    pub repository: String,
    /// What it holds.
    #[serde(flatten)]
    pub held: Held,
}

/// One namespace: the repositories with the same first segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceUsage {
    /// Its name.
    pub namespace: String,
    /// Its repositories.
    pub repositories: u64,
    /// What they hold together.
    #[serde(flatten)]
    pub held: Held,
    /// Bytes that its unfinished uploads on this member hold.
    pub upload_bytes: u64,
    /// Its quota in bytes, if it has one.
    pub quota_bytes: Option<u64>,
}

/// The whole registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// By name.
    pub namespaces: Vec<NamespaceUsage>,
    /// By name.
    pub repositories: Vec<RepositoryUsage>,
    /// Bytes of all digests, each once: what one member's disk holds for them.
    pub bytes: u64,
    /// Number of digests.
    pub digests: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blob,
    Manifest,
}

struct Found {
    size: u64,
    /// By whom, as numbers of repositories.
    by: Vec<(u32, Kind)>,
}

/// Counts rows, in any order. It takes some 250 bytes for each digest, less than the rows that it counts.
#[derive(Default)]
pub struct Tally {
    numbers: BTreeMap<Name, u32>,
    tags: Vec<u64>,
    digests: BTreeMap<Digest, Found>,
}

impl Tally {
    fn number(&mut self, name: &Name) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        self.numbers.insert(name.clone(), number);
        self.tags.push(0);
        number
    }

    fn found(&mut self, name: &Name, digest: Digest, size: u64, kind: Kind) {
        let number = self.number(name);
        let by = Vec::new();
        let found = self.digests.entry(digest).or_insert(Found { size, by });
        found.by.push((number, kind));
    }

    /// A repository shows a blob.
    pub fn blob(&mut self, name: &Name, digest: Digest, size: u64) {
        self.found(name, digest, size, Kind::Blob);
    }

    /// A repository has a manifest.
    pub fn manifest(&mut self, name: &Name, digest: Digest, size: u64) {
        self.found(name, digest, size, Kind::Manifest);
    }

    /// A repository has one more tag.
    pub fn tag(&mut self, name: &Name) {
        let number = self.number(name);
        if let Some(tags) = self.tags.get_mut(number as usize) {
            *tags += 1;
        }
    }

    /// The sums. `quotas` and `uploads` are bytes by namespace; one with nothing else is listed all the same.
    pub fn finish(self, quotas: &BTreeMap<String, u64>, uploads: &BTreeMap<String, u64>) -> Usage {
        let mut repositories = vec![Held::default(); self.numbers.len()];
        let mut spaces: BTreeMap<&str, Held> = BTreeMap::new();
        let mut space_of = vec![""; self.numbers.len()];
        for (name, number) in &self.numbers {
            space_of[*number as usize] = namespace(name);
            spaces.entry(namespace(name)).or_default();
        }
        for named in quotas.keys().chain(uploads.keys()) {
            spaces.entry(named).or_default();
        }
        let mut usage = Usage::default();
        for Found { size, by } in self.digests.values() {
            usage.digests += 1;
            usage.bytes += size;
            let mut in_repositories: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
            let mut in_spaces: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
            for (number, kind) in by {
                for as_kind in [
                    in_repositories.entry(*number).or_default(),
                    in_spaces.entry(space_of[*number as usize]).or_default(),
                ] {
                    as_kind.0 |= *kind == Kind::Blob;
                    as_kind.1 |= *kind == Kind::Manifest;
                }
            }
            let alone = in_repositories.len() == 1;
            for (number, as_kind) in in_repositories {
                add(&mut repositories[number as usize], *size, as_kind, alone);
            }
            let alone = in_spaces.len() == 1;
            for (space, as_kind) in in_spaces {
                add(spaces.entry(space).or_default(), *size, as_kind, alone);
            }
        }
        let mut count_of: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, number) in &self.numbers {
            let mut held = repositories[*number as usize];
            held.tags = self.tags[*number as usize];
            spaces.entry(namespace(name)).or_default().tags += held.tags;
            *count_of.entry(namespace(name)).or_default() += 1;
            usage.repositories.push(RepositoryUsage {
                repository: name.to_string(),
                held,
            });
        }
        usage.namespaces = spaces
            .into_iter()
            .map(|(name, held)| NamespaceUsage {
                namespace: name.to_owned(),
                repositories: count_of.get(name).copied().unwrap_or_default(),
                held,
                upload_bytes: uploads.get(name).copied().unwrap_or_default(),
                quota_bytes: quotas.get(name).copied(),
            })
            .collect();
        usage
    }
}

fn add(held: &mut Held, size: u64, (blob, manifest): (bool, bool), alone: bool) {
    held.logical_bytes += size;
    held.unique_bytes += if alone { size } else { 0 };
    held.blobs += u64::from(blob);
    held.manifests += u64::from(manifest);
}

impl Registry {
    /// Counts everything. The rows are read page by page while others push, so the sums are those of no single moment.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn usage(&self) -> Result<Usage, Error> {
        let mut tally = Tally::default();
        for table in [LINKS, MANIFESTS, TAGS] {
            let mut after: Option<String> = None;
            loop {
                let page = self
                    .meta
                    .list(table, "", after.as_deref(), PAGE_ROWS)
                    .await?;
                for (key, row) in &page {
                    match (table, rows::parse_link_key(key)) {
                        (LINKS, Some((name, digest))) => {
                            tally.blob(&name, digest, rows::decode::<LinkRow>(row)?.size);
                        }
                        (MANIFESTS, Some((name, digest))) => {
                            tally.manifest(&name, digest, rows::decode::<ManifestRow>(row)?.size);
                        }
                        _ => {
                            if let Some((name, _)) = key.split_once(':') {
                                tally.tag(&name.parse()?);
                            }
                        }
                    }
                }
                if page.len() < PAGE_ROWS {
                    break;
                }
                after = page.into_iter().next_back().map(|(key, _)| key);
            }
        }
        Ok(tally.finish(&self.quotas().await?, &self.quota.uploads()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn shared_bytes_are_counted_once_and_are_nobodys_own() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let digest = |n: u8| Algorithm::Sha256.digest(&[n]);
        let mut tally = Tally::default();
        // Own; shared in the namespace; shared with another; a manifest in two repositories.
        tally.blob(&name("a/x"), digest(1), 1);
        tally.blob(&name("a/x"), digest(2), 10);
        tally.blob(&name("a/y"), digest(2), 10);
        tally.blob(&name("a/x"), digest(3), 100);
        tally.blob(&name("b"), digest(3), 100);
        tally.manifest(&name("a/x"), digest(4), 1_000);
        tally.manifest(&name("a/y"), digest(4), 1_000);
        // A namespace's name that begins like another's, and one digest both as blob and as manifest.
        tally.blob(&name("a0"), digest(5), 10_000);
        tally.manifest(&name("a0"), digest(5), 10_000);
        tally.tag(&name("a/x"));
        tally.tag(&name("a/y"));
        let quotas = BTreeMap::from([("a".into(), 7), ("empty".into(), 9)]);
        let uploads = BTreeMap::from([("b".into(), 5)]);
        let usage = tally.finish(&quotas, &uploads);
        let held = |logical, unique, blobs, manifests, tags| Held {
            logical_bytes: logical,
            unique_bytes: unique,
            blobs,
            manifests,
            tags,
        };
        let repositories: Vec<_> = usage
            .repositories
            .iter()
            .map(|r| (r.repository.as_str(), r.held))
            .collect();
        assert_eq!(
            repositories,
            [
                ("a/x", held(1_111, 1, 3, 1, 1)),
                ("a/y", held(1_010, 0, 1, 1, 1)),
                ("a0", held(10_000, 10_000, 1, 1, 0)),
                ("b", held(100, 0, 1, 0, 0)),
            ]
        );
        let namespaces: Vec<_> = usage
            .namespaces
            .iter()
            .map(|n| {
                let (repositories, quota) = (n.repositories, n.quota_bytes);
                (
                    n.namespace.as_str(),
                    repositories,
                    n.held,
                    n.upload_bytes,
                    quota,
                )
            })
            .collect();
        assert_eq!(
            namespaces,
            [
                ("a", 2, held(1_111, 1_011, 3, 1, 2), 0, Some(7)),
                ("a0", 1, held(10_000, 10_000, 1, 1, 0), 0, None),
                ("b", 1, held(100, 0, 1, 0, 0), 5, None),
                ("empty", 0, held(0, 0, 0, 0, 0), 0, Some(9)),
            ]
        );
        assert_eq!((usage.bytes, usage.digests), (11_111, 5));
    }
}
