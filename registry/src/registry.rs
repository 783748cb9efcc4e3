//! The registry as one value: its parts, its sessions, and the small steps every operation is made of.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex as AsyncMutex, RwLock};

use crate::Clock;
use crate::authorise::namespace;
use crate::authorise::{Access, Authorise, Verdict};
use crate::blobs::{BlobError, Blobs};
use crate::counters::Counters;
use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::leases::Leases;
use crate::limits::Limits;
use crate::meta::{Meta, Row};
use crate::quota::Ledger;
use crate::rows;
use crate::scrub::Scrubs;
use crate::upload::{Note, Upload, UploadId};
use crate::verified::Verified;

/// How often a batch is decided anew after losing a race. Every loss means that somebody else got something done, so a
/// caller that loses this often is in a crowd and is asked to come back.
pub(crate) const CONFLICTS_MAX: usize = 32;

/// Rows asked for at once when a whole table or prefix is walked.
pub(crate) const PAGE_ROWS: usize = 1_000;

/// Finished sessions remembered, so that a repeated last request is answered as the first was.
const DONE_MAX: usize = 1_024;

/// Locks that keep a collector and pushers of one digest apart. Digests share them by their first byte.
const GUARDS: usize = 64;

/// What a registry is made of.
pub struct Parts {
    /// Where bytes live.
    pub blobs: Arc<dyn Blobs>,
    /// Where repositories, tags and links live.
    pub meta: Arc<dyn Meta>,
    /// The bounds.
    pub limits: Limits,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who may do what.
    pub authorise: Arc<dyn Authorise>,
}

/// One registry.
pub struct Registry {
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) meta: Arc<dyn Meta>,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    authorise: Arc<dyn Authorise>,
    pub(crate) leases: Leases,
    pub(crate) counters: Arc<Counters>,
    pub(crate) collecting: AsyncMutex<()>,
    pub(crate) scrubs: Scrubs,
    pub(crate) verified: Arc<Verified>,
    pub(crate) quota: Ledger,
    guards: Vec<RwLock<()>>,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    open: BTreeMap<UploadId, Arc<AsyncMutex<Upload>>>,
    done: VecDeque<UploadId>,
}

impl Registry {
    /// Starts a registry over its parts and takes up the upload sessions an earlier process left. Fails if the blob
    /// store cannot be read.
    pub async fn open(parts: Parts) -> Result<Arc<Registry>, BlobError> {
        let now = parts.clock.now();
        let mut sessions = Sessions::default();
        let quota = Ledger::default();
        for staged in parts.blobs.staged().await? {
            match serde_json::from_slice::<Note>(&staged.note) {
                Ok(note) => {
                    quota.holds(namespace(&note.repository), &staged.id, staged.size);
                    let upload = Upload::restore(note, staged.size, staged.modified);
                    sessions
                        .open
                        .insert(staged.id, Arc::new(AsyncMutex::new(upload)));
                }
                Err(_) => {
                    // A single-request upload, or one whose note was being written when the process died: nobody
                    // can go on with it.
                    parts.blobs.discard(&staged.id).await?;
                }
            }
        }
        tracing::info!(uploads = sessions.open.len(), "registry opened");
        Ok(Arc::new(Registry {
            leases: Leases::new(now, parts.limits.garbage_age_ms),
            blobs: parts.blobs,
            meta: parts.meta,
            limits: parts.limits,
            clock: parts.clock,
            authorise: parts.authorise,
            counters: Arc::default(),
            collecting: AsyncMutex::new(()),
            scrubs: Scrubs::default(),
            verified: Arc::default(),
            quota,
            guards: (0..GUARDS).map(|_| RwLock::new(())).collect(),
            sessions: Mutex::new(sessions),
        }))
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Number of upload sessions that are neither finished nor dropped, and some just finished.
    pub fn uploads(&self) -> usize {
        self.sessions().open.len()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The lock of a digest: shared by whoever stores, links or promises it, exclusive for the collector.
    pub(crate) fn guard(&self, digest: &Digest) -> &RwLock<()> {
        let first = u8::from_str_radix(&digest.hex()[..2], 16).unwrap_or(0);
        &self.guards[usize::from(first) % GUARDS]
    }

    /// Asks the hook and turns anything but `Allow` into an error.
    pub(crate) async fn allow(&self, access: Access<'_>) -> Result<(), Error> {
        match self.authorise.authorise(access).await {
            Verdict::Allow => Ok(()),
            Verdict::Deny(why) => Err(Error::new(Code::Denied, why)),
            Verdict::Unavailable(why) => {
                Err(Error::new(Code::Unavailable, why).header(http::header::RETRY_AFTER, "1"))
            }
            Verdict::Challenge(challenge) => Err(Error::new(
                Code::Unauthorized,
                "credentials are needed: log in first",
            )
            .header(http::header::WWW_AUTHENTICATE, &challenge)),
        }
    }

    /// A row with its version, decoded.
    pub(crate) async fn row<T: DeserializeOwned>(
        &self,
        table: &'static str,
        key: &str,
    ) -> Result<Option<(T, Row)>, Error> {
        match self.meta.get(table, key).await? {
            Some(row) => Ok(Some((rows::decode(&row)?, row))),
            None => Ok(None),
        }
    }

    /// Every row under a prefix, page by page.
    pub(crate) async fn rows(
        &self,
        table: &'static str,
        prefix: &str,
    ) -> Result<Vec<(String, Row)>, Error> {
        let mut all: Vec<(String, Row)> = Vec::new();
        loop {
            let after = all.last().map(|(key, _)| key.clone());
            let page = self
                .meta
                .list(table, prefix, after.as_deref(), PAGE_ROWS)
                .await?;
            let end = page.len() < PAGE_ROWS;
            all.extend(page);
            if end {
                return Ok(all);
            }
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // The maps are whole after every line, so a panicking holder does not spoil them.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a session into the table; 429 when it is full.
    pub(crate) fn add_session(&self, id: &UploadId, upload: Upload) -> Result<(), Error> {
        let mut sessions = self.sessions();
        if sessions.open.len() - sessions.done.len() >= self.limits.uploads_max {
            return Err(Error::busy(format!(
                "{} uploads are open already",
                self.limits.uploads_max
            )));
        }
        sessions
            .open
            .insert(id.clone(), Arc::new(AsyncMutex::new(upload)));
        Ok(())
    }

    pub(crate) fn session(&self, id: &UploadId) -> Option<Arc<AsyncMutex<Upload>>> {
        self.sessions().open.get(id).cloned()
    }

    /// Every session, for the sweep.
    pub(crate) fn all_sessions(&self) -> Vec<(UploadId, Arc<AsyncMutex<Upload>>)> {
        self.sessions()
            .open
            .iter()
            .map(|(id, session)| (id.clone(), session.clone()))
            .collect()
    }

    pub(crate) fn remove_session(&self, id: &UploadId) {
        self.quota.end(id);
        let mut sessions = self.sessions();
        sessions.open.remove(id);
        sessions.done.retain(|done| done != id);
    }

    /// Marks a session as answered; the oldest of very many is forgotten.
    pub(crate) fn session_done(&self, id: &UploadId) {
        let mut sessions = self.sessions();
        if sessions.done.contains(id) {
            return;
        }
        sessions.done.push_back(id.clone());
        if sessions.done.len() > DONE_MAX
            && let Some(oldest) = sessions.done.pop_front()
        {
            sessions.open.remove(&oldest);
        }
    }
}
