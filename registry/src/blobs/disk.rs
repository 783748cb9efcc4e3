//! Blobs on a local disk.
//!
//! ```text
//! DIR/blobs/<alg>/<2 hex>/<hex>     finished, content-addressed
//! DIR/uploads/<id>/data             staged bytes
//! DIR/uploads/<id>/note             what the session is, absent if it need not survive a restart
//! DIR/quarantine/<alg>-<hex>        a blob whose bytes were not its digest's; never read again
//! ```
//!
//! A blob appears by rename only, after its bytes are synced; the rename and every directory made on the way are synced
//! before `finish` returns. A crash at any point leaves either the old state or the new one, and at worst a staged file.

mod quarantine;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{BlobError, Blobs, Opened, Source, Staged, Stored};
use crate::BoxFuture;
use crate::digest::{Algorithm, Digest};
use crate::upload::UploadId;

/// Bytes read from disk at once: large enough that the hand-over between threads does not show, small enough that a
/// thousand slow readers cost 512 MiB (one piece on its way, one held back: see [`super::verify`]).
const READ_BYTES: usize = 256 * 1024;

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

/// The store.
#[derive(Clone)]
pub struct Disk {
    root: Arc<Root>,
}

struct Root {
    blobs: PathBuf,
    uploads: PathBuf,
    quarantine: PathBuf,
    /// Directories whose own entry is known to be on disk. It begins empty: a directory that merely exists may have
    /// been made by a process that died before syncing it.
    durable: Mutex<BTreeSet<PathBuf>>,
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
    Ok(Disk {
        root: Arc::new(root),
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

    /// Makes `blobs/<alg>/<2 hex>` and knows that it is on disk. The lock is held while syncing, so nobody can take the
    /// directory for durable before it is.
    fn durable_dir(&self, dir: &Path) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.contains(dir) {
            return Ok(());
        }
        fs::create_dir_all(dir)?;
        let mut at = dir;
        while at != self.blobs {
            let Some(parent) = at.parent() else { break };
            sync_dir(parent)?;
            at = parent;
        }
        durable.insert(dir.to_owned());
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

        let target = self.blob(digest);
        let dir = target.parent().unwrap_or(&self.blobs);
        self.durable_dir(dir).map_err(fail)?;
        fs::rename(&staged, &target).map_err(fail)?;
        sync_dir(dir).map_err(fail)?;
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
        let file = tokio::fs::File::from_std(file);
        Ok(Some(Opened {
            size: metadata.len(),
            modified: modified(&metadata),
            body: Box::new(move |range| {
                let pieces = stream::once(async move {
                    let mut file = file;
                    if range.start > 0 {
                        file.seek(io::SeekFrom::Start(range.start)).await?;
                    }
                    let part = file.take(range.end - range.start);
                    Ok::<_, io::Error>(ReaderStream::with_capacity(part, READ_BYTES))
                });
                Box::pin(pieces.flat_map(|opened| match opened {
                    Ok(reader) => reader.left_stream(),
                    Err(error) => stream::once(async move { Err(error) }).right_stream(),
                }))
            }),
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
        self.run(move |root| root.append(&id, offset, &bytes))
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
