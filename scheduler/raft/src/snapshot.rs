//! Snapshots as files: a header saying what is in it, then the state as `coracle_state::snapshot` streams it, both in
//! checked blocks (see `blocks`). Written beside, synced, renamed, directory synced; only the newest is kept.
//!
//! A backup is the same file whose header also says what it is a backup of ([`About`]). Format 1 had no blocks, only a
//! checksum at its end; it is still read.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use coracle_state::snapshot::Census;
use coracle_state::{FormatError, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::blocks::{BlockReader, BlockWriter};
use crate::durable;
use crate::error::StartError;
use crate::types::SnapshotMeta;

/// Seven letters and the format.
const MAGIC: &[u8; 8] = b"CORSNAP\x02";
/// The format without blocks.
const FORMAT_PLAIN: u8 = 1;
/// Bound on the header: a membership of a few members, and some bytes for each table.
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

/// What a backup is a backup of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Cluster id, 16 hex digits.
    pub cluster: String,
    /// Name of the member whose state it is.
    pub member: String,
    /// Version of the product that wrote it.
    pub version: String,
    /// When.
    pub at: Timestamp,
    /// Newest revision inside.
    pub revision: u64,
    /// State hash, as the members showed it at that log position.
    pub hash: u64,
    /// What is in it.
    pub tables: Vec<Census>,
}

/// The header as it is written.
#[derive(Serialize, Deserialize)]
struct Head {
    meta: SnapshotMeta,
    log_end: u64,
    #[serde(default)]
    about: Option<About>,
}

/// The beginning of a snapshot or backup, read without the rest.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Format of the file.
    pub format: u8,
    /// Its header.
    pub header: Header,
    /// What it is a backup of; `None` in a member's own snapshot.
    pub about: Option<About>,
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

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
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
        let written = File::create(&partial)
            .and_then(|file| write_to(file, state, &header, None))
            .and_then(|(file, len, crc)| file.sync_all().map(|()| (len, crc)));
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

/// Writes a snapshot (or with `about` a backup) anywhere. Answers the writer, the length of the file and the checksum of
/// everything but its last four bytes.
pub fn write_to<W: Write>(
    out: W,
    state: &State,
    header: &Header,
    about: Option<&About>,
) -> io::Result<(W, u64, u32)> {
    let mut out = BlockWriter::begin(BufWriter::with_capacity(BUFFER_BYTES, out), MAGIC)?;
    let head = Head {
        meta: header.meta.clone(),
        log_end: header.log_end,
        about: about.cloned(),
    };
    let mut bytes = Vec::new();
    ciborium::into_writer(&head, &mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(&bytes)?;
    // The header can be read and checked without what follows.
    out.cut()?;
    coracle_state::snapshot::write(state, &mut out)?;
    let (out, len, crc) = out.finish()?;
    let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok((out, len, crc))
}

fn corrupt(path: &Path, why: impl ToString) -> StartError {
    StartError::SnapshotCorrupt {
        path: path.into(),
        why: why.to_string(),
    }
}

/// Opens a snapshot file and reads its first bytes.
fn open_file(path: &Path) -> Result<(File, [u8; 8]), StartError> {
    let mut file = File::open(path).map_err(|e| StartError::io(path, e))?;
    let mut magic = [0u8; 8];
    file.read_exact(&mut magic).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => corrupt(path, "it has not even eight bytes"),
        _ => StartError::io(path, e),
    })?;
    if magic[..7] != MAGIC[..7] || magic[7] == 0 {
        return Err(corrupt(path, "this is not a snapshot"));
    }
    if magic[7] > MAGIC[7] {
        return Err(StartError::Format(FormatError::Newer {
            found: magic[7],
            known: MAGIC[7],
        }));
    }
    Ok((file, magic))
}

