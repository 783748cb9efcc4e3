//! The metadata schema: which tables there are, how keys are built, what a row holds.
//!
//! | table | key | row |
//! |---|---|---|
//! | `repositories` | `NAME` | [`Repository`]; touched by every manifest push |
//! | `epochs` | `NAME` | [`Touch`]; touched whenever a blob link leaves the repository |
//! | `tags` | `NAME:TAG` | [`TagRow`] |
//! | `manifests` | `NAME@DIGEST` | [`ManifestRow`] |
//! | `links` | `NAME@DIGEST` | [`LinkRow`]: this repository shows this blob |
//! | `holders` | `DIGEST@NAME` | the same links, by digest |
//! | `referrers` | `NAME@SUBJECT@DIGEST` | the descriptor a referrer list shows |
//! | `blobs` | `DIGEST` | [`BlobRow`]; touched by every new link |
//! | `objects` | `DIGEST` | where the bytes are in object storage |
//! | `bucket` | `mark` | which bucket the members share |
//! | `quotas` | `NAMESPACE` | [`QuotaRow`] |
//! | `retention` | `NAME` | [`crate::retention::Policy`] |
//!
//! `@` and `:` cannot stand in a name, so a prefix never runs into a neighbour. The *touched* rows carry a random number,
//! so that a write always makes a new version: that is what turns "somebody pushed while the collector was looking" into
//! a conflict. Pushes touch without preconditions, so they never conflict with each other.

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::meta::{Change, Precondition, Row, Write};
use crate::name::{Name, Tag};

/// Repositories.
pub const REPOSITORIES: &str = "registry/repositories";
/// Fences for links that leave.
pub const EPOCHS: &str = "registry/epochs";
/// Tags.
pub const TAGS: &str = "registry/tags";
/// Manifest links.
pub const MANIFESTS: &str = "registry/manifests";
/// Blob links.
pub const LINKS: &str = "registry/links";
/// Blob links by digest.
pub const HOLDERS: &str = "registry/holders";
/// Referrers by subject.
pub const REFERRERS: &str = "registry/referrers";
/// Blobs that are linked somewhere.
pub const BLOBS: &str = "registry/blobs";
/// Where blobs are in object storage, by digest; the rows are those of the store in use.
pub const OBJECTS: &str = "registry/objects";

/// Which object storage the rows of [`OBJECTS`] speak of.
pub const BUCKET: &str = "registry/bucket";

/// Quotas by namespace.
pub const QUOTAS: &str = "registry/quotas";

/// Retention policies by name.
pub const RETENTION: &str = "registry/retention";

/// Every table, for whoever implements [`crate::meta::Meta`].
pub const TABLES: [&str; 12] = [
    REPOSITORIES,
    EPOCHS,
    TAGS,
    MANIFESTS,
    LINKS,
    HOLDERS,
    REFERRERS,
    BLOBS,
    OBJECTS,
    BUCKET,
    QUOTAS,
    RETENTION,
];

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// When a manifest was last pushed.
    pub pushed: Timestamp,
    /// Makes every write a new version.
    pub touch: u64,
}

/// A fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    /// Makes every write a new version.
    pub touch: u64,
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRow {
    /// The manifest it names.
    pub digest: Digest,
    /// When it was last set.
    pub at: Timestamp,
}

/// A manifest in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRow {
    /// The type it was pushed with and is served with.
    pub media_type: String,
    /// Length in bytes.
    pub size: u64,
    /// When it was last pushed.
    pub at: Timestamp,
    /// Blobs it names, those that may be absent too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub blobs: BTreeSet<Digest>,
    /// Manifests it names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub children: BTreeSet<Digest>,
    /// The manifest it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
}

/// A blob in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Length in bytes.
    pub size: u64,
    /// When it was last pushed or mounted.
    pub at: Timestamp,
}

/// A blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRow {
    /// Length in bytes.
    pub size: u64,
    /// When it was last pushed or mounted anywhere.
    pub at: Timestamp,
    /// Makes every write a new version.
    pub touch: u64,
}

/// What a namespace may hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaRow {
    /// Bytes.
    pub bytes: u64,
}

/// Key of a tag.
pub fn tag_key(name: &Name, tag: &Tag) -> String {
    format!("{name}:{tag}")
}

/// What the keys of a repository's tags begin with.
pub fn tag_prefix(name: &Name) -> String {
    format!("{name}:")
}

/// Key of a manifest or blob link.
pub fn link_key(name: &Name, digest: &Digest) -> String {
    format!("{name}@{digest}")
}

/// What the keys of a repository's manifest or blob links begin with.
pub fn link_prefix(name: &Name) -> String {
    format!("{name}@")
}

/// Takes a link's key apart.
pub fn parse_link_key(key: &str) -> Option<(Name, Digest)> {
    let (name, digest) = key.split_once('@')?;
    Some((name.parse().ok()?, digest.parse().ok()?))
}

/// Key of a holder.
pub fn holder_key(digest: &Digest, name: &Name) -> String {
    format!("{digest}@{name}")
}

/// What the keys of a digest's holders begin with.
pub fn holder_prefix(digest: &Digest) -> String {
    format!("{digest}@")
}

/// Key of a referrer.
pub fn referrer_key(name: &Name, subject: &Digest, digest: &Digest) -> String {
    format!("{name}@{subject}@{digest}")
}

/// What the keys of a subject's referrers begin with.
pub fn referrer_prefix(name: &Name, subject: &Digest) -> String {
    format!("{name}@{subject}@")
}

/// A row's bytes.
pub fn encode(row: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(row)
        .map(Bytes::from)
        .map_err(|error| Error::internal(format!("a registry row cannot be written: {error}")))
}

/// A row from its bytes.
pub fn decode<T: DeserializeOwned>(row: &Row) -> Result<T, Error> {
    serde_json::from_slice(&row.value)
        .map_err(|error| Error::internal(format!("a registry row cannot be read: {error}")))
}

/// An unconditional write of a row.
pub fn put(table: &'static str, key: String, row: &impl Serialize) -> Result<Write, Error> {
    Ok(Write {
        table,
        key,
        precondition: Precondition::Any,
        change: Change::Put(encode(row)?),
    })
}

/// A removal under a precondition.
pub fn delete(table: &'static str, key: String, precondition: Precondition) -> Write {
    Write {
        table,
        key,
        precondition,
        change: Change::Delete,
    }
}

/// A precondition alone: the row is still as it was read.
pub fn unchanged(table: &'static str, key: String, row: Option<&Row>) -> Write {
    Write {
        table,
        key,
        precondition: as_read(row),
        change: Change::Keep,
    }
}

/// The precondition that a row is as it was read.
pub fn as_read(row: Option<&Row>) -> Precondition {
    row.map_or(Precondition::Absent, |row| {
        Precondition::Version(row.version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    #[test]
    fn keys_of_one_repository_are_neighbours_and_nobody_elses() {
        let digest = Algorithm::Sha256.digest(b"");
        let mut keys: Vec<String> = ["a/b", "a/b-c", "a/b.c", "a/b/c", "a/b0", "a/b_c", "a"]
            .iter()
            .map(|name| link_key(&name.parse().unwrap(), &digest))
            .collect();
        keys.sort();
        let name: Name = "a/b".parse().unwrap();
        let mine: Vec<_> = keys
            .iter()
            .filter(|key| key.starts_with(&link_prefix(&name)))
            .collect();
        assert_eq!(mine.len(), 1);
        assert_eq!(parse_link_key(mine[0]).unwrap(), (name, digest));
    }
}
