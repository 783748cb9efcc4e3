//! How far the log was synced, kept beside it. It tells a torn tail (never acknowledged, dropped) from rot below it
//! (acknowledged, refused). A lower bound: it is written after a sync and itself synced only by the kernel and at the end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The marker file.
#[derive(Debug)]
pub struct Synced {
    file: File,
    offset: AtomicU64,
}

impl Synced {
    /// Opens or creates the marker.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut raw = [0u8; 12];
        let known = match file.read_exact_at(&mut raw, 0) {
            Ok(()) => {
                let (offset, crc) = raw.split_at(8);
                (crc == crc32fast::hash(offset).to_le_bytes())
                    .then(|| u64::from_le_bytes(offset.try_into().expect("eight bytes")))
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(e) => return Err(e),
        };
        Ok(Self {
            file,
            offset: AtomicU64::new(known.unwrap_or(0)),
        })
    }

    /// Makes the marker durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Everything up to here was synced. 0 = unknown.
    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    /// Raises the marker; called on the flush thread after a sync. A marker that cannot be written is only less sharp.
    pub fn advance(&self, to: u64) {
        if to <= self.offset.fetch_max(to, Ordering::AcqRel) {
            return;
        }
        let mut raw = [0u8; 12];
        raw[..8].copy_from_slice(&to.to_le_bytes());
        raw[8..].copy_from_slice(&crc32fast::hash(&to.to_le_bytes()).to_le_bytes());
        if let Err(error) = self.file.write_all_at(&raw, 0) {
            tracing::warn!(%error, "the marker of the last synced log offset was not written");
        }
    }
}
