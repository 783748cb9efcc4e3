//! Protobuf bodies as kubectl's typed commands send them.

use std::collections::BTreeMap;

use k8s_pb::api::apps::v1 as apps;
use k8s_pb::api::core::v1 as core;
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use k8s_pb::apimachinery::pkg::util::intstr::IntOrString;
use prost::Message;
use serde_json::json;

use super::*;
use crate::protobuf::MAGIC;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn envelope(api_version: &str, kind: &str, object: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some(api_version.into()),
            kind: Some(kind.into()),
        }),
        raw: Some(object.encode_to_vec()),
        content_encoding: Some(String::new()),
        content_type: Some(String::new()),
    };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

/// Metadata as Go writes it: everything unset is there as an empty value.
fn named(name: &str) -> Option<meta::ObjectMeta> {
    Some(meta::ObjectMeta {
        name: Some(name.into()),
        generate_name: Some(String::new()),
        namespace: Some(String::new()),
        self_link: Some(String::new()),
        uid: Some(String::new()),
        resource_version: Some(String::new()),
        generation: Some(0),
        creation_timestamp: Some(meta::Time::default()),
        ..Default::default()
    })
}

#[tokio::test]
async fn a_config_map_and_a_namespace() {
    let s = Server::new().await;
    let map = core::ConfigMap {
        metadata: named("a"),
        data: BTreeMap::from([("k".into(), "v".into()), ("empty".into(), String::new())]),
        binary_data: BTreeMap::from([("b".into(), vec![1, 2])]),
        immutable: None,
    };
    let made = s
        .post(CONFIG_MAPS)
        .raw(PROTOBUF, envelope("v1", "ConfigMap", &map))
        .send()
        .await
        .expect(201);
    assert_eq!(
        (&made["data"], &made["binaryData"]),
        (&json!({"k": "v", "empty": ""}), &json!({"b": "AQI="}))
    );
    assert_eq!(
        made["metadata"]["creationTimestamp"],
        "2027-01-15T08:00:00Z"
    );
    let ns = core::Namespace {
        metadata: named("team"),
        spec: Some(core::NamespaceSpec::default()),
        status: Some(core::NamespaceStatus::default()),
    };
    let made = s
        .post("/api/v1/namespaces?fieldValidation=Strict")
        .raw(PROTOBUF, envelope("v1", "Namespace", &ns))
        .send()
        .await
        .expect(201);
    assert_eq!(made["status"]["phase"], "Active");
    let options = meta::DeleteOptions {
        propagation_policy: Some("Background".into()),
        ..Default::default()
    };
    s.delete(&format!("{CONFIG_MAPS}/a"))
        .raw(PROTOBUF, envelope("v1", "DeleteOptions", &options))
        .send()
        .await
        .expect(200);
}

#[tokio::test]
async fn a_deployment_is_the_same_as_its_json() {
    let s = Server::new().await;
    let labels = BTreeMap::from([("app".to_string(), "web".to_string())]);
    let port = |n| {
        Some(IntOrString {
            r#type: Some(0),
            int_val: Some(n),
            str_val: Some(String::new()),
        })
    };
    let container = core::Container {
        name: Some("main".into()),
        image: Some("hello:1".into()),
        working_dir: Some(String::new()),
        command: vec!["serve".into(), String::new()],
        env: vec![core::EnvVar {
            name: Some("NODE".into()),
            value: Some(String::new()),
            value_from: Some(core::EnvVarSource {
                config_map_key_ref: Some(core::ConfigMapKeySelector {
                    local_object_reference: Some(core::LocalObjectReference {
                        name: Some("settings".into()),
                    }),
                    key: Some("node".into()),
                    optional: Some(false),
                }),
                ..Default::default()
            }),
        }],
        ports: vec![core::ContainerPort {
            container_port: Some(8080),
            host_port: Some(0),
            protocol: Some("TCP".into()),
            ..Default::default()
        }],
        resources: Some(core::ResourceRequirements {
            limits: BTreeMap::from([(
                "cpu".into(),
                Quantity {
                    string: Some("250m".into()),
                },
            )]),
            ..Default::default()
        }),
        readiness_probe: Some(core::Probe {
            handler: Some(core::ProbeHandler {
                http_get: Some(core::HttpGetAction {
                    path: Some("/ready".into()),
                    port: port(8080),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            period_seconds: Some(5),
            ..Default::default()
        }),
        ..Default::default()
    };
    let volume = core::Volume {
        name: Some("tmp".into()),
        volume_source: Some(core::VolumeSource {
            empty_dir: Some(core::EmptyDirVolumeSource::default()),
            ..Default::default()
        }),
    };
    let deployment = apps::Deployment {
        metadata: named("web"),
        spec: Some(apps::DeploymentSpec {
            replicas: Some(0),
            selector: Some(meta::LabelSelector {
                match_labels: labels.clone(),
                ..Default::default()
            }),
            template: Some(core::PodTemplateSpec {
                metadata: Some(meta::ObjectMeta {
                    labels: labels.clone(),
                    creation_timestamp: Some(meta::Time::default()),
                    ..Default::default()
                }),
                spec: Some(core::PodSpec {
                    containers: vec![container],
                    volumes: vec![volume],
                    host_network: Some(false),
                    enable_service_links: Some(false),
                    ..Default::default()
                }),
            }),
            strategy: Some(apps::DeploymentStrategy {
                r#type: Some("RollingUpdate".into()),
                rolling_update: Some(apps::RollingUpdateDeployment {
                    max_unavailable: port(0),
                    max_surge: Some(IntOrString {
                        r#type: Some(1),
                        int_val: Some(0),
                        str_val: Some("25%".into()),
                    }),
                }),
            }),
            min_ready_seconds: Some(0),
            paused: Some(false),
            ..Default::default()
        }),
        status: Some(apps::DeploymentStatus {
            replicas: Some(0),
            ..Default::default()
        }),
    };
    let made = s
        .post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"))
        .raw(PROTOBUF, envelope("apps/v1", "Deployment", &deployment))
        .send()
        .await
        .expect(201);
    let spec = &made["spec"];
    assert_eq!(spec["replicas"], 0, "zero replicas were asked for");
    assert_eq!(
        spec["strategy"]["rollingUpdate"],
        json!({"maxUnavailable": 0, "maxSurge": "25%"})
    );
    assert!(spec.get("paused").is_none() && spec.get("minReadySeconds").is_none_or(|v| v == 0));
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["enableServiceLinks"], false);
    assert_eq!(pod["volumes"][0], json!({"name": "tmp", "emptyDir": {}}));
    let c = &pod["containers"][0];
    assert_eq!(c["command"], json!(["serve", ""]));
    assert_eq!(
        c["env"][0]["valueFrom"]["configMapKeyRef"],
        json!({"name": "settings", "key": "node", "optional": false})
    );
    assert_eq!(c["readinessProbe"]["httpGet"]["port"], 8080);
    assert_eq!(c["resources"]["limits"]["cpu"], "250m");
    assert_eq!(c["ports"][0]["containerPort"], 8080);
    assert!(c.get("workingDir").is_none() && c["ports"][0].get("hostPort").is_none());
}

#[tokio::test]
async fn a_kind_without_protobuf_says_what_to_do() {
    let s = Server::new().await;
    let job = core::ConfigMap {
        metadata: named("a"),
        ..Default::default()
    };
    let status = s
        .post(CONFIG_MAPS)
        .raw(PROTOBUF, envelope("batch/v1", "Job", &job))
        .send()
        .await
        .refused(415, "UnsupportedMediaType");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("E_PROTOBUF_KIND"),
        "{status}"
    );
}
