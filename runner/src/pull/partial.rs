//! Layers on their way in, readable as far as they have come: what other runners are given while it is still arriving.
//!
//! What is read from here has not been checked against its digest yet. Whoever gets it checks it, as he would anyway.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The layers on their way, by digest. Bounded by the pulls that may run at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Partials(Arc<Mutex<BTreeMap<String, Partial>>>);

/// A layer on its way, for readers.
#[derive(Clone, Debug)]
pub(super) struct Partial {
    /// What is there of it; stays readable when the file has got another name or none.
    pub file: Arc<File>,
    /// Its length when it is complete, in bytes.
    pub size: u64,
    /// Bytes written so far. Ends when nothing more will come.
    pub written: watch::Receiver<u64>,
}

/// Keeps a layer in the list; its end is the end of the layer's coming.
#[derive(Debug)]
pub(super) struct Announced {
    list: Partials,
    digest: String,
    written: watch::Sender<u64>,
}

impl Partials {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Partial>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a layer of which nothing is written yet.
    pub fn announce(&self, digest: &str, file: File, size: u64) -> Announced {
        let (written, reader) = watch::channel(0);
        let partial = Partial {
            file: Arc::new(file),
            size,
            written: reader,
        };
        self.lock().insert(digest.into(), partial);
        Announced {
            list: self.clone(),
            digest: digest.into(),
            written,
        }
    }

    /// The layer on its way.
    pub fn get(&self, digest: &str) -> Option<Partial> {
        self.lock().get(digest).cloned()
    }
}

impl Announced {
    /// The list it is in.
    pub fn list(&self) -> Partials {
        self.list.clone()
    }

    /// So many bytes are there by now.
    pub fn reached(&self, bytes: u64) {
        self.written.send_replace(bytes);
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut list = self.list.lock();
        // One that began anew is another one.
        let own = self.written.subscribe();
        let same = |p: &Partial| p.written.same_channel(&own);
        if list.get(&self.digest).is_some_and(same) {
            list.remove(&self.digest);
        }
    }
}
