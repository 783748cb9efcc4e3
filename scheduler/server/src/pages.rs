//! Snapshots of paged lists, so that every page of one list shows the same revision. A view is cheap to keep: it
//! shares all unchanged nodes with the newest one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_api::{ApiError, Key, Timestamp};
use coracle_state::View;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// Snapshots kept; a client pages one list at a time, so this many clients page at once. The oldest goes first.
pub const VIEWS_MAX: usize = 64;
/// Age kept: the time a watch ring reaches back.
pub const AGE_MAX: SignedDuration = SignedDuration::from_secs(300);

/// Kept views by revision and the table that is paged through; a view may be right for that table only.
#[derive(Default)]
pub struct Pages(Mutex<BTreeMap<(u64, &'static str), (Timestamp, Arc<View>)>>);

impl Pages {
    /// Keeps a view for the pages to come.
    pub fn keep(&self, table: &'static str, view: &Arc<View>, now: Timestamp) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (at, _)| now.duration_since(*at) < AGE_MAX);
        kept.insert((view.revision, table), (now, view.clone()));
        while kept.len() > VIEWS_MAX {
            kept.pop_first();
        }
    }

    /// The view at exactly this revision, if it is still kept.
    pub fn at(&self, table: &'static str, revision: u64) -> Option<Arc<View>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(revision, table))
            .map(|(_, v)| v.clone())
    }
}

/// Where the next page begins. Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continue {
    /// Revision of the snapshot; 0 = whatever is newest (after a 410).
    #[serde(rename = "r")]
    pub revision: u64,
    /// The last key sent.
    #[serde(rename = "k")]
    pub after: Key,
}

impl Continue {
    /// The token's text.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token serialises into memory"))
    }

    /// Reads a token.
    pub fn decode(token: &str) -> Result<Self, ApiError> {
        let bad = || {
            ApiError::bad_request("continue key is not valid: it is not one that this server made")
        };
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?)
            .map_err(|_| bad())
    }
}
