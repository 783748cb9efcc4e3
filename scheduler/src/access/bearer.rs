//! Bearer tokens of the token service: signed, short-lived, for some scopes.
//!
//! They are JSON Web Tokens with HMAC-SHA256, because clients look for `exp` in them. There is one algorithm and one
//! key: a token with any other header is refused before anything in it is read. What is inside says who it was issued
//! to and for which scopes; whether that one may (still) do it is asked again at each use.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_api::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::scope::Scope;

/// How long a bearer token works: long enough for a large push's many requests, each of which may ask for a new one.
pub(crate) const LIFE_S: i64 = 300;
/// How far the members' clocks may be apart.
const SKEW_S: i64 = 60;
/// Whom the tokens are for, and the `service` of challenges.
pub(crate) const SERVICE: &str = "coracle";
/// The only header there is.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// Longest token read. The longest issued has 32 scopes of 300 bytes.
const BYTES_MAX: usize = 32 << 10;

/// Who a token was issued to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub(crate) enum Subject {
    /// Nobody in particular.
    Nobody,
    /// A user of the API.
    User {
        /// User name.
        name: String,
        /// Groups.
        groups: Vec<String>,
    },
    /// The holder of a registry token.
    Login {
        /// Id of that token.
        id: String,
    },
}

/// What is in a token. The short names are those of RFC 7519.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// `coracle/CLUSTER`.
    pub iss: String,
    /// [`SERVICE`].
    pub aud: String,
    /// Issued, in seconds since 1970.
    pub iat: i64,
    /// Works until, in seconds since 1970.
    pub exp: i64,
    /// To whom.
    pub subject: Subject,
    /// For what.
    pub scopes: Vec<Scope>,
}

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// It is none of ours, or was changed.
    Forged,
    /// Its time is over, or has not come.
    Expired,
}

impl Claims {
    /// For a subject and scopes, from now on.
    pub fn new(cluster: &str, subject: Subject, scopes: Vec<Scope>, now: Timestamp) -> Self {
        let iat = now.as_second();
        Self {
            iss: issuer(cluster),
            aud: SERVICE.into(),
            iat,
            exp: iat.saturating_add(LIFE_S),
            subject,
            scopes,
        }
    }

    /// The token.
    pub fn sign(&self, key: &hmac::Key) -> Result<String, serde_json::Error> {
        let (header, claims) = (
            URL_SAFE_NO_PAD.encode(HEADER),
            URL_SAFE_NO_PAD.encode(serde_json::to_vec(self)?),
        );
        let signed = format!("{header}.{claims}");
        let tag = hmac::sign(key, signed.as_bytes());
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)))
    }

    /// Reads a token that this cluster signed and whose time it is.
    pub fn verify(
        token: &str,
        key: &hmac::Key,
        cluster: &str,
        now: Timestamp,
    ) -> Result<Self, Invalid> {
        if token.len() > BYTES_MAX {
            return Err(Invalid::Forged);
        }
        let (signed, tag) = token.rsplit_once('.').ok_or(Invalid::Forged)?;
        let (header, claims) = signed.split_once('.').ok_or(Invalid::Forged)?;
        if header != URL_SAFE_NO_PAD.encode(HEADER) {
            return Err(Invalid::Forged);
        }
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| Invalid::Forged)?;
        hmac::verify(key, signed.as_bytes(), &tag).map_err(|_| Invalid::Forged)?;
        let claims = URL_SAFE_NO_PAD.decode(claims);
        let claims: Self = serde_json::from_slice(&claims.map_err(|_| Invalid::Forged)?)
            .map_err(|_| Invalid::Forged)?;
        if claims.iss != issuer(cluster) || claims.aud != SERVICE {
            return Err(Invalid::Forged);
        }
        let now = now.as_second();
        // Another member's clock may be ahead, or behind.
        let early = claims.iat > now.saturating_add(SKEW_S);
        let late = claims.exp < now.saturating_sub(SKEW_S);
        if early || late {
            return Err(Invalid::Expired);
        }
        Ok(claims)
    }
}

fn issuer(cluster: &str) -> String {
    format!("coracle/{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    fn claims() -> Claims {
        let scopes = vec![Scope::parse("repository:a/b:pull,push").unwrap()];
        let subject = Subject::Login { id: "ab".into() };
        Claims::new("c1", subject, scopes, at(10_000))
    }

    #[test]
    fn a_token_is_read_as_it_was_signed() {
        let token = claims().sign(&key(1)).unwrap();
        assert_eq!(
            Claims::verify(&token, &key(1), "c1", at(10_100)),
            Ok(claims())
        );
        // What clients look for.
        let middle = token.split('.').nth(1).unwrap();
        let middle = URL_SAFE_NO_PAD.decode(middle).unwrap();
        let middle: serde_json::Value = serde_json::from_slice(&middle).unwrap();
        assert_eq!(
            (middle["exp"].as_i64(), middle["iat"].as_i64()),
            (Some(10_300), Some(10_000))
        );
        for subject in [
            Subject::Nobody,
            Subject::User {
                name: "admin".into(),
                groups: vec!["g".into()],
            },
        ] {
            let claims = Claims::new("c1", subject, Vec::new(), at(0));
            let token = claims.sign(&key(1)).unwrap();
            assert_eq!(Claims::verify(&token, &key(1), "c1", at(0)), Ok(claims));
        }
    }

    #[test]
    fn clocks_may_be_a_minute_apart_and_no_more() {
        let token = claims().sign(&key(1)).unwrap();
        for (now, good) in [
            (9_939, false),
            (9_940, true),
            (10_300, true),
            (10_360, true),
            (10_361, false),
        ] {
            let read = Claims::verify(&token, &key(1), "c1", at(now));
            assert_eq!(read.is_ok(), good, "{now}");
            assert!(good || read == Err(Invalid::Expired));
        }
    }

    #[test]
    fn nothing_but_what_this_cluster_signed_counts() {
        let good = claims().sign(&key(1)).unwrap();
        let parts: Vec<&str> = good.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let mut wider = claims();
        wider.scopes = vec![Scope::parse("registry:catalog:*").unwrap()];
        let wider = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wider).unwrap());
        let mut foreign = claims();
        foreign.aud = "other".into();
        for forged in [
            String::new(),
            "a".into(),
            "a.b.c".into(),
            claims().sign(&key(2)).unwrap(),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{wider}.{}", parts[0], parts[2]),
            format!("{}.{}.{}A", parts[0], parts[1], parts[2]),
            format!("{good}.{}", parts[2]),
            foreign.sign(&key(1)).unwrap(),
            "x".repeat(BYTES_MAX + 1),
        ] {
            let read = Claims::verify(&forged, &key(1), "c1", at(10_000));
            assert_eq!(read, Err(Invalid::Forged), "{forged}");
        }
        let elsewhere = Claims::verify(&good, &key(1), "c2", at(10_000));
        assert_eq!(elsewhere, Err(Invalid::Forged));
    }
}
