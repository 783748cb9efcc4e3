//! A refusal in the words of the API: what `Status` carries to the client.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One offending field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Path as Kubernetes writes it: `spec.template.spec.containers[0].image`.
    pub field: String,
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueDuplicate`, `FieldValueForbidden`, `FieldManagerConflict`, ...
    pub reason: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// An error with its HTTP code and machine-readable reason; `Display` is the message kubectl prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Status reason: `NotFound`, `AlreadyExists`, `Conflict`, `Invalid`, `Expired`, `BadRequest`, ...
    pub reason: &'static str,
    /// The sentence shown to the user.
    pub message: String,
    /// Plural resource, empty if none.
    pub resource: String,
    /// API group of the resource.
    pub group: String,
    /// Object name, empty if none.
    pub name: String,
    /// The fields at fault.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry may succeed.
    pub retry_after_seconds: Option<u32>,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            resource: String::new(),
            group: String::new(),
            name: String::new(),
            causes: Vec::new(),
            retry_after_seconds: None,
        }
    }

    /// Names the object the error is about.
    pub fn about(mut self, group: &str, resource: &str, name: &str) -> Self {
        self.group = group.into();
        self.resource = resource.into();
        self.name = name.into();
        self
    }

    /// 400 BadRequest.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 404 NotFound for an object, with kubectl's wording.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let full = if group.is_empty() {
            resource.to_string()
        } else {
            format!("{resource}.{group}")
        };
        Self::new(404, "NotFound", format!("{full} \"{name}\" not found"))
            .about(group, resource, name)
    }

    /// 409 AlreadyExists for an object.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let full = if group.is_empty() {
            resource.to_string()
        } else {
            format!("{resource}.{group}")
        };
        Self::new(
            409,
            "AlreadyExists",
            format!("{full} \"{name}\" already exists"),
        )
        .about(group, resource, name)
    }

    /// 409 Conflict: the object was modified meanwhile.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let full = if group.is_empty() {
            resource.to_string()
        } else {
            format!("{resource}.{group}")
        };
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {full} \"{name}\": {why}"),
        )
        .about(group, resource, name)
    }

    /// 422 Invalid with the fields at fault, worded as Kubernetes does.
    pub fn invalid(kind: &str, group: &str, name: &str, causes: Vec<Cause>) -> Self {
        let list: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let text = if list.len() == 1 {
            list[0].clone()
        } else {
            format!("[{}]", list.join(", "))
        };
        let full = if group.is_empty() {
            kind.to_string()
        } else {
            format!("{kind}.{group}")
        };
        let mut e = Self::new(
            422,
            "Invalid",
            format!("{full} \"{name}\" is invalid: {text}"),
        )
        .about(group, kind, name);
        e.causes = causes;
        e
    }

    /// 410 Expired: the resourceVersion is older than the history kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The `Status` object sent to the client.
    pub fn to_status(&self) -> Value {
        let mut details = serde_json::Map::new();
        if !self.name.is_empty() {
            details.insert("name".into(), json!(self.name));
        }
        if !self.group.is_empty() {
            details.insert("group".into(), json!(self.group));
        }
        if !self.resource.is_empty() {
            details.insert("kind".into(), json!(self.resource));
        }
        if !self.causes.is_empty() {
            details.insert("causes".into(), json!(self.causes));
        }
        if let Some(s) = self.retry_after_seconds {
            details.insert("retryAfterSeconds".into(), json!(s));
        }
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code});
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}
