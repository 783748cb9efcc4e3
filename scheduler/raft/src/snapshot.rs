//! Snapshots as files: a header saying what is in it, the state as `coracle_state::snapshot` streams it, a CRC at the end.
//! Written beside, synced, renamed, directory synced; only the newest is kept. The same file is the backup format.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use coracle_state::{FormatError, State};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::StartError;
use crate::types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"CORSNAP\x01";
/// Bound on the header: a membership of a few members.
const HEADER_BYTES_MAX: u32 = 1 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// A snapshot as it travels: never a buffer. The open file keeps the bytes readable after a newer snapshot replaced it.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// CRC-32 of everything before the trailing four bytes.
    pub crc: u32,
    /// The file, open for reading (by position; clones share it).
    pub file: Arc<File>,
}

/// What the header says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Log position and membership of the state inside.
    pub meta: SnapshotMeta,
    /// Bytes appended to the log when it was made: tells after a restart how much log came since.
    pub log_end: u64,
}

/// A complete snapshot on disk.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its header.
    pub header: Header,
    /// Its bytes.
    pub file: SnapshotFile,
}

/// The snapshot directory of one member.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    current: Mutex<Option<Stored>>,
}

impl Snapshots {
    /// Opens the directory, removes unfinished files and loads the newest snapshot with its state.
    pub fn open(dir: &Path) -> Result<(Self, Option<(Stored, State)>), StartError> {
        durable::create_dir(dir).map_err(|e| StartError::io(dir, e))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| StartError::io(dir, e))? {
            let path = entry.map_err(|e| StartError::io(dir, e))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("snap") => names.push(path),
                _ => fs::remove_file(&path).map_err(|e| StartError::io(&path, e))?,
            }
        }
        // Names begin with the index in fixed width.
        names.sort();
        let loaded = match names.pop() {
            None => None,
            Some(newest) => Some(load(&newest)?),
        };
        for old in names {
            fs::remove_file(&old).map_err(|e| StartError::io(&old, e))?;
        }
        Ok((
            Self {
                dir: dir.into(),
                current: Mutex::new(loaded.as_ref().map(|(s, _)| s.clone())),
            },
            loaded,
        ))
    }

    /// The newest complete snapshot.
    pub fn current(&self) -> Option<Stored> {
        self.current
            .lock()
            .expect("no panic while holding this lock")
            .clone()
    }

    /// Writes a state as the new current snapshot. Blocking: run it off the raft thread.
    pub fn write(&self, state: &State, header: Header) -> io::Result<Stored> {
        let (final_path, partial) = self.paths(&header.meta);
        let written = write_file(&partial, state, &header);
        let (len, crc) = match written {
            Ok(done) => done,
            Err(e) => {
                // The space of a half-written file is what the next attempt needs.
                let _ = fs::remove_file(&partial);
                return Err(e);
            }
        };
        self.adopt(&partial, &final_path, header, len, crc)
    }

    /// Takes a file that arrived from elsewhere (checked and loaded by the caller) as the current snapshot.
    pub fn install(&self, from: &SnapshotFile, header: Header) -> io::Result<Stored> {
        let (final_path, partial) = self.paths(&header.meta);
        if from.path == final_path {
            return Ok(Stored {
                header,
                file: from.clone(),
            });
        }
        if from.path.parent() == Some(&self.dir) {
            fs::rename(&from.path, &partial)?;
            File::open(&partial)?.sync_all()?;
        } else {
            let mut out = File::create(&partial)?;
            io::copy(&mut File::open(&from.path)?, &mut out)?;
            out.sync_all()?;
        }
        self.adopt(&partial, &final_path, header, from.len, from.crc)
    }

    fn paths(&self, meta: &SnapshotMeta) -> (PathBuf, PathBuf) {
        let (index, term, node) = meta.last_log_id.as_ref().map_or((0, 0, 0), |id| {
            (id.index, id.leader_id.term, id.leader_id.node_id)
        });
        let name = format!("{index:020}-{term:010}-{node:016x}");
        (
            self.dir.join(format!("{name}.snap")),
            self.dir.join(format!("{name}.partial")),
        )
    }

    fn adopt(
        &self,
        partial: &Path,
        final_path: &Path,
        header: Header,
        len: u64,
        crc: u32,
    ) -> io::Result<Stored> {
        let mut current = self
            .current
            .lock()
            .expect("no panic while holding this lock");
        fs::rename(partial, final_path)?;
        durable::sync_dir(&self.dir)?;
        let file = SnapshotFile {
            path: final_path.into(),
            len,
            crc,
            file: Arc::new(File::open(final_path)?),
        };
        let stored = Stored { header, file };
        let old = current.replace(stored.clone());
        if let Some(old) = old
            && old.file.path != stored.file.path
        {
            fs::remove_file(&old.file.path)?;
        }
        Ok(stored)
    }
}

