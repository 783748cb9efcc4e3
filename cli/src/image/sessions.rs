//! Upload sessions that were not ended, for the next `coracle push` of the same bytes: one small file each in the user's
//! cache directory. Losing them costs bytes and nothing else, so nothing here fails; what cannot be stored is not.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use coracle_registry::client::watch::Sessions;
use sha2::{Digest, Sha256};

/// How long a session is worth asking for: registries drop them after a day at most.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest address of a session that is kept, in bytes.
const LOCATION_BYTES_MAX: usize = 8 << 10;

/// The files of one registry.
pub struct Files {
    dir: PathBuf,
    registry: String,
}

impl Files {
    /// Opens the directory; `None` without a home or where it cannot be made.
    pub fn open(registry: &str) -> Option<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))?;
        Self::open_in(cache.join("coracle/uploads"), registry, SystemTime::now())
    }

    fn open_in(dir: PathBuf, registry: &str, now: SystemTime) -> Option<Self> {
        // An address may be all it takes to write to a session.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .ok()?;
        for entry in fs::read_dir(&dir).ok()?.flatten() {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            let age = modified.ok().and_then(|m| now.duration_since(m).ok());
            if age.is_some_and(|age| age > AGE_MAX) {
                drop(fs::remove_file(entry.path()));
            }
        }
        Some(Files {
            dir,
            registry: registry.into(),
        })
    }

    fn path(&self, key: &str) -> PathBuf {
        let name = Sha256::digest(format!("{}\n{key}", self.registry));
        self.dir.join(hex::encode(name))
    }
}

impl Sessions for Files {
    fn get(&self, key: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(key)).ok()?;
        (!text.is_empty() && text.len() <= LOCATION_BYTES_MAX).then_some(text)
    }

    fn put(&self, key: &str, location: &str) {
        if location.len() > LOCATION_BYTES_MAX {
            return self.remove(key);
        }
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(location.as_bytes())?;
            file.persist(self.path(key)).map_err(|e| e.error)
        };
        if let Err(e) = write() {
            tracing::debug!(error = %e, "the upload session is not remembered");
        }
    }

    fn remove(&self, key: &str) {
        // What was never remembered is not there.
        drop(fs::remove_file(self.path(key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_outlive_the_process_for_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/b");
        let now = SystemTime::now();
        let open = |registry: &str, now| Files::open_in(dir.clone(), registry, now).unwrap();
        let files = open("ghcr.io", now);
        assert_eq!(files.get("x"), None);
        files.put("x", "https://ghcr.io/v2/a/blobs/uploads/1");
        files.put("x", "https://ghcr.io/v2/a/blobs/uploads/2");
        files.put("y", &"z".repeat(LOCATION_BYTES_MAX + 1));
        let again = open("ghcr.io", now);
        assert!(again.get("x").unwrap().ends_with("/2"));
        assert_eq!(again.get("y"), None);
        assert_eq!(open("other.example", now).get("x"), None);
        again.remove("x");
        again.remove("x");
        assert_eq!(files.get("x"), None);
        files.put("x", "l");
        let tomorrow = now + AGE_MAX + Duration::from_secs(60);
        assert_eq!(open("ghcr.io", tomorrow).get("x"), None);
    }
}
