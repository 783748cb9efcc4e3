//! A blob that is not here, from a member that has it. Whoever asks for the same one meanwhile shares the fetch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_registry::blobs::Source;
use coracle_registry::digest::Digest;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;

use super::Inner;
use super::receive::{Refused, receive};

/// Fetches that run at once: enough to fill a link.
const RUNNING_MAX: usize = 8;
/// Fetches under way or waiting; more are refused, and asked for again by whoever needs them.
const WAITING_MAX: usize = 1_024;

/// How a fetch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The blob is on this member's disk.
    Here,
    /// Every member answered, and none has it (intact).
    Nowhere,
    /// None that answered has it, and some did not answer; or this member's disk failed.
    Unknown(String),
}

type Fetch = Shared<BoxFuture<'static, Found>>;

/// The fetches under way.
pub(super) struct Fetches {
    running: Semaphore,
    by_digest: Mutex<BTreeMap<Digest, Fetch>>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self {
            running: Semaphore::new(RUNNING_MAX),
            by_digest: Mutex::default(),
        }
    }
}

impl Fetches {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Fetch>> {
        // The map is whole after every line, so a panicking holder does not spoil it.
        self.by_digest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a fetch off the list however it ends.
struct Listed(Arc<Inner>, Digest);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.fetches.lock().remove(&self.1);
    }
}

/// Brings a blob here. `size`: its length if known, so that a cut one is replaced.
pub(super) async fn fetch(inner: &Arc<Inner>, digest: &Digest, size: Option<u64>) -> Found {
    let shared = {
        let mut fetches = inner.fetches.lock();
        if let Some(running) = fetches.get(digest) {
            running.clone()
        } else if fetches.len() >= WAITING_MAX {
            let why =
                format!("{WAITING_MAX} blobs are being fetched from other members; try again");
            return Found::Unknown(why);
        } else {
            // A task of its own: it goes on if the first who asked goes away.
            let listed = Listed(inner.clone(), digest.clone());
            let task = tokio::spawn(async move {
                let Listed(inner, digest) = &listed;
                tokio::select! {
                    found = bring(inner, digest, size) => found,
                    () = inner.stop.cancelled() => Found::Unknown("this member is stopping".into()),
                }
            });
            let ended = task.map(|ended| ended.unwrap_or_else(|e| Found::Unknown(e.to_string())));
            let shared = ended.boxed().shared();
            fetches.insert(digest.clone(), shared.clone());
            shared
        }
    };
    shared.await
}

async fn bring(inner: &Inner, digest: &Digest, size: Option<u64>) -> Found {
    let others = inner.peers.round().others;
    if others.is_empty() {
        return Found::Nowhere;
    }
    // It is never closed.
    let _place = inner.fetches.running.acquire().await;
    match inner.disk.open(&Source::Blob(digest.clone())).await {
        Ok(Some(opened)) if size.is_none_or(|size| size == opened.size) => return Found::Here,
        Ok(_) => {}
        Err(error) => return Found::Unknown(error.to_string()),
    }
    let mut silent = Vec::new();
    for peer in others {
        let coming = match inner.peers.get(&peer, digest).await {
            Ok(Some(coming)) => coming,
            Ok(None) => continue,
            Err(error) => {
                silent.push(format!("{}: {error}", peer.name));
                continue;
            }
        };
        let (member, announced) = (&peer.name, coming.size);
        if size.is_some_and(|size| size != announced) {
            tracing::error!(target: crate::LOG, %digest, member, announced, "a member's copy of a blob has another length; it is not taken");
            continue;
        }
        match receive(&*inner.disk, digest, announced, coming.pieces).await {
            Ok(()) => {
                tracing::info!(target: crate::LOG, %digest, member, bytes = announced, "a blob was fetched from another member");
                return Found::Here;
            }
            Err(error @ (Refused::Digest(_) | Refused::Length { .. })) => {
                tracing::error!(target: crate::LOG, %digest, member, %error, "a member's copy of a blob is damaged; it is not taken");
            }
            Err(Refused::Broken(error)) => silent.push(format!("{member}: {error}")),
            Err(Refused::Store(error)) => return Found::Unknown(error.to_string()),
        }
    }
    if silent.is_empty() {
        return Found::Nowhere;
    }
    Found::Unknown(format!(
        "E_REGISTRY_MEMBERS: {digest} is not on this member, and members that may have it do not answer ({}); try again, see `coracle members`",
        silent.join("; ")
    ))
}
