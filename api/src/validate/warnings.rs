//! Fields that Linux owns: accepted, because ordinary manifests carry them, and said to do nothing.

use serde_json::Value;

use super::{empty, list};
use crate::Kind;

/// Fields of a pod's or container's security context, with the reason why they mean nothing here.
const SECURITY: &[(&str, &str)] = &[
    ("runAsUser", "a Wasm component has no uid"),
    ("runAsGroup", "a Wasm component has no gid"),
    ("runAsNonRoot", "a Wasm component has no uid"),
    ("fsGroup", "files of volumes have no group"),
    ("fsGroupChangePolicy", "files of volumes have no group"),
    ("supplementalGroups", "a Wasm component has no gid"),
    ("supplementalGroupsPolicy", "a Wasm component has no gid"),
    ("sysctls", "there is no kernel per pod"),
    ("seLinuxOptions", "the sandbox is Wasm"),
    ("seLinuxChangePolicy", "the sandbox is Wasm"),
    ("seccompProfile", "a Wasm component makes no system calls"),
    ("appArmorProfile", "the sandbox is Wasm"),
    ("windowsOptions", "the sandbox is Wasm"),
    ("privileged", "a Wasm component can never be privileged"),
    ("capabilities", "what a component may do is its imports"),
    (
        "allowPrivilegeEscalation",
        "there are no privileges to gain",
    ),
    ("procMount", "there is no /proc"),
];

/// Fields of a pod spec.
const POD: &[(&str, &str)] = &[
    ("hostNetwork", "pods have virtual addresses"),
    ("hostPID", "there are no processes per pod"),
    ("hostIPC", "there are no processes per pod"),
    ("shareProcessNamespace", "there are no processes per pod"),
    ("hostUsers", "a Wasm component has no uid"),
    ("runtimeClassName", "every pod runs as Wasm"),
];

/// Fields of a container.
const CONTAINER: &[(&str, &str)] = &[
    (
        "stdin",
        "a component's standard input is closed unless it is attached",
    ),
    ("tty", "there are no terminals"),
    ("volumeDevices", "there are no block devices"),
    ("workingDir", "a component's paths start at its mounts"),
];

/// One sentence for each accepted-but-ignored field of an object, for the client's Warning headers.
pub fn warnings(kind: &Kind, object: &Value) -> Vec<String> {
    let (spec, path) = match kind.table {
        "pods" => (&object["spec"], "spec"),
        "replicationcontrollers" | "replicasets.apps" | "deployments.apps" => {
            (&object["spec"]["template"]["spec"], "spec.template.spec")
        }
        _ => return Vec::new(),
    };
    let mut out = Vec::new();
    named(spec, path, POD, &mut out);
    named(
        &spec["securityContext"],
        &format!("{path}.securityContext"),
        SECURITY,
        &mut out,
    );
    for field in ["initContainers", "containers"] {
        for (i, c) in list(&spec[field]).iter().enumerate() {
            let path = format!("{path}.{field}[{i}]");
            named(c, &path, CONTAINER, &mut out);
            named(
                &c["securityContext"],
                &format!("{path}.securityContext"),
                SECURITY,
                &mut out,
            );
            for (j, _) in list(&c["ports"])
                .iter()
                .enumerate()
                .filter(|(_, p)| p["hostPort"].as_i64().unwrap_or(0) != 0)
            {
                out.push(ignored(
                    &format!("{path}.ports[{j}].hostPort"),
                    "use a Service of type NodePort or an Ingress",
                ));
            }
        }
    }
    out
}

fn named(value: &Value, path: &str, fields: &[(&str, &str)], out: &mut Vec<String>) {
    for (field, why) in fields {
        let set = &value[*field];
        if !empty(set) && *set != false && set.as_array().is_none_or(|l| !l.is_empty()) {
            out.push(ignored(&format!("{path}.{field}"), why));
        }
    }
}

fn ignored(path: &str, why: &str) -> String {
    format!("{path}: accepted but ignored: {why}")
}
