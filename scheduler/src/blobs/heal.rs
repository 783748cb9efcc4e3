//! Brings what this member should have and has not: everything at first for one that joined, later what was pushed while
//! it was away.

use std::sync::Arc;
use std::time::Duration;

use coracle_registry::blobs::Source;
use coracle_registry::digest::Digest;
use coracle_registry::error::Error;
use coracle_registry::meta::Meta;
use coracle_registry::rows::{self, BLOBS, BlobRow};
use tokio_util::sync::CancellationToken;

use super::Spread;
use super::fetch::{Found, fetch};

/// How often the rows are compared with the disk; a blob that is asked for before is fetched then.
const HEAL_EVERY: Duration = Duration::from_secs(600);
/// The same after a round in which a member did not answer.
const AGAIN: Duration = Duration::from_secs(60);
/// Rows read at once.
const PAGE_ROWS: usize = 1_000;

/// What one round found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    fetched: usize,
    /// On no member.
    lost: usize,
    /// Not to be had now.
    failed: usize,
}

/// Compares now and every ten minutes, until told to stop.
pub(crate) async fn heal(spread: Spread, meta: Arc<dyn Meta>, stop: CancellationToken) {
    if spread.0.shared {
        return;
    }
    loop {
        let round = tokio::select! {
            () = stop.cancelled() => return,
            round = round(&spread, &*meta) => round,
        };
        let wait = match round {
            Ok(round) => {
                if round.lost > 0 {
                    tracing::error!(target: crate::LOG, blobs = round.lost, "E_REGISTRY_LOST: blobs that repositories name are on no member; push them again");
                }
                if round != Round::default() {
                    tracing::info!(target: crate::LOG, fetched = round.fetched, failed = round.failed, "blobs missing on this member were looked for");
                }
                if round.failed > 0 { AGAIN } else { HEAL_EVERY }
            }
            Err(error) => {
                tracing::warn!(target: crate::LOG, error = %error.message, "blobs missing on this member could not be looked for; again in a minute");
                AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn round(spread: &Spread, meta: &dyn Meta) -> Result<Round, Error> {
    let mut round = Round::default();
    if spread.0.peers.round().others.is_empty() {
        return Ok(round);
    }
    let mut after: Option<String> = None;
    loop {
        let page = meta.list(BLOBS, "", after.as_deref(), PAGE_ROWS).await?;
        for (key, row) in &page {
            let digest: Digest = key.parse()?;
            let size = rows::decode::<BlobRow>(row)?.size;
            let here = spread.disk().open(&Source::Blob(digest.clone())).await?;
            if here.is_some_and(|here| here.size == size) {
                continue;
            }
            match fetch(&spread.0, &digest, Some(size)).await {
                Found::Here => round.fetched += 1,
                Found::Nowhere => {
                    tracing::error!(target: crate::LOG, %digest, "a blob is on no member");
                    round.lost += 1;
                }
                Found::Unknown(why) => {
                    tracing::warn!(target: crate::LOG, %digest, why, "a blob could not be fetched");
                    round.failed += 1;
                }
            }
        }
        if page.len() < PAGE_ROWS {
            return Ok(round);
        }
        after = page.into_iter().next_back().map(|(key, _)| key);
    }
}
