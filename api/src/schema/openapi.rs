//! OpenAPI v3 documents, one per group version: what kubectl needs for `apply`, `create`, `diff`, `edit` and
//! `explain`. Paths come from the table of kinds, types from the schemas, merge keys from [`crate::mergekeys`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{REFERENCE, REGISTRY, name};
use crate::Kind;
use crate::kinds::{KINDS, Subresource};
use crate::mergekeys::{self, Apply, Strategic};

/// Media types of the four patches.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Documents by path (`api/v1`, `apis/apps/v1`), with a hash of each. Immutable once made.
static DOCUMENTS: LazyLock<BTreeMap<String, (Value, String)>> = LazyLock::new(|| {
    let mut paths: BTreeSet<(String, &str, &str)> = BTreeSet::new();
    for kind in KINDS {
        paths.insert((path_of(kind.group, kind.version), kind.group, kind.version));
    }
    paths
        .into_iter()
        .map(|(path, group, version)| {
            let document = document(group, version);
            let hash = hex::encode_upper(Sha256::digest(crate::canonical::encode(&document)));
            (path, (document, hash))
        })
        .collect()
});

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// The index served at `/openapi/v3`.
pub fn openapi_index() -> Value {
    let paths: Map<String, Value> = DOCUMENTS
        .iter()
        .map(|(path, (_, hash))| {
            (
                path.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}),
            )
        })
        .collect();
    json!({"paths": paths})
}

/// The document of a group version, named `api/v1`, `v1`, `apis/apps/v1` or `apps/v1`; `None` if it is not served.
pub fn openapi(group_version: &str) -> Option<Value> {
    let wanted = group_version.trim_matches('/');
    let wanted = wanted
        .strip_prefix("apis/")
        .or_else(|| wanted.strip_prefix("api/"))
        .unwrap_or(wanted);
    let path = match wanted.split_once('/') {
        Some((group, version)) => path_of(group, version),
        None => path_of("", wanted),
    };
    DOCUMENTS.get(&path).map(|(document, _)| document.clone())
}

fn document(group: &str, version: &str) -> Value {
    let mut builder = Builder::default();
    for kind in KINDS
        .iter()
        .filter(|k| k.group == group && k.version == version)
    {
        builder.kind(kind);
    }
    let mut schemas = Map::new();
    while let Some(next) = builder
        .wanted
        .iter()
        .find(|n| !schemas.contains_key(*n))
        .cloned()
    {
        let schema = builder.schema(&next);
        schemas.insert(next, schema);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Coracle", "version": format!("v1.{}.0", crate::KUBERNETES_MINOR)},
        "paths": builder.paths,
        "components": {"schemas": schemas},
    })
}

#[derive(Default)]
struct Builder {
    paths: Map<String, Value>,
    /// Schemas referred to.
    wanted: BTreeSet<String>,
    /// List schemas made here: name -> kind of the items.
    lists: BTreeMap<String, &'static Kind>,
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

impl Builder {
    fn reference(&mut self, name: &str) -> Value {
        self.wanted.insert(name.to_string());
        json!({"$ref": format!("{REFERENCE}{name}")})
    }

    fn reference_to(&mut self, group: &str, version: &str, kind: &str) -> Value {
        match name(group, version, kind) {
            Some(name) => self.reference(name),
            None => json!({"type": "object"}),
        }
    }

