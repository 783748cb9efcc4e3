//! Blobs on a local disk.
//!
//! ```text
//! DIR/blobs/<alg>/<2 hex>/<hex>     finished, content-addressed
//! DIR/uploads/<id>/data             staged bytes
//! DIR/uploads/<id>/note             what the session is, absent if it need not survive a restart
//! DIR/uploads/<id>.put              bytes that come whole (a manifest); one left by a crash is removed at the next start
//! DIR/quarantine/<alg>-<hex>        a blob whose bytes were not its digest's; never read again
//! ```
//!
//! A blob appears by rename only, after its bytes are synced; the rename and every directory made on the way are synced
//! before `finish` returns. A crash at any point leaves either the old state or the new one, and at worst a staged file.

mod quarantine;
mod read;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::{BlobError, Blobs, Opened, Source, Staged, Stored};
use crate::BoxFuture;
use crate::digest::{Algorithm, Digest};
use crate::upload::UploadId;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something else stands where a directory is needed.
    #[error(
        "REGISTRY_DIR_NOT_A_DIRECTORY: {path} is not a directory: move it away or choose another data directory"
    )]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be made or written.
    #[error(
        "REGISTRY_DIR_UNWRITABLE: cannot write in {path} ({source}): check its owner, its mount and the free space, or choose another data directory"
    )]
    Unwritable {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Appends written at once; more wait. A write to the page cache takes as long as a copy of its bytes, and a disk that is
/// behind is not faster for more of them, but each one costs a thread of the pool with its stack and heap.
const APPENDS_AT_ONCE: usize = 8;

/// How the name of a file ends whose bytes came whole.
const PUT_SUFFIX: &str = ".put";

/// The store.
#[derive(Clone)]
pub struct Disk {
    root: Arc<Root>,
    appends: Arc<Semaphore>,
}

struct Root {
    blobs: PathBuf,
    uploads: PathBuf,
    quarantine: PathBuf,
    /// Algorithms whose directories are known to be on disk. It begins empty: a directory that merely exists may have
    /// been made by a process that died before syncing it.
    durable: Mutex<BTreeSet<Algorithm>>,
}

/// Opens (and if need be makes) the store in `dir`, and proves that it can be written.
pub fn open(dir: &Path) -> Result<Disk, OpenError> {
    let root = Root {
        blobs: dir.join("blobs"),
        uploads: dir.join("uploads"),
        quarantine: dir.join("quarantine"),
        durable: Mutex::default(),
    };
    for path in [dir, &root.blobs, &root.uploads, &root.quarantine] {
        make_dir(path)?;
    }
    for path in [dir.parent(), Some(dir)].into_iter().flatten() {
        // `parent` of a relative single name is "", which means the working directory.
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        sync_dir(path).map_err(|source| OpenError::Unwritable {
            path: path.to_owned(),
            source,
        })?;
    }
    let probe = root.uploads.join(".probe");
    let probed = fs::write(&probe, b"coracle").and_then(|()| fs::remove_file(&probe));
    probed.map_err(|source| OpenError::Unwritable {
        path: root.uploads.clone(),
        source,
    })?;
    root.remove_unfinished_puts()
        .map_err(|source| OpenError::Unwritable {
            path: root.uploads.clone(),
            source,
        })?;
    Ok(Disk {
        root: Arc::new(root),
        appends: Arc::new(Semaphore::new(APPENDS_AT_ONCE)),
    })
}

fn make_dir(path: &Path) -> Result<(), OpenError> {
    if let Some(bad) = path.ancestors().find(|part| part.exists())
        && !bad.is_dir()
    {
        return Err(OpenError::NotADirectory {
            path: bad.to_owned(),
        });
    }
    fs::create_dir_all(path).map_err(|source| OpenError::Unwritable {
        path: path.to_owned(),
        source,
    })
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Turns "it is not there" into `None`.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn modified(metadata: &fs::Metadata) -> Timestamp {
    metadata
        .modified()
        .ok()
        .and_then(|time| Timestamp::try_from(time).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Root {
    fn upload(&self, id: &UploadId) -> PathBuf {
        self.uploads.join(id.as_str())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.blobs
            .join(digest.algorithm().name())
            .join(&hex[..2])
            .join(hex)
    }

    /// Makes every directory of an algorithm, all at once because one sync of their parent then does for all, and knows
    /// that they are on disk. The lock is held while syncing, so nobody can take them for durable before they are.
    fn make_durable(&self, algorithm: Algorithm) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.contains(&algorithm) {
            return Ok(());
        }
        let dir = self.blobs.join(algorithm.name());
        for shard in 0..=u8::MAX {
            fs::create_dir_all(dir.join(format!("{shard:02x}")))?;
        }
        sync_dir(&dir)?;
        sync_dir(&self.blobs)?;
        durable.insert(algorithm);
        Ok(())
    }

    /// A synced file becomes the blob `digest`.
    fn publish(&self, synced: &Path, digest: &Digest) -> io::Result<()> {
        self.make_durable(digest.algorithm())?;
        let target = self.blob(digest);
        fs::rename(synced, &target)?;
        sync_dir(target.parent().unwrap_or(&self.blobs))
    }

    fn put(&self, id: &UploadId, digest: &Digest, bytes: &[u8]) -> Result<(), BlobError> {
        let path = self.uploads.join(format!("{}{PUT_SUFFIX}", id.as_str()));
        let done = || {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)?;
            file.write_all_at(bytes, 0)?;
            file.sync_all()?;
            self.publish(&path, digest)
        };
        done().map_err(|source| {
            // After a failed sync of the directory it is no longer there, and what is left is removed at the next start.
            if let Err(error) = found(fs::remove_file(&path)) {
                tracing::warn!(upload = %id, %error, "could not remove a file that was not stored");
            }
            BlobError::io("storing a blob", source)
        })
    }

    /// What a crash left between a file's making and its renaming: nobody was told of it.
    fn remove_unfinished_puts(&self) -> io::Result<()> {
        for name in names(&self.uploads)?.unwrap_or_default() {
            if name.ends_with(PUT_SUFFIX) {
                fs::remove_file(self.uploads.join(name))?;
            }
        }
        Ok(())
    }

    fn begin(&self, id: &UploadId, note: &[u8]) -> Result<(), BlobError> {
        let fail = |source| BlobError::io("starting an upload", source);
        let dir = self.upload(id);
        fs::create_dir(&dir).map_err(fail)?;
        if !note.is_empty()
            && let Err(error) = fs::write(dir.join("note"), note)
        {
            // Half a session would only be found, and thrown away, at the next start.
            self.discard(id)?;
            return Err(fail(error));
        }
        Ok(())
    }

    fn append(&self, id: &UploadId, offset: u64, bytes: &[u8]) -> Result<(), BlobError> {
        let fail = |source| BlobError::io("writing an upload", source);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.upload(id).join("data"));
        let file = found(opened).map_err(fail)?.ok_or(BlobError::UploadGone)?;
        let have = file.metadata().map_err(fail)?.len();
        if have < offset {
            return Err(BlobError::Short { have, want: offset });
        }
        if have > offset {
            file.set_len(offset).map_err(fail)?;
        }
        file.write_all_at(bytes, offset).map_err(fail)
    }

    fn finish(&self, id: &UploadId, size: u64, digest: &Digest) -> Result<(), BlobError> {
        let fail = |source| BlobError::io("storing a blob", source);
        let staged = self.upload(id).join("data");
        // A blob of no bytes never had an append: its file is made here.
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&staged);
        let file = found(opened).map_err(fail)?.ok_or(BlobError::UploadGone)?;
        let have = file.metadata().map_err(fail)?.len();
        if have < size {
            return Err(BlobError::Short { have, want: size });
        }
        if have > size {
            file.set_len(size).map_err(fail)?;
        }
        file.sync_all().map_err(fail)?;
        drop(file);

        self.publish(&staged, digest).map_err(fail)?;
        if let Err(error) = fs::remove_dir_all(self.upload(id)) {
            // The blob is stored; an empty session is swept at the next start.
            tracing::warn!(upload = %id, %error, "could not remove a finished upload's directory");
        }
        Ok(())
    }

    fn discard(&self, id: &UploadId) -> Result<(), BlobError> {
        found(fs::remove_dir_all(self.upload(id)))
            .map(|_| ())
            .map_err(|source| BlobError::io("discarding an upload", source))
    }

    fn staged(&self) -> Result<Vec<Staged>, BlobError> {
        let fail = |source| BlobError::io("listing uploads", source);
        let mut staged = Vec::new();
        for entry in fs::read_dir(&self.uploads).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name().to_string_lossy().ends_with(PUT_SUFFIX) {
                continue;
            }
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                tracing::warn!(path = %entry.path().display(), "not an upload, left alone");
                continue;
            };
            let note = found(fs::read(entry.path().join("note"))).map_err(fail)?;
            let data = found(fs::metadata(entry.path().join("data"))).map_err(fail)?;
            let own = entry.metadata().map_err(fail)?;
            staged.push(Staged {
                id,
                note: note.unwrap_or_default().into(),
                size: data.as_ref().map_or(0, fs::Metadata::len),
                modified: modified(data.as_ref().unwrap_or(&own)),
            });
        }
        staged.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(staged)
    }

    fn open(&self, source: &Source) -> Result<Option<Opened>, BlobError> {
        let fail = |source| BlobError::io("reading a blob", source);
        let path = match source {
            Source::Blob(digest) => self.blob(digest),
            Source::Upload(id) => self.upload(id).join("data"),
        };
        let Some(file) = found(File::open(path)).map_err(fail)? else {
            return Ok(None);
        };
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        Ok(Some(Opened {
            size: metadata.len(),
            modified: modified(&metadata),
            body: Box::new(move |range| read::pieces(file, range)),
        }))
    }

    fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        found(fs::remove_file(self.blob(digest)))
            .map(|done| done.is_some())
            .map_err(|source| BlobError::io("removing a blob", source))
    }

    fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stored>, BlobError> {
        let fail = |source| BlobError::io("listing blobs", source);
        let mut stored = Vec::new();
        for algorithm in Algorithm::ALL {
            if after.is_some_and(|after| after.algorithm() > algorithm) {
                continue;
            }
            let Some(shards) = names(&self.blobs.join(algorithm.name())).map_err(fail)? else {
                continue;
            };
            for shard in shards {
                let before = after.is_some_and(|after| {
                    after.algorithm() == algorithm && shard.as_str() < &after.hex()[..2]
                });
                if before {
                    continue;
                }
                let dir = self.blobs.join(algorithm.name()).join(&shard);
                for name in names(&dir).map_err(fail)?.unwrap_or_default() {
                    let Ok(digest) = format!("{}:{name}", algorithm.name()).parse::<Digest>()
                    else {
                        continue;
                    };
                    if after.is_some_and(|after| digest <= *after) {
                        continue;
                    }
                    let Some(metadata) = found(fs::metadata(dir.join(&name))).map_err(fail)? else {
                        continue;
                    };
                    stored.push(Stored {
                        digest,
                        size: metadata.len(),
                        modified: modified(&metadata),
                    });
                    if stored.len() == limit {
                        return Ok(stored);
                    }
                }
            }
        }
        Ok(stored)
    }
}

