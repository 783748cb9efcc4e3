//! An answer the proxy itself gives: which layer failed, in a code for programs and a sentence with a fix for people.

use std::borrow::Cow;

use coracle_route::Miss;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::body::{self, Body};

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Status of the answer.
    pub status: StatusCode,
    /// Names the failing layer: `no_route`, `no_endpoints`, `upstream_connect_failed`, `queue_full`, ...
    pub code: Cow<'static, str>,
    /// What happened, as a sentence.
    pub message: String,
    /// What to do about it.
    pub fix: Option<Cow<'static, str>>,
    /// Seconds after which a retry may succeed, for `Retry-After`.
    pub retry_after_seconds: Option<u32>,
}

impl Failure {
    /// A failure without a fix.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            fix: None,
            retry_after_seconds: None,
        }
    }

    /// Adds what to do about it.
    pub fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Adds `Retry-After`.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// 400 for a request that cannot be understood safely.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// The JSON body.
    pub fn json(&self) -> String {
        let mut object = json!({"code": self.code, "message": self.message});
        if let Some(fix) = &self.fix {
            object["fix"] = json!(fix);
        }
        object.to_string()
    }

    /// The answer.
    pub fn response(&self) -> Response<Body> {
        let mut text = self.json();
        text.push('\n');
        let mut response = Response::new(body::full(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }

    /// The answer as bytes, for a connection whose HTTP state is lost; it says that it closes.
    pub(crate) fn raw_response(&self) -> Vec<u8> {
        let mut text = self.json();
        text.push('\n');
        let reason = self.status.canonical_reason().unwrap_or("Error");
        let retry = self
            .retry_after_seconds
            .map(|s| format!("retry-after: {s}\r\n"))
            .unwrap_or_default();
        format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{retry}connection: close\r\n\r\n{text}",
            self.status.as_u16(),
            text.len(),
        )
        .into_bytes()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Miss> for Failure {
    fn from(miss: Miss) -> Self {
        let status = StatusCode::from_u16(miss.status()).unwrap_or(StatusCode::BAD_GATEWAY);
        // Endpoints come back within seconds after a crash or at a first deployment.
        let retry_after_seconds = matches!(miss, Miss::NoEndpoints { .. }).then_some(1);
        Self {
            status,
            code: miss.code().into(),
            message: miss.to_string(),
            fix: Some(miss.fix().into()),
            retry_after_seconds,
        }
    }
}