    fn kind(&mut self, kind: &'static Kind) {
        let root = format!("/{}", path_of(kind.group, kind.version));
        let scope = if kind.namespaced() {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let collection = format!("{root}{scope}/{}", kind.plural);
        let own = Body {
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
        };
        let list_name = name(kind.group, kind.version, kind.kind).map(|n| format!("{n}List"));
        let list = match &list_name {
            Some(name) if kind.stored => {
                self.lists.insert(name.clone(), kind);
                self.reference(name)
            }
            _ => json!({"type": "object"}),
        };
        let verbs =
            |wanted: &[(&str, &'static str, &'static str)]| -> Vec<(&'static str, &'static str)> {
                wanted
                    .iter()
                    .filter(|(verb, ..)| kind.verbs.contains(verb))
                    .map(|(_, method, action)| (*method, *action))
                    .collect()
            };
        let many = verbs(&[
            ("list", "get", "list"),
            ("create", "post", "post"),
            ("deletecollection", "delete", "deletecollection"),
        ]);
        let item = self.item(kind, &collection, "", own, &many, Some(&list));
        self.paths.insert(collection.clone(), item);
        let one = verbs(&[
            ("get", "get", "get"),
            ("update", "put", "put"),
            ("patch", "patch", "patch"),
            ("delete", "delete", "delete"),
        ]);
        if !one.is_empty() {
            let path = format!("{collection}/{{name}}");
            let item = self.item(kind, &path, "", own, &one, None);
            self.paths.insert(path, item);
        }
        if kind.namespaced() && kind.verbs.contains(&"list") {
            let path = format!("{root}/{}", kind.plural);
            let item = self.item(kind, &path, "", own, &[("get", "list")], Some(&list));
            self.paths.insert(path, item);
        }
        for s in kind.subresources {
            let path = format!("{collection}/{{name}}/{}", s.name);
            let actions = subresource_actions(s);
            let item = self.item(
                kind,
                &path,
                s.name,
                Body {
                    group: s.group,
                    version: s.version,
                    kind: s.kind,
                },
                &actions,
                None,
            );
            self.paths.insert(path, item);
        }
    }

    fn item(
        &mut self,
        kind: &Kind,
        path: &str,
        subresource: &str,
        body: Body,
        actions: &[(&str, &str)],
        list: Option<&Value>,
    ) -> Value {
        let mut item = Map::new();
        for (method, action) in actions {
            let mut operation = self.operation(kind, subresource, body, action, list);
            operation["operationId"] = json!(operation_id(kind, action, subresource, path));
            item.insert((*method).to_string(), operation);
        }
        let mut parameters = Vec::new();
        for name in ["namespace", "name"] {
            if path.contains(&format!("{{{name}}}")) {
                parameters.push(json!({"name": name, "in": "path", "required": true, "description": format!("{name} of the {}", kind.kind),
                    "schema": {"type": "string", "uniqueItems": true}}));
            }
        }
        parameters.push(query(
            "pretty",
            "If 'true', then the output is pretty printed.",
        ));
        item.insert("parameters".into(), json!(parameters));
        Value::Object(item)
    }

    fn operation(
        &mut self,
        kind: &Kind,
        subresource: &str,
        body: Body,
        action: &str,
        list: Option<&Value>,
    ) -> Value {
        let own = self.reference_to(body.group, body.version, body.kind);
        let status = self.reference_to("meta.k8s.io", "v1", "Status");
        let answer = match action {
            "list" => list.cloned().unwrap_or(status),
            "delete" | "deletecollection" => status,
            _ => own.clone(),
        };
        let content = |schema: &Value| -> Value { json!({"application/json": {"schema": schema}}) };
        let code = if action == "post" { "201" } else { "200" };
        let what = if subresource.is_empty() {
            kind.kind.to_string()
        } else {
            format!("{subresource} of {}", kind.kind)
        };
        let mut operation = json!({
            "tags": [format!("{}_{}", if kind.group.is_empty() { "core" } else { kind.group }, kind.version)],
            "description": format!("{action} {what}"),
            "responses": {code: {"description": "OK", "content": content(&answer)}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(body.group, body.version, body.kind),
        });
        let mut parameters = Vec::new();
        let dry_run = query(
            "dryRun",
            "When present, indicates that modifications should not be persisted. Valid values are: All",
        );
        let manager = query(
            "fieldManager",
            "fieldManager is a name associated with the actor or entity that is making these changes.",
        );
        let validation = query(
            "fieldValidation",
            "What to do with unknown or duplicate fields. Valid values are: Ignore, Warn, Strict",
        );
        match action {
            "post" | "put" => {
                operation["requestBody"] = json!({"required": true, "content": content(&own)});
                parameters.extend([dry_run, manager, validation]);
            }
            "patch" => {
                let patch = self.reference_to("meta.k8s.io", "v1", "Patch");
                let content: Map<String, Value> = PATCHES
                    .iter()
                    .map(|media| ((*media).to_string(), json!({"schema": patch})))
                    .collect();
                operation["requestBody"] = json!({"required": true, "content": content});
                parameters.extend([
                    dry_run,
                    manager,
                    validation,
                    query("force", "Force is going to \"force\" Apply requests."),
                ]);
            }
            "delete" | "deletecollection" => {
                let options = self.reference_to("meta.k8s.io", "v1", "DeleteOptions");
                operation["requestBody"] = json!({"content": content(&options)});
                parameters.extend([
                    dry_run,
                    query(
                        "gracePeriodSeconds",
                        "Seconds before the object should be deleted.",
                    ),
                    query("propagationPolicy", "Orphan, Background or Foreground."),
                ]);
            }
            "list" => parameters.extend(
                [
                    ("labelSelector", "Selects by labels."),
                    ("fieldSelector", "Selects by fields."),
                    ("limit", "Most objects to return."),
                    ("continue", "The token of the page before."),
                    (
                        "resourceVersion",
                        "The version to list at, or to watch from.",
                    ),
                    ("watch", "Watch for changes."),
                ]
                .map(|(name, text)| query(name, text)),
            ),
            _ => {}
        }
        if !parameters.is_empty() {
            operation["parameters"] = json!(parameters);
        }
        operation
    }

    /// One schema, with what Kubernetes adds: kinds, merge keys, list types.
    fn schema(&mut self, name: &str) -> Value {
        if let Some(kind) = self.lists.get(name).copied() {
            return self.list_schema(kind);
        }
        let mut schema = REGISTRY
            .definitions
            .get(name)
            .cloned()
            .unwrap_or_else(|| json!({"type": "object"}));
        if schema["x-kubernetes-int-or-string"] == true {
            let other = if name.ends_with("Quantity") {
                "number"
            } else {
                "integer"
            };
            let mut made = json!({"description": schema["description"], "oneOf": [{"type": "string"}, {"type": other}]});
            if other == "integer" {
                made["format"] = json!("int-or-string");
            }
            return made;
        }
        if let Some(properties) = schema["properties"].as_object_mut() {
            for (field, property) in properties.iter_mut() {
                extend(property, name, field);
                self.wrap(property);
            }
        }
        if mergekeys::atomic_struct(name) {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
        let kinds: Vec<Value> = REGISTRY
            .kinds
            .iter()
            .filter(|((group, ..), n)| *n == name && *group != "meta.k8s.io")
            .map(|((group, version, kind), _)| gvk(group, version, kind))
            .collect();
        if !kinds.is_empty() {
            // The crate of the types makes every kind carry metadata; in Kubernetes none must.
            if let Some(required) = schema["required"].as_array_mut() {
                required.retain(|field| field != "metadata");
            }
            if schema["required"].as_array().is_some_and(Vec::is_empty)
                && let Some(map) = schema.as_object_mut()
            {
                map.remove("required");
            }
            schema["x-kubernetes-group-version-kind"] = json!(kinds);
        }
        schema
    }

    fn list_schema(&mut self, kind: &Kind) -> Value {
        let item = self.reference_to(kind.group, kind.version, kind.kind);
        let meta = self.reference_to("meta.k8s.io", "v1", "ListMeta");
        json!({
            "description": format!("{}List is a collection of {} objects.", kind.kind, kind.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object."},
                "kind": {"type": "string", "description": "Kind is a string value representing the REST resource this object represents."},
                "metadata": {"allOf": [meta], "description": "Standard list metadata."},
                "items": {"type": "array", "items": {"allOf": [item]}, "description": format!("The {}.", kind.plural)},
            },
            "x-kubernetes-group-version-kind": [gvk(kind.group, kind.version, &format!("{}List", kind.kind))],
        })
    }

    /// References stand alone in OpenAPI 3.0: a description beside one needs `allOf`, as Kubernetes writes it.
    fn wrap(&mut self, property: &mut Value) {
        let Some(map) = property.as_object_mut() else {
            return;
        };
        if let Some(Value::String(reference)) = map.get("$ref").cloned() {
            if let Some(name) = reference.strip_prefix(REFERENCE) {
                self.wanted.insert(name.to_string());
            }
            map.remove("$ref");
            map.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        for below in ["items", "additionalProperties"] {
            if let Some(inner) = map.get_mut(below) {
                self.wrap(inner);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Body {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
}

fn query(name: &str, description: &str) -> Value {
    let kind = match name {
        "limit" | "gracePeriodSeconds" => "integer",
        "watch" | "force" => "boolean",
        _ => "string",
    };
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
}

fn subresource_actions(s: &Subresource) -> Vec<(&'static str, &'static str)> {
    [
        ("get", "get", "get"),
        ("create", "post", "post"),
        ("update", "put", "put"),
        ("patch", "patch", "patch"),
    ]
    .into_iter()
    .filter(|(verb, ..)| s.verbs.contains(verb))
    .map(|(_, method, action)| (method, action))
    .collect()
}

/// `patchAppsV1NamespacedDeploymentScale`, as generated clients know it.
fn operation_id(kind: &Kind, action: &str, subresource: &str, path: &str) -> String {
    let camel = |text: &str| -> String {
        text.split(['.', '-'])
            .map(|part| {
                part.get(..1)
                    .map_or(String::new(), |head| head.to_uppercase() + &part[1..])
            })
            .collect()
    };
    let verb = match action {
        "get" => "read",
        "post" => "create",
        "put" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let group = if kind.group.is_empty() {
        "Core".into()
    } else {
        camel(kind.group.split('.').next().unwrap_or_default())
    };
    let scope = if path.contains("{namespace}") {
        "Namespaced"
    } else {
        ""
    };
    let all = if kind.namespaced() && scope.is_empty() {
        "ForAllNamespaces"
    } else {
        ""
    };
    format!(
        "{verb}{group}{}{scope}{}{}{all}",
        camel(kind.version),
        kind.kind,
        camel(subresource)
    )
}

/// Adds merge keys and list types to one property.
fn extend(property: &mut Value, owner: &str, field: &str) {
    let rule = mergekeys::rule(owner, field);
    let (strategy, key) = match rule.strategic {
        Strategic::Plain => (None, None),
        Strategic::Merge(key) => (Some("merge"), Some(key)),
        Strategic::MergeRetainKeys(key) => (Some("merge,retainKeys"), Some(key)),
        Strategic::Union => (Some("merge"), None),
        Strategic::RetainKeys => (Some("retainKeys"), None),
        Strategic::Replace => (Some("replace"), None),
    };
    if let Some(strategy) = strategy {
        property["x-kubernetes-patch-strategy"] = json!(strategy);
    }
    if let Some(key) = key {
        property["x-kubernetes-patch-merge-key"] = json!(key);
    }
    let is_list = property["type"] == "array";
    match rule.apply {
        Apply::Plain if is_list => property["x-kubernetes-list-type"] = json!("atomic"),
        Apply::Plain => {}
        Apply::Atomic if is_list => property["x-kubernetes-list-type"] = json!("atomic"),
        Apply::Atomic => property["x-kubernetes-map-type"] = json!("atomic"),
        Apply::Granular => property["x-kubernetes-map-type"] = json!("granular"),
        Apply::Set => property["x-kubernetes-list-type"] = json!("set"),
        Apply::Map(keys) => {
            property["x-kubernetes-list-type"] = json!("map");
            property["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
