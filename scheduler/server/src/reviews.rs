//! Virtual kinds: a question about oneself, answered at once and never stored.

use coracle_api::{ApiError, kinds};
use serde_json::{Value, json};

use crate::authorise::{Attributes, Decision, authorise};
use crate::body::{self, Decoded};
use crate::call::Call;
use crate::context::Context;
use crate::reply::{self, Answer};

/// `POST` of a kind that is not stored.
pub fn review(ctx: &Context, call: &Call, mut decoded: Decoded) -> Answer {
    let warnings = body::admit(call.kind, &mut decoded, call.query.field_validation()?)?;
    let mut object = decoded.value;
    object["status"] = match call.kind.kind {
        "SelfSubjectAccessReview" => access(ctx, call, &object["spec"])?,
        "SelfSubjectReview" => {
            json!({"userInfo": {"username": call.identity.user, "groups": call.identity.groups}})
        }
        _ => return Err(reply::unknown_path()),
    };
    let mut response = reply::value(201, &object);
    reply::warn(&mut response, &warnings);
    Ok(response)
}

/// The same rules that judge requests, asked with the attributes of the question.
fn access(ctx: &Context, call: &Call, spec: &Value) -> Result<Value, ApiError> {
    let text = |v: &Value, field: &str| v[field].as_str().unwrap_or_default().to_string();
    let decision = match (&spec["resourceAttributes"], &spec["nonResourceAttributes"]) {
        (r @ Value::Object(_), Value::Null) => {
            let (verb, group, resource, sub) = (
                text(r, "verb"),
                text(r, "group"),
                text(r, "resource"),
                text(r, "subresource"),
            );
            let (namespace, name) = (text(r, "namespace"), text(r, "name"));
            let on_node = match resource.as_str() {
                "pods" => ctx
                    .view()
                    .get(
                        "pods",
                        &coracle_api::Key::new(namespace.clone(), name.clone()),
                    )
                    .map(|o| o.attrs.node_name.clone())
                    .unwrap_or_default(),
                _ => String::new(),
            };
            if resource != "*"
                && !resource.is_empty()
                && !kinds::KINDS.iter().any(|k| k.plural == resource)
            {
                tracing::debug!(resource, "access review of a resource that is not served");
            }
            // "*" and "" ask for all resources: only those who may do everything may.
            let resource = if resource.is_empty() {
                "*".to_string()
            } else {
                resource
            };
            authorise(
                &call.identity,
                &Attributes {
                    verb: &verb,
                    group: &group,
                    resource: &resource,
                    subresource: &sub,
                    namespace: &namespace,
                    name: &name,
                    on_node: &on_node,
                    path: "",
                },
            )
        }
        (Value::Null, n @ Value::Object(_)) => authorise(
            &call.identity,
            &Attributes {
                verb: &text(n, "verb"),
                path: &text(n, "path"),
                ..Attributes::default()
            },
        ),
        _ => {
            return Err(ApiError::bad_request(
                "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    Ok(match decision {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(why) => json!({"allowed": false, "reason": why}),
    })
}
