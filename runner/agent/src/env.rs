//! Environment and arguments of a container, resolved: `env`, `envFrom`, `valueFrom` and `$(VAR)`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_api::{Key, meta};
use serde_json::Value;

use crate::action::{ConfigKind, ConfigRef};
use crate::config::ENV_BYTES_MAX;
use crate::downward;
use crate::spec::{ContainerSpec, PodSpec, each, text};

/// Looks a ConfigMap or Secret up; `None` if there is none.
pub(crate) type Configs<'a> = &'a dyn Fn(&ConfigRef) -> Option<std::sync::Arc<Value>>;

/// The data of a ConfigMap or Secret as bytes. A Secret value that is not base64 is left out (the API refuses those).
pub(crate) fn data(kind: ConfigKind, object: &Value) -> BTreeMap<String, Vec<u8>> {
    let decoded = |field: &str| {
        let map = meta::string_map(&object[field]);
        map.into_iter()
            .filter_map(|(k, v)| Some((k, STANDARD.decode(v.trim()).ok()?)))
            .collect::<BTreeMap<_, _>>()
    };
    match kind {
        ConfigKind::Secret => decoded("data"),
        ConfigKind::ConfigMap => {
            let mut all = decoded("binaryData");
            all.extend(
                meta::string_map(&object["data"])
                    .into_iter()
                    .map(|(k, v)| (k, v.into_bytes())),
            );
            all
        }
    }
}

/// The environment of a container, in order. The error is what `CreateContainerConfigError` shows.
pub(crate) fn resolve(
    pod: &PodSpec,
    container: &ContainerSpec,
    host_ip: &str,
    configs: Configs<'_>,
) -> Result<Vec<(String, String)>, String> {
    let mut vars = Vars::default();
    for from in each(&container.value["envFrom"]) {
        let prefix = text(&from["prefix"]);
        for (kind, field) in [
            (ConfigKind::ConfigMap, "configMapRef"),
            (ConfigKind::Secret, "secretRef"),
        ] {
            let reference = &from[field];
            if reference.is_null() {
                continue;
            }
            let Some(object) = find(pod, kind, reference, configs)? else {
                continue;
            };
            for (name, value) in data(kind, &object) {
                // A key that cannot be a variable's name is skipped, as in Kubernetes.
                if let (true, Ok(value)) = (is_name(&name), String::from_utf8(value)) {
                    vars.set(format!("{prefix}{name}"), value);
                }
            }
        }
    }
    for entry in each(&container.value["env"]) {
        let name = text(&entry["name"]);
        let value = match &entry["valueFrom"] {
            Value::Null => Some(expand(
                entry["value"].as_str().unwrap_or_default(),
                &vars.by_name,
            )),
            from => value_from(pod, container, host_ip, from, configs)?,
        };
        if let Some(value) = value {
            vars.set(name, value);
        }
    }
    let bytes: usize = vars
        .by_name
        .iter()
        .map(|(k, v)| k.len() + v.len() + 2)
        .sum();
    if bytes > ENV_BYTES_MAX {
        return Err(format!(
            "the environment has {bytes} bytes and the limit is {ENV_BYTES_MAX}; mount the data as a volume instead"
        ));
    }
    Ok(vars
        .order
        .iter()
        .map(|n| (n.clone(), vars.by_name[n].clone()))
        .collect())
}

/// argv: `command` and `args` with `$(VAR)` expanded; without a command the container's name stands for the program.
pub(crate) fn args(container: &ContainerSpec, env: &[(String, String)]) -> Vec<String> {
    let vars: BTreeMap<String, String> = env.iter().cloned().collect();
    let words = |field: &str| {
        each(&container.value[field])
            .map(|w| expand(w.as_str().unwrap_or_default(), &vars))
            .collect::<Vec<_>>()
    };
    let mut all = words("command");
    if all.is_empty() {
        all.push(container.name.clone());
    }
    all.extend(words("args"));
    all
}

#[derive(Default)]
struct Vars {
    order: Vec<String>,
    by_name: BTreeMap<String, String>,
}

impl Vars {
    fn set(&mut self, name: String, value: String) {
        if self.by_name.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }
}

fn value_from(
    pod: &PodSpec,
    container: &ContainerSpec,
    host_ip: &str,
    from: &Value,
    configs: Configs<'_>,
) -> Result<Option<String>, String> {
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return downward::field(pod, host_ip, path).map(Some);
    }
    if !from["resourceFieldRef"].is_null() {
        return downward::resource(pod, container, &from["resourceFieldRef"]).map(Some);
    }
    for (kind, field) in [
        (ConfigKind::ConfigMap, "configMapKeyRef"),
        (ConfigKind::Secret, "secretKeyRef"),
    ] {
        let reference = &from[field];
        if reference.is_null() {
            continue;
        }
        let Some(object) = find(pod, kind, reference, configs)? else {
            return Ok(None);
        };
        let key = text(&reference["key"]);
        return match data(kind, &object).remove(&key) {
            Some(bytes) => match String::from_utf8(bytes) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(format!(
                    "key {key} in {} {} is not text; mount it as a volume",
                    kind.word(),
                    meta::name(&object)
                )),
            },
            None if optional(reference) => Ok(None),
            None => Err(format!(
                "couldn't find key {key} in {} {}/{}",
                kind.word(),
                pod.key.namespace,
                meta::name(&object)
            )),
        };
    }
    Err("an env entry has a valueFrom that names no source; use fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef".into())
}

/// The object a reference names; `None` if it may be missing and is, an error if it must be there and is not.
pub(crate) fn find(
    pod: &PodSpec,
    kind: ConfigKind,
    reference: &Value,
    configs: Configs<'_>,
) -> Result<Option<std::sync::Arc<Value>>, String> {
    let name = reference["name"]
        .as_str()
        .or_else(|| reference["secretName"].as_str())
        .unwrap_or_default();
    match configs(&ConfigRef {
        kind,
        key: Key::new(pod.key.namespace.clone(), name),
    }) {
        Some(object) => Ok(Some(object)),
        None if optional(reference) => Ok(None),
        None => Err(format!("{} \"{name}\" not found", kind.word())),
    }
}

pub(crate) fn optional(reference: &Value) -> bool {
    reference["optional"].as_bool().unwrap_or(false)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// Expands `$(VAR)`; `$$` is a dollar sign, and what is not defined stays as it is written.
pub(crate) fn expand(input: &str, vars: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match vars.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_kubernetes_does() {
        let vars: BTreeMap<String, String> = [("A", "1"), ("B", "two")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
        for (input, want) in [
            ("$(A)-$(B)", "1-two"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(MISSING)", "$(MISSING)"),
            ("$A", "$A"),
            ("a$", "a$"),
            ("$(A", "$(A"),
            ("", ""),
            ("€$(A)€", "€1€"),
        ] {
            assert_eq!(expand(input, &vars), want, "{input}");
        }
    }
}
