//! Whether an object means something: names, references inside it, ranges, what may not change. Types and unknown
//! fields have been looked at before, by [`crate::schema`]; defaults have been applied.
//!
//! Wording is Kubernetes' own, because people and scripts search for it.

mod container;
mod data;
mod metadata;
mod names;
mod network;
mod placement;
mod pod;
mod volumes;
mod warnings;
mod workload;

use serde_json::Value;

use crate::Kind;
use crate::error::Cause;

pub use names::{config_key, dns_label, dns_subdomain, label_value, qualified_name, service_name};
pub use warnings::warnings;

/// What is wrong with an object about to be created; empty if nothing.
pub fn create(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut found = Causes::default();
    metadata::create(kind, object, &mut found);
    content(kind, object, &mut found);
    found.0
}

/// What is wrong with `new` as the next form of `old`; empty if nothing.
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Vec<Cause> {
    let mut found = Causes::default();
    metadata::create(kind, new, &mut found);
    metadata::update(new, old, &mut found);
    content(kind, new, &mut found);
    match kind.table {
        "pods" => pod::update(new, old, &mut found),
        "replicasets.apps" | "deployments.apps" => workload::update(new, old, &mut found),
        "services" => network::update_service(new, old, &mut found),
        "configmaps" | "secrets" => data::update(kind, new, old, &mut found),
        _ => {}
    }
    found.0
}

fn content(kind: &Kind, object: &Value, found: &mut Causes) {
    match kind.table {
        "pods" => pod::spec(&object["spec"], "spec", found),
        "replicationcontrollers" | "replicasets.apps" | "deployments.apps" => {
            workload::check(kind, object, found)
        }
        "services" => network::service(object, found),
        "ingresses.networking.k8s.io" => network::ingress(object, found),
        "endpoints" => network::endpoints(object, found),
        "endpointslices.discovery.k8s.io" => network::endpoint_slice(object, found),
        "configmaps" => data::config_map(object, found),
        "secrets" => data::secret(object, found),
        "nodes" => data::node(object, found),
        "leases.coordination.k8s.io" => data::lease(object, found),
        "events" => data::event(object, found),
        _ => {}
    }
}

/// Collects causes in the words of `field.Error`.
#[derive(Default)]
struct Causes(Vec<Cause>);

impl Causes {
    fn add(&mut self, field: impl Into<String>, reason: &str, message: String) {
        self.0.push(Cause {
            field: field.into(),
            reason: reason.into(),
            message,
        });
    }

    fn required(&mut self, field: impl Into<String>, why: &str) {
        let message = if why.is_empty() {
            "Required value".into()
        } else {
            format!("Required value: {why}")
        };
        self.add(field, "FieldValueRequired", message);
    }

    fn invalid(&mut self, field: impl Into<String>, value: &Value, why: impl std::fmt::Display) {
        self.add(
            field,
            "FieldValueInvalid",
            format!("Invalid value: {}: {why}", shown(value)),
        );
    }

    fn unsupported(&mut self, field: impl Into<String>, value: &Value, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        self.add(
            field,
            "FieldValueNotSupported",
            format!(
                "Unsupported value: {}: supported values: {}",
                shown(value),
                list.join(", ")
            ),
        );
    }

    fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.add(
            field,
            "FieldValueDuplicate",
            format!("Duplicate value: {}", shown(value)),
        );
    }

    fn not_found(&mut self, field: impl Into<String>, value: &Value) {
        self.add(
            field,
            "FieldValueNotFound",
            format!("Not found: {}", shown(value)),
        );
    }

    fn forbidden(&mut self, field: impl Into<String>, why: impl std::fmt::Display) {
        self.add(field, "FieldValueForbidden", format!("Forbidden: {why}"));
    }

    fn too_long(&mut self, field: impl Into<String>, bytes: usize) {
        self.add(
            field,
            "FieldValueTooLong",
            format!("Too long: may not be more than {bytes} bytes"),
        );
    }

    /// Adds every complaint of a name check about a text.
    fn text(&mut self, field: &str, value: &Value, check: impl Fn(&str) -> Vec<String>) {
        for why in check(value.as_str().unwrap_or_default()) {
            self.invalid(field, value, why);
        }
    }

    /// A field that must be set and pass a check.
    fn required_text(&mut self, field: &str, value: &Value, check: impl Fn(&str) -> Vec<String>) {
        if empty(value) {
            self.required(field, "")
        } else {
            self.text(field, value, check)
        }
    }

    /// A field that, if set, is one of these.
    fn one_of(&mut self, field: &str, value: &Value, supported: &[&str]) {
        if !empty(value) && !value.as_str().is_some_and(|v| supported.contains(&v)) {
            self.unsupported(field, value, supported);
        }
    }

    /// A number that, if set, is at least this.
    fn at_least(&mut self, field: &str, value: &Value, least: i64) {
        if value.as_i64().is_some_and(|n| n < least) {
            self.invalid(
                field,
                value,
                if least == 0 {
                    "must be greater than or equal to 0".into()
                } else {
                    format!("must be greater than or equal to {least}")
                },
            );
        }
    }

    /// A port number.
    fn port(&mut self, field: &str, value: &Value) {
        if !value.as_i64().is_some_and(|n| (1..=65_535).contains(&n)) {
            self.invalid(field, value, "must be between 1 and 65535, inclusive");
        }
    }
}

/// Absent, or the empty string that stands for it.
fn empty(value: &Value) -> bool {
    value.is_null() || *value == ""
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A value as messages show it: null stands for the empty text.
fn shown(value: &Value) -> String {
    if value.is_null() {
        "\"\"".into()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests;
