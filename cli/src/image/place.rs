//! Where a pulled file comes to be: beside its place first, then in it, whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use coracle_registry::digest::{Digest, Hash};

use crate::error::{self, Result};

/// The place of a file.
pub struct Place {
    /// The file; not a link to it.
    path: PathBuf,
    /// Where what is on its way lies.
    dir: PathBuf,
    /// Gone with this value: the place is no file that something could lie beside.
    temporary: Option<tempfile::TempDir>,
}

/// Hex digits of a digest in the name of what is on its way.
const SHORT: usize = 16;

impl Place {
    /// The place that a user named.
    pub fn new(output: &Path) -> Result<Self> {
        let failed = |e: io::Error| error::file(output, &e);
        let path = match fs::canonicalize(output) {
            Ok(path) => path,
            Err(e) if e.kind() == io::ErrorKind::NotFound => output.to_path_buf(),
            Err(e) => return Err(failed(e)),
        };
        let special = fs::metadata(&path).is_ok_and(|meta| !meta.is_file());
        if special && path.is_dir() {
            return Err(failed(io::Error::other(
                "is a directory; name a file in it",
            )));
        }
        let temporary = if special {
            Some(tempfile::tempdir().map_err(failed)?)
        } else {
            None
        };
        let beside = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let dir = temporary.as_ref().map_or(beside, |dir| dir.path().into());
        Ok(Place {
            path,
            dir,
            temporary,
        })
    }

    /// The directory for files on their way.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that holds what has come of a blob; the same one for the next process.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default();
        let hex: String = digest.hex().chars().take(SHORT).collect();
        self.dir
            .join(format!(".{}.{hex}.partial", name.to_string_lossy()))
    }

    /// Whether the place holds these bytes already.
    pub fn holds(&self, digest: &Digest, size: u64) -> Result<bool> {
        let failed = |e: io::Error| error::file(&self.path, &e);
        match fs::metadata(&self.path) {
            Ok(meta) if meta.is_file() && meta.len() == size => {}
            _ => return Ok(false),
        }
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut hash = Hash::new(digest.algorithm());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(hash.digest() == *digest),
                n => hash.update(&buffer[..n]),
            }
        }
    }

    /// Puts a whole file in the place; what was there is replaced at once, and its permissions stay.
    pub fn put(&self, whole: &Path) -> Result<()> {
        let failed = |e: io::Error| error::file(&self.path, &e);
        if self.temporary.is_some() {
            fs::copy(whole, &self.path).map_err(failed)?;
            return Ok(());
        }
        if let Ok(meta) = fs::metadata(&self.path) {
            fs::set_permissions(whole, meta.permissions()).map_err(failed)?;
        }
        fs::rename(whole, &self.path).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use coracle_registry::digest::Algorithm;

    use super::*;

    #[test]
    fn a_place_is_filled_at_once_and_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("x.wasm"), dir.path().join("link"));
        let digest = Algorithm::Sha256.digest(b"new");
        let fill = |output: &Path| {
            let place = Place::new(output).unwrap();
            let partial = place.partial(&digest);
            fs::write(&partial, "new").unwrap();
            place.put(&partial).unwrap();
            assert!(!partial.exists());
            place.holds(&digest, 3).unwrap()
        };
        assert!(!Place::new(&file).unwrap().holds(&digest, 3).unwrap());
        assert!(fill(&file));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&file, &link).unwrap();
        assert!(fill(&link));
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(Place::new(dir.path()).err().unwrap().code, "E_FILE");
        // A device takes bytes and keeps no file beside it.
        let null = Place::new(Path::new("/dev/null")).unwrap();
        let partial = null.partial(&digest);
        fs::write(&partial, "new").unwrap();
        null.put(&partial).unwrap();
        assert!(!partial.starts_with("/dev"));
    }
}
