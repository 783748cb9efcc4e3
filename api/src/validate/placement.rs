//! Where a pod may go: tolerations, spreading, affinity.

use serde_json::Value;

use super::names::{label_value, qualified_name};
use super::{Causes, empty, list, workload};

/// What a taint does.
pub(super) const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
pub(super) fn tolerate(t: &Value, path: &str, found: &mut Causes) {
    if !empty(&t["key"]) {
        found.text(&format!("{path}.key"), &t["key"], qualified_name);
    } else if t["operator"] != "Exists" {
        found.invalid(format!("{path}.operator"), &t["operator"], "operator must be Exists when `key` is empty, which means \"match all values and all keys\"");
    }
    match t["operator"].as_str() {
        None | Some("" | "Equal") => found.text(&format!("{path}.value"), &t["value"], label_value),
        Some("Exists") if !empty(&t["value"]) => found.invalid(
            format!("{path}.operator"),
            t,
            "value must be empty when `operator` is 'Exists'",
        ),
        Some("Exists") => {}
        Some(_) => found.unsupported(
            format!("{path}.operator"),
            &t["operator"],
            &["Equal", "Exists"],
        ),
    }
    found.one_of(&format!("{path}.effect"), &t["effect"], EFFECTS);
    if !t["tolerationSeconds"].is_null() && t["effect"] != "NoExecute" {
        found.invalid(
            format!("{path}.effect"),
            &t["effect"],
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
}

pub(super) fn spread(c: &Value, path: &str, found: &mut Causes) {
    if c["maxSkew"].as_i64().is_none_or(|n| n <= 0) {
        found.invalid(
            format!("{path}.maxSkew"),
            &c["maxSkew"],
            "must be greater than zero",
        );
    }
    if empty(&c["topologyKey"]) {
        found.required(format!("{path}.topologyKey"), "can not be empty");
    }
    if empty(&c["whenUnsatisfiable"]) {
        found.required(format!("{path}.whenUnsatisfiable"), "");
    }
    found.one_of(
        &format!("{path}.whenUnsatisfiable"),
        &c["whenUnsatisfiable"],
        &["DoNotSchedule", "ScheduleAnyway"],
    );
    for (i, e) in list(&c["labelSelector"]["matchExpressions"])
        .iter()
        .enumerate()
    {
        workload::expression(
            e,
            &format!("{path}.labelSelector.matchExpressions[{i}]"),
            found,
        );
    }
}

pub(super) fn affinity(affinity: &Value, path: &str, found: &mut Causes) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = &affinity["nodeAffinity"];
    let at = format!("{path}.nodeAffinity.{required}.nodeSelectorTerms");
    if !node[required].is_null() && list(&node[required]["nodeSelectorTerms"]).is_empty() {
        found.required(&at, "must have at least one node selector term");
    }
    for (i, term) in list(&node[required]["nodeSelectorTerms"])
        .iter()
        .enumerate()
    {
        node_term(term, &format!("{at}[{i}]"), found);
    }
    for (i, term) in list(&node[preferred]).iter().enumerate() {
        let at = format!("{path}.nodeAffinity.{preferred}[{i}]");
        weight(term, &at, found);
        node_term(&term["preference"], &format!("{at}.preference"), found);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (i, term) in list(&affinity[kind][required]).iter().enumerate() {
            pod_term(term, &format!("{path}.{kind}.{required}[{i}]"), found);
        }
        for (i, term) in list(&affinity[kind][preferred]).iter().enumerate() {
            let at = format!("{path}.{kind}.{preferred}[{i}]");
            weight(term, &at, found);
            pod_term(
                &term["podAffinityTerm"],
                &format!("{at}.podAffinityTerm"),
                found,
            );
        }
    }
}

fn weight(term: &Value, path: &str, found: &mut Causes) {
    if !term["weight"]
        .as_i64()
        .is_some_and(|w| (1..=100).contains(&w))
    {
        found.invalid(
            format!("{path}.weight"),
            &term["weight"],
            "must be in the range 1-100",
        );
    }
}

fn pod_term(term: &Value, path: &str, found: &mut Causes) {
    if empty(&term["topologyKey"]) {
        found.required(format!("{path}.topologyKey"), "can not be empty");
    }
    for (i, e) in list(&term["labelSelector"]["matchExpressions"])
        .iter()
        .enumerate()
    {
        workload::expression(
            e,
            &format!("{path}.labelSelector.matchExpressions[{i}]"),
            found,
        );
    }
}

fn node_term(term: &Value, path: &str, found: &mut Causes) {
    for field in ["matchExpressions", "matchFields"] {
        for (i, e) in list(&term[field]).iter().enumerate() {
            let at = format!("{path}.{field}[{i}]");
            if empty(&e["key"]) {
                found.required(format!("{at}.key"), "");
            }
            match e["operator"].as_str() {
                Some("In" | "NotIn") if list(&e["values"]).is_empty() => {
                    found.required(
                        format!("{at}.values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
                Some("Gt" | "Lt") if list(&e["values"]).len() != 1 => {
                    found.required(
                        format!("{at}.values"),
                        "must be specified single value when `operator` is 'Lt' or 'Gt'",
                    );
                }
                Some("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt") => {}
                _ => found.unsupported(
                    format!("{at}.operator"),
                    &e["operator"],
                    &["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"],
                ),
            }
        }
    }
}
