//! ReplicationController, ReplicaSet, Deployment: the selector, the template it must match, the rollout.

use serde_json::{Value, json};

use super::names::{label_value, qualified_name};
use super::{Causes, empty, list, metadata, pod};
use crate::selector::LabelSelector;
use crate::{Kind, meta};

const OPERATORS: &[&str] = &["DoesNotExist", "Exists", "In", "NotIn"];
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

pub(super) fn check(kind: &Kind, object: &Value, found: &mut Causes) {
    let spec = &object["spec"];
    found.at_least("spec.replicas", &spec["replicas"], 0);
    found.at_least("spec.minReadySeconds", &spec["minReadySeconds"], 0);
    found.at_least(
        "spec.revisionHistoryLimit",
        &spec["revisionHistoryLimit"],
        0,
    );
    let selector = if kind.table == "replicationcontrollers" {
        map_selector(spec, found)
    } else {
        label_selector(kind, spec, found)
    };
    template(spec, selector.as_ref(), found);
    if kind.table == "deployments.apps" {
        strategy(&spec["strategy"], found);
        found.at_least(
            "spec.progressDeadlineSeconds",
            &spec["progressDeadlineSeconds"],
            0,
        );
        let deadline = &spec["progressDeadlineSeconds"];
        if deadline
            .as_i64()
            .is_some_and(|d| d <= spec["minReadySeconds"].as_i64().unwrap_or(0))
        {
            found.invalid(
                "spec.progressDeadlineSeconds",
                deadline,
                "must be greater than minReadySeconds",
            );
        }
    }
}

fn map_selector(spec: &Value, found: &mut Causes) -> Option<LabelSelector> {
    let map = meta::string_map(&spec["selector"]);
    if map.is_empty() {
        found.required("spec.selector", "");
        return None;
    }
    metadata::labels(&spec["selector"], "spec.selector", found);
    Some(LabelSelector::from_map(&map))
}

fn label_selector(kind: &Kind, spec: &Value, found: &mut Causes) -> Option<LabelSelector> {
    let selector = &spec["selector"];
    if selector.is_null() {
        found.required("spec.selector", "");
        return None;
    }
    metadata::labels(&selector["matchLabels"], "spec.selector.matchLabels", found);
    for (i, e) in list(&selector["matchExpressions"]).iter().enumerate() {
        let path = format!("spec.selector.matchExpressions[{i}]");
        expression(e, &path, found);
    }
    let parsed = LabelSelector::from_object(selector).ok()?;
    if parsed.is_empty() {
        found.invalid(
            "spec.selector",
            selector,
            format!("empty selector is invalid for {}", kind.singular),
        );
        return None;
    }
    Some(parsed)
}

/// One `matchExpressions` entry of a label selector.
pub(super) fn expression(e: &Value, path: &str, found: &mut Causes) {
    found.required_text(&format!("{path}.key"), &e["key"], qualified_name);
    let values = list(&e["values"]);
    match e["operator"].as_str() {
        Some("In" | "NotIn") if values.is_empty() => {
            found.required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            );
        }
        Some("Exists" | "DoesNotExist") if !values.is_empty() => {
            found.forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        Some("In" | "NotIn" | "Exists" | "DoesNotExist") => {}
        _ if empty(&e["operator"]) => found.required(format!("{path}.operator"), ""),
        _ => found.unsupported(format!("{path}.operator"), &e["operator"], OPERATORS),
    }
    for (i, value) in values.iter().enumerate() {
        found.text(&format!("{path}.values[{i}]"), value, label_value);
    }
}

fn template(spec: &Value, selector: Option<&LabelSelector>, found: &mut Causes) {
    let template = &spec["template"];
    if template.is_null() {
        return found.required("spec.template", "");
    }
    let labels = &template["metadata"]["labels"];
    if let Some(selector) = selector
        && !selector.matches(&meta::string_map(labels))
    {
        let shown = if labels.is_null() {
            json!({})
        } else {
            labels.clone()
        };
        found.invalid(
            "spec.template.metadata.labels",
            &shown,
            "`selector` does not match template `labels`",
        );
    }
    metadata::labels(labels, "spec.template.metadata.labels", found);
    let pod = &template["spec"];
    pod::spec(pod, "spec.template.spec", found);
    if !empty(&pod["restartPolicy"]) && pod["restartPolicy"] != "Always" {
        found.unsupported(
            "spec.template.spec.restartPolicy",
            &pod["restartPolicy"],
            &["Always"],
        );
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        found.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

fn strategy(strategy: &Value, found: &mut Causes) {
    let rolling = &strategy["rollingUpdate"];
    match strategy["type"].as_str() {
        Some("Recreate") if !rolling.is_null() => {
            return found.forbidden(
                "spec.strategy.rollingUpdate",
                "may not be specified when strategy `type` is 'Recreate'",
            );
        }
        Some("RollingUpdate") => {}
        _ => {
            return found.one_of(
                "spec.strategy.type",
                &strategy["type"],
                &["Recreate", "RollingUpdate"],
            );
        }
    }
    if rolling.is_null() {
        return;
    }
    let path = |field: &str| format!("spec.strategy.rollingUpdate.{field}");
    let surge = amount(&rolling["maxSurge"], &path("maxSurge"), found);
    let unavailable = amount(&rolling["maxUnavailable"], &path("maxUnavailable"), found);
    if surge == Some(0) && unavailable == Some(0) {
        found.invalid(
            path("maxUnavailable"),
            &rolling["maxUnavailable"],
            "may not be 0 when `maxSurge` is 0",
        );
    }
    if rolling["maxUnavailable"].is_string() && unavailable.is_some_and(|n| n > 100) {
        found.invalid(
            path("maxUnavailable"),
            &rolling["maxUnavailable"],
            "must not be greater than 100%",
        );
    }
}

/// A count or a percentage; `None` if it is neither.
fn amount(value: &Value, path: &str, found: &mut Causes) -> Option<i64> {
    match value {
        Value::String(text) => {
            let number = text
                .strip_suffix('%')
                .filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|n| n.parse().ok());
            if number.is_none() {
                found.invalid(path, value, PERCENT);
            }
            number
        }
        _ => {
            found.at_least(path, value, 0);
            value.as_i64()
        }
    }
}

/// A changed selector would orphan what the old one owns.
pub(super) fn update(new: &Value, old: &Value, found: &mut Causes) {
    if !old["spec"]["selector"].is_null() && new["spec"]["selector"] != old["spec"]["selector"] {
        found.invalid(
            "spec.selector",
            &new["spec"]["selector"],
            "field is immutable",
        );
    }
}
