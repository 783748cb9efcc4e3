//! The key that signs bearer tokens: one for the cluster, sealed in the replicated state, so that every member verifies
//! what any member issued. It is made when the first token is; a restored cluster makes another one, since what sealed
//! the old one is not in a backup.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coracle_api::{ApiError, Key, Timestamp};
use coracle_state::{Command, Expect, Propose, View, Views};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::pki::{Ca, PKI};
use crate::token_rows::unavailable;

/// What the sealed key is about.
const ABOUT: &str = "registry bearer tokens";

/// Key of the record, beside the CA's.
fn record_key() -> Key {
    Key::new("", "registry-bearer")
}

#[derive(Serialize, Deserialize)]
struct Record {
    /// 32 random bytes, sealed.
    key: String,
    created: Timestamp,
}

/// Reads the key, or makes it.
pub(crate) struct Keys {
    propose: Arc<dyn Propose>,
    views: Arc<dyn Views>,
    ca: Arc<Ca>,
    /// The key of this revision of the record, opened.
    opened: Mutex<Option<(u64, hmac::Key)>>,
}

impl Keys {
    pub fn new(propose: Arc<dyn Propose>, views: Arc<dyn Views>, ca: Arc<Ca>) -> Self {
        Self {
            propose,
            views,
            ca,
            opened: Mutex::new(None),
        }
    }

    /// The key to verify with; `None` if nothing was ever signed.
    ///
    /// # Errors
    /// It is not known here and the leader cannot be asked, or it does not open.
    pub async fn verifying(&self) -> Result<Option<hmac::Key>, ApiError> {
        if let Some(key) = self.read(&self.views.view())? {
            return Ok(Some(key));
        }
        // It may have been made on another member a moment ago.
        let view = self.views.fresh().await.map_err(|e| unavailable(&e))?;
        self.read(&view)
    }

    /// The key to sign with; made if there is none.
    ///
    /// # Errors
    /// As [`Self::verifying`], or it cannot be stored.
    pub async fn signing(&self, now: Timestamp) -> Result<hmac::Key, ApiError> {
        if let Some(key) = self.verifying().await? {
            return Ok(key);
        }
        let sealed = self.ca.seal(&rand::random::<[u8; 32]>(), ABOUT);
        let record = Record {
            key: sealed.map_err(internal)?,
            created: now,
        };
        let bytes = serde_json::to_vec(&record).map_err(internal)?;
        let put = Command::put(
            PKI,
            record_key(),
            Expect::Absent,
            Bytes::from(bytes),
            Vec::new(),
        );
        // Of two members that make one at the same time, the first one's holds.
        let stored = self.propose.propose(vec![put]).await;
        drop(stored.map_err(|e| unavailable(&e))?);
        self.verifying()
            .await?
            .ok_or_else(|| internal("the key for bearer tokens was not stored; try again"))
    }

    fn read(&self, view: &View) -> Result<Option<hmac::Key>, ApiError> {
        let Some(obj) = view.get(PKI, &record_key()) else {
            return Ok(None);
        };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, key)) = &*opened
            && *revision == obj.revision
        {
            return Ok(Some(key.clone()));
        }
        let record: Record = serde_json::from_slice(&obj.bytes).map_err(internal)?;
        let bytes = self.ca.unseal(&record.key, ABOUT).map_err(internal)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        *opened = Some((obj.revision, key.clone()));
        Ok(Some(key))
    }
}

fn internal(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(500, "InternalError", format!("E_REGISTRY_KEY: {why}"))
}
