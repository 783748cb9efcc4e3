//! Stories of environment, ConfigMaps and Secrets.

use super::*;

fn env_of(s: &Story, container: &str) -> Vec<String> {
    s.grants[container]
        .env
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect()
}

#[test]
fn environment_and_arguments_come_from_every_source() {
    let mut s = Story::new();
    s.config(
        ConfigKind::ConfigMap,
        "cm",
        json!({"metadata": {"name": "cm"}, "data": {"COLOR": "red", "size": "9"}}),
    );
    s.config(
        ConfigKind::Secret,
        "sec",
        json!({"metadata": {"name": "sec"}, "data": {"token": "aHVudGVyMg=="}}),
    );
    s.pod(
        "a",
        json!({"containers": [{"name": "job", "image": "job:1",
            "command": ["run", "$(COLOR)"], "args": ["--pass=$(PASS)", "$$(COLOR)", "$(NOPE)"],
            "resources": {"limits": {"memory": "64Mi", "cpu": "250m"}},
            "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}],
            "env": [
                {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "COLOR"}}},
                {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "token"}}},
                {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                {"name": "OPT", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x", "optional": true}}},
                {"name": "HELLO", "value": "I am $(ME)"},
            ]}]}),
    );
    assert_eq!(
        env_of(&s, "job"),
        [
            "CM_COLOR=red",
            "CM_size=9",
            "COLOR=red",
            "PASS=hunter2",
            "ME=a",
            "IP=10.42.0.9",
            "APP=a",
            "MEM=64",
            "CPU=250",
            "HELLO=I am a"
        ]
    );
    let g = &s.grants["job"];
    assert_eq!(
        g.args,
        ["run", "red", "--pass=hunter2", "$(COLOR)", "$(NOPE)"]
    );
    assert_eq!(
        (g.limits.memory_bytes, g.limits.cpu_millis),
        (Some(64 << 20), Some(250))
    );
    assert_eq!(g.serving_port(), 80);
}

#[test]
fn a_missing_configmap_is_named_and_its_arrival_starts_the_pod() {
    let mut s = Story::new();
    s.pod(
        "a",
        json!({"containers": [{"name": "web", "image": "web:1", "envFrom": [{"configMapRef": {"name": "cm"}}]}]}),
    );
    let (reason, message) = s.waiting("a", "web");
    assert_eq!(
        (reason, message),
        ("CreateContainerConfigError", "configmap \"cm\" not found")
    );
    let told = s
        .asked()
        .iter()
        .filter(|a| a.starts_with("Warning Failed"))
        .count();
    assert_eq!(told, 1);
    s.config(
        ConfigKind::ConfigMap,
        "cm",
        json!({"metadata": {"name": "cm"}, "data": {"A": "1"}}),
    );
    assert_eq!(s.condition("a", "Ready"), "True");
    assert_eq!(env_of(&s, "web"), ["A=1"]);
}

