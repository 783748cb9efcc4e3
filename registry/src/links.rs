//! Which repository shows which blob: linking, mounting, unlinking, looking up.

use http::{Extensions, HeaderMap};

use crate::authorise::namespace;
use crate::authorise::{Access, Action};
use crate::blobs::{Opened, Source};
use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::garbage::is_old;
use crate::meta::{Change, MetaError, Precondition, Write};
use crate::name::Name;
use crate::registry::{CONFLICTS_MAX, Registry};
use crate::rows::{self, BLOBS, BlobRow, EPOCHS, HOLDERS, LINKS, LinkRow, Touch};

/// Repositories looked at for a mount without `from`: the first few holders are as good as all.
const MOUNT_HOLDERS_MAX: usize = 16;

/// A `HEAD` renews links older than this part of the collector's age: a promise holds for the rest of it at least, and a
/// blob that is asked for all the time costs a write four times in that age.
const RENEW_PART: i64 = 4;

/// Who asks: what the authoriser needs beyond action and repository.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub headers: &'a HeaderMap,
    pub extensions: &'a Extensions,
}

pub(crate) fn blob_unknown(digest: &Digest) -> Error {
    Error::new(
        Code::BlobUnknown,
        format!("blob {digest} is not in this repository"),
    )
}

impl Registry {
    /// A blob this repository shows, opened. A row without its bytes counts as no blob, so that a client pushes it
    /// again, which heals it.
    pub(crate) async fn blob(&self, name: &Name, digest: &Digest) -> Result<Opened, Error> {
        let key = rows::link_key(name, digest);
        let Some((link, _)) = self.row::<LinkRow>(LINKS, &key).await? else {
            return Err(blob_unknown(digest));
        };
        self.intact(digest, link.size)
            .await?
            .ok_or_else(|| blob_unknown(digest))
    }

    /// The stored bytes if they are there in the length they should have.
    pub(crate) async fn intact(&self, digest: &Digest, size: u64) -> Result<Option<Opened>, Error> {
        match self.blobs.open(&Source::Blob(digest.clone())).await? {
            Some(opened) if opened.size == size => Ok(Some(opened)),
            damaged => {
                self.counters.blobs_damaged.add(1);
                tracing::error!(
                    %digest,
                    expected = size,
                    found = damaged.map(|opened| opened.size),
                    "a stored blob is missing or cut; push it again to heal it"
                );
                Ok(None)
            }
        }
    }

    /// The same for `HEAD`, with a promise: a client that hears "it is there" will not send it.
    pub(crate) async fn promise_blob(&self, name: &Name, digest: &Digest) -> Result<Opened, Error> {
        let _guard = self.guard(digest).read().await;
        for _ in 0..CONFLICTS_MAX {
            let opened = self.blob(name, digest).await?;
            self.leases.hold(digest, self.now());
            if self.renew_link(name, digest).await? {
                return Ok(opened);
            }
        }
        Err(Error::busy(
            "this blob is being pushed and deleted again and again",
        ))
    }

