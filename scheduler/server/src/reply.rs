//! Responses. Every failure leaves as a `Status` object, whatever went wrong.

use axum::body::Body;
use axum::response::Response;
use coracle_api::ApiError;
use coracle_state::ProposeError;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

/// JSON as client-go expects to see it named.
pub const JSON: &str = "application/json";
/// RFC 9110's `Warning`, which kubectl prints.
const WARNING: HeaderName = HeaderName::from_static("warning");
/// Warning headers sent at most, and characters of each: header blocks are bounded on the client's side too.
const WARNINGS_MAX: usize = 32;
const WARNING_CHARS_MAX: usize = 512;

/// What a handler answers.
pub type Answer = Result<Response, ApiError>;

/// A body with a content type.
pub fn bytes(code: u16, content_type: &str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(v) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(CONTENT_TYPE, v);
    }
    response
}

/// A JSON value.
pub fn value(code: u16, value: &Value) -> Response {
    bytes(code, JSON, value.to_string())
}

/// An error as a `Status`.
pub fn error(e: &ApiError) -> Response {
    with_status(e, &e.to_status())
}

fn with_status(e: &ApiError, status: &Value) -> Response {
    let mut response = value(e.code, status);
    if let Some(s) = e.retry_after_seconds {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(s));
    }
    if e.code == 401 {
        response.headers_mut().insert(
            http::header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"coracle\""),
        );
    }
    response
}

/// 410 with a token to go on from the same place in a newer snapshot.
pub fn expired_continue(token: &str) -> Response {
    let e = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue \
         parameter, or use the continue token in this response to retrieve the remainder of the results. Objects that were created, \
         modified or deleted between the first chunk and now may then show up in the list.",
    );
    let mut status = e.to_status();
    status["metadata"] = json!({"continue": token});
    with_status(&e, &status)
}

/// `Status` of a success.
pub fn success(code: u16, details: Value) -> Response {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code});
    if !details.is_null() {
        status["details"] = details;
    }
    value(code, &status)
}

/// Adds `Warning: 299 - "text"` headers.
pub fn warn(response: &mut Response, warnings: &[String]) {
    for text in warnings.iter().take(WARNINGS_MAX) {
        let clean: String = text
            .chars()
            .take(WARNING_CHARS_MAX)
            .map(|c| {
                if c.is_ascii_graphic() || c == ' ' {
                    c
                } else {
                    '?'
                }
            })
            .collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(v) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, v);
        }
    }
}

/// Why the log gave no answer, in the words of the API.
pub fn unproposed(e: ProposeError) -> ApiError {
    match e {
        ProposeError::NoLeader(why) => later(
            503,
            "ServiceUnavailable",
            format!("no leader at present, retry: {why}"),
        ),
        ProposeError::Unavailable(why) => later(503, "ServiceUnavailable", why),
        ProposeError::TooLarge { bytes, limit } => ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "E_OBJECT_TOO_LARGE: the write has {bytes} bytes, the limit is {limit}; split the object or keep large data in an image"
            ),
        ),
    }
}

/// An error after which a retry in a second makes sense.
pub fn later(code: u16, reason: &'static str, message: impl Into<String>) -> ApiError {
    let mut e = ApiError::new(code, reason, message);
    e.retry_after_seconds = Some(1);
    e
}

/// 404 for a path nobody serves.
pub fn unknown_path() -> ApiError {
    ApiError::new(
        404,
        "NotFound",
        "the server could not find the requested resource",
    )
}

/// 405.
pub fn not_allowed(what: &str) -> ApiError {
    ApiError::new(
        405,
        "MethodNotAllowed",
        format!("the server does not allow this method on the requested resource: {what}"),
    )
}
