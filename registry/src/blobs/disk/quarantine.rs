//! A damaged blob out of its place, so that it is never served, and a bounded number of them kept for whoever looks for
//! the cause.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use super::read::READ_BYTES;
use super::{Root, found, names, sync_dir};
use crate::blobs::{BlobError, QUARANTINE_BLOBS_MAX, QUARANTINE_BYTES_MAX};
use crate::digest::{Algorithm, Digest, Hash};

impl Root {
    pub(super) fn quarantine(&self, digest: &Digest) -> Result<bool, BlobError> {
        let fail = |source| BlobError::io("moving a damaged blob aside", source);
        let path = self.blob(digest);
        let Some(file) = found(File::open(&path)).map_err(fail)? else {
            return Ok(false);
        };
        let read = file.metadata().map_err(fail)?;
        match hash(&file, digest.algorithm()) {
            Ok(actual) if actual == *digest => return Ok(false),
            Ok(_) => {}
            // What cannot be read is of no use under its digest either.
            Err(error) => tracing::error!(%digest, %error, "a stored blob cannot be read"),
        }
        let aside = self
            .quarantine
            .join(format!("{}-{}", digest.algorithm().name(), digest.hex()));
        if found(fs::rename(&path, &aside)).map_err(fail)?.is_none() {
            return Ok(false);
        }
        // `file` is still open, so its number cannot have been given to another one.
        let moved = fs::metadata(&aside).map_err(fail)?;
        if (moved.dev(), moved.ino()) != (read.dev(), read.ino()) {
            // A push has put a new copy there since it was read: back with it, unless a yet newer one is there. The
            // push may have been acknowledged, so this is synced as a push is.
            match fs::hard_link(&aside, &path) {
                Ok(()) => sync_dir(path.parent().unwrap_or(&self.blobs)).map_err(fail)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(fail(error)),
            }
            fs::remove_file(&aside).map_err(fail)?;
            return Ok(false);
        }
        // Not synced: after a crash the damaged file may be back in its place, where it is found again.
        self.trim_quarantine().map_err(fail)?;
        Ok(true)
    }

    /// Removes what is over the bounds, oldest first. A move sets a file's time of change.
    fn trim_quarantine(&self) -> io::Result<()> {
        let mut kept = Vec::new();
        for name in names(&self.quarantine)?.unwrap_or_default() {
            let path = self.quarantine.join(name);
            if let Some(metadata) = found(fs::symlink_metadata(&path))? {
                let changed = (metadata.ctime(), metadata.ctime_nsec());
                kept.push((changed, path, metadata.len()));
            }
        }
        kept.sort_by(|a, b| b.cmp(a));
        let mut bytes = 0_u64;
        for (n, (_, path, size)) in kept.into_iter().enumerate() {
            bytes = bytes.saturating_add(size);
            if n >= QUARANTINE_BLOBS_MAX || bytes > QUARANTINE_BYTES_MAX {
                found(fs::remove_file(path))?;
            }
        }
        Ok(())
    }
}

/// The digest of a file's bytes from where it stands.
fn hash(mut file: &File, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hash = Hash::new(algorithm);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.digest()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
