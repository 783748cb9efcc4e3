//! What registries outside ask for: Basic, and the token service of a Bearer challenge.
//!
//! Credentials go to the registry itself and to the token service it names, and nowhere else: an upload may be sent to
//! another host, without them.

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{Answer, Payload, Transport, Unsent};

/// Largest answer of a token service, in bytes.
const TOKEN_BYTES_MAX: usize = 1 << 20;

/// Who somebody is at a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user's name and password.
    Password {
        /// The name.
        user: String,
        /// The password, or a token that stands for one.
        password: String,
    },
    /// A token that the token service gives others for.
    Identity(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer(Service),
}

/// A token service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

/// A transport that answers a registry's challenges, for one repository of it.
pub struct Authed<T> {
    inner: T,
    base: Uri,
    repository: String,
    credentials: Option<Credentials>,
    known: Mutex<Known>,
}

/// What was learnt so far.
#[derive(Default)]
struct Known {
    service: Option<Service>,
    pull: Option<HeaderValue>,
    push: Option<HeaderValue>,
}

impl<T: Transport> Authed<T> {
    /// For the registry at `base` (`https://ghcr.io`); without credentials as whoever it lets in without.
    pub fn new(
        inner: T,
        base: Uri,
        repository: impl Into<String>,
        credentials: Option<Credentials>,
    ) -> Self {
        Authed {
            inner,
            base,
            repository: repository.into(),
            credentials,
            known: Mutex::default(),
        }
    }

