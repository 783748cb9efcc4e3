//! Manifests and tags: pushing, resolving, deleting, and who refers to whom.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::BoxFuture;
use crate::authorise::namespace;
use crate::blobs::Opened;
use crate::conditions::Conditions;
use crate::digest::{Algorithm, Digest};
use crate::error::{Code, Error};
use crate::manifest::{self, Facts, Invalid};
use crate::meta::{Change, MetaError, Precondition, Row, Write};
use crate::name::{Name, Tag};
use crate::registry::{CONFLICTS_MAX, Registry};
use crate::rows::{
    self, BLOBS, BlobRow, EPOCHS, LINKS, LinkRow, MANIFESTS, ManifestRow, REFERRERS, REPOSITORIES,
    Repository, TAGS, TagRow, Touch,
};
use crate::through::is_mirror;

/// References of one manifest looked up at once.
const CHECKS_AT_ONCE: usize = 16;

/// Annotations up to this many bytes are kept in the referrer's row; longer ones are read from the manifest when a list
/// is asked for, because rows go through the replicated log.
const ANNOTATIONS_INLINE_BYTES_MAX: usize = 8 * 1024;

/// The last segment of a manifest's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// By name.
    Tag(Tag),
    /// By content.
    Digest(Digest),
}

impl Reference {
    /// Anything with a colon is meant as a digest: a tag cannot have one.
    pub(crate) fn parse(text: &str) -> Result<Reference, Error> {
        if text.contains(':') {
            Ok(Reference::Digest(text.parse()?))
        } else {
            let tag = text.parse().map_err(|error: crate::name::NameError| {
                Error::new(Code::ManifestInvalid, error.to_string())
            })?;
            Ok(Reference::Tag(tag))
        }
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A referrer as its row keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Referrer {
    pub media_type: String,
    pub size: u64,
    pub artifact_type: Option<String>,
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
    /// The annotations are too long for a row: read the manifest.
    #[serde(default)]
    pub annotations_in_manifest: bool,
}

/// What a push answers.
pub(crate) struct Pushed {
    pub digest: Digest,
    pub subject: Option<Digest>,
    pub tags: BTreeSet<Tag>,
    /// Sentences for the client's user.
    pub warnings: Vec<String>,
}

/// A manifest found.
pub(crate) struct Found {
    pub digest: Digest,
    pub media_type: String,
    pub opened: Opened,
}

fn manifest_unknown(reference: &Reference) -> Error {
    Error::new(
        Code::ManifestUnknown,
        format!("manifest {reference} is not in this repository"),
    )
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Error {
        Error::new(Code::ManifestInvalid, invalid.to_string())
    }
}

impl Registry {
    /// Which manifest a reference means.
    pub(crate) async fn resolve(
        &self,
        name: &Name,
        reference: &Reference,
    ) -> Result<(Digest, ManifestRow, Row), Error> {
        for _ in 0..CONFLICTS_MAX {
            let digest = match reference {
                Reference::Digest(digest) => digest.clone(),
                Reference::Tag(tag) => {
                    let key = rows::tag_key(name, tag);
                    let row = self.row::<TagRow>(TAGS, &key).await?;
                    row.ok_or_else(|| manifest_unknown(reference))?.0.digest
                }
            };
            let key = rows::link_key(name, &digest);
            match self.row::<ManifestRow>(MANIFESTS, &key).await? {
                Some((manifest, row)) => return Ok((digest, manifest, row)),
                None if matches!(reference, Reference::Digest(_)) => {
                    return Err(manifest_unknown(reference));
                }
                // A manifest goes together with its tags, so this tag has moved between the two looks.
                None => continue,
            }
        }
        Err(manifest_unknown(reference))
    }

    /// A manifest, opened.
    pub(crate) async fn manifest(
        &self,
        name: &Name,
        reference: &Reference,
    ) -> Result<Found, Error> {
        let (digest, row, _) = self.resolve(name, reference).await?;
        let opened = self.intact(&digest, row.size).await?;
        Ok(Found {
            opened: opened.ok_or_else(|| manifest_unknown(reference))?,
            media_type: row.media_type,
            digest,
        })
    }

    /// Checks, stores and links a manifest, and sets its tags, all visible at once. Conditions are about what the
    /// reference means before.
    pub(crate) async fn put_manifest(
        &self,
        name: &Name,
        reference: &Reference,
        more_tags: &[Tag],
        content_type: Option<&str>,
        body: Bytes,
        conditions: &Conditions,
    ) -> Result<Pushed, Error> {
        let facts = manifest::inspect(&body, content_type)?;
        let mut tags: BTreeSet<Tag> = more_tags.iter().cloned().collect();
        let digest = match reference {
            Reference::Tag(tag) => {
                tags.insert(tag.clone());
                Algorithm::Sha256.digest(&body)
            }
            Reference::Digest(digest) => {
                let actual = digest.algorithm().digest(&body);
                if actual != *digest {
                    return Err(Error::new(
                        Code::DigestInvalid,
                        format!("the manifest received has digest {actual}, not {digest}: nothing was stored"),
                    )
                    .detail(json!({ "expected": digest.to_string(), "received": actual.to_string() })));
                }
                actual
            }
        };

        self.quota_link(name, &digest, body.len() as u64).await?;
        let _guard = self.guard(&digest).read().await;
        let mut stored = false;
        for _ in 0..CONFLICTS_MAX {
            // The fence is read before the references are looked up: a link that leaves in between makes a conflict.
            let fence = self.meta.get(EPOCHS, name.as_str()).await?;
            let before = self.allow_write(name, reference, conditions).await?;
            self.require(name, &facts).await?;
            if !stored {
                self.store(&digest, &body).await?;
                self.leases.hold(&digest, self.now());
                stored = true;
            }
            let size = body.len() as u64;
            let mut writes = self.manifest_rows(name, &digest, size, &facts, &tags)?;
            writes.push(rows::unchanged(EPOCHS, name.to_string(), fence.as_ref()));
            if let (Reference::Tag(tag), Some(before)) = (reference, before) {
                let key = rows::tag_key(name, tag);
                for write in &mut writes {
                    if write.table == TAGS && write.key == key {
                        write.precondition = before;
                    }
                }
            }
            match self.meta.batch(writes).await {
                Ok(()) => {
                    self.counters.manifests_pushed.add(1);
                    self.quota.linked(namespace(name), None, size);
                    tracing::info!(repository = %name, %reference, %digest, "manifest pushed");
                    // The manifest is there whatever becomes of this.
                    let warnings = self.warnings(name, &facts).await.unwrap_or_else(|error| {
                        tracing::warn!(repository = %name, %digest, %error, "no warnings looked for");
                        Vec::new()
                    });
                    return Ok(Pushed {
                        digest,
                        subject: facts.subject,
                        tags,
                        warnings,
                    });
                }
                Err(MetaError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::busy("blobs of this repository are being removed"))
    }

    /// Holds a write to its conditions. What comes back is what the tag's row must still be when the write happens;
    /// content under a digest cannot change, so it needs no such thing.
    async fn allow_write(
        &self,
        name: &Name,
        reference: &Reference,
        conditions: &Conditions,
    ) -> Result<Option<Precondition>, Error> {
        if conditions.none() {
            return Ok(None);
        }
        match reference {
            Reference::Tag(tag) => {
                let key = rows::tag_key(name, tag);
                let found = self.row::<TagRow>(TAGS, &key).await?;
                let current = found.as_ref().map(|(tag, _)| &tag.digest);
                conditions.allow_write(current)?;
                Ok(Some(rows::as_read(found.as_ref().map(|(_, row)| row))))
            }
            Reference::Digest(digest) => {
                let key = rows::link_key(name, digest);
                let there = self.meta.get(MANIFESTS, &key).await?.is_some();
                conditions.allow_write(there.then_some(digest))?;
                Ok(None)
            }
        }
    }

    /// What the user of a client that pushed this should hear. Of mirrors, which have holes by design, nothing.
    async fn warnings(&self, name: &Name, facts: &Facts) -> Result<Vec<String>, Error> {
        let mut warnings = Vec::new();
        if is_mirror(name) {
            return Ok(warnings);
        }
        if facts.untyped {
            warnings.push(format!(
                "the manifest has no mediaType: clients that read it without its header do not know it as {}",
                facts.media_type
            ));
        }
        // One that is missing is enough to say so, and bounds the search.
        for digest in &facts.elsewhere {
            if self.missing(name, digest, true).await?.is_some() {
                warnings.push(format!(
                    "the manifest names {digest} as living elsewhere, and it is not in this repository: it cannot be pulled from here"
                ));
                break;
            }
        }
        if let Some(subject) = &facts.subject
            && self.missing(name, subject, true).await?.is_some()
        {
            warnings.push(format!(
                "the manifest is about {subject}, which is not in this repository"
            ));
        }
        Ok(warnings)
    }

    fn manifest_rows(
        &self,
        name: &Name,
        digest: &Digest,
        size: u64,
        facts: &Facts,
        tags: &BTreeSet<Tag>,
    ) -> Result<Vec<Write>, Error> {
        let at = self.now();
        let manifest = ManifestRow {
            media_type: facts.media_type.clone(),
            size,
            at,
            blobs: facts.blobs.union(&facts.optional).cloned().collect(),
            children: facts.children.clone(),
            subject: facts.subject.clone(),
        };
        let repository = Repository {
            pushed: at,
            touch: rand::random(),
        };
        let blob = BlobRow {
            size,
            at,
            touch: rand::random(),
        };
        let mut writes = vec![
            rows::put(REPOSITORIES, name.to_string(), &repository)?,
            rows::put(BLOBS, digest.to_string(), &blob)?,
            rows::put(MANIFESTS, rows::link_key(name, digest), &manifest)?,
        ];
        for tag in tags {
            let row = TagRow {
                digest: digest.clone(),
                at,
            };
            writes.push(rows::put(TAGS, rows::tag_key(name, tag), &row)?);
        }
        if let Some(subject) = &facts.subject {
            let bytes: usize = facts
                .annotations
                .iter()
                .flatten()
                .map(|(key, value)| key.len() + value.len())
                .sum();
            let inline = bytes <= ANNOTATIONS_INLINE_BYTES_MAX;
            let row = Referrer {
                media_type: facts.media_type.clone(),
                size,
                artifact_type: facts.artifact_type.clone(),
                annotations: facts.annotations.clone().filter(|_| inline),
                annotations_in_manifest: !inline,
            };
            let key = rows::referrer_key(name, subject, digest);
            writes.push(rows::put(REFERRERS, key, &row)?);
        }
        Ok(writes)
    }

    /// Everything a manifest needs must be in the repository, rows and bytes; only mirrors have holes.
    async fn require(&self, name: &Name, facts: &Facts) -> Result<(), Error> {
        if is_mirror(name) {
            return Ok(());
        }
        let mut checks: Vec<BoxFuture<'_, Result<Option<String>, Error>>> = Vec::new();
        for digest in &facts.blobs {
            checks.push(Box::pin(self.missing(name, digest, false)));
        }
        for digest in &facts.children {
            checks.push(Box::pin(self.missing(name, digest, true)));
        }
        let answers: Vec<Option<String>> = stream::iter(checks)
            .buffer_unordered(CHECKS_AT_ONCE)
            .try_collect()
            .await?;
        let missing: Vec<String> = answers.into_iter().flatten().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Code::ManifestBlobUnknown,
            format!(
                "the manifest names {} that this repository does not have: push it first",
                missing.join(", ")
            ),
        )
        .detail(json!({ "missing": missing })))
    }

    /// The digest, if the repository lacks it. An index may name a manifest or, for a nested artifact, a blob.
    async fn missing(
        &self,
        name: &Name,
        digest: &Digest,
        child: bool,
    ) -> Result<Option<String>, Error> {
        let there = (child && self.has_manifest(name, digest).await?)
            || self.has_blob(name, digest).await?;
        Ok((!there).then(|| digest.to_string()))
    }

    async fn has_blob(&self, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let key = rows::link_key(name, digest);
        match self.row::<LinkRow>(LINKS, &key).await? {
            Some((link, _)) => Ok(self.intact(digest, link.size).await?.is_some()),
            None => Ok(false),
        }
    }

    async fn has_manifest(&self, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let key = rows::link_key(name, digest);
        match self.row::<ManifestRow>(MANIFESTS, &key).await? {
            Some((row, _)) => Ok(self.intact(digest, row.size).await?.is_some()),
            None => Ok(false),
        }
    }

    /// By tag: the tag goes. By digest: the manifest, every tag that names it, and its place among referrers go at once.
    pub(crate) async fn delete_manifest(
        &self,
        name: &Name,
        reference: &Reference,
        conditions: &Conditions,
    ) -> Result<(), Error> {
        for _ in 0..CONFLICTS_MAX {
            let writes = match reference {
                Reference::Tag(tag) => {
                    let key = rows::tag_key(name, tag);
                    let found = self.row::<TagRow>(TAGS, &key).await?;
                    let (tag, row) = found.ok_or_else(|| manifest_unknown(reference))?;
                    conditions.allow_write(Some(&tag.digest))?;
                    vec![rows::delete(TAGS, key, rows::as_read(Some(&row)))]
                }
                Reference::Digest(digest) => {
                    let writes = self.unmanifest_rows(name, digest, reference).await?;
                    conditions.allow_write(Some(digest))?;
                    writes
                }
            };
            match self.meta.batch(writes).await {
                Ok(()) => {
                    tracing::info!(repository = %name, %reference, "manifest deleted");
                    return Ok(());
                }
                Err(MetaError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::busy("this repository is being pushed to"))
    }

    async fn unmanifest_rows(
        &self,
        name: &Name,
        digest: &Digest,
        reference: &Reference,
    ) -> Result<Vec<Write>, Error> {
        // Every push touches the repository's row, so a tag set while we look makes a conflict.
        let repository = self.meta.get(REPOSITORIES, name.as_str()).await?;
        let (_, manifest, row) = self.resolve(name, reference).await?;
        let fence = Touch {
            touch: rand::random(),
        };
        let mut writes = vec![
            rows::unchanged(REPOSITORIES, name.to_string(), repository.as_ref()),
            rows::delete(
                MANIFESTS,
                rows::link_key(name, digest),
                rows::as_read(Some(&row)),
            ),
            // An index that is being pushed may name this manifest.
            Write {
                table: EPOCHS,
                key: name.to_string(),
                precondition: Precondition::Any,
                change: Change::Put(rows::encode(&fence)?),
            },
        ];
        for (key, row) in self.rows(TAGS, &rows::tag_prefix(name)).await? {
            if rows::decode::<TagRow>(&row)?.digest == *digest {
                writes.push(rows::delete(TAGS, key, rows::as_read(Some(&row))));
            }
        }
        if let Some(subject) = &manifest.subject {
            let key = rows::referrer_key(name, subject, digest);
            writes.push(rows::delete(REFERRERS, key, Precondition::Any));
        }
        Ok(writes)
    }
}
