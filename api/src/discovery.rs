//! Discovery documents, all from the table of kinds: the aggregated form (v2, v2beta1) and the legacy one, which
//! `kubectl drain` and smaller clients still read.

use serde_json::{Map, Value, json};

use crate::Kind;
use crate::kinds::{KINDS, Subresource};

/// Every (group, version) served, the core group first, in the order of the table.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    for kind in KINDS {
        if !all.contains(&(kind.group, kind.version)) {
            all.push((kind.group, kind.version));
        }
    }
    all.sort_by_key(|(group, _)| !group.is_empty());
    all
}

fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS
        .iter()
        .filter(move |k| k.group == group && k.version == version)
}

/// Groups but the core one, each with its versions.
fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for (group, version) in group_versions().into_iter().filter(|(g, _)| !g.is_empty()) {
        match all.iter_mut().find(|(g, _)| *g == group) {
            Some((_, versions)) => versions.push(version),
            None => all.push((group, vec![version])),
        }
    }
    all
}

/// `/api` in aggregated form; `version` is `v2` or `v2beta1`.
pub fn aggregated_core(version: &str) -> Value {
    let mut item = json!({"versions": [aggregated_version("", "v1")]});
    item["metadata"] = json!({"creationTimestamp": null});
    aggregated(version, vec![item])
}

/// `/apis` in aggregated form; `version` is `v2` or `v2beta1`.
pub fn aggregated_groups(version: &str) -> Value {
    let items = groups()
        .into_iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|v| aggregated_version(group, v))
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    aggregated(version, items)
}

fn aggregated(version: &str, items: Vec<Value>) -> Value {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let resources: Vec<Value> = of(group, version).map(aggregated_resource).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response_kind(kind.group, kind.version, kind.kind),
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    names(&mut resource, kind);
    if !kind.subresources.is_empty() {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| json!({"subresource": s.name, "responseKind": response_kind(s.group, s.version, s.kind), "verbs": s.verbs}))
            .collect();
        resource["subresources"] = json!(subresources);
    }
    resource
}

fn names(resource: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
}

/// `/api` in legacy form; `server_address` is the HOST:PORT that clients reach.
pub fn legacy_api(server_address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})
}

/// `/api/v1` in legacy form.
pub fn legacy_api_v1() -> Value {
    resource_list("", "v1")
}

/// `/apis` in legacy form.
pub fn legacy_groups() -> Value {
    let groups: Vec<Value> = groups()
        .into_iter()
        .map(|(group, versions)| api_group(group, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/G`, if the group is served.
pub fn legacy_group(group: &str) -> Option<Value> {
    let (group, versions) = groups().into_iter().find(|(g, _)| *g == group)?;
    let mut document = api_group(group, &versions);
    document["kind"] = json!("APIGroup");
    document["apiVersion"] = json!("v1");
    Some(document)
}

/// `/apis/G/V`, if it is served.
pub fn legacy_group_version(group: &str, version: &str) -> Option<Value> {
    (!group.is_empty() && of(group, version).next().is_some())
        .then(|| resource_list(group, version))
}

fn api_group(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
}

fn resource_list(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in of(group, version) {
        let mut resource = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced(), "kind": kind.kind, "verbs": kind.verbs});
        names(&mut resource, kind);
        resources.push(resource);
        resources.extend(kind.subresources.iter().map(|s| subresource(kind, s)));
    }
    let group_version = if group.is_empty() {
        version.to_string()
    } else {
        format!("{group}/{version}")
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn subresource(kind: &Kind, s: &Subresource) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), json!(format!("{}/{}", kind.plural, s.name)));
    map.insert("singularName".into(), json!(""));
    map.insert("namespaced".into(), json!(kind.namespaced()));
    // Group and version are written only where they differ from the list's: `drain` looks for policy/v1 here.
    if (s.group, s.version) != (kind.group, kind.version) {
        map.insert("group".into(), json!(s.group));
        map.insert("version".into(), json!(s.version));
    }
    map.insert("kind".into(), json!(s.kind));
    map.insert("verbs".into(), json!(s.verbs));
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_finds_eviction_and_scale_has_its_kind() {
        let core = legacy_api_v1();
        let find = |name: &str| {
            core["resources"]
                .as_array()
                .unwrap()
                .iter()
                .find(|r| r["name"] == name)
                .unwrap()
                .clone()
        };
        let eviction = find("pods/eviction");
        assert_eq!(
            (&eviction["group"], &eviction["version"], &eviction["kind"]),
            (&json!("policy"), &json!("v1"), &json!("Eviction"))
        );
        assert_eq!(find("pods/status").get("group"), None);
        assert_eq!(find("pods")["shortNames"], json!(["po"]));
        let groups = aggregated_groups("v2");
        let apps = groups["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|g| g["metadata"]["name"] == "apps")
            .unwrap();
        let deployments = apps["versions"][0]["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["resource"] == "deployments")
            .unwrap();
        let scale = deployments["subresources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["subresource"] == "scale")
            .unwrap();
        assert_eq!(
            scale["responseKind"],
            json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
        );
        assert_eq!(deployments["categories"], json!(["all"]));
        assert_eq!(deployments["scope"], "Namespaced");
    }

    #[test]
    fn both_forms_name_the_same_kinds() {
        for (group, version) in group_versions() {
            let legacy = if group.is_empty() {
                legacy_api_v1()
            } else {
                legacy_group_version(group, version).unwrap()
            };
            let aggregated = if group.is_empty() {
                aggregated_core("v2")
            } else {
                aggregated_groups("v2")
            };
            let item = aggregated["items"]
                .as_array()
                .unwrap()
                .iter()
                .find(|i| i["metadata"]["name"].as_str().unwrap_or_default() == group)
                .unwrap();
            let names: Vec<&Value> = item["versions"][0]["resources"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| &r["resource"])
                .collect();
            let tops: Vec<&Value> = legacy["resources"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| &r["name"])
                .filter(|n| !n.as_str().unwrap().contains('/'))
                .collect();
            assert_eq!(names, tops);
        }
        assert_eq!(
            aggregated_core("v2beta1")["apiVersion"],
            "apidiscovery.k8s.io/v2beta1"
        );
        assert_eq!(aggregated_core("v2")["items"].as_array().unwrap().len(), 1);
        assert!(
            legacy_groups()["groups"]
                .as_array()
                .unwrap()
                .iter()
                .any(|g| g["preferredVersion"]["groupVersion"] == "apps/v1")
        );
        assert_eq!(legacy_group("apps").unwrap()["kind"], "APIGroup");
        assert_eq!(legacy_api("127.0.0.1:6443")["versions"], json!(["v1"]));
        assert!(
            legacy_group("nothing").is_none()
                && legacy_group_version("apps", "v9").is_none()
                && legacy_group_version("", "v1").is_none()
        );
    }
}
