//! Images on this node's disk: Wasm by digest, what each manifest chose, and what each tag meant last.
//!
//! ```text
//! images/blobs/HEX            a Wasm layer, complete and checked
//! images/manifests/HEX.json   {digest, wasm}: the layer a manifest chose
//! images/tags/HASH            the digest a name meant when it was last asked for
//! images/tmp/                 what is being written
//! ```
//!
//! Everything here can be fetched again; a file that cannot be read counts as absent. Layers beyond the bound go, the
//! longest unused first, but never one that a pod has pinned. What was noted about layers that are gone is removed at
//! the next start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::partial::{Announced, Partials};
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
    pins: Pins,
    /// Layers on their way in.
    pub partials: Partials,
}

/// How many pods use each layer.
#[derive(Clone, Debug, Default)]
struct Pins(Arc<Mutex<BTreeMap<String, usize>>>);

impl Pins {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a layer on the node for as long as it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    hex: String,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        if let Some(users) = pins.get_mut(&self.hex) {
            *users -= 1;
            if *users == 0 {
                pins.remove(&self.hex);
            }
        }
    }
}

impl Store {
    pub fn open(root: &Path, bytes_max: u64) -> io::Result<Self> {
        for dir in ["blobs", "manifests", "tags"] {
            fs::create_dir_all(root.join(dir))?;
        }
        // What an earlier process did not finish.
        files::remove_dir(&root.join("tmp"))?;
        fs::create_dir_all(root.join("tmp"))?;
        let store = Self {
            root: root.into(),
            bytes_max,
            pins: Pins::default(),
            partials: Partials::default(),
        };
        store.tidy()?;
        Ok(store)
    }

