//! Registry tokens: `coracle-registry.<id>.<secret>`, for those who push and pull without a certificate of the cluster.
//!
//! Unlike a join token one works as often as it is used, until its time is over or it is revoked. Only a hash of the
//! secret is stored; the secret has 256 random bits, so a plain hash is enough and no guess ever hits.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::{ApiError, Key, Timestamp};
use coracle_state::{Obj, Propose, View, Views};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use crate::token_rows::{self, Drawn, Made, expiry, hash, unavailable};

/// Table of registry tokens. A restore keeps it: robots outside go on with what they have.
pub(crate) const LOGINS: &str = "coracle.logins";
/// What every registry token begins with, so that it is recognised where it should not be.
pub(crate) const PREFIX: &str = "coracle-registry.";
/// How long a registry token works if nothing else is asked.
pub(crate) const TTL_DEFAULT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Longest life of a registry token.
const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Namespaces that one token may name.
const NAMESPACES_MAX: usize = 64;

/// What a registry token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryRole {
    /// Pulls and pushes. It deletes nothing.
    Pusher,
    /// Pulls.
    Puller,
}

impl FromStr for RegistryRole {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "pusher" => Ok(Self::Pusher),
            "puller" => Ok(Self::Puller),
            _ => Err(()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    /// SHA-256 of the secret, hex.
    hash: String,
    role: RegistryRole,
    /// Where it works; empty: everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    created: Timestamp,
    expires: Timestamp,
}

/// A registry token that was shown and is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    /// Its id, 16 hex digits.
    pub id: String,
    pub role: RegistryRole,
    /// Where it works; empty: everywhere.
    pub namespaces: Vec<String>,
}

/// Makes and recognises registry tokens.
pub(crate) struct Logins {
    propose: Arc<dyn Propose>,
    views: Arc<dyn Views>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Logins {
    pub fn new(
        propose: Arc<dyn Propose>,
        views: Arc<dyn Views>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        Self {
            propose,
            views,
            clock,
        }
    }

    /// Makes one that works in `namespaces`, everywhere if there are none.
    pub async fn create(
        &self,
        role: RegistryRole,
        namespaces: Vec<String>,
        ttl: Duration,
    ) -> Result<Made, ApiError> {
        check_namespaces(&namespaces).map_err(ApiError::bad_request)?;
        let now = (self.clock)();
        let expires = expiry(now, ttl, TTL_MAX)?;
        let view = self.views.view();
        let drawn = token_rows::add(
            LOGINS,
            &view,
            &*self.propose,
            now,
            "revoke some with `coracle token delete ID`",
            |hash| Row {
                hash,
                role,
                namespaces,
                created: now,
                expires,
            },
        );
        let Drawn { id, secret } = drawn.await?;
        Ok(Made {
            token: format!("{PREFIX}{id}.{secret}"),
            expires,
        })
    }

    /// Those of a view that are good, as `coracle token list` shows them; nothing here is secret.
    pub fn list(&self, view: &View, now: Timestamp) -> Vec<Value> {
        let row = |obj: &Arc<Obj>| {
            let row: Row = serde_json::from_slice(&obj.bytes).ok()?;
            (row.expires > now).then(|| {
                json!({
                    "id": obj.key.name,
                    "role": row.role,
                    "namespaces": row.namespaces,
                    "created": row.created.to_string(),
                    "expires": row.expires.to_string(),
                })
            })
        };
        view.list(LOGINS, None).filter_map(row).collect()
    }

    /// The token a client shows; `None` if there is no such one (any more).
    ///
    /// # Errors
    /// It is not known here and the leader cannot be asked.
    pub async fn check(&self, token: &str) -> Result<Option<Login>, ApiError> {
        let parts = token.trim().strip_prefix(PREFIX);
        let Some((id, secret)) = parts.and_then(|rest| rest.split_once('.')) else {
            return Ok(None);
        };
        let Some(row) = self.row(id).await? else {
            return Ok(None);
        };
        let same: bool = row.hash.as_bytes().ct_eq(hash(secret).as_bytes()).into();
        Ok(same.then(|| login(id, row)))
    }

    /// The token with this id, if it is (still) good: for what was issued on the strength of it.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub async fn known(&self, id: &str) -> Result<Option<Login>, ApiError> {
        Ok(self.row(id).await?.map(|row| login(id, row)))
    }

    async fn row(&self, id: &str) -> Result<Option<Row>, ApiError> {
        let key = Key::new("", id);
        let mut obj = self.views.view().get(LOGINS, &key).cloned();
        if obj.is_none() && id_is_valid(id) {
            // It may have been made on another member a moment ago.
            let view = self.views.fresh().await.map_err(|e| unavailable(&e))?;
            obj = view.get(LOGINS, &key).cloned();
        }
        let row = obj.and_then(|obj| serde_json::from_slice::<Row>(&obj.bytes).ok());
        Ok(row.filter(|row| row.expires > (self.clock)()))
    }
}

fn login(id: &str, row: Row) -> Login {
    Login {
        id: id.into(),
        role: row.role,
        namespaces: row.namespaces,
    }
}

/// Whether this may be an id at all: nonsense is not worth a question to the leader.
fn id_is_valid(id: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    id.len() == 16 && id.bytes().all(digit)
}

/// Namespaces as Kubernetes names them.
fn check_namespaces(namespaces: &[String]) -> Result<(), String> {
    if namespaces.len() > NAMESPACES_MAX {
        return Err(format!(
            "namespaces: a token names {NAMESPACES_MAX} at most; leave them out for all"
        ));
    }
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |n: &String| {
        let (first, last) = (n.bytes().next(), n.bytes().next_back());
        n.len() <= 63
            && first.is_some_and(letter)
            && last.is_some_and(letter)
            && n.bytes().all(|b| letter(b) || b == b'-')
    };
    match namespaces.iter().find(|n| !label(n)) {
        Some(bad) => Err(format!(
            "namespaces: {bad:?} is no namespace's name; use at most 63 of a-z, 0-9 and '-'"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_namespaces_are_taken() {
        let check = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            check_namespaces(&names)
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["default", "team-a", "0"]), Ok(()));
        for bad in ["", "A", "a/b", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(check(&["default", bad]).unwrap_err().contains("namespaces"));
        }
        assert!(check(&["a"; 65]).unwrap_err().contains("64 at most"));
    }

    #[test]
    fn ids_are_sixteen_hex_digits() {
        for (id, valid) in [
            ("0123456789abcdef", true),
            ("0123456789ABCDEF", false),
            ("0123456789abcde", false),
            ("../../../../../a", false),
        ] {
            assert_eq!(id_is_valid(id), valid, "{id}");
        }
    }
}
