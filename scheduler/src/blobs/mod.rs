//! Blobs on every member: rows of the registry are replicated by the log, bytes by what is here.
//!
//! [`Spread`] stands between the registry and this member's disk. A finished blob is streamed to the other members, and
//! `finish` returns when a majority of the voters has it on disk: that is what a `201` promises. A blob that is asked for
//! and is not here is fetched from a member that has it, its digest verified on the way. [`serve`] is the other end of
//! both, and [`heal`] brings what was missed while a member was away. A single member pays for none of this, nor do members
//! that share object storage: what one of them has stored there all have. [`scrub`] looks for rot once a day, and [`admin`]
//! is how an administrator asks for that, for a collection, and for what is used.

mod admin;
mod copies;
mod fetch;
mod heal;
mod peers;
mod receive;
mod scrub;
mod serve;

use std::sync::Arc;

use bytes::Bytes;
use coracle_registry::BoxFuture;
use coracle_registry::blobs::{BlobError, Blobs, Opened, Source, Staged, Stored};
use coracle_registry::digest::Digest;
use coracle_registry::upload::UploadId;
use tokio_util::sync::CancellationToken;

pub(crate) use admin::{Admin, router as admin_router};
pub(crate) use heal::heal;
pub(crate) use peers::Peers;
pub(crate) use scrub::scrub;
pub(crate) use serve::{Local, router};

use fetch::{Fetches, Found};

/// Where members keep each other's blobs: `PATH/DIGEST`.
const PATH: &str = "/coracle/v1/blobs";

/// The blobs of the cluster, by way of this member's disk.
#[derive(Clone)]
pub(crate) struct Spread(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Blobs>,
    /// `disk` is not this member's but everybody's.
    shared: bool,
    peers: Peers,
    fetches: Fetches,
    /// Ends copies and fetches that nobody waits for any more.
    stop: CancellationToken,
}

impl Spread {
    /// Spreads what is on `disk`, until `stop` fires.
    pub fn new(disk: Arc<dyn Blobs>, peers: Peers, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            disk,
            shared: false,
            peers,
            fetches: Fetches::default(),
            stop,
        }))
    }

    /// Spreads nothing: every member reads and writes `store`.
    pub fn shared(store: Arc<dyn Blobs>, peers: Peers, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            disk: store,
            shared: true,
            peers,
            fetches: Fetches::default(),
            stop,
        }))
    }

    /// This member's disk alone, or what all members share.
    pub fn disk(&self) -> &Arc<dyn Blobs> {
        &self.0.disk
    }

    async fn finish_everywhere(
        &self,
        id: &UploadId,
        size: u64,
        digest: &Digest,
    ) -> Result<(), BlobError> {
        self.0.disk.finish(id, size, digest).await?;
        self.spread(digest).await
    }

    async fn put_everywhere(
        &self,
        id: &UploadId,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<(), BlobError> {
        self.0.disk.put(id, digest, bytes).await?;
        self.spread(digest).await
    }

    /// What this member's disk has, to the others.
    async fn spread(&self, digest: &Digest) -> Result<(), BlobError> {
        if self.0.shared {
            return Ok(());
        }
        copies::spread(&self.0, digest).await
    }

    async fn open_anywhere(&self, source: &Source) -> Result<Option<Opened>, BlobError> {
        let here = self.0.disk.open(source).await?;
        let Source::Blob(digest) = source else {
            return Ok(here);
        };
        if here.is_some() || self.0.shared {
            return Ok(here);
        }
        match fetch::fetch(&self.0, digest, None).await {
            Found::Here => self.0.disk.open(source).await,
            Found::Nowhere => Ok(None),
            Found::Unknown(why) => Err(BlobError::Unavailable(why)),
        }
    }
}

impl Blobs for Spread {
    fn begin<'a>(&'a self, id: &'a UploadId, note: Bytes) -> BoxFuture<'a, Result<(), BlobError>> {
        self.0.disk.begin(id, note)
    }

    fn append<'a>(
        &'a self,
        id: &'a UploadId,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        self.0.disk.append(id, offset, bytes)
    }

    fn finish<'a>(
        &'a self,
        id: &'a UploadId,
        size: u64,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        Box::pin(self.finish_everywhere(id, size, digest))
    }

    fn put<'a>(
        &'a self,
        id: &'a UploadId,
        digest: &'a Digest,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        Box::pin(self.put_everywhere(id, digest, bytes))
    }

    fn discard<'a>(&'a self, id: &'a UploadId) -> BoxFuture<'a, Result<(), BlobError>> {
        self.0.disk.discard(id)
    }

    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, BlobError>> {
        self.0.disk.staged()
    }

    fn open<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<Option<Opened>, BlobError>> {
        Box::pin(self.open_anywhere(source))
    }

    /// Removes it here: every member's collector removes its own.
    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        self.0.disk.remove(digest)
    }

    /// This member's copy. The next `open` brings a good one from another member.
    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        self.0.disk.quarantine(digest)
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, BlobError>> {
        self.0.disk.list(after, limit)
    }
}
