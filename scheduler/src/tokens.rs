//! Join tokens: `coracle.<sha-256 of the CA>.<id>.<secret>`. The joiner pins the CA by the hash before it sends the
//! secret; while the CA rotates, a token that pins either root works. Only a hash of the secret is stored; a token works once and not after its time.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::{ApiError, Key, Timestamp};
use coracle_server::Tokens;
use coracle_state::{BoxFuture, Command, Expect, Obj, Propose, Views};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use crate::access::{LOGINS, Logins, RegistryRole};
use crate::pki::Ca;
use crate::token_rows::{self, Drawn, Made, expiry, hash, unavailable};

/// Table of tokens.
pub(crate) const TOKENS: &str = "coracle.tokens";
/// How long a token works if nothing else is asked: a day, as kubeadm's.
pub(crate) const TTL_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest life of a token: one that outlives its purpose is a key nobody watches.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
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
                "{other:?} is no role; use \"runner\" or \"scheduler\" to join, \"pusher\" or \"puller\" for the registry"
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

/// Makes and redeems join tokens, and keeps the registry's beside them.
pub(crate) struct TokenStore {
    /// Registry tokens.
    pub logins: Arc<Logins>,
    propose: Arc<dyn Propose>,
    views: Arc<dyn Views>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ca: Arc<Ca>,
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
        let logins = Logins::new(propose.clone(), views.clone(), clock.clone());
        Self {
            logins: Arc::new(logins),
            propose,
            views,
            clock,
            ca,
        }
    }

    /// Makes a token.
    pub async fn create(&self, role: Role, ttl: Duration) -> Result<Made, ApiError> {
        let now = (self.clock)();
        let expires = expiry(now, ttl, TTL_MAX)?;
        let view = self.views.view();
        let drawn = token_rows::add(
            TOKENS,
            &view,
            &*self.propose,
            now,
            "wait until some have expired, or end some with `coracle token delete ID`",
            |hash| Row {
                hash,
                role,
                created: now,
                expires,
            },
        );
        let Drawn { id, secret } = drawn.await?;
        Ok(Made {
            token: format!("coracle.{}.{id}.{secret}", self.ca.hash()),
            expires,
        })
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

/// The namespaces that a request for a token names.
fn namespaces(body: &Value) -> Result<Vec<String>, ApiError> {
    let bad = || ApiError::bad_request("namespaces: must be a list of strings");
    match &body["namespaces"] {
        Value::Null => Ok(Vec::new()),
        Value::Array(all) => {
            let name = |n: &Value| n.as_str().map(String::from).ok_or_else(bad);
            all.iter().map(name).collect()
        }
        _ => Err(bad()),
    }
}

impl Tokens for TokenStore {
    fn create(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let role = body["role"].as_str().unwrap_or("runner");
            let number = |field: &str| match &body[field] {
                Value::Null => Ok(None),
                v => v.as_u64().map(Some).ok_or_else(|| {
                    ApiError::bad_request(format!("{field}: must be a whole number"))
                }),
            };
            let ttl = match (number("ttlMs")?, number("ttl_seconds")?) {
                (Some(ms), _) => Some(Duration::from_millis(ms)),
                (None, Some(s)) => Some(Duration::from_secs(s)),
                (None, None) => None,
            };
            let namespaces = namespaces(&body)?;
            let made = match role.parse::<RegistryRole>() {
                Ok(role) => {
                    let ttl = ttl.unwrap_or(crate::access::TTL_DEFAULT);
                    self.logins.create(role, namespaces, ttl).await?
                }
                Err(()) => {
                    let role = role
                        .parse()
                        .map_err(|e| ApiError::bad_request(format!("role: {e}")))?;
                    if !namespaces.is_empty() {
                        return Err(ApiError::bad_request(
                            "namespaces: only pushers and pullers have them; leave them out",
                        ));
                    }
                    TokenStore::create(self, role, ttl.unwrap_or(TTL_DEFAULT)).await?
                }
            };
            Ok(json!({"token": made.token, "role": role, "expires": made.expires.to_string()}))
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let view = self.views.fresh().await.map_err(|e| unavailable(&e))?;
            let now = (self.clock)();
            let row = |obj: &Arc<Obj>| {
                let row: Row = serde_json::from_slice(&obj.bytes).ok()?;
                (row.expires > now).then(|| {
                    json!({
                        "id": obj.key.name,
                        "role": row.role,
                        "namespaces": [],
                        "created": row.created.to_string(),
                        "expires": row.expires.to_string(),
                    })
                })
            };
            let mut all: Vec<Value> = view.list(TOKENS, None).filter_map(row).collect();
            all.extend(self.logins.list(&view, now));
            Ok(json!({"tokens": all}))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move {
            let both = [TOKENS, LOGINS]
                .map(|table| Command::delete(table, Key::new("", id), Expect::Present));
            let results = self.propose.propose(both.into()).await;
            let results = results.map_err(|e| unavailable(&e))?;
            if results.iter().any(Result::is_ok) {
                return Ok(json!({"deleted": id}));
            }
            Err(ApiError::new(
                404,
                "NotFound",
                format!(
                    "E_TOKEN_UNKNOWN: there is no token with the id {id:?}; `coracle token list` shows them"
                ),
            ))
        })
    }
}
