//! Space put aside in the data directory, for votes and commits on a disk that somebody else has filled.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::journal::wal::segment::reserve;

/// A file that holds nothing but its place. What it holds is asked of the file system each time: the log and the gate each
/// have one of these.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// The ballast at `path`, which may be there from an earlier process.
    pub fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Bytes put aside now.
    pub fn held(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    /// Puts `bytes` aside, or leaves nothing behind.
    pub fn make(&self, bytes: u64) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        durable::create_dir(dir)?;
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .and_then(|file| {
                reserve(&file, bytes, &|| true)?;
                file.set_len(bytes)?;
                file.sync_all()
            });
        if let Err(e) = made {
            self.release();
            return Err(e);
        }
        durable::sync_dir(dir)
    }

    /// Gives the space back; how many bytes that were.
    pub fn release(&self) -> u64 {
        let held = self.held();
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return 0,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "the ballast was not released");
                return 0;
            }
        }
        // The space of a removed file is free once the removal is on disk.
        if let Some(dir) = self.path.parent()
            && let Err(error) = durable::sync_dir(dir)
        {
            tracing::warn!(%error, "the release of the ballast was not synced");
        }
        held
    }
}
