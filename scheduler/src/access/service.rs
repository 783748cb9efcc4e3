//! The token service, `/v2/token`: credentials and scopes in, a bearer token out.
//!
//! `GET` takes Basic credentials and `service`, `scope` (may be repeated), `account`, `offline_token` as parameters;
//! `POST` takes a form with `grant_type=password` (`username`, `password`) or `grant_type=refresh_token`
//! (`refresh_token`), `scope` and `access_type`. Both answer with what of the scopes the caller has, which may be
//! nothing: whoever goes on with that is told so where it wants to do something. Without credentials everybody gets a
//! token, so that clients which never try without one can pull what everybody may pull.

use std::sync::Arc;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use coracle_api::ApiError;
use coracle_registry::error::{Code, Error};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use super::bearer::{Claims, LIFE_S};
use super::credentials::Credentials;
use super::scope::Scope;
use super::verdict::{Who, granted};
use super::{Guard, subject};

/// Largest form read; scopes and a token have some hundred bytes.
const FORM_BYTES_MAX: usize = 64 << 10;

/// What a request asks for.
#[derive(Default)]
struct Asked {
    scopes: Vec<Scope>,
    /// The client wants to keep something to come again with.
    keeps: bool,
    /// The secret of a form.
    secret: Option<String>,
    /// `grant_type` of a form.
    grant: String,
}

impl Asked {
    /// Reads parameters, of a query or a form.
    fn read(text: &[u8]) -> Result<Self, Error> {
        let mut asked = Self::default();
        let mut scopes = Vec::new();
        for (key, value) in form_urlencoded::parse(text) {
            match &*key {
                "scope" => scopes.push(value.into_owned()),
                "offline_token" => asked.keeps |= value == "true",
                "access_type" => asked.keeps |= value == "offline",
                "grant_type" => asked.grant = value.into_owned(),
                "password" | "refresh_token" => asked.secret = Some(value.into_owned()),
                _ => {}
            }
        }
        asked.scopes =
            Scope::parse_all(scopes.iter().map(String::as_str)).map_err(|e| bad(e.to_string()))?;
        Ok(asked)
    }
}

fn bad(why: impl Into<String>) -> Error {
    Error::new(Code::Unsupported, why).status(StatusCode::BAD_REQUEST)
}

/// 401, as clients of a token service expect it.
fn wrong() -> Error {
    Error::new(
        Code::Unauthorized,
        "E_REGISTRY_LOGIN: the token is unknown, revoked or expired; make one with `coracle token create --role puller|pusher` and give it as the password",
    )
    .header(header::WWW_AUTHENTICATE, "Basic realm=\"coracle\"")
}

/// An error of the state as one of the registry.
pub(super) fn translated(error: &ApiError) -> Error {
    let code = match error.code {
        503 => Code::Unavailable,
        _ => Code::Unknown,
    };
    let translated = Error::new(code, error.message.clone());
    match code {
        Code::Unavailable => translated.header(header::RETRY_AFTER, "1"),
        _ => translated,
    }
}

/// `GET`.
pub(super) async fn get(State(guard): State<Arc<Guard>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let answer = async {
        let asked = Asked::read(parts.uri.query().unwrap_or_default().as_bytes())?;
        let secret = header_secret(&parts.headers)?;
        issue(&guard, &parts, asked, secret).await
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

/// `POST`.
pub(super) async fn post(State(guard): State<Arc<Guard>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = async {
        let body = to_bytes(body, FORM_BYTES_MAX).await;
        let body = body.map_err(|e| {
            bad(format!(
                "E_REGISTRY_FORM: the form does not read, or has more than {FORM_BYTES_MAX} bytes: {e}"
            ))
        })?;
        let mut asked = Asked::read(&body)?;
        let secret = match (asked.grant.as_str(), asked.secret.take()) {
            ("password" | "refresh_token", Some(secret)) => Some(secret),
            ("password", None) => return Err(bad("E_REGISTRY_FORM: password: is required")),
            ("refresh_token", None) => {
                return Err(bad("E_REGISTRY_FORM: refresh_token: is required"));
            }
            (other, _) => {
                return Err(bad(format!(
                    "E_REGISTRY_FORM: grant_type {other:?} is not known; use password or refresh_token"
                )));
            }
        };
        issue(&guard, &parts, asked, secret).await
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

/// The secret in a header, if there is one.
fn header_secret(headers: &HeaderMap) -> Result<Option<String>, Error> {
    match Credentials::of(headers) {
        Credentials::Absent => Ok(None),
        Credentials::Password(secret) | Credentials::Bearer(secret) => Ok(Some(secret)),
        Credentials::Unreadable => Err(wrong()),
    }
}

async fn issue(
    guard: &Guard,
    parts: &Parts,
    asked: Asked,
    secret: Option<String>,
) -> Result<Response, Error> {
    // A bearer token is not good for another one: its life would have no end.
    let who = match &secret {
        None => guard.certified(&parts.extensions),
        Some(secret) => match guard.logins.check(secret).await {
            Ok(Some(login)) => Who::Login(login),
            Ok(None) => return Err(wrong()),
            Err(e) => return Err(translated(&e)),
        },
    };
    let now = (guard.clock)();
    let view = guard.views.view();
    let scopes = granted(&who, asked.scopes, &|name| super::is_open(&view, name));
    let claims = Claims::new(guard.ca.cluster(), subject(&who), scopes, now);
    let key = guard.keys.signing(now).await.map_err(|e| translated(&e))?;
    let token = claims
        .sign(&key)
        .map_err(|e| Error::internal(e.to_string()))?;
    tracing::debug!(subject = ?claims.subject, scopes = ?claims.scopes, "a bearer token was issued");
    let mut answer = json!({
        "token": token,
        "access_token": token,
        "expires_in": LIFE_S,
        "issued_at": now.to_string(),
    });
    if let (true, Some(secret)) = (asked.keeps, secret) {
        // What it came with is what it comes again with: there is nothing else to revoke.
        answer["refresh_token"] = secret.into();
    }
    let mut response = Json(answer).into_response();
    let no_store = http::HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_clients_send_them() {
        let docker = b"account=u&client_id=docker&offline_token=true&service=coracle&scope=repository%3Aa%2Fx%3Apull%2Cpush&scope=repository:b/y:pull";
        let asked = Asked::read(docker).unwrap();
        let scopes: Vec<String> = asked.scopes.iter().map(ToString::to_string).collect();
        assert_eq!(scopes, ["repository:a/x:pull,push", "repository:b/y:pull"]);
        assert!(asked.keeps && asked.secret.is_none());
        let oauth = b"grant_type=refresh_token&refresh_token=a%2Bb&scope=repository:a:pull+repository:b:pull&access_type=online";
        let asked = Asked::read(oauth).unwrap();
        assert_eq!(asked.scopes.len(), 2);
        assert_eq!(
            (asked.grant.as_str(), asked.secret.as_deref()),
            ("refresh_token", Some("a+b"))
        );
        assert!(!asked.keeps);
        let many = "scope=repository:a:pull&".repeat(33);
        let refused = Asked::read(many.as_bytes()).err().unwrap();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(Asked::read(b"").unwrap().scopes.is_empty());
    }
}
