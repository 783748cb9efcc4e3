//! Who is told how far a blob is, and what outlives the process of an upload.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::digest::Digest;

/// What happens to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// It begins; so many bytes are to go.
    Begin(u64),
    /// So many bytes of it are over; fewer than before if some were lost.
    At(u64),
    /// It was there already.
    Exists,
    /// Something failed and is tried again after a pause.
    Again {
        /// What failed.
        why: &'a str,
        /// How long it waits.
        pause: Duration,
    },
    /// It is over and checked.
    Done,
}

/// Is told what happens to each blob, from whatever thread it happens on; must not block.
pub type Watch = Arc<dyn Fn(&Digest, Step<'_>) + Send + Sync>;

/// Nobody looks.
pub fn nobody() -> Watch {
    Arc::new(|_: &Digest, _: Step<'_>| ())
}

/// Where upload sessions are remembered, so that a later attempt, of this process or the next, goes on with them. What is
/// lost here costs bytes and nothing else; so an implementation that cannot store just does not.
pub trait Sessions: Send + Sync {
    /// The location of a session that was not ended.
    fn get(&self, key: &str) -> Option<String>;
    /// Remembers it.
    fn put(&self, key: &str, location: &str);
    /// Forgets it.
    fn remove(&self, key: &str);
}

/// Remembers for as long as the process lives.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<String, String>>);

impl Sessions for Memory {
    fn get(&self, key: &str) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).cloned()
    }

    fn put(&self, key: &str, location: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(key.to_owned(), location.to_owned());
    }

    fn remove(&self, key: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(key);
    }
}