    /// What is sent with a request, if it is known or can be had before the request is.
    async fn prepared(&self, push: bool) -> Result<Option<HeaderValue>, Unsent> {
        let service = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let value = if push { &known.push } else { &known.pull };
            if let Some(value) = value {
                return Ok(Some(value.clone()));
            }
            known.service.clone()
        };
        match service {
            // The scope it named was another one.
            Some(service) => {
                let service = Service {
                    scope: None,
                    ..service
                };
                self.token(&service, push).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// Answers a challenge; `None` if there is nothing to answer it with.
    async fn answer(&self, headers: &HeaderMap, push: bool) -> Result<Option<HeaderValue>, Unsent> {
        let value = match (challenge(headers), &self.credentials) {
            (Some(Challenge::Bearer(service)), _) => self.token(&service, push).await?,
            (Some(Challenge::Basic), Some(Credentials::Password { user, password })) => {
                basic(user, password)?
            }
            _ => return Ok(None),
        };
        Ok(Some(value))
    }

    /// A token of the service, remembered for the requests to come.
    async fn token(&self, service: &Service, push: bool) -> Result<HeaderValue, Unsent> {
        let actions = if push { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", self.repository);
        let scope = service.scope.as_ref().unwrap_or(&own);
        let mut query = format!("scope={}", encoded(scope));
        if let Some(name) = &service.service {
            query.push_str(&format!("&service={}", encoded(name)));
        }
        let realm: Uri = service
            .realm
            .parse()
            .map_err(|_| denied(&service.realm, "is no address"))?;
        let secure = realm.scheme() == Some(&http::uri::Scheme::HTTPS);
        if !secure && self.base.scheme() == Some(&http::uri::Scheme::HTTPS) {
            return Err(denied(&service.realm, "is not reached by https"));
        }
        let join = if service.realm.contains('?') {
            '&'
        } else {
            '?'
        };
        let mut request = Request::builder();
        let mut body = Bytes::new();
        match &self.credentials {
            Some(Credentials::Identity(token)) => {
                query.push_str("&grant_type=refresh_token&client_id=coracle&refresh_token=");
                query.push_str(&encoded(token));
                body = query.into();
                request = request
                    .method(Method::POST)
                    .uri(&service.realm)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .header(header::CONTENT_LENGTH, body.len());
            }
            Some(Credentials::Password { user, password }) => {
                request = request
                    .uri(format!("{}{join}{query}", service.realm))
                    .header(header::AUTHORIZATION, basic(user, password)?);
            }
            None => request = request.uri(format!("{}{join}{query}", service.realm)),
        }
        let request = request
            .body(Payload::new(body))
            .map_err(|_| denied(&service.realm, "is no address"))?;
        let response = self.inner.send(request).await?;
        let status = response.status();
        if super::retry::may_retry(status) {
            let host = realm.host().unwrap_or_default();
            return Err(Unsent::Broken(format!(
                "the token service at {host} answered {status}"
            )));
        }
        if status != StatusCode::OK {
            return Err(denied(&service.realm, &format!("answered {status}")));
        }
        let all = short(response.into_body()).await?;
        let said: Value = serde_json::from_slice(&all).unwrap_or_default();
        let token = [&said["token"], &said["access_token"]]
            .into_iter()
            .find_map(Value::as_str)
            .ok_or_else(|| denied(&service.realm, "gives no token"))?;
        let value = sensitive(&format!("Bearer {token}"))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.service = Some(service.clone());
        *(if push {
            &mut known.push
        } else {
            &mut known.pull
        }) = Some(value.clone());
        Ok(value)
    }
}

impl<T: Transport> Transport for Authed<T> {
    async fn send(&self, mut request: Request<Payload>) -> Result<Response<Answer>, Unsent> {
        if request.uri().authority() != self.base.authority() {
            return self.inner.send(request).await;
        }
        let push = !matches!(*request.method(), Method::GET | Method::HEAD);
        if let Some(value) = self.prepared(push).await? {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let mut again = request.clone();
        let response = self.inner.send(request).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        // None yet, or one that has run out.
        let Some(value) = self.answer(response.headers(), push).await? else {
            return Ok(response);
        };
        again.headers_mut().insert(header::AUTHORIZATION, value);
        self.inner.send(again).await
    }
}

/// The challenge we can answer best: Bearer, else Basic.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(header::WWW_AUTHENTICATE) {
        let all = value.to_str().ok().map(http_auth::parse_challenges);
        for one in all.and_then(Result::ok).unwrap_or_default() {
            let param = |name: &str| {
                let mut params = one.params.iter();
                let found = params.find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if one.scheme.eq_ignore_ascii_case("basic") {
                found = found.or(Some(Challenge::Basic));
            } else if one.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = param("realm")
            {
                return Some(Challenge::Bearer(Service {
                    realm,
                    service: param("service"),
                    scope: param("scope"),
                }));
            }
        }
    }
    found
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, Unsent> {
    sensitive(&format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{password}"))
    ))
}

fn sensitive(text: &str) -> Result<HeaderValue, Unsent> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Unsent::Denied("the token cannot be sent in a header".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn denied(realm: &str, why: &str) -> Unsent {
    Unsent::Denied(format!("the registry's token service {realm} {why}"))
}

/// The answer of a token service.
async fn short(mut body: Answer) -> Result<Vec<u8>, Unsent> {
    let broken = |why: String| Unsent::Broken(format!("the token service broke off: {why}"));
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| broken(e.to_string()))?;
        all.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if all.len() > TOKEN_BYTES_MAX {
            return Err(broken(format!("it says more than {TOKEN_BYTES_MAX} bytes")));
        }
    }
    Ok(all)
}

/// Percent-encodes a value of a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn challenges_as_registries_write_them() {
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer(Service {
                realm: "https://a.example/token".into(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            }))
        };
        for (values, want) in [
            (
                vec![
                    r#"Bearer realm="https://a.example/token",service="r",scope="repository:a/b:pull,push""#,
                ],
                bearer(Some("r"), Some("repository:a/b:pull,push")),
            ),
            (vec![r#"Basic realm="x""#], Some(Challenge::Basic)),
            (
                vec![
                    r#"Basic realm="x""#,
                    r#"bearer Realm="https://a.example/token""#,
                ],
                bearer(None, None),
            ),
            (
                vec![r#"Basic realm="x", Bearer realm="https://a.example/token",service="r""#],
                bearer(Some("r"), None),
            ),
            (vec!["Negotiate"], None),
            (vec!["Bearer"], None),
            (vec!["\"broken"], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
            }
            assert_eq!(challenge(&headers), want, "{values:?}");
        }
        assert_eq!(encoded("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
