//! Policies kept as rows, and what they decide carried out.
//!
//! Every removal is a batch that also says that the repository's row is as it was before its tags and manifests were read.
//! A push of a manifest or a tag touches that row, so what was decided is carried out upon what it was decided on, or not
//! at all until the next run.

use std::collections::BTreeMap;

use http::StatusCode;

use super::{Contents, Deletions, POLICIES_MAX, Policy, retain};
use crate::collect::{REMOVED_NAMED_MAX, Run};
use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::meta::{MetaError, Precondition, Row, Write};
use crate::name::{Name, Tag};
use crate::registry::{PAGE_ROWS, Registry};
use crate::rows::{
    self, EPOCHS, MANIFESTS, ManifestRow, REFERRERS, REPOSITORIES, RETENTION, TAGS, TagRow, Touch,
};

impl Registry {
    /// Every policy by its name.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn policies(&self) -> Result<BTreeMap<String, Policy>, Error> {
        let mut policies = BTreeMap::new();
        for (key, row) in self.rows(RETENTION, "").await? {
            policies.insert(key, rows::decode::<Policy>(&row)?);
        }
        Ok(policies)
    }

    /// Sets a policy; the next run of the collector goes by it.
    ///
    /// # Errors
    /// 400 if the policy or its name is none (a name is one segment of a repository's name), 429 when there are
    /// [`POLICIES_MAX`], and what the rows' store says.
    pub async fn set_policy(&self, name: &str, policy: &Policy) -> Result<(), Error> {
        let key: Name = name.parse()?;
        if name.contains('/') {
            let message = format!("{name} is no policy's name: leave out the '/'");
            return Err(Error::new(Code::NameInvalid, message));
        }
        policy.check().map_err(|error| {
            Error::new(Code::Unsupported, error.to_string()).status(StatusCode::BAD_REQUEST)
        })?;
        let policies = self.policies().await?;
        if policies.len() >= POLICIES_MAX && !policies.contains_key(name) {
            return Err(Error::busy(format!(
                "there are {POLICIES_MAX} retention policies already; remove one first"
            )));
        }
        let write = rows::put(RETENTION, key.to_string(), policy)?;
        self.meta.batch(vec![write]).await?;
        tracing::info!(policy = name, "registry retention policy set");
        Ok(())
    }

    /// Removes a policy; `false` if there is none of this name.
    ///
    /// # Errors
    /// What the rows' store says.
    pub async fn remove_policy(&self, name: &str) -> Result<bool, Error> {
        let there = self.meta.get(RETENTION, name).await?.is_some();
        let write = rows::delete(RETENTION, name.to_owned(), Precondition::Any);
        self.meta.batch(vec![write]).await?;
        if there {
            tracing::info!(policy = name, "registry retention policy removed");
        }
        Ok(there)
    }

    /// Removes what the policies let go, repository by repository.
    pub(crate) async fn collect_retired(&self, run: &mut Run) -> Result<(), Error> {
        let policies = self.policies().await?;
        if policies.is_empty() {
            return Ok(());
        }
        let mut after: Option<String> = None;
        loop {
            let page = self
                .meta
                .list(REPOSITORIES, "", after.as_deref(), PAGE_ROWS)
                .await?;
            for (key, _) in &page {
                let name: Name = key.parse()?;
                let mine: Vec<&Policy> = policies.values().filter(|p| p.covers(&name)).collect();
                if !mine.is_empty() {
                    self.retire(&name, &mine, run).await?;
                }
            }
            if page.len() < PAGE_ROWS {
                return Ok(());
            }
            after = page.into_iter().next_back().map(|(key, _)| key);
        }
    }

    async fn retire(&self, name: &Name, policies: &[&Policy], run: &mut Run) -> Result<(), Error> {
        // First the row that every manifest push touches, then what is decided upon.
        let fence = self.meta.get(REPOSITORIES, name.as_str()).await?;
        let (mut contents, mut tag_rows) = (Contents::default(), BTreeMap::new());
        let prefix = rows::tag_prefix(name);
        for (key, row) in self.rows(TAGS, &prefix).await? {
            let tag: Tag = key[prefix.len()..].parse()?;
            contents
                .tags
                .insert(tag.clone(), rows::decode::<TagRow>(&row)?);
            tag_rows.insert(tag, row);
        }
        let (manifests, manifest_rows) = self
            .decoded::<ManifestRow>(MANIFESTS, &rows::link_prefix(name))
            .await?;
        contents.manifests = manifests;
        let Deletions { tags, manifests } = retain(&contents, policies, run.now);
        for tag in &tags {
            let key = rows::tag_key(name, tag);
            let row = rows::as_read(tag_rows.get(tag));
            let gone = vec![rows::delete(TAGS, key.clone(), row)];
            if !self.retired(name, fence.as_ref(), gone, run).await? {
                return Ok(());
            }
            run.report.tags_removed += 1;
            if run.report.tags.len() < REMOVED_NAMED_MAX {
                run.report.tags.push(key);
            }
        }
        for digest in &manifests {
            let key = rows::link_key(name, digest);
            let row = rows::as_read(manifest_rows.get(digest));
            let subject = contents.manifests.get(digest);
            let subject = subject.and_then(|row| row.subject.as_ref());
            let gone = unmanifest(name, digest, row, subject)?;
            if !self.retired(name, fence.as_ref(), gone, run).await? {
                return Ok(());
            }
            run.take(MANIFESTS, key.clone());
            run.report.manifests_removed += 1;
            if run.report.manifests.len() < REMOVED_NAMED_MAX {
                run.report.manifests.push(key);
            }
        }
        Ok(())
    }

    /// One removal; `false` if somebody pushed to the repository meanwhile. A dry run removes nothing.
    async fn retired(
        &self,
        name: &Name,
        fence: Option<&Row>,
        mut gone: Vec<Write>,
        run: &mut Run,
    ) -> Result<bool, Error> {
        if run.dry {
            return Ok(true);
        }
        gone.push(rows::unchanged(REPOSITORIES, name.to_string(), fence));
        match self.meta.batch(gone).await {
            Ok(()) => Ok(true),
            Err(MetaError::Conflict { .. }) => {
                run.report.conflicts += 1;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Rows without a manifest that no tag names any more. An index that is being pushed may name it, so the fence that such
/// a push checks is touched.
fn unmanifest(
    name: &Name,
    digest: &Digest,
    row: Precondition,
    subject: Option<&Digest>,
) -> Result<Vec<Write>, Error> {
    let fence = Touch {
        touch: rand::random(),
    };
    let mut writes = vec![
        rows::delete(MANIFESTS, rows::link_key(name, digest), row),
        rows::put(EPOCHS, name.to_string(), &fence)?,
    ];
    if let Some(subject) = subject {
        let key = rows::referrer_key(name, subject, digest);
        writes.push(rows::delete(REFERRERS, key, Precondition::Any));
    }
    Ok(writes)
}