    /// Tells the other members' collectors of a promise: a link that is no longer young is made young. `false`: somebody
    /// changed it meanwhile.
    async fn renew_link(&self, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let key = rows::link_key(name, digest);
        let Some((mut link, row)) = self.row::<LinkRow>(LINKS, &key).await? else {
            return Ok(false);
        };
        let now = self.now();
        if !is_old(link.at, now, self.limits.garbage_age_ms / RENEW_PART) {
            return Ok(true);
        }
        link.at = now;
        let write = Write {
            precondition: rows::as_read(Some(&row)),
            ..rows::put(LINKS, key, &link)?
        };
        match self.meta.batch(vec![write]).await {
            Ok(()) => Ok(true),
            Err(MetaError::Conflict { .. }) => Ok(false),
            // What has no majority has none to collect with either, and a manifest is checked when it comes.
            Err(MetaError::Unavailable(why)) => {
                tracing::debug!(%digest, why, "a promise was not told to the other members");
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps this registry's collector from the bytes of `digest` for one lease time, whatever the rows say. When it
    /// returns no removal is under way that was decided before. For copies of blobs whose link is written elsewhere.
    pub async fn promise(&self, digest: &Digest) {
        let _guard = self.guard(digest).read().await;
        self.leases.hold(digest, self.now());
    }

    /// Rows that make `name` show `digest`.
    fn link_rows(&self, name: &Name, digest: &Digest, size: u64) -> Result<Vec<Write>, Error> {
        let at = self.now();
        let touch = rand::random();
        let blob = BlobRow { size, at, touch };
        let link = LinkRow { size, at };
        Ok(vec![
            rows::put(BLOBS, digest.to_string(), &blob)?,
            rows::put(LINKS, rows::link_key(name, digest), &link)?,
            Write {
                table: HOLDERS,
                key: rows::holder_key(digest, name),
                precondition: Precondition::Any,
                change: Change::Put(bytes::Bytes::new()),
            },
        ])
    }

    /// Links a blob whose bytes were just stored; the caller holds the digest's guard.
    pub(crate) async fn link(&self, name: &Name, digest: &Digest, size: u64) -> Result<(), Error> {
        self.leases.hold(digest, self.now());
        let writes = self.link_rows(name, digest, size)?;
        Ok(self.meta.batch(writes).await?)
    }

    /// Shows a blob of another repository here, if there is one the caller may read. `false`: there is none.
    pub(crate) async fn mount(
        &self,
        name: &Name,
        from: Option<&Name>,
        digest: &Digest,
        caller: Caller<'_>,
    ) -> Result<bool, Error> {
        let sources = match from {
            Some(from) => vec![from.clone()],
            None => self.holders(digest).await?,
        };
        for source in sources {
            let access = Access {
                action: Action::Pull,
                repository: Some(&source),
                headers: caller.headers,
                extensions: caller.extensions,
            };
            if self.allow(access).await.is_err() {
                continue;
            }
            if self.mount_from(name, &source, digest).await? {
                self.counters.blobs_mounted.add(1);
                tracing::debug!(repository = %name, from = %source, %digest, "blob mounted");
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn mount_from(&self, name: &Name, from: &Name, digest: &Digest) -> Result<bool, Error> {
        let _guard = self.guard(digest).read().await;
        self.leases.hold(digest, self.now());
        for _ in 0..CONFLICTS_MAX {
            let source = rows::link_key(from, digest);
            let Some((link, _)) = self.row::<LinkRow>(LINKS, &source).await? else {
                return Ok(false);
            };
            let Some(blob) = self.meta.get(BLOBS, &digest.to_string()).await? else {
                return Ok(false);
            };
            if self.intact(digest, link.size).await?.is_none() {
                return Ok(false);
            }
            self.quota_link(name, digest, link.size).await?;
            let mut writes = self.link_rows(name, digest, link.size)?;
            for write in &mut writes {
                // A mount brings no bytes, so it may only touch a blob that is still there.
                if write.table == BLOBS {
                    write.precondition = rows::as_read(Some(&blob));
                }
            }
            match self.meta.batch(writes).await {
                Ok(()) => {
                    self.quota.linked(namespace(name), None, link.size);
                    return Ok(true);
                }
                Err(MetaError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::busy("many clients are mounting this blob"))
    }

    /// Some repositories that show a blob.
    async fn holders(&self, digest: &Digest) -> Result<Vec<Name>, Error> {
        let prefix = rows::holder_prefix(digest);
        let rows = self
            .meta
            .list(HOLDERS, &prefix, None, MOUNT_HOLDERS_MAX)
            .await?;
        Ok(rows
            .iter()
            .filter_map(|(key, _)| key.strip_prefix(&prefix)?.parse().ok())
            .collect())
    }

    /// Rows that make `name` stop showing `digest`, touching the fence that manifest pushes check.
    pub(crate) fn unlink_rows(
        &self,
        name: &Name,
        digest: &Digest,
        link: Precondition,
    ) -> Result<Vec<Write>, Error> {
        let fence = Touch {
            touch: rand::random(),
        };
        Ok(vec![
            rows::delete(LINKS, rows::link_key(name, digest), link),
            rows::delete(HOLDERS, rows::holder_key(digest, name), Precondition::Any),
            rows::put(EPOCHS, name.to_string(), &fence)?,
        ])
    }

    /// Takes a blob out of a repository at the client's wish. The bytes go when the collector finds nobody holds them.
    pub(crate) async fn delete_blob(&self, name: &Name, digest: &Digest) -> Result<(), Error> {
        let key = rows::link_key(name, digest);
        for _ in 0..CONFLICTS_MAX {
            let Some(row) = self.meta.get(LINKS, &key).await? else {
                return Err(blob_unknown(digest));
            };
            let writes = self.unlink_rows(name, digest, rows::as_read(Some(&row)))?;
            match self.meta.batch(writes).await {
                Ok(()) => {
                    tracing::info!(repository = %name, %digest, "blob deleted");
                    return Ok(());
                }
                Err(MetaError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::busy("this blob is being pushed again and again"))
    }
}