#[test]
fn a_missing_key_is_named() {
    let mut s = Story::new();
    s.config(
        ConfigKind::Secret,
        "sec",
        json!({"metadata": {"name": "sec"}, "data": {}}),
    );
    s.pod(
        "a",
        json!({"containers": [{"name": "web", "image": "web:1",
            "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "token"}}}]}]}),
    );
    assert_eq!(
        s.waiting("a", "web").1,
        "couldn't find key token in secret default/sec"
    );
}

#[test]
fn volumes_hold_what_their_objects_hold_and_follow_them() {
    let mut s = Story::new();
    s.config(
        ConfigKind::ConfigMap,
        "cm",
        json!({"metadata": {"name": "cm"}, "data": {"a": "1", "b": "2"}}),
    );
    s.pod(
        "a",
        json!({"containers": [{"name": "web", "image": "web:1", "volumeMounts": [
                {"name": "conf", "mountPath": "/conf"}, {"name": "tmp", "mountPath": "/tmp", "subPath": "x"}]}],
            "volumes": [{"name": "conf", "configMap": {"name": "cm", "items": [{"key": "a", "path": "dir/a.txt"}]}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "me", "downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}),
    );
    let file = |s: &Story, volume: &str, path: &str| match &s.volumes[volume] {
        VolumeSource::Files(files) => String::from_utf8(files[path].clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(file(&s, "conf", "dir/a.txt"), "1");
    assert_eq!(file(&s, "me", "labels"), "app=\"a\"\n");
    assert_eq!(
        s.volumes["tmp"],
        VolumeSource::Empty {
            size_limit_bytes: Some(1 << 20)
        }
    );
    let mounts: Vec<_> = s.grants["web"]
        .mounts
        .iter()
        .map(|m| (m.path.as_str(), m.sub_path.as_str(), m.read_only))
        .collect();
    assert_eq!(mounts, [("/conf", "", true), ("/tmp", "x", false)]);
    s.asked();
    s.config(
        ConfigKind::ConfigMap,
        "cm",
        json!({"metadata": {"name": "cm"}, "data": {"a": "1", "b": "3"}}),
    );
    assert_eq!(s.asked(), [""; 0], "b is not in the volume");
    s.config(
        ConfigKind::ConfigMap,
        "cm",
        json!({"metadata": {"name": "cm"}, "data": {"a": "new"}}),
    );
    assert_eq!(s.asked(), ["update volume conf"]);
    assert_eq!(file(&s, "conf", "dir/a.txt"), "new");
}

#[test]
fn a_volume_that_cannot_be_made_is_shown_until_it_can() {
    let mut s = Story::new();
    s.pod(
        "a",
        json!({"containers": [{"name": "web", "image": "web:1"}],
            "volumes": [{"name": "conf", "configMap": {"name": "cm"}}]}),
    );
    assert_eq!(
        s.waiting("a", "web"),
        ("ContainerCreating", "configmap \"cm\" not found")
    );
    assert!(
        s.asked()
            .contains(&"Warning FailedMount: configmap \"cm\" not found".to_string())
    );
    s.config(
        ConfigKind::ConfigMap,
        "cm",
        json!({"metadata": {"name": "cm"}, "data": {}}),
    );
    assert_eq!(s.condition("a", "Ready"), "True");
    let mut s = Story::new();
    s.pod(
        "b",
        json!({"containers": [{"name": "web", "image": "web:1"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]}),
    );
    assert!(
        s.waiting("b", "web")
            .1
            .contains("persistentVolumeClaim volumes are not provided here")
    );
}

#[test]
fn configuration_is_watched_while_a_pod_needs_it() {
    let mut s = Story::new();
    let spec = json!({"containers": [{"name": "web", "image": "web:1",
        "envFrom": [{"secretRef": {"name": "s", "optional": true}}]}]});
    s.pod("a", spec.clone());
    s.pod("b", spec);
    let watches = |s: &mut Story| {
        s.asked()
            .iter()
            .filter(|a| a.contains("watch"))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(watches(&mut s), ["watch secret default/s"]);
    s.tell(Input::Gone { uid: "u-a".into() });
    assert_eq!(watches(&mut s), [""; 0]);
    s.tell(Input::Gone { uid: "u-b".into() });
    assert_eq!(watches(&mut s), ["unwatch secret default/s"]);
}

#[test]
fn a_pull_goes_with_the_secrets_that_the_pod_names() {
    let mut s = Story::new();
    s.pod(
        "a",
        json!({"imagePullSecrets": [{"name": "reg"}, {"name": ""}, {"name": "hub"}, {"name": "reg"}],
            "containers": [{"name": "web", "image": "ghcr.io/a/web:1"}]}),
    );
    let asked = s.asked();
    let pull = "pull web ghcr.io/a/web:1 with reg with hub".to_string();
    assert!(asked.contains(&pull), "{asked:?}");
    // They are for the pull alone: nothing of the pod waits for them.
    assert!(!asked.iter().any(|a| a.starts_with("watch")), "{asked:?}");
}
