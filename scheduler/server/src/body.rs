//! Request bodies: bounded reading, decoding by Content-Type, and field validation before anything else looks at them.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coracle_api::{ApiError, Kind, doc, meta, schema};
use futures_util::StreamExt;
use http::{HeaderMap, header};
use serde_json::Value;

use crate::json;
use crate::protobuf;
use crate::query::FieldValidation;

/// Bound on a request body: kube-apiserver's 3 MiB, so that what fits there fits here.
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// How much of a refused body is still read, so that the client gets to read the answer instead of a reset.
const DRAIN_BYTES_MAX: usize = 32 << 20;

/// A decoded body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The object; `Null` for an empty body.
    pub value: Value,
    /// Paths of duplicate keys (JSON; YAML refuses them).
    pub duplicates: Vec<String>,
}

/// Reads a body up to [`BODY_BYTES_MAX`].
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut all = BytesMut::new();
    let mut seen = 0usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk
            .map_err(|e| ApiError::bad_request(format!("the request body ended early: {e}")))?;
        seen += chunk.len();
        if seen <= BODY_BYTES_MAX {
            all.extend_from_slice(&chunk);
        } else {
            all = BytesMut::new();
            if seen > DRAIN_BYTES_MAX {
                break;
            }
        }
    }
    if seen > BODY_BYTES_MAX {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "E_BODY_TOO_LARGE: the request body is larger than {BODY_BYTES_MAX} bytes; split the object, or push large data to the registry as an image"
            ),
        ));
    }
    Ok(all.freeze())
}

/// The media type of the body without its parameters, lower case; JSON if there is none.
pub fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .map(|v| v.trim().to_ascii_lowercase())
        .filter(|v| !v.is_empty())
        .unwrap_or_else(|| "application/json".into())
}

/// Decodes a body of JSON, YAML or Kubernetes' protobuf.
pub fn decode(content_type: &str, bytes: &[u8]) -> Result<Decoded, ApiError> {
    match content_type {
        "application/vnd.kubernetes.protobuf" => Ok(Decoded {
            value: protobuf::decode(bytes)?,
            duplicates: Vec::new(),
        }),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(bytes),
        // curl's default; what it sends is JSON all the same.
        "application/json" | "application/x-www-form-urlencoded" => self::json(bytes),
        other => Err(unsupported(
            other,
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// JSON; an empty body is `Null`.
pub fn json(bytes: &[u8]) -> Result<Decoded, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Decoded::default());
    }
    let (value, duplicates) = json::read(bytes)
        .map_err(|e| ApiError::bad_request(format!("the request body is not valid JSON: {e}")))?;
    Ok(Decoded { value, duplicates })
}

/// YAML with exactly one document (JSON is YAML and read as such, so that duplicates are named).
pub fn yaml(bytes: &[u8]) -> Result<Decoded, ApiError> {
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
        && let Ok((value, duplicates)) = json::read(bytes)
    {
        return Ok(Decoded { value, duplicates });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ApiError::bad_request("the request body is not UTF-8"))?;
    let mut documents = doc::read_yaml(text)
        .map_err(|e| ApiError::bad_request(format!("the request body is not valid YAML: {e}")))?;
    match documents.len() {
        0 => Ok(Decoded::default()),
        1 => Ok(Decoded {
            value: documents.remove(0),
            duplicates: Vec::new(),
        }),
        n => Err(ApiError::bad_request(format!(
            "the request body has {n} YAML documents, send one object per request"
        ))),
    }
}

/// 415.
pub fn unsupported(content_type: &str, known: &str) -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        format!(
            "the body of the request was in an unknown format {content_type:?} - accepted media types include: {known}"
        ),
    )
}

/// Checks and cleans an object of a kind: fills `apiVersion` and `kind`, refuses another kind, normalises values,
/// refuses wrong types, and treats unknown and duplicate fields as asked. Returns the warnings to send.
pub fn admit(
    kind: &Kind,
    decoded: &mut Decoded,
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    typed(kind, &mut decoded.value)?;
    schema::normalise(kind, &mut decoded.value);
    fields(kind, &mut decoded.value, &decoded.duplicates, validation)
}

/// Fills or checks `apiVersion` and `kind`.
pub fn typed(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    let want = (kind.api_version(), kind.kind);
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "the request body must be a {} object",
            kind.kind
        )));
    };
    for (field, want) in [("apiVersion", want.0.as_str()), ("kind", want.1)] {
        match map.get(field) {
            None | Some(Value::Null) => {
                map.insert(field.into(), want.into());
            }
            Some(Value::String(s)) if s == want => {}
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({other}) does not match the expected {field} ({want:?})"
                )));
            }
        }
    }
    Ok(())
}

/// Field validation of a whole object (of a request body, or of what a patch made).
pub fn fields(
    kind: &Kind,
    object: &mut Value,
    duplicates: &[String],
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let problems = schema::check(kind, object);
    let name = meta::name(object).to_string();
    if let Some(e) = problems.type_error(kind, &name) {
        return Err(e);
    }
    let repeated: Vec<String> = duplicates
        .iter()
        .map(|d| format!("duplicate field {d:?}"))
        .collect();
    let mut warnings = Vec::new();
    match validation {
        FieldValidation::Strict => {
            let unknown = problems.strict_error(kind, &name);
            if unknown.is_some() || !repeated.is_empty() {
                let base = format!(
                    "{} in version {:?} cannot be handled as a {}: strict decoding error",
                    kind.kind, kind.version, kind.kind
                );
                let mut e = unknown.unwrap_or_else(|| ApiError::bad_request(base.clone()));
                if !repeated.is_empty() {
                    let join = if e.message == base { ": " } else { ", " };
                    e.message = format!("{}{join}{}", e.message, repeated.join(", "));
                }
                return Err(e);
            }
        }
        FieldValidation::Warn => {
            warnings.extend(problems.warnings());
            warnings.extend(repeated);
        }
        FieldValidation::Ignore => {}
    }
    if !problems.unknown.is_empty() {
        schema::prune(kind, object);
    }
    Ok(warnings)
}
