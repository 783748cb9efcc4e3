//! The patches a client may send: JSON patch, merge patch and strategic merge patch. Server-side apply is
//! [`crate::apply`].

mod strategic;

use serde_json::Value;

use crate::ApiError;

pub use strategic::strategic;

/// Most operations one JSON patch may have: the bound Kubernetes sets against patches that take quadratic time.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// Applies a JSON patch (RFC 6902). A patch that is not well formed is a 400; one that does not fit the object, or
/// whose `test` fails, is a 422 that names the operation.
pub fn json(live: &Value, ops: &Value) -> Result<Value, ApiError> {
    let Some(list) = ops.as_array() else {
        return Err(ApiError::bad_request(
            "a JSON patch must be a list of operations, such as [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":2}]",
        ));
    };
    if list.len() > MAX_JSON_PATCH_OPERATIONS {
        let text = format!(
            "the allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
            list.len()
        );
        return Err(ApiError::new(413, "RequestEntityTooLarge", text));
    }
    let patch: json_patch::Patch = serde_json::from_value(ops.clone())
        .map_err(|e| ApiError::bad_request(format!("the JSON patch is not well formed: {e}")))?;
    let mut object = live.clone();
    json_patch::patch(&mut object, &patch).map_err(|e| {
        let what = patch
            .0
            .get(e.operation)
            .map(|op| serde_json::to_string(op).unwrap_or_default())
            .unwrap_or_default();
        let mut error = ApiError::new(
            422,
            "Invalid",
            format!(
                "the JSON patch does not apply: operation {} {what}: {}",
                e.operation, e.kind
            ),
        );
        error.causes.push(crate::error::Cause {
            field: e.path.to_string(),
            reason: "FieldValueInvalid".into(),
            message: e.kind.to_string(),
        });
        error
    })?;
    Ok(object)
}

/// Applies a merge patch (RFC 7396): maps merge, `null` removes, anything else replaces.
pub fn merge(live: &mut Value, patch: &Value) {
    json_patch::merge(live, patch);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_patches_apply_or_say_which_operation_fails() {
        let live = json!({"spec": {"replicas": 1, "list": [1, 2]}});
        let done = json(
            &live,
            &json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 3},
            {"op": "add", "path": "/spec/list/-", "value": 3}, {"op": "remove", "path": "/spec/list/0"}]),
        );
        assert_eq!(
            done.unwrap(),
            json!({"spec": {"replicas": 3, "list": [2, 3]}})
        );
        for (ops, code, word) in [
            (
                json!([{"op": "test", "path": "/spec/replicas", "value": 2}]),
                422,
                "did not match",
            ),
            (
                json!([{"op": "remove", "path": "/spec/nothing"}]),
                422,
                "path is invalid",
            ),
            (
                json!([{"op": "jump", "path": "/spec"}]),
                400,
                "not well formed",
            ),
            (json!({"spec": {}}), 400, "must be a list"),
        ] {
            let error = json(&live, &ops).unwrap_err();
            assert_eq!(error.code, code, "{ops}: {error}");
            assert!(error.message.contains(word), "{ops}: {error}");
        }
    }

    #[test]
    fn merge_patches_merge() {
        let mut live = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        merge(&mut live, &json!({"a": {"b": null, "d": 3}, "l": [2]}));
        assert_eq!(live, json!({"a": {"c": 2, "d": 3}, "l": [2]}));
    }
}
