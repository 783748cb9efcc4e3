//! What kubectl looks for in the documents.

use super::*;
use crate::discovery;

#[test]
fn every_group_version_has_a_document_and_every_reference_resolves() {
    let index = openapi_index();
    for (path, entry) in index["paths"].as_object().unwrap() {
        assert!(
            entry["serverRelativeURL"]
                .as_str()
                .unwrap()
                .starts_with(&format!("/openapi/v3/{path}?hash="))
        );
        let document = openapi(path).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for reference in text.split(REFERENCE).skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{path}: {name}");
        }
        assert!(!text.contains("x-kubernetes-int-or-string"));
    }
    assert_eq!(
        index["paths"].as_object().unwrap().len(),
        discovery::group_versions().len()
    );
    assert!(openapi("apps/v1") == openapi("apis/apps/v1") && openapi("v1") == openapi("/api/v1/"));
    assert_eq!(openapi("apps/v2"), None);
}

#[test]
fn kubectl_finds_field_validation_and_kinds() {
    for kind in KINDS.iter().filter(|k| k.stored) {
        let document = openapi(&kind.api_version()).unwrap();
        let wanted = gvk(kind.group, kind.version, kind.kind);
        let patches: Vec<&Value> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .map(|p| &p["patch"])
            .filter(|p| p["x-kubernetes-group-version-kind"] == wanted)
            .collect();
        assert!(!patches.is_empty(), "{}", kind.kind);
        for patch in patches {
            let names: Vec<&str> = patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| p["name"].as_str().unwrap())
                .collect();
            assert!(
                names.contains(&"fieldValidation") && names.contains(&"dryRun"),
                "{names:?}"
            );
            assert_eq!(
                patch["requestBody"]["content"].as_object().unwrap().len(),
                4
            );
        }
        let schema = document["components"]["schemas"]
            .as_object()
            .unwrap()
            .values()
            .find(|s| {
                s["x-kubernetes-group-version-kind"]
                    .as_array()
                    .is_some_and(|list| list.contains(&wanted))
            });
        let schema = schema.unwrap_or_else(|| panic!("{} has no schema", kind.kind));
        assert!(
            !schema.to_string().contains("\"required\":[\"metadata"),
            "{}",
            kind.kind
        );
        assert!(schema["description"].is_string() && schema["properties"]["metadata"].is_object());
    }
}

#[test]
fn merge_keys_are_shown() {
    let document = openapi("apps/v1").unwrap();
    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(
        spec["containers"]["x-kubernetes-list-map-keys"],
        json!(["name"])
    );
    assert_eq!(
        spec["volumes"]["x-kubernetes-patch-strategy"],
        "merge,retainKeys"
    );
    assert_eq!(spec["tolerations"]["x-kubernetes-list-type"], "atomic");
    assert_eq!(
        document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"],
        "atomic"
    );
    assert_eq!(
        document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["patch"]
            ["x-kubernetes-group-version-kind"]["kind"],
        "Scale"
    );
    assert_eq!(
        document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]["operationId"],
        "patchAppsV1NamespacedDeployment"
    );
}
