//! Volumes of a pod with their content resolved: the runner only has to write files.

use std::collections::BTreeMap;

use coracle_api::quantity;
use serde_json::Value;

use crate::action::{ConfigKind, MountGrant, Volume, VolumeSource};
use crate::downward;
use crate::env::{Configs, data, find, optional};
use crate::spec::{ContainerSpec, PodSpec, each, text};

/// Every volume of the pod. The error is what `FailedMount` shows.
pub(crate) fn resolve(
    pod: &PodSpec,
    host_ip: &str,
    configs: Configs<'_>,
) -> Result<Vec<Volume>, String> {
    each(&pod.value["spec"]["volumes"])
        .map(|v| {
            Ok(Volume {
                name: text(&v["name"]),
                source: source(pod, host_ip, v, configs)?,
            })
        })
        .collect()
}

fn source(
    pod: &PodSpec,
    host_ip: &str,
    v: &Value,
    configs: Configs<'_>,
) -> Result<VolumeSource, String> {
    let name = text(&v["name"]);
    let mut files = BTreeMap::new();
    if !v["emptyDir"].is_null() {
        let limit = match &v["emptyDir"]["sizeLimit"] {
            Value::String(s) => {
                Some(quantity::units(s).map_err(|e| format!("volume \"{name}\": sizeLimit: {e}"))?)
            }
            Value::Number(n) => n.as_u64(),
            _ => None,
        };
        return Ok(VolumeSource::Empty {
            size_limit_bytes: limit,
        });
    } else if !v["configMap"].is_null() {
        from_object(
            pod,
            ConfigKind::ConfigMap,
            &v["configMap"],
            configs,
            &mut files,
        )?;
    } else if !v["secret"].is_null() {
        from_object(pod, ConfigKind::Secret, &v["secret"], configs, &mut files)?;
    } else if !v["downwardAPI"].is_null() {
        from_pod(pod, host_ip, &v["downwardAPI"], &mut files)?;
    } else if !v["projected"].is_null() {
        for s in each(&v["projected"]["sources"]) {
            if !s["configMap"].is_null() {
                from_object(
                    pod,
                    ConfigKind::ConfigMap,
                    &s["configMap"],
                    configs,
                    &mut files,
                )?;
            } else if !s["secret"].is_null() {
                from_object(pod, ConfigKind::Secret, &s["secret"], configs, &mut files)?;
            } else if !s["downwardAPI"].is_null() {
                from_pod(pod, host_ip, &s["downwardAPI"], &mut files)?;
            } else {
                return Err(format!(
                    "volume \"{name}\": only configMap, secret and downwardAPI can be projected here"
                ));
            }
        }
    } else if !v["hostPath"].is_null() {
        return Ok(VolumeSource::Host {
            path: text(&v["hostPath"]["path"]),
            kind: text(&v["hostPath"]["type"]),
        });
    } else {
        let kind = v
            .as_object()
            .and_then(|m| m.keys().find(|k| *k != "name"))
            .map_or("no source", String::as_str);
        // A volume that names no source is an emptyDir, as in Kubernetes.
        if kind == "no source" {
            return Ok(VolumeSource::Empty {
                size_limit_bytes: None,
            });
        }
        return Err(format!(
            "volume \"{name}\": {kind} volumes are not provided here; use emptyDir, configMap, secret, projected or downwardAPI"
        ));
    }
    Ok(VolumeSource::Files(files))
}

fn from_object(
    pod: &PodSpec,
    kind: ConfigKind,
    reference: &Value,
    configs: Configs<'_>,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), String> {
    let Some(object) = find(pod, kind, reference, configs)? else {
        return Ok(());
    };
    let mut content = data(kind, &object);
    if each(&reference["items"]).next().is_none() {
        files.extend(content);
        return Ok(());
    }
    for item in each(&reference["items"]) {
        let key = text(&item["key"]);
        match content.remove(&key) {
            Some(bytes) => {
                files.insert(relative(&text(&item["path"]))?, bytes);
            }
            None if optional(reference) => {}
            None => return Err(format!("references non-existent config key: {key}")),
        }
    }
    Ok(())
}

fn from_pod(
    pod: &PodSpec,
    host_ip: &str,
    source: &Value,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), String> {
    for item in each(&source["items"]) {
        let value = if let Some(path) = item["fieldRef"]["fieldPath"].as_str() {
            downward::field(pod, host_ip, path)?
        } else {
            let own = pod.containers.first().ok_or("the pod has no containers")?;
            downward::resource(pod, own, &item["resourceFieldRef"])?
        };
        files.insert(relative(&text(&item["path"]))?, value.into_bytes());
    }
    Ok(())
}

/// Mounts of a container. The error is what `CreateContainerConfigError` shows.
pub(crate) fn mounts(
    pod: &PodSpec,
    container: &ContainerSpec,
    env: &[(String, String)],
) -> Result<Vec<MountGrant>, String> {
    let vars: BTreeMap<String, String> = env.iter().cloned().collect();
    each(&container.value["volumeMounts"])
        .map(|m| {
            let volume = text(&m["name"]);
            let Some(v) =
                each(&pod.value["spec"]["volumes"]).find(|v| v["name"] == volume.as_str())
            else {
                return Err(format!(
                    "volumeMount \"{volume}\" names no volume of the pod"
                ));
            };
            let sub = match m["subPathExpr"].as_str() {
                Some(expression) => crate::env::expand(expression, &vars),
                None => text(&m["subPath"]),
            };
            let content = ["configMap", "secret", "projected", "downwardAPI"]
                .iter()
                .any(|k| !v[*k].is_null());
            Ok(MountGrant {
                volume,
                sub_path: if sub.is_empty() { sub } else { relative(&sub)? },
                path: text(&m["mountPath"]),
                read_only: content || m["readOnly"].as_bool().unwrap_or(false),
            })
        })
        .collect()
}

/// A path that stays inside its volume.
fn relative(path: &str) -> Result<String, String> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    if path.starts_with('/') || parts.is_empty() || parts.contains(&"..") || path.contains('\0') {
        return Err(format!(
            "path {path:?} must be relative and must not contain '..'"
        ));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_their_volume() {
        assert_eq!(relative("a//./b").as_deref(), Ok("a/b"));
        for bad in ["", "/", "/etc", "..", "a/../b", ".", "a\0b"] {
            assert!(relative(bad).is_err(), "{bad}");
        }
    }
}
