//! Join tokens: `coracle.<sha-256 of the CA>.<id>.<secret>`. The joiner pins the CA by the hash before it sends the
//! secret; while the CA rotates, a token that pins either root works. Only a hash of the secret is stored; a token works once and not after its time.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_api::{ApiError, Key, Timestamp};
use coracle_server::Tokens;
use coracle_state::{BoxFuture, Command, Expect, Obj, Propose, ProposeError, Views};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::pki::Ca;

/// Table of tokens.
pub(crate) const TOKENS: &str = "coracle.tokens";
/// How long a token works if nothing else is asked: a day, as kubeadm's.
pub(crate) const TTL_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest life of a token: one that outlives its purpose is a key nobody watches.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Tokens that may be open at once; expired ones are removed when a new one is made.
const OPEN_MAX: usize = 1_000;

/// What a token lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A runner node.
    Runner,
    /// A member of the control plane. It is given the key that opens the cluster's CA.
    Scheduler,
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "runner" => Ok(Self::Runner),
            "scheduler" => Ok(Self::Scheduler),
            other => Err(format!(
                "{other:?} is no role that can join; use \"runner\" or \"scheduler\""
            )),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    /// SHA-256 of the secret, hex.
    hash: String,
    role: Role,
    created: Timestamp,
    expires: Timestamp,
}

/// A token that was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub token: String,
    pub role: Role,
    pub expires: Timestamp,
}

/// Makes and redeems tokens.
pub(crate) struct TokenStore {
    propose: Arc<dyn Propose>,
    views: Arc<dyn Views>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ca: Arc<Ca>,
}

/// A proposal that got no answer, for a client.
pub(crate) fn unavailable(e: &ProposeError) -> ApiError {
    let mut error = ApiError::new(503, "ServiceUnavailable", e.to_string());
    error.retry_after_seconds = Some(1);
    error
}

fn forbidden(message: &str) -> ApiError {
    ApiError::new(403, "Forbidden", message)
}

impl TokenStore {
    pub fn new(
        propose: Arc<dyn Propose>,
        views: Arc<dyn Views>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        ca: Arc<Ca>,
    ) -> Self {
        Self {
            propose,
            views,
            clock,
            ca,
        }
    }

    /// Makes a token.
    pub async fn create(&self, role: Role, ttl: Duration) -> Result<Made, ApiError> {
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(ApiError::bad_request(format!(
                "E_TTL: a token may live from 1 s to {} days",
                TTL_MAX.as_secs() / 86_400
            )));
        }
        let now = (self.clock)();
        let expires = SignedDuration::try_from(ttl)
            .ok()
            .and_then(|d| now.checked_add(d).ok())
            .unwrap_or(Timestamp::MAX);
        let (mut commands, mut open) = (Vec::new(), 0usize);
        for row in self.views.view().list(TOKENS, None) {
            match serde_json::from_slice::<Row>(&row.bytes) {
                Ok(r) if r.expires > now => open += 1,
                _ => commands.push(Command::delete(
                    TOKENS,
                    row.key.clone(),
                    Expect::Revision(row.revision),
                )),
            }
        }
        if open >= OPEN_MAX {
            return Err(ApiError::new(
                429,
                "TooManyRequests",
                format!(
                    "E_TOKENS: {OPEN_MAX} tokens are open already; wait until some have expired"
                ),
            ));
        }
        let (id, secret) = (
            hex::encode(rand::random::<[u8; 8]>()),
            hex::encode(rand::random::<[u8; 32]>()),
        );
        let row = Row {
            hash: hash(&secret),
            role,
            created: now,
            expires,
        };
        let bytes = serde_json::to_vec(&row)
            .map_err(|e| ApiError::new(500, "InternalError", e.to_string()))?;
        commands.push(Command::put(
            TOKENS,
            Key::new("", &id),
            Expect::Absent,
            Bytes::from(bytes),
            Vec::new(),
        ));
        let results = self
            .propose
            .propose(commands)
            .await
            .map_err(|e| unavailable(&e))?;
        match results.last() {
            Some(Ok(_)) => Ok(Made {
                token: format!("coracle.{}.{id}.{secret}", self.ca.hash()),
                role,
                expires,
            }),
            _ => Err(ApiError::new(
                500,
                "InternalError",
                "the token was not stored; try again",
            )),
        }
    }

    /// Checks a token without using it up.
    pub async fn check(&self, token: &str) -> Result<(Role, Arc<Obj>), ApiError> {
        let parts: Vec<&str> = token.trim().split('.').collect();
        let (id, secret) = match parts.as_slice() {
            ["coracle", ca, _, _] if !self.ca.hashes().iter().any(|h| h == ca) => {
                return Err(forbidden(
                    "E_TOKEN_CA: the token is of another cluster; make one on this cluster with `coracle token create`",
                ));
            }
            // The hash is for the joiner, who checks it before it sends anything; it need not come along.
            ["coracle", _, id, secret] | [id, secret] => (*id, *secret),
            _ => {
                return Err(forbidden(
                    "E_TOKEN: this is no join token; make one with `coracle token create`",
                ));
            }
        };
        // One sentence for all of these: which it was is nothing to tell a stranger.
        let wrong = || {
            forbidden(
                "E_TOKEN: the token is unknown, used or expired; make a new one with `coracle token create`",
            )
        };
        let key = Key::new("", id);
        let mut obj = self.views.view().get(TOKENS, &key).cloned();
        if obj.is_none() {
            // It may have been made on another member a moment ago.
            let view = self.views.fresh().await.map_err(|e| unavailable(&e))?;
            obj = view.get(TOKENS, &key).cloned();
        }
        let obj = obj.ok_or_else(wrong)?;
        let row: Row = serde_json::from_slice(&obj.bytes).map_err(|_| wrong())?;
        let same: bool = row.hash.as_bytes().ct_eq(hash(secret).as_bytes()).into();
        if !same || row.expires <= (self.clock)() {
            return Err(wrong());
        }
        Ok((row.role, obj))
    }

    /// Uses a checked token up; of two at the same time one wins.
    pub async fn redeem(&self, obj: &Obj) -> Result<(), ApiError> {
        let delete = Command::delete(TOKENS, obj.key.clone(), Expect::Revision(obj.revision));
        match self
            .propose
            .propose(vec![delete])
            .await
            .map_err(|e| unavailable(&e))?
            .first()
        {
            Some(Ok(_)) => Ok(()),
            _ => Err(forbidden(
                "E_TOKEN: the token was used a moment ago; make a new one with `coracle token create`",
            )),
        }
    }
}

fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

impl Tokens for TokenStore {
    fn create(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let role = body["role"]
                .as_str()
                .unwrap_or("runner")
                .parse()
                .map_err(|e| ApiError::bad_request(format!("role: {e}")))?;
            let number = |field: &str| match &body[field] {
                Value::Null => Ok(None),
                v => v.as_u64().map(Some).ok_or_else(|| {
                    ApiError::bad_request(format!("{field}: must be a whole number"))
                }),
            };
            let ttl = match (number("ttlMs")?, number("ttl_seconds")?) {
                (Some(ms), _) => Duration::from_millis(ms),
                (None, Some(s)) => Duration::from_secs(s),
                (None, None) => TTL_DEFAULT,
            };
            let made = TokenStore::create(self, role, ttl).await?;
            Ok(json!({"token": made.token, "role": made.role, "expires": made.expires.to_string()}))
        })
    }
}
