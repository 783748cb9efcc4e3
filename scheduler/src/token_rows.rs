//! What tokens of every kind have in common: a row in a table that ends at a time and holds only a hash of the secret, of
//! which so many may be open at once.

use std::time::Duration;

use bytes::Bytes;
use coracle_api::{ApiError, Key, Timestamp};
use coracle_state::{Command, Expect, Propose, ProposeError, View};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Tokens of one table that may be open at once; expired ones are removed when a new one is made.
const OPEN_MAX: usize = 1_000;

/// A token that was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub token: String,
    pub expires: Timestamp,
}

/// The id and the secret of a token whose row is stored: 16 and 64 hex digits.
pub(crate) struct Drawn {
    pub id: String,
    pub secret: String,
}

/// What every row tells.
#[derive(Deserialize)]
struct Ends {
    expires: Timestamp,
}

/// Draws a token and adds the row that `row` makes of its secret's hash to `table`. `way_out` tells what to do when too
/// many are open.
pub(crate) async fn add<R: Serialize>(
    table: &'static str,
    view: &View,
    propose: &dyn Propose,
    now: Timestamp,
    way_out: &str,
    row: impl FnOnce(String) -> R,
) -> Result<Drawn, ApiError> {
    let (mut commands, mut open) = (Vec::new(), 0usize);
    for obj in view.list(table, None) {
        match serde_json::from_slice::<Ends>(&obj.bytes) {
            Ok(row) if row.expires > now => open += 1,
            _ => commands.push(Command::delete(
                table,
                obj.key.clone(),
                Expect::Revision(obj.revision),
            )),
        }
    }
    if open >= OPEN_MAX {
        return Err(ApiError::new(
            429,
            "TooManyRequests",
            format!("E_TOKENS: {OPEN_MAX} tokens of this kind are open already; {way_out}"),
        ));
    }
    let drawn = Drawn {
        id: hex::encode(rand::random::<[u8; 8]>()),
        secret: hex::encode(rand::random::<[u8; 32]>()),
    };
    let bytes = serde_json::to_vec(&row(hash(&drawn.secret)))
        .map_err(|e| ApiError::new(500, "InternalError", e.to_string()))?;
    commands.push(Command::put(
        table,
        Key::new("", &drawn.id),
        Expect::Absent,
        Bytes::from(bytes),
        Vec::new(),
    ));
    let results = propose.propose(commands).await;
    match results.map_err(|e| unavailable(&e))?.last() {
        Some(Ok(_)) => Ok(drawn),
        _ => Err(ApiError::new(
            500,
            "InternalError",
            "the token was not stored; try again",
        )),
    }
}

/// When a token that may live `max` at most ends.
pub(crate) fn expiry(now: Timestamp, ttl: Duration, max: Duration) -> Result<Timestamp, ApiError> {
    if ttl.is_zero() || ttl > max {
        return Err(ApiError::bad_request(format!(
            "E_TTL: a token of this role may live from 1 s to {} days",
            max.as_secs() / 86_400
        )));
    }
    let ends = SignedDuration::try_from(ttl).ok();
    Ok(ends
        .and_then(|d| now.checked_add(d).ok())
        .unwrap_or(Timestamp::MAX))
}

/// What is stored of a secret. It has 256 random bits, so a plain hash is enough and no guess ever hits.
pub(crate) fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

/// A proposal that got no answer, for a client.
pub(crate) fn unavailable(e: &ProposeError) -> ApiError {
    let mut error = ApiError::new(503, "ServiceUnavailable", e.to_string());
    error.retry_after_seconds = Some(1);
    error
}