/// Sorted names in a directory, `None` if it is not there.
fn names(dir: &Path) -> io::Result<Option<Vec<String>>> {
    let Some(entries) = found(fs::read_dir(dir))? else {
        return Ok(None);
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(Some(names))
}

impl Disk {
    /// Runs `work` on the blocking pool. It always runs to its end, even if the future is dropped.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, BlobError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, BlobError>> {
        let root = self.root.clone();
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || work(&root)).await {
                Ok(done) => done,
                Err(error) => Err(BlobError::io(
                    "running disk work",
                    io::Error::other(error.to_string()),
                )),
            }
        })
    }
}

impl Blobs for Disk {
    fn begin<'a>(&'a self, id: &'a UploadId, note: Bytes) -> BoxFuture<'a, Result<(), BlobError>> {
        let id = id.clone();
        self.run(move |root| root.begin(&id, &note))
    }

    fn append<'a>(
        &'a self,
        id: &'a UploadId,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        let id = id.clone();
        let appends = self.appends.clone();
        Box::pin(async move {
            // The permit goes with the work: a caller that is gone does not make room for one more thread.
            let permit = appends.acquire_owned().await;
            let written = self.run(move |root| {
                let _permit = permit;
                root.append(&id, offset, &bytes)
            });
            written.await
        })
    }

    fn finish<'a>(
        &'a self,
        id: &'a UploadId,
        size: u64,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        let (id, digest) = (id.clone(), digest.clone());
        self.run(move |root| root.finish(&id, size, &digest))
    }

    fn put<'a>(
        &'a self,
        id: &'a UploadId,
        digest: &'a Digest,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), BlobError>> {
        let (id, digest) = (id.clone(), digest.clone());
        self.run(move |root| root.put(&id, &digest, &bytes))
    }

    fn discard<'a>(&'a self, id: &'a UploadId) -> BoxFuture<'a, Result<(), BlobError>> {
        let id = id.clone();
        self.run(move |root| root.discard(&id))
    }

    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, BlobError>> {
        self.run(Root::staged)
    }

    fn open<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<Option<Opened>, BlobError>> {
        let source = source.clone();
        self.run(move |root| root.open(&source))
    }

    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        let digest = digest.clone();
        self.run(move |root| root.remove(&digest))
    }

    fn quarantine<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<bool, BlobError>> {
        let digest = digest.clone();
        self.run(move |root| root.quarantine(&digest))
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, BlobError>> {
        let after = after.cloned();
        self.run(move |root| root.list(after.as_ref(), limit))
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
