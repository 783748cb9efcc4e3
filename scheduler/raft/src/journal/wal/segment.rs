//! The files of the log: numbered, of a fixed length that is on disk before the first record, so that a sync has no
//! metadata to commit. A file gets its final name before it is used; one without any group is a prepared one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::BLOCK;
use crate::durable;

/// Shortest file: the first group of any vote or small batch.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Zeros written at a time, and between two syncs: a longer burst would delay the log's own syncs on the same disk.
const FILL_BYTES: usize = 1 << 20;
const FILL_SYNC_BYTES: u64 = 4 << 20;

/// A file of the log.
#[derive(Debug)]
pub struct Segment {
    /// Its number; the order of the log.
    pub seq: u64,
    /// Drawn at random with its name, see [`super::record`].
    pub salt: u64,
    /// Its length in bytes, whole blocks.
    pub len: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading and writing by position.
    pub file: File,
    /// The same file past the page cache, each write synced when it returns; `None` where that is not to be had.
    direct: Option<File>,
}

/// How a new file gets its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Written with zeros: slow now, fast to overwrite.
    Zeros,
    /// Space reserved only: at once, but each first write has metadata to commit.
    Reserve,
}

/// The name of a file.
fn name(seq: u64, salt: u64) -> String {
    format!("{seq:016x}-{salt:016x}.seg")
}

/// Number and salt of a file name; `None` for other files.
pub fn parse(name: &str) -> Option<(u64, u64)> {
    let (seq, salt) = name.strip_suffix(".seg")?.split_once('-')?;
    let hex = |s: &str| {
        (s.len() == 16)
            .then(|| u64::from_str_radix(s, 16).ok())
            .flatten()
    };
    Some((hex(seq)?, hex(salt)?))
}

impl Segment {
    /// Opens an existing file.
    pub fn open(path: PathBuf, seq: u64, salt: u64, direct: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let len = file.metadata()?.len() / BLOCK as u64 * BLOCK as u64;
        let direct = if direct { open_direct(&path) } else { None };
        Ok(Self {
            seq,
            salt,
            len,
            path,
            file,
            direct,
        })
    }

    /// Makes a file of at least `len` bytes, durable with its name before this returns. `go_on` is asked now and then.
    pub fn create(
        dir: &Path,
        seq: u64,
        len: u64,
        fill: Fill,
        direct: bool,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let len = len.max(SEGMENT_BYTES_MIN).next_multiple_of(BLOCK as u64);
        let salt = rand::random();
        let path = dir.join(name(seq, salt));
        let beside = path.with_extension("new");
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&beside)
            .and_then(|file| {
                match fill {
                    Fill::Zeros => zeros(&file, len, go_on)?,
                    Fill::Reserve => reserve(&file, len, go_on)?,
                }
                file.sync_all()?;
                fs::rename(&beside, &path)?;
                Ok(file)
            });
        let file = match made {
            Ok(file) => file,
            Err(e) => {
                // Its space is what the next attempt needs; an unfinished file is also removed at the next opening.
                let _ = fs::remove_file(&beside);
                return Err(e);
            }
        };
        durable::sync_dir(dir)?;
        let direct = if direct { open_direct(&path) } else { None };
        Ok(Self {
            seq,
            salt,
            len,
            path,
            file,
            direct,
        })
    }

    /// Writes whole blocks; they are on stable storage when this returns.
    pub fn write_synced(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match &self.direct {
            Some(direct) => direct.write_all_at(bytes, at),
            None => {
                self.file.write_all_at(bytes, at)?;
                self.file.sync_data()
            }
        }
    }

    /// Gives a file that is no longer needed a new number; what it holds no longer counts, for its salt is another.
    pub fn recycle(&self, dir: &Path, seq: u64) -> io::Result<Self> {
        let salt = rand::random();
        let path = dir.join(name(seq, salt));
        let file = self.file.try_clone()?;
        let direct = self.direct.as_ref().map(File::try_clone).transpose()?;
        fs::rename(&self.path, &path)?;
        durable::sync_dir(dir)?;
        Ok(Self {
            seq,
            salt,
            len: self.len,
            path,
            file,
            direct,
        })
    }
}

/// Past the page cache a group costs one call instead of two, no copy and no write-back. Not every file system can, and
/// some say so only when read or written: one block is read to see.
fn open_direct(path: &Path) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(path)
        .ok()?;
    let mut raw = vec![0u8; 2 * BLOCK];
    let start = raw.as_ptr().align_offset(BLOCK);
    file.read_exact_at(&mut raw[start..start + BLOCK], 0).ok()?;
    Some(file)
}

fn zeros(file: &File, len: u64, go_on: &dyn Fn() -> bool) -> io::Result<()> {
    let block = vec![0u8; FILL_BYTES.min(len as usize)];
    let (mut at, mut unsynced) = (0u64, 0u64);
    while at < len {
        if !go_on() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        let n = (len - at).min(block.len() as u64);
        file.write_all_at(&block[..n as usize], at)?;
        at += n;
        unsynced += n;
        if unsynced >= FILL_SYNC_BYTES {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    Ok(())
}

/// Reserves blocks for the first `len` bytes of a file, which read as zeros. Writes them where the file system cannot.
pub fn reserve(file: &File, len: u64, go_on: &dyn Fn() -> bool) -> io::Result<()> {
    let end = i64::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    loop {
        // SAFETY: a plain system call on a descriptor that `file` keeps open; no memory is involved.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, end) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return zeros(file, len, go_on),
            _ => return Err(error),
        }
    }
}

/// Whether an error says that there is no space left (and not that the disk is failing).
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