fn write_file(path: &Path, state: &State, header: &Header) -> io::Result<(u64, u32)> {
    let mut out = CrcWriter {
        inner: BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?),
        crc: crc32fast::Hasher::new(),
        len: 0,
    };
    out.write_all(MAGIC)?;
    let mut head = Vec::new();
    ciborium::into_writer(header, &mut head).map_err(|e| io::Error::other(e.to_string()))?;
    out.write_all(&(head.len() as u32).to_le_bytes())?;
    out.write_all(&head)?;
    coracle_state::snapshot::write(state, &mut out)?;
    let crc = out.crc.clone().finalize();
    out.write_all(&crc.to_le_bytes())?;
    let len = out.len;
    let file = out
        .inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok((len, crc))
}

/// Reads and checks a whole snapshot file.
pub fn load(path: &Path) -> Result<(Stored, State), StartError> {
    let bad = |why: String| StartError::SnapshotCorrupt {
        path: path.into(),
        why,
    };
    let file = File::open(path).map_err(|e| StartError::io(path, e))?;
    let len = file.metadata().map_err(|e| StartError::io(path, e))?.len();
    let mut input = CrcReader {
        inner: BufReader::with_capacity(BUFFER_BYTES, &file),
        crc: crc32fast::Hasher::new(),
    };
    let mut magic = [0u8; 8];
    input
        .read_exact(&mut magic)
        .map_err(|e| bad(e.to_string()))?;
    if magic[..7] != MAGIC[..7] {
        return Err(bad("this is not a snapshot".into()));
    }
    if magic[7] > MAGIC[7] {
        return Err(StartError::Format(FormatError::Newer {
            found: magic[7],
            known: MAGIC[7],
        }));
    }
    let mut head_len = [0u8; 4];
    input
        .read_exact(&mut head_len)
        .map_err(|e| bad(e.to_string()))?;
    let head_len = u32::from_le_bytes(head_len);
    if head_len > HEADER_BYTES_MAX {
        return Err(bad(format!("its header claims {head_len} bytes")));
    }
    let mut head = vec![0; head_len as usize];
    input
        .read_exact(&mut head)
        .map_err(|e| bad(e.to_string()))?;
    let header: Header =
        ciborium::from_reader(&head[..]).map_err(|e| bad(format!("header: {e}")))?;
    let state = match coracle_state::snapshot::read(&mut input) {
        Ok(state) => state,
        Err(FormatError::Corrupt(why)) => return Err(bad(why)),
        Err(newer) => return Err(newer.into()),
    };
    let crc = input.crc.clone().finalize();
    let mut trailer = [0u8; 4];
    input
        .inner
        .read_exact(&mut trailer)
        .map_err(|e| bad(e.to_string()))?;
    if trailer != crc.to_le_bytes() {
        return Err(bad("its checksum does not match".into()));
    }
    drop(input);
    Ok((
        Stored {
            header,
            file: SnapshotFile {
                path: path.into(),
                len,
                crc,
                file: Arc::new(file),
            },
        },
        state,
    ))
}

struct CrcWriter<W> {
    inner: W,
    crc: crc32fast::Hasher,
    len: u64,
}

impl<W: Write> Write for CrcWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.crc.update(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct CrcReader<R> {
    inner: R,
    crc: crc32fast::Hasher,
}

impl<R: Read> Read for CrcReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.crc.update(&buf[..n]);
        Ok(n)
    }
}