    /// Removes notes about layers and manifests that are gone.
    fn tidy(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("manifests"))? {
            let path = entry?.path();
            let record = fs::read(&path).ok();
            let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            let here =
                record.is_some_and(|r| check_digest(&r.wasm).is_ok_and(|wasm| self.has(&wasm)));
            if !here {
                files::remove_file(&path)?;
            }
        }
        for entry in fs::read_dir(self.root.join("tags"))? {
            let path = entry?.path();
            let digest = fs::read_to_string(&path).unwrap_or_default();
            if !check_digest(&digest).is_ok_and(|digest| self.manifest(&digest).is_file()) {
                files::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Keeps a layer from being removed, also one that is yet to come.
    pub fn pin(&self, digest: &str) -> Pin {
        let hex = hex_of(digest).to_string();
        *self.pins.lock().entry(hex.clone()).or_default() += 1;
        Pin {
            pins: self.pins.clone(),
            hex,
        }
    }

    /// A layer that is here, for reading, with its length in bytes.
    pub fn open_blob(&self, digest: &str) -> io::Result<Option<(File, u64)>> {
        match File::open(self.blob(digest)) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some((file, size)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
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

    /// Takes a layer in. From now on it is listed as one on its way.
    pub fn writer(&self, digest: &str, size: u64) -> io::Result<Writer> {
        let temp = tempfile::NamedTempFile::new_in(self.root.join("tmp"))?;
        let announced = self.partials.announce(digest, temp.reopen()?, size);
        Ok(Writer {
            temp,
            hash: Sha256::new(),
            size,
            have: 0,
            digest: digest.into(),
            path: self.blob(digest),
            announced,
        })
    }

    /// Removes the longest unused layers beyond the bound, none that is pinned; answers their digests. If pods use more
    /// than the bound, all of that stays.
    pub fn prune(&self) -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.root.join("blobs"))? {
            let entry = entry?;
            let meta = entry.metadata()?;
            all.push((meta.modified()?, meta.len(), entry.path()));
        }
        let mut bytes: u64 = all.iter().map(|(_, len, _)| len).sum();
        all.sort();
        let mut removed = Vec::new();
        for (_, len, path) in all {
            if bytes <= self.bytes_max {
                break;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Held over the removal: a pin is taken before anybody looks whether the layer is here.
            let pins = self.pins.lock();
            if !pins.contains_key(&*name) {
                files::remove_file(&path)?;
                removed.push(format!("sha256:{name}"));
                bytes -= len;
            }
        }
        Ok(removed)
    }
}

fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// A layer on its way in; dropped without [`Writer::finish`] it leaves nothing.
pub(super) struct Writer {
    temp: tempfile::NamedTempFile,
    hash: Sha256,
    size: u64,
    have: u64,
    digest: String,
    path: PathBuf,
    announced: Announced,
}

impl Writer {
    /// Bytes taken so far: where another source goes on.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Bytes there will be.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        let have = self.have + bytes.len() as u64;
        if have > self.size {
            let why = "the layer is longer than its manifest says";
            return Err(FetchError::Corrupt(why.into()));
        }
        self.hash.update(bytes);
        self.temp.write_all(bytes).map_err(FetchError::Disk)?;
        self.have = have;
        self.announced.reached(have);
        Ok(())
    }

    /// Forgets what came. Whoever reads it meanwhile is cut off: it may not have been what it should be.
    pub fn restart(&mut self) -> Result<(), FetchError> {
        // Another file: the old one is under readers.
        let dir = self.temp.path().parent().unwrap_or(Path::new("."));
        let temp = tempfile::NamedTempFile::new_in(dir).map_err(FetchError::Disk)?;
        let file = temp.reopen().map_err(FetchError::Disk)?;
        self.announced = (self.announced.list()).announce(&self.digest, file, self.size);
        self.temp = temp;
        self.hash = Sha256::new();
        self.have = 0;
        Ok(())
    }

    /// Whether all of it is there and it is what its name says.
    pub fn check(&self) -> Result<(), FetchError> {
        let found = format!("sha256:{}", hex::encode(self.hash.clone().finalize()));
        if self.have == self.size && found == self.digest {
            return Ok(());
        }
        Err(FetchError::Corrupt(format!(
            "{} of {} bytes of the layer {} came, as {found}",
            self.have, self.size, self.digest
        )))
    }

    /// Checks what came and puts it in place.
    pub fn finish(self) -> Result<(), FetchError> {
        self.check()?;
        files::persist(self.temp, &self.path).map_err(FetchError::Disk)?;
        // After that: who looks for it finds the one or the other.
        drop(self.announced);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer that was used so many seconds after 1970.
    fn used(store: &Store, digest: &str, s: u64) {
        let file = File::options()
            .write(true)
            .open(store.blob(digest))
            .unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(s))
            .unwrap();
    }

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
        used(&store, &a, 30);
        used(&store, &b, 10);
        used(&store, &c, 20);
        assert_eq!(store.prune().unwrap(), std::slice::from_ref(&b));
        assert!(store.has(&a) && !store.has(&b) && store.has(&c));
    }

    #[test]
    fn what_a_pod_uses_stays_however_old_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 4).unwrap();
        let [a, b, c] = [&b"aaaa"[..], b"bbbb", b"cccc"].map(|bytes| put(&store, bytes));
        used(&store, &a, 10);
        used(&store, &b, 20);
        used(&store, &c, 30);
        let (one, other) = (store.pin(&a), store.pin(&a));
        drop(other);
        assert_eq!(store.prune().unwrap(), [b, c]);
        assert!(store.has(&a));
        drop(one);
        let d = put(&store, b"dddd");
        assert_eq!(store.prune().unwrap(), [a]);
        assert!(store.has(&d));
    }

    #[test]
    fn notes_about_what_is_gone_go_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 20).unwrap();
        let [kept, gone] = ["1", "2"].map(|n| Record {
            digest: format!("sha256:{}", n.repeat(64)),
            wasm: put(&store, n.as_bytes()),
        });
        for (name, record) in [("kept", &kept), ("gone", &gone)] {
            store.set_image(record).unwrap();
            store.set_tag(name, &record.digest).unwrap();
        }
        fs::remove_file(store.blob(&gone.wasm)).unwrap();
        fs::write(dir.path().join("manifests/junk"), "{").unwrap();
        let store = Store::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(store.image(&kept.digest), Some(kept.clone()));
        assert_eq!(store.tag("kept").unwrap(), Some(kept.digest));
        assert_eq!(store.tag("gone").unwrap(), None);
        for dir in ["manifests", "tags"].map(|name| dir.path().join(name)) {
            assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_is_on_its_way_can_be_read_as_far_as_it_came() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 20).unwrap();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(b"wasm")));
        let mut w = store.writer(&digest, 4).unwrap();
        w.write(b"xx").unwrap();
        let mut before = store.partials.get(&digest).unwrap();
        assert_eq!((*before.written.borrow(), before.size), (2, 4));
        let mut read = [0; 2];
        before.file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"xx");
        w.restart().unwrap();
        before.written.borrow_and_update();
        assert!(
            before.written.has_changed().is_err(),
            "its readers are cut off"
        );
        w.write(b"wasm").unwrap();
        let after = store.partials.get(&digest).unwrap();
        w.finish().unwrap();
        assert!(store.partials.get(&digest).is_none() && store.has(&digest));
        let mut read = [0; 4];
        after.file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!((&read, *after.written.borrow()), (b"wasm", 4));
    }
}
