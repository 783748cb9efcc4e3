//! One file out of a tar layer, without writing anything: bounded in entries, in bytes unpacked and in the file's size.
//!
//! Names are only compared, never used as paths, so a name cannot lead anywhere. How the layer is compressed is read from
//! its first bytes: tools have written the wrong media type before.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use tar::{Archive, Entry, EntryType, PaxExtensions};

/// How much a layer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most entries: a full Linux image has some ten thousand.
    pub entries: usize,
    /// Most bytes of the layer when it is not compressed.
    pub unpacked: u64,
    /// Most bytes of the file.
    pub file: u64,
}

impl Bounds {
    /// What no layer with a Wasm file in it comes near, for a file of at most `file` bytes.
    pub const fn of_file(file: u64) -> Bounds {
        Bounds {
            entries: 100_000,
            unpacked: 1 << 30,
            file,
        }
    }
}

/// What a layer says about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It holds it.
    File(Vec<u8>),
    /// It removes it from the layers below.
    Removed,
    /// Nothing: the layers below decide.
    Absent,
}

/// Why a layer could not be looked into. Reads on after "the layer".
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is no tar, or cut short; or its file cannot be read.
    #[error("is no tar archive that can be read")]
    Broken(#[source] io::Error),
    /// Beyond [`Bounds::entries`].
    #[error("has more than {0} entries")]
    Entries(usize),
    /// Beyond [`Bounds::unpacked`].
    #[error("has more than {0} bytes when it is unpacked")]
    Unpacked(u64),
    /// Beyond [`Bounds::file`].
    #[error("holds a file of {size} bytes where {limit} are the limit")]
    File {
        /// The file's length in bytes.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// A link or a directory has the file's name.
    #[error("holds a link or a directory where the .wasm file should be")]
    NoFile,
}

/// Bytes of a name or of extended headers; real names have 4,096 at most.
const NAME_BYTES_MAX: u64 = 64 << 10;

/// Looks for `path` (no leading slash) in a layer.
///
/// # Errors
/// See [`UnpackError`]; nothing beyond the bounds is held in memory or read.
pub fn unpack(layer: impl Read, path: &str, bounds: &Bounds) -> Result<Found, UnpackError> {
    let broken = |e: io::Error| match e.kind() {
        ErrorKind::FileTooLarge => UnpackError::Unpacked(bounds.unpacked),
        _ => UnpackError::Broken(e),
    };
    let tar = Bounded {
        inner: decompressed(layer).map_err(broken)?,
        left: bounds.unpacked,
    };
    let mut archive = Archive::new(tar);
    let mut found = Found::Absent;
    // The name of the next entry, if it did not fit into that entry's own header.
    let mut long_name: Option<Vec<u8>> = None;
    // Raw: the library would read extended headers of any length into memory.
    let entries = archive.entries().map_err(broken)?.raw(true);
    for (n, entry) in entries.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if n >= bounds.entries {
            return Err(UnpackError::Entries(bounds.entries));
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let mut name = text(&mut entry).map_err(broken)?;
                name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
                long_name = Some(name);
            }
            EntryType::XHeader => {
                let header = text(&mut entry).map_err(broken)?;
                long_name = pax_path(&header).map_err(broken)?.or(long_name);
            }
            EntryType::XGlobalHeader | EntryType::GNULongLink => {}
            kind => {
                let own = entry.header().path_bytes().into_owned();
                let name = tidy(&long_name.take().unwrap_or(own));
                if name == path {
                    found = Found::File(file(&mut entry, kind, bounds, broken)?);
                } else if found == Found::Absent && removes(&name, path) {
                    found = Found::Removed;
                }
            }
        }
    }
    Ok(found)
}

fn file<R: Read>(
    entry: &mut Entry<'_, R>,
    kind: EntryType,
    bounds: &Bounds,
    broken: impl Fn(io::Error) -> UnpackError,
) -> Result<Vec<u8>, UnpackError> {
    if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
        return Err(UnpackError::NoFile);
    }
    let size = entry.header().size().map_err(&broken)?;
    if size > bounds.file {
        let limit = bounds.file;
        return Err(UnpackError::File { size, limit });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(&broken)?;
    if bytes.len() as u64 != size {
        return Err(broken(ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// A name or extended headers.
fn text<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<u8>> {
    let size = entry.header().size()?;
    if size > NAME_BYTES_MAX {
        return Err(io::Error::other(format!("a name of {size} bytes")));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The path in extended headers. One that gives another size than the entry's own header hides entries from some readers.
fn pax_path(header: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut path = None;
    for extension in PaxExtensions::new(header) {
        let extension = extension?;
        match extension.key_bytes() {
            b"path" => path = Some(extension.value_bytes().to_vec()),
            b"size" => return Err(io::Error::other("an entry of more than 8 GiB")),
            _ => {}
        }
    }
    Ok(path)
}

/// A name from the root of the image.
fn tidy(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let parts = name
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<&str>>().join("/")
}

/// Whether an entry is the mark by which a layer removes `path`, a folder it is in, or what that folder held
/// (image-spec 1.1, "Whiteouts").
fn removes(name: &str, path: &str) -> bool {
    let (dir, mark) = name.rsplit_once('/').unwrap_or(("", name));
    let Some(removed) = mark.strip_prefix(".wh.") else {
        return false;
    };
    let below = |dir: &str| dir.is_empty() || path.starts_with(&format!("{dir}/"));
    if removed == ".wh..opq" {
        return below(dir);
    }
    let target = match dir {
        "" => removed.to_owned(),
        dir => format!("{dir}/{removed}"),
    };
    target == path || below(&target)
}

/// The layer as tar, by its first bytes.
fn decompressed<'a>(mut layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    layer.by_ref().take(4).read_to_end(&mut magic)?;
    let gzip = magic.starts_with(&[0x1f, 0x8b]);
    // A frame, or one of sixteen kinds that readers pass over.
    let zstd = magic == [0x28, 0xb5, 0x2f, 0xfd]
        || (magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18]);
    let whole = BufReader::new(Cursor::new(magic).chain(layer));
    Ok(if gzip {
        Box::new(MultiGzDecoder::new(whole))
    } else if zstd {
        Box::new(Frames::new(whole))
    } else {
        Box::new(whole)
    })
}

/// Zstandard frames one after another: the library reads one.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        Frames {
            source,
            decoder: FrameDecoder::new(),
            within: false,
        }
    }

    /// Enters the next frame that holds something. The library refuses windows that are too large for memory.
    fn enter(&mut self) -> io::Result<()> {
        while !self.source.fill_buf()?.is_empty() {
            let length = match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.within = true;
                    break;
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => u64::from(length),
                Err(e) => return Err(io::Error::other(e)),
            };
            let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
            if skipped < length {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.within {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    self.decoder
                        .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                        .map_err(io::Error::other)?;
                }
                let n = self.decoder.read(into)?;
                if n > 0 || into.is_empty() {
                    return Ok(n);
                }
                self.within = false;
            }
            self.enter()?;
            if !self.within {
                return Ok(0);
            }
        }
    }
}

/// Ends with an error where a reader has given more than it may.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or(io::Error::from(ErrorKind::FileTooLarge))?;
        Ok(n)
    }
}
