//! What all clients know: where the members are, what should be in the repositories, how often the collector went
//! through.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::client::LOOK;
use super::model::{At, Digest, Name, Recorder};
use super::plan::{Blob, Manifest};

/// Blobs of a repository that clients choose from.
const BLOBS_MAX: usize = 120;

/// What a client may choose from. It may be behind; the history is what counts.
#[derive(Default)]
pub struct Known {
    pub blobs: BTreeMap<Digest, Blob>,
    pub manifests: BTreeMap<Digest, Manifest>,
}

impl Known {
    pub fn add_blob(&mut self, blob: &Blob) {
        self.blobs.insert(blob.digest.clone(), blob.clone());
        if self.blobs.len() > BLOBS_MAX {
            // Forgotten, not deleted: most of these many are collected by now.
            self.blobs.pop_first();
        }
    }

    pub fn drop_blob(&mut self, digest: &Digest) {
        self.blobs.remove(digest);
    }

    pub fn add_manifest(&mut self, manifest: &Manifest) {
        self.manifests
            .insert(manifest.digest.clone(), manifest.clone());
    }

    pub fn drop_manifest(&mut self, digest: &Digest) {
        self.manifests.remove(digest);
    }

    pub fn referrers_of(&self, subject: &Digest) -> Vec<Digest> {
        let all = self.manifests.values();
        let of = all.filter(|m| m.subject.as_ref() == Some(subject));
        of.map(|m| m.digest.clone()).collect()
    }

    /// Blobs that no manifest known here names.
    pub fn unnamed(&self) -> Vec<Blob> {
        let named = |b: &&Blob| {
            let mut all = self.manifests.values().flat_map(|m| &m.blobs);
            all.any(|n| n.digest == b.digest)
        };
        self.blobs.values().filter(|b| !named(b)).cloned().collect()
    }
}

/// A repository.
pub struct Repository {
    pub name: Name,
    known: Mutex<Known>,
}

impl Repository {
    pub fn new(name: String) -> Self {
        Self {
            name: name.into(),
            known: Mutex::default(),
        }
    }

    /// What is known of it; not to be held over a request.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }
}

/// What all clients share.
pub struct Shared {
    pub recorder: Recorder,
    /// What the collector spares, in nanoseconds.
    pub age: At,
    /// Registry of each member, HOST:PORT.
    pub addresses: Vec<String>,
    pub repositories: Vec<Repository>,
    pub passes: Passes,
    /// Part of the steps at which a client waits for the collector.
    pub gates: f64,
    up: Vec<AtomicBool>,
    stop: AtomicBool,
}

impl Shared {
    pub fn new(
        addresses: Vec<String>,
        repositories: Vec<Repository>,
        passes: Passes,
        age: At,
        gates: f64,
    ) -> Self {
        Self {
            recorder: Recorder::new(),
            age,
            up: addresses.iter().map(|_| AtomicBool::new(true)).collect(),
            addresses,
            repositories,
            passes,
            gates,
            stop: AtomicBool::new(false),
        }
    }

    /// How long a HEAD's promise holds: on several members their collectors may have heard of an earlier one.
    pub fn promise(&self) -> At {
        match self.addresses.len() {
            1 => self.age,
            _ => self.age / 4 * 3,
        }
    }

    pub fn is_up(&self, member: usize) -> bool {
        self.up[member].load(Ordering::SeqCst)
    }

    pub fn set_up(&self, member: usize, up: bool) {
        self.up[member].store(up, Ordering::SeqCst);
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.recorder.total("op:")
    }
}

/// A line of this text ends each pass of a member's collector.
const PASS: &[u8] = b"a collection of the registry has ended";

/// How often each member's collector went through, read from the members' logs as they grow.
pub struct Passes {
    counts: Arc<Vec<AtomicU64>>,
    stop: Arc<AtomicBool>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Passes {
    pub fn of(&self, member: usize) -> u64 {
        self.counts[member].load(Ordering::SeqCst)
    }

    /// Reads these logs from their beginning.
    pub fn read(logs: Vec<PathBuf>) -> Self {
        let counts: Arc<Vec<AtomicU64>> =
            Arc::new(logs.iter().map(|_| AtomicU64::new(0)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let (told, ended) = (counts.clone(), stop.clone());
        let reader = std::thread::spawn(move || {
            let mut tails: Vec<Tail> = logs.into_iter().map(Tail::new).collect();
            while !ended.load(Ordering::SeqCst) {
                for (tail, count) in tails.iter_mut().zip(told.iter()) {
                    count.fetch_add(tail.more(), Ordering::SeqCst);
                }
                std::thread::park_timeout(LOOK);
            }
        });
        Self {
            counts,
            stop,
            reader: Some(reader),
        }
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The end of a file that grows.
struct Tail {
    path: PathBuf,
    at: u64,
    /// The last line, while it is not whole.
    rest: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            at: 0,
            rest: Vec::new(),
        }
    }

    /// Passes in the lines that have come.
    fn more(&mut self) -> u64 {
        use std::io::{Read, Seek, SeekFrom};
        let mut new = Vec::new();
        let read = std::fs::File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.at))?;
            file.read_to_end(&mut new)
        });
        let Ok(n) = read else { return 0 };
        self.at += n as u64;
        self.rest.extend_from_slice(&new);
        let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else {
            return 0;
        };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        let passes = lines
            .split(|b| *b == b'\n')
            .filter(|line| line.windows(PASS.len()).any(|w| w == PASS));
        passes.count() as u64
    }
}
