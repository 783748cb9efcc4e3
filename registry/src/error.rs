//! The error body of the distribution specification, and how everything that can go wrong becomes one.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::blobs::BlobError;
use crate::digest::DigestError;
use crate::meta::MetaError;
use crate::name::NameError;

/// Error codes of the specification, and three of ours for what it leaves to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The blob is not in this repository.
    BlobUnknown,
    /// The upload cannot go on like this.
    BlobUploadInvalid,
    /// No such upload session here.
    BlobUploadUnknown,
    /// The digest is malformed, or the bytes are not what it says.
    DigestInvalid,
    /// A manifest names a blob this repository does not have.
    ManifestBlobUnknown,
    /// The manifest breaks a rule.
    ManifestInvalid,
    /// No such manifest or tag.
    ManifestUnknown,
    /// The repository name (or a tag) breaks the grammar.
    NameInvalid,
    /// No such repository.
    NameUnknown,
    /// A length does not match, or is over a bound.
    SizeInvalid,
    /// Credentials are needed.
    Unauthorized,
    /// The credentials do not allow this.
    Denied,
    /// This operation does not exist here.
    Unsupported,
    /// Come back later.
    TooManyRequests,
    /// The disk is full (ours).
    InsufficientStorage,
    /// The metadata store does not answer (ours).
    Unavailable,
    /// Any other fault on our side (ours).
    Unknown,
}

impl Code {
    /// The code as it stands in the body.
    pub fn name(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Code::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Code::ManifestInvalid => "MANIFEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::SizeInvalid => "SIZE_INVALID",
            Code::Unauthorized => "UNAUTHORIZED",
            Code::Denied => "DENIED",
            Code::Unsupported => "UNSUPPORTED",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::InsufficientStorage => "INSUFFICIENT_STORAGE",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unknown => "UNKNOWN",
        }
    }

    /// The status that goes with the code unless the place that fails knows better.
    pub fn status(self) -> StatusCode {
        match self {
            Code::BlobUnknown
            | Code::BlobUploadUnknown
            | Code::ManifestUnknown
            | Code::NameUnknown => StatusCode::NOT_FOUND,
            Code::BlobUploadInvalid
            | Code::DigestInvalid
            | Code::ManifestBlobUnknown
            | Code::ManifestInvalid
            | Code::NameInvalid
            | Code::SizeInvalid => StatusCode::BAD_REQUEST,
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::Denied => StatusCode::FORBIDDEN,
            Code::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Code::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// One refusal: a status, a code, a sentence, and headers that go with it.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}", code = .code.name())]
pub struct Error {
    /// The machine-readable part.
    pub code: Code,
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong and, where there is one, the fix.
    pub message: String,
    /// Facts for a program, `null` if there are none.
    pub detail: Value,
    /// Headers such as `WWW-Authenticate`, `Retry-After` or an upload's `Range`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Error {
    /// An error with the code's own status.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            status: code.status(),
            message: message.into(),
            detail: Value::Null,
            headers: Vec::new(),
        }
    }

    /// The same with another status.
    pub fn status(mut self, status: StatusCode) -> Error {
        self.status = status;
        self
    }

    /// The same with facts for a program.
    pub fn detail(mut self, detail: Value) -> Error {
        self.detail = detail;
        self
    }

    /// The same with a header; text that cannot stand in a header is left out rather than failing an error.
    pub fn header(mut self, name: HeaderName, value: &str) -> Error {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// A fault of ours: the caller gets the sentence, the log gets it too.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Code::Unknown, message)
    }

    /// "Try again": the answer when a bound is reached or a race was lost too often.
    pub fn busy(message: impl Into<String>) -> Error {
        Error::new(Code::TooManyRequests, message).header(header::RETRY_AFTER, "1")
    }
}

impl From<DigestError> for Error {
    fn from(error: DigestError) -> Error {
        Error::new(Code::DigestInvalid, error.to_string())
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Error {
        Error::new(Code::NameInvalid, error.to_string())
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Error {
        match &error {
            BlobError::Full { .. } => Error::new(
                Code::InsufficientStorage,
                format!("{error}; free some space on the registry's disk and push again"),
            ),
            BlobError::UploadGone => Error::new(Code::BlobUploadUnknown, error.to_string()),
            BlobError::Io { source, .. } => Error::internal(format!("{error}: {source}")),
            BlobError::Short { .. } => Error::internal(error.to_string()),
            BlobError::Unavailable(_) => {
                Error::new(Code::Unavailable, error.to_string()).header(header::RETRY_AFTER, "1")
            }
        }
    }
}

impl From<MetaError> for Error {
    fn from(error: MetaError) -> Error {
        match &error {
            MetaError::Conflict { .. } => Error::busy(format!("{error}; try again")),
            MetaError::Unavailable(_) => {
                Error::new(Code::Unavailable, error.to_string()).header(header::RETRY_AFTER, "1")
            }
            MetaError::Internal(_) => Error::internal(error.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut entry = json!({ "code": self.code.name(), "message": self.message });
        if !self.detail.is_null() {
            entry["detail"] = self.detail;
        }
        let body = json!({ "errors": [entry] }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}