fn head(input: &mut dyn Read) -> Result<Head, String> {
    let mut len = [0u8; 4];
    input.read_exact(&mut len).map_err(|e| e.to_string())?;
    let len = u32::from_le_bytes(len);
    if len > HEADER_BYTES_MAX {
        return Err(format!("its header claims {len} bytes"));
    }
    let mut bytes = vec![0; len as usize];
    input.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    ciborium::from_reader(&bytes[..]).map_err(|e| format!("header: {e}"))
}

impl Head {
    fn begun(self, format: u8) -> Begun {
        Begun {
            format,
            header: Header {
                meta: self.meta,
                log_end: self.log_end,
            },
            about: self.about,
        }
    }
}

/// Reads the header only: what follows is not looked at.
pub fn begin(path: &Path) -> Result<Begun, StartError> {
    let (file, magic) = open_file(path)?;
    let input = BufReader::new(file);
    let head = if magic[7] == FORMAT_PLAIN {
        head(&mut { input })
    } else {
        head(&mut BlockReader::after(input, &magic))
    };
    head.map(|h| h.begun(magic[7]))
        .map_err(|why| corrupt(path, why))
}

/// Reads and checks a whole snapshot file.
pub fn load(path: &Path) -> Result<(Stored, State), StartError> {
    let (begun, file, state) = load_begun(path)?;
    let header = begun.header;
    Ok((Stored { header, file }, state))
}

/// As [`load`], with everything the header says; for a backup, that it says the truth is checked too.
pub fn load_begun(path: &Path) -> Result<(Begun, SnapshotFile, State), StartError> {
    let (file, magic) = open_file(path)?;
    let file = Arc::new(file);
    let input = BufReader::with_capacity(BUFFER_BYTES, file.as_ref());
    let (head, state, len, crc) = if magic[7] == FORMAT_PLAIN {
        load_plain(input, &magic, path)?
    } else {
        let mut input = BlockReader::after(input, &magic);
        let head = head(&mut input).map_err(|why| corrupt(path, why))?;
        let state = read_state(&mut input, path)?;
        let (len, crc) = input.finish().map_err(|e| corrupt(path, e))?;
        (head, state, len, crc)
    };
    if let Some(about) = &head.about {
        let tables = coracle_state::snapshot::census(&state.view());
        if (about.revision, about.hash) != (state.revision(), state.hash())
            || about.tables != tables
        {
            return Err(corrupt(
                path,
                format!(
                    "its header announces revision {} with state hash {:016x}, inside are revision {} and {:016x}",
                    about.revision,
                    about.hash,
                    state.revision(),
                    state.hash()
                ),
            ));
        }
    }
    let file = SnapshotFile {
        path: path.into(),
        len,
        crc,
        file,
    };
    Ok((head.begun(magic[7]), file, state))
}

fn read_state(input: &mut dyn Read, path: &Path) -> Result<State, StartError> {
    match coracle_state::snapshot::read(input) {
        Ok(state) => Ok(state),
        Err(FormatError::Corrupt(why)) => Err(corrupt(path, why)),
        Err(newer) => Err(newer.into()),
    }
}

/// Format 1: header and state without blocks, a checksum of everything at the end.
fn load_plain(
    input: impl Read,
    magic: &[u8],
    path: &Path,
) -> Result<(Head, State, u64, u32), StartError> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(magic);
    let mut input = CrcReader {
        inner: input,
        crc,
        len: magic.len() as u64,
    };
    let head = head(&mut input).map_err(|why| corrupt(path, why))?;
    let state = read_state(&mut input, path)?;
    let (len, crc) = (input.len, input.crc.finalize());
    let mut trailer = [0u8; 4];
    input
        .inner
        .read_exact(&mut trailer)
        .map_err(|e| corrupt(path, e))?;
    if trailer != crc.to_le_bytes() {
        return Err(corrupt(path, "its checksum does not match"));
    }
    Ok((head, state, len + 4, crc))
}

struct CrcReader<R> {
    inner: R,
    crc: crc32fast::Hasher,
    len: u64,
}

impl<R: Read> Read for CrcReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.crc.update(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }
}
