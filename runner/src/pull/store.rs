//! Images on this node's disk: Wasm by digest, what each manifest chose, and what each tag meant last.
//!
//! ```text
//! images/blobs/HEX            a Wasm layer, complete and checked
//! images/manifests/HEX.json   {digest, wasm}: the layer a manifest chose
//! images/tags/HASH            the digest a name meant when it was last asked for
//! images/tmp/                 what is being written
//! ```
//!
//! Everything here can be fetched again; a file that cannot be read counts as absent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reference::check_digest;
use super::source::FetchError;
use crate::files;

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Digest of the manifest (or index) the reference means.
    pub digest: String,
    /// Digest of the Wasm layer.
    pub wasm: String,
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Store {
    root: PathBuf,
    bytes_max: u64,
}

impl Store {
    pub fn open(root: &Path, bytes_max: u64) -> io::Result<Self> {
        for dir in ["blobs", "manifests", "tags"] {
            fs::create_dir_all(root.join(dir))?;
        }
        // What an earlier process did not finish.
        files::remove_dir(&root.join("tmp"))?;
        fs::create_dir_all(root.join("tmp"))?;
        Ok(Self {
            root: root.into(),
            bytes_max,
        })
    }

    /// File of a layer. Digests come checked, so that they are safe in a path.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(hex_of(digest))
    }

    /// Whether a layer is here.
    pub fn has(&self, digest: &str) -> bool {
        self.blob(digest).is_file()
    }

    fn manifest(&self, digest: &str) -> PathBuf {
        self.root
            .join("manifests")
            .join(format!("{}.json", hex_of(digest)))
    }

    fn tag_path(&self, image: &str) -> PathBuf {
        self.root
            .join("tags")
            .join(hex::encode(Sha256::digest(image)))
    }

    /// The image with this manifest, if its layer is here too. It counts as used now.
    pub fn image(&self, digest: &str) -> Option<Record> {
        check_digest(digest).ok()?;
        let record: Record = serde_json::from_slice(&fs::read(self.manifest(digest)).ok()?).ok()?;
        check_digest(&record.wasm).ok()?;
        let file = File::open(self.blob(&record.wasm)).ok()?;
        // Only the order of removal depends on it.
        drop(file.set_modified(SystemTime::now()));
        Some(record)
    }

    /// Remembers what a manifest chose.
    pub fn set_image(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        files::replace(
            &self.manifest(&record.digest),
            &self.root.join("tmp"),
            &bytes,
        )
    }

    /// What a name meant last.
    pub fn tag(&self, image: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.tag_path(image)) {
            Ok(digest) => Ok(check_digest(&digest).ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Remembers what a name means.
    pub fn set_tag(&self, image: &str, digest: &str) -> io::Result<()> {
        files::replace(
            &self.tag_path(image),
            &self.root.join("tmp"),
            digest.as_bytes(),
        )
    }

    /// Takes a layer in.
    pub fn writer(&self, digest: &str, size: u64) -> io::Result<Writer> {
        Ok(Writer {
            temp: tempfile::NamedTempFile::new_in(self.root.join("tmp"))?,
            hash: Sha256::new(),
            left: size,
            digest: digest.into(),
            path: self.blob(digest),
        })
    }

    /// Removes the longest unused layers beyond the bound, never `keep`. What runs has been compiled and mapped already.
    pub fn prune(&self, keep: &str) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.root.join("blobs"))? {
            let entry = entry?;
            let meta = entry.metadata()?;
            all.push((meta.modified()?, meta.len(), entry.path()));
        }
        let mut bytes: u64 = all.iter().map(|(_, len, _)| len).sum();
        all.sort();
        let keep = self.blob(keep);
        for (_, len, path) in all.into_iter().filter(|(_, _, path)| *path != keep) {
            if bytes <= self.bytes_max {
                break;
            }
            files::remove_file(&path)?;
            bytes -= len;
        }
        Ok(())
    }
}

fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// A layer on its way in; dropped without [`Writer::finish`] it leaves nothing.
pub(super) struct Writer {
    temp: tempfile::NamedTempFile,
    hash: Sha256,
    left: u64,
    digest: String,
    path: PathBuf,
}

impl Writer {
    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            FetchError::Corrupt("the layer is longer than its manifest says".into())
        })?;
        self.hash.update(bytes);
        self.temp.write_all(bytes).map_err(FetchError::Disk)
    }

    /// Checks what came and puts it in place.
    pub fn finish(self) -> Result<(), FetchError> {
        let found = format!("sha256:{}", hex::encode(self.hash.finalize()));
        if self.left != 0 || found != self.digest {
            let why = format!(
                "the layer {} came as {found}, {} bytes short",
                self.digest, self.left
            );
            return Err(FetchError::Corrupt(why));
        }
        files::persist(self.temp, &self.path).map_err(FetchError::Disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Store, bytes: &[u8]) -> String {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let mut w = store.writer(&digest, bytes.len() as u64).unwrap();
        w.write(bytes).unwrap();
        w.finish().unwrap();
        digest
    }

    #[test]
    fn only_what_matches_its_digest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 20).unwrap();
        let good = put(&store, b"wasm");
        assert!(store.has(&good));
        let other = format!("sha256:{}", "0".repeat(64));
        let mut w = store.writer(&other, 4).unwrap();
        w.write(b"evil").unwrap();
        assert!(matches!(w.finish(), Err(FetchError::Corrupt(_))));
        let mut w = store.writer(&good, 4).unwrap();
        assert!(matches!(w.write(b"too long"), Err(FetchError::Corrupt(_))));
        drop(w);
        let mut w = store.writer(&good, 9).unwrap();
        w.write(b"wasm").unwrap();
        assert!(matches!(w.finish(), Err(FetchError::Corrupt(_))));
        assert!(!store.has(&other));
        assert_eq!(
            fs::read_dir(dir.path().join("tmp")).unwrap().count(),
            0,
            "nothing is left behind"
        );
    }

    #[test]
    fn an_image_is_here_only_with_its_layer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 20).unwrap();
        let record = Record {
            digest: format!("sha256:{}", "1".repeat(64)),
            wasm: put(&store, b"wasm"),
        };
        store.set_image(&record).unwrap();
        store.set_tag("hello:v1", &record.digest).unwrap();
        assert_eq!(store.tag("hello:v1").unwrap(), Some(record.digest.clone()));
        assert_eq!(store.tag("hello:v2").unwrap(), None);
        assert_eq!(store.image(&record.digest), Some(record.clone()));
        fs::remove_file(store.blob(&record.wasm)).unwrap();
        assert_eq!(store.image(&record.digest), None);
        assert_eq!(store.image("sha256:../../x"), None);
    }

    #[test]
    fn the_longest_unused_layers_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 8).unwrap();
        let [a, b, c] = [&b"aaaa"[..], b"bbbb", b"cccc"].map(|bytes| put(&store, bytes));
        let old = |d: &str, s: u64| {
            let file = File::options().write(true).open(store.blob(d)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(s))
                .unwrap();
        };
        old(&a, 30);
        old(&b, 10);
        old(&c, 20);
        store.prune(&c).unwrap();
        assert!(store.has(&a) && !store.has(&b) && store.has(&c));
    }
}
