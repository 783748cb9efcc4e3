//! Validation.
use serde_json::Value;
use crate::{Kind, error::Cause};
/// What is wrong with a new object.
pub fn create(kind: &Kind, object: &Value) -> Vec<Cause> { let _ = (kind, object); Vec::new() }
/// What is wrong with a changed object.
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Vec<Cause> { let _ = (kind, new, old); Vec::new() }
/// Accepted but ignored fields.
pub fn warnings(kind: &Kind, object: &Value) -> Vec<String> { let _ = (kind, object); Vec::new() }
