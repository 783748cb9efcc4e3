//! What to do with a log that does not open: cut a torn tail, which nobody was promised, and refuse everything else.
//!
//! `raft-log` cuts every incomplete last record, so a rotten length field in the middle of the last chunk would drop
//! acknowledged entries. It is opened with that switched off; the cutting is done here, above the synced marker only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use raft_log::chunked_wal;
use raft_log::codeq::Decode;
use raft_log::{RaftLogRecord, Types};

use crate::durable;
use crate::error::StartError;

/// A chunk file and the log offset it begins at.
struct Chunk {
    path: PathBuf,
    start: u64,
    len: u64,
}

/// Where reading a chunk stopped.
struct Broken {
    /// Offset inside the file of the first unreadable record.
    at: u64,
    error: io::Error,
    /// The rest of the file is zeros (a length that reached the disk before its data).
    zeros: bool,
}

fn chunks(dir: &Path) -> io::Result<Vec<Chunk>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Ok(start) =
            chunked_wal::Config::parse_chunk_file_name(&entry.file_name().to_string_lossy())
        {
            found.push(Chunk {
                path: entry.path(),
                start,
                len: entry.metadata()?.len(),
            });
        }
    }
    found.sort_by_key(|c| c.start);
    Ok(found)
}

struct Counting<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count += n as u64;
        Ok(n)
    }
}

/// Reads records until one fails; `records_max` bounds the work.
fn scan<T: Types>(chunk: &Chunk, records_max: usize) -> io::Result<Option<Broken>> {
    let mut r = Counting {
        inner: BufReader::with_capacity(1 << 20, File::open(&chunk.path)?),
        count: 0,
    };
    for _ in 0..records_max {
        let at = r.count;
        if at == chunk.len {
            return Ok(None);
        }
        if let Err(error) = RaftLogRecord::<T>::decode(&mut r) {
            let mut rest = BufReader::new(File::open(&chunk.path)?);
            io::copy(&mut (&mut rest).take(at), &mut io::sink())?;
            let zeros = rest.bytes().all(|b| matches!(b, Ok(0)));
            return Ok(Some(Broken { at, error, zeros }));
        }
    }
    Ok(None)
}

fn corrupt(path: &Path, why: String) -> StartError {
    StartError::LogCorrupt {
        path: path.into(),
        why,
    }
}

/// Before opening: what was synced must be there. Cheap: sizes, and the first record of the last chunk.
pub fn check<T: Types>(dir: &Path, synced: u64) -> Result<(), StartError> {
    let all = chunks(dir).map_err(|e| StartError::io(dir, e))?;
    let Some(last) = all.last() else {
        return if synced == 0 {
            Ok(())
        } else {
            Err(corrupt(
                dir,
                format!("the log files are gone, {synced} bytes had been synced"),
            ))
        };
    };
    let end = last.start + last.len;
    if end < synced {
        return Err(corrupt(
            &last.path,
            format!("the log ends at offset {end}, it had been synced up to {synced}"),
        ));
    }
    // raft-log removes a last chunk whose first record is incomplete; that is only right if it was never synced.
    if last.start < synced
        && let Some(broken) = scan::<T>(last, 1).map_err(|e| StartError::io(&last.path, e))?
    {
        return Err(corrupt(
            &last.path,
            format!(
                "the record at byte {} is damaged ({})",
                broken.at, broken.error
            ),
        ));
    }
    Ok(())
}

/// After a failed open: cuts a torn tail off and returns `true` (open again), or says what is damaged.
pub fn cut_torn_tail<T: Types>(
    dir: &Path,
    synced: u64,
    open_error: &io::Error,
) -> Result<bool, StartError> {
    let all = chunks(dir).map_err(|e| StartError::io(dir, e))?;
    for (i, chunk) in all.iter().enumerate() {
        let Some(broken) =
            scan::<T>(chunk, usize::MAX).map_err(|e| StartError::io(&chunk.path, e))?
        else {
            continue;
        };
        let offset = chunk.start + broken.at;
        let torn = broken.error.kind() == io::ErrorKind::UnexpectedEof || broken.zeros;
        let tail = i + 1 == all.len();
        // A hole followed by other bytes is a torn write too, if it is known that nothing from there on was synced.
        if !tail || offset < synced || !(torn || synced > 0) {
            return Err(corrupt(
                &chunk.path,
                format!(
                    "the record at byte {} of {} is damaged ({}); synced up to log offset {synced}",
                    broken.at, chunk.len, broken.error
                ),
            ));
        }
        let kept = dir.join("torn-tail.bin");
        // Nobody was promised these bytes; a full disk must not keep the log from opening.
        if let Err(error) = keep_copy(&chunk.path, broken.at, &kept) {
            tracing::warn!(%error, "no copy of the torn tail was kept");
        }
        tracing::warn!(chunk = %chunk.path.display(), at = broken.at, cut = chunk.len - broken.at, kept = %kept.display(),
            "the log ended in an incomplete record that was never acknowledged; it was cut off");
        let file = OpenOptions::new()
            .write(true)
            .open(&chunk.path)
            .map_err(|e| StartError::io(&chunk.path, e))?;
        file.set_len(broken.at)
            .and_then(|()| file.sync_all())
            .map_err(|e| StartError::io(&chunk.path, e))?;
        return Ok(true);
    }
    // Every record reads well, so something between them is wrong (a missing chunk, an impossible order).
    Err(corrupt(dir, open_error.to_string()))
}

fn keep_copy(chunk: &Path, from: u64, to: &Path) -> io::Result<()> {
    let bytes = fs::read(chunk)?;
    let at = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    durable::write(to, &bytes[at..], 0o600)
}
