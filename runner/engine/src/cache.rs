//! Compiled code on disk: written temp + fsync + rename, each file with a MAC, mapped only after the MAC agrees.
//!
//! A file is never changed in place and never truncated (a mapped file that shrinks kills the process); it is replaced
//! or unlinked. The MAC is computed and the code mapped through the same open descriptor, so nobody can exchange the
//! file in between.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;
use wasmtime::component::Component;

use crate::mac::{NodeKey, same};

const CODE: &str = "cwasm";
const MAC: &str = "mac";
const TEMP_PREFIX: &str = ".tmp-";

pub(crate) struct Cache {
    dir: PathBuf,
    key: NodeKey,
    max_bytes: u64,
}

impl Cache {
    /// Opens the directory (made 0700), removing what a crash left half-written.
    pub(crate) fn open(dir: &Path, max_bytes: u64) -> io::Result<Cache> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Cache {
            dir: dir.to_path_buf(),
            key: NodeKey::open(dir)?,
            max_bytes,
        })
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.dir.join(format!("{name}.{extension}"))
    }

    /// A file to compile into.
    pub(crate) fn temp(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(TEMP_PREFIX)
            .tempfile_in(&self.dir)
    }

    /// Maps the code called `name`, if it is there and ours. Anything else by that name is removed.
    pub(crate) fn load(
        &self,
        engine: &wasmtime::Engine,
        name: &str,
    ) -> io::Result<Option<Component>> {
        let path = self.path(name, CODE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut mac = Vec::new();
        match File::open(self.path(name, MAC)) {
            Ok(file) => {
                file.take(64).read_to_end(&mut mac)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        if !same(&mac, &self.key.sign(name, &mut file)?) {
            tracing::warn!(
                code = "E_CACHE_MAC",
                name,
                "compiled code is not signed by this node; compiling again"
            );
            self.remove(name)?;
            return Ok(None);
        }
        // SAFETY: the bytes behind this descriptor carry a MAC by a key only this user can read, so they are what our
        // compiler wrote; wasmtime itself checks that it was the same version and settings. No code of ours ever
        // writes to a published file.
        let mapped = unsafe {
            Component::deserialize_file(engine, format!("/proc/self/fd/{}", file.as_raw_fd()))
        };
        match mapped {
            Ok(component) => {
                // Marks it as used for `prune`; a failure only makes it look older.
                drop(file.set_modified(SystemTime::now()));
                Ok(Some(component))
            }
            Err(error) => {
                tracing::warn!(code = "E_CACHE_STALE", name, %error, "compiled code does not fit this engine");
                self.remove(name)?;
                Ok(None)
            }
        }
    }

    /// Publishes what was compiled into `temp` under `name`.
    pub(crate) fn store(&self, name: &str, mut temp: NamedTempFile) -> io::Result<()> {
        temp.as_file_mut().seek(SeekFrom::Start(0))?;
        let mac = self.key.sign(name, temp.as_file_mut())?;
        temp.as_file().sync_all()?;
        let mut mac_file = self.temp()?;
        mac_file.write_all(&mac)?;
        mac_file.as_file().sync_all()?;
        temp.persist(self.path(name, CODE)).map_err(|e| e.error)?;
        mac_file
            .persist(self.path(name, MAC))
            .map_err(|e| e.error)?;
        File::open(&self.dir)?.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        for extension in [CODE, MAC] {
            match fs::remove_file(self.path(name, extension)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the longest unused files until the rest fits the bound; `keep` are in use.
    pub(crate) fn prune(&self, keep: &BTreeSet<String>) -> io::Result<()> {
        let mut files = Vec::new();
        let mut total = 0u64;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == CODE)
                && let Some(name) = path.file_stem().and_then(|s| s.to_str())
            {
                let meta = fs::metadata(&path)?;
                total = total.saturating_add(meta.len());
                files.push((meta.modified()?, meta.len(), name.to_string()));
            }
        }
        files.sort();
        for (_, bytes, name) in files {
            if total <= self.max_bytes {
                break;
            }
            if !keep.contains(&name) {
                self.remove(&name)?;
                total = total.saturating_sub(bytes);
            }
        }
        Ok(())
    }
}
