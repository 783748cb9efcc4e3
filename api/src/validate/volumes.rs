//! Volumes of a pod and the places where containers mount them.

use serde_json::{Value, json};

use super::names::{config_key, dns_label};
use super::{Causes, empty, list};
use crate::quantity;

/// Highest file mode.
const MAX_MODE: i64 = 0o777;

pub(super) fn volumes(spec: &Value, path: &str, found: &mut Causes) {
    let all = list(&spec["volumes"]);
    for (i, volume) in all.iter().enumerate() {
        let path = format!("{path}.volumes[{i}]");
        found.required_text(&format!("{path}.name"), &volume["name"], dns_label);
        if !empty(&volume["name"]) && all[..i].iter().any(|v| v["name"] == volume["name"]) {
            found.duplicate(format!("{path}.name"), &volume["name"]);
        }
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, v)| *k != "name" && !v.is_null())
            .map(|(k, _)| k)
            .collect();
        match sources.as_slice() {
            [] => found.required(&path, "must specify a volume type"),
            [_] => {}
            [_, more @ ..] => more.iter().for_each(|k| {
                found.forbidden(
                    format!("{path}.{k}"),
                    "may not specify more than 1 volume type",
                )
            }),
        }
        source(volume, &path, found);
    }
}

fn source(volume: &Value, path: &str, found: &mut Causes) {
    if let Some(limit) = volume["emptyDir"].get("sizeLimit").filter(|l| !l.is_null())
        && let Err(why) = quantity::units(limit.as_str().unwrap_or_default())
    {
        found.invalid(format!("{path}.emptyDir.sizeLimit"), limit, why);
    }
    for (field, name) in [("configMap", "name"), ("secret", "secretName")] {
        let s = &volume[field];
        if s.is_null() {
            continue;
        }
        if empty(&s[name]) {
            found.required(format!("{path}.{field}.{name}"), "");
        }
        items(s, &format!("{path}.{field}"), found);
    }
    if !volume["hostPath"].is_null() {
        if empty(&volume["hostPath"]["path"]) {
            found.required(format!("{path}.hostPath.path"), "");
        }
        no_parent(
            &volume["hostPath"]["path"],
            &format!("{path}.hostPath.path"),
            found,
        );
    }
    if !volume["downwardAPI"].is_null() {
        downward(
            &volume["downwardAPI"],
            &format!("{path}.downwardAPI"),
            found,
        );
    }
    for (i, s) in list(&volume["projected"]["sources"]).iter().enumerate() {
        let path = format!("{path}.projected.sources[{i}]");
        for field in ["configMap", "secret"] {
            if !s[field].is_null() {
                if empty(&s[field]["name"]) {
                    found.required(format!("{path}.{field}.name"), "");
                }
                items(&s[field], &format!("{path}.{field}"), found);
            }
        }
        if !s["downwardAPI"].is_null() {
            downward(&s["downwardAPI"], &format!("{path}.downwardAPI"), found);
        }
    }
}

fn mode(value: &Value, path: &str, found: &mut Causes) {
    if value.as_i64().is_some_and(|m| !(0..=MAX_MODE).contains(&m)) {
        found.invalid(
            path,
            value,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}

fn items(source: &Value, path: &str, found: &mut Causes) {
    mode(
        &source["defaultMode"],
        &format!("{path}.defaultMode"),
        found,
    );
    for (i, item) in list(&source["items"]).iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        found.required_text(&format!("{path}.key"), &item["key"], config_key);
        local_path(&item["path"], &format!("{path}.path"), found);
        mode(&item["mode"], &format!("{path}.mode"), found);
    }
}

fn downward(source: &Value, path: &str, found: &mut Causes) {
    mode(
        &source["defaultMode"],
        &format!("{path}.defaultMode"),
        found,
    );
    for (i, item) in list(&source["items"]).iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        local_path(&item["path"], &format!("{path}.path"), found);
        if item["fieldRef"].is_null() == item["resourceFieldRef"].is_null() {
            found.required(&path, "one of fieldRef and resourceFieldRef is required");
        }
    }
}

/// A path below a volume: relative and without `..`.
fn local_path(value: &Value, path: &str, found: &mut Causes) {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        return found.required(path, "");
    }
    if text.starts_with('/') {
        found.invalid(path, value, "must be a relative path");
    }
    no_parent(value, path, found);
    if text.starts_with("..") && !text.starts_with("../") && text != ".." {
        found.invalid(path, value, "must not start with '..'");
    }
}

fn no_parent(value: &Value, path: &str, found: &mut Causes) {
    if value
        .as_str()
        .is_some_and(|t| t.split('/').any(|part| part == ".."))
    {
        found.invalid(path, value, "must not contain '..'");
    }
}

/// Where one container mounts volumes.
pub(super) fn mounts(container: &Value, volumes: &[Value], path: &str, found: &mut Causes) {
    let all = list(&container["volumeMounts"]);
    for (i, mount) in all.iter().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        if empty(&mount["name"]) {
            found.required(format!("{path}.name"), "");
        } else if !volumes.iter().any(|v| v["name"] == mount["name"]) {
            found.not_found(format!("{path}.name"), &mount["name"]);
        }
        if empty(&mount["mountPath"]) {
            found.required(format!("{path}.mountPath"), "");
        } else if all[..i]
            .iter()
            .any(|m| m["mountPath"] == mount["mountPath"])
        {
            found.invalid(
                format!("{path}.mountPath"),
                &mount["mountPath"],
                "must be unique",
            );
        }
        for field in ["subPath", "subPathExpr"] {
            if !empty(&mount[field]) {
                local_path(&mount[field], &format!("{path}.{field}"), found);
            }
        }
        if !empty(&mount["subPath"]) && !empty(&mount["subPathExpr"]) {
            found.invalid(
                format!("{path}.subPathExpr"),
                &json!(mount["subPathExpr"]),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
    }
}
