//! Bad manifests and the words they are refused with.

use serde_json::json;

use super::*;
use crate::defaults;

fn kind(word: &str) -> &'static Kind {
    crate::kinds::by_word(word).unwrap()
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "default"})
}

/// Defaults, then validation: what the server does.
fn problems(word: &str, mut object: Value) -> Vec<String> {
    defaults::apply(kind(word), &mut object);
    create(kind(word), &object)
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

fn pod(change: Value) -> Value {
    let mut pod = json!({"metadata": meta("web"), "spec": {"containers": [{"name": "web", "image": "hello:1"}]}});
    crate::patch::merge(&mut pod, &change);
    pod
}

fn with_container(change: Value) -> Value {
    let mut c = json!({"name": "web", "image": "hello:1"});
    crate::patch::merge(&mut c, &change);
    pod(json!({"spec": {"containers": [c]}}))
}

fn deployment(change: Value) -> Value {
    let mut d = json!({"metadata": meta("web"), "spec": {"selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "hello:1"}]}}}});
    crate::patch::merge(&mut d, &change);
    d
}

#[test]
fn good_objects_pass() {
    for (word, object) in [
        ("po", pod(json!({}))),
        (
            "po",
            json!({"metadata": {"generateName": "web-", "namespace": "default"}, "spec": {"containers": [{"name": "a", "image": "x"}]}}),
        ),
        (
            "po",
            with_container(
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
            "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 80, "protocol": "UDP"}],
            "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": 1, "memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"port": "http"}}}),
            ),
        ),
        ("deploy", deployment(json!({}))),
        ("rs", deployment(json!({}))),
        (
            "rc",
            json!({"metadata": meta("web"), "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}}),
        ),
        (
            "svc",
            json!({"metadata": meta("web"), "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        ),
        (
            "svc",
            json!({"metadata": meta("web"), "spec": {"clusterIP": "None"}}),
        ),
        (
            "svc",
            json!({"metadata": meta("web"), "spec": {"type": "ExternalName", "externalName": "example.com"}}),
        ),
        (
            "ing",
            json!({"metadata": meta("web"), "spec": {"rules": [{"host": "web.localhost", "http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}),
        ),
        (
            "cm",
            json!({"metadata": meta("c"), "data": {"a.b": "1"}, "binaryData": {"c": "eA=="}}),
        ),
        (
            "secret",
            json!({"metadata": meta("s"), "stringData": {"password": "x"}}),
        ),
        ("ns", json!({"metadata": {"name": "team-a"}})),
        (
            "no",
            json!({"metadata": {"name": "node.1"}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi"}}}),
        ),
        (
            "lease",
            json!({"metadata": meta("n1"), "spec": {"leaseDurationSeconds": 40}}),
        ),
        (
            "ev",
            json!({"metadata": meta("e"), "involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}}),
        ),
        (
            "ev",
            json!({"metadata": meta("e"), "involvedObject": {"kind": "Node", "name": "x"}}),
        ),
        (
            "endpointslices",
            json!({"metadata": meta("e"), "addressType": "IPv4", "endpoints": [{"addresses": ["10.42.0.1"]}], "ports": [{"port": 80}]}),
        ),
        (
            "ep",
            json!({"metadata": meta("e"), "subsets": [{"addresses": [{"ip": "10.42.0.1"}], "ports": [{"port": 80}]}]}),
        ),
    ] {
        assert_eq!(
            problems(word, object.clone()),
            Vec::<String>::new(),
            "{object}"
        );
    }
}

#[test]
fn metadata_is_checked_in_kubernetes_words() {
    let label =
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'";
    for (word, object, want) in [
        (
            "po",
            pod(json!({"metadata": {"name": "Web"}})),
            "metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "po",
            pod(json!({"metadata": {"name": "../etc"}})),
            "metadata.name: Invalid value: \"../etc\": a lowercase RFC 1123 subdomain",
        ),
        (
            "po",
            pod(json!({"metadata": {"name": null}})),
            "metadata.name: Required value: name or generateName is required",
        ),
        (
            "po",
            pod(json!({"metadata": {"namespace": null}})),
            "metadata.namespace: Required value",
        ),
        ("ns", json!({"metadata": {"name": "a.b"}}), label),
        (
            "ns",
            json!({"metadata": {"name": "a", "namespace": "b"}}),
            "metadata.namespace: Forbidden: not allowed on this type",
        ),
        (
            "svc",
            json!({"metadata": meta("1web"), "spec": {"ports": [{"port": 80}]}}),
            "metadata.name: Invalid value: \"1web\": a DNS-1035 label must consist of",
        ),
        (
            "po",
            pod(json!({"metadata": {"labels": {"a b": "c"}}})),
            "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters",
        ),
        (
            "po",
            pod(json!({"metadata": {"labels": {"a": "c d"}}})),
            "metadata.labels: Invalid value: \"c d\": a valid label must be an empty string or",
        ),
        (
            "po",
            pod(json!({"metadata": {"annotations": {"a": "x".repeat(300_000)}}})),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            "po",
            pod(json!({"metadata": {"generateName": "Web-"}})),
            "metadata.generateName: Invalid value: \"Web-\"",
        ),
        (
            "po",
            pod(json!({"metadata": {"ownerReferences": [{"kind": "A"}]}})),
            "metadata.ownerReferences[0].uid: Required value: must not be empty",
        ),
        (
            "po",
            pod(json!({"metadata": {"finalizers": ["a b"]}})),
            "metadata.finalizers[0]: Invalid value",
        ),
    ] {
        let all = problems(word, object);
        assert!(all.iter().any(|p| p.contains(want)), "{want}: {all:#?}");
    }
}

#[test]
fn pods_are_checked_in_kubernetes_words() {
    for (object, want) in [
        (
            json!({"metadata": meta("a"), "spec": {}}),
            "spec.containers: Required value",
        ),
        (
            with_container(json!({"image": null})),
            "spec.containers[0].image: Required value",
        ),
        (
            with_container(json!({"name": "A"})),
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
        ),
        (
            pod(
                json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}]}}),
            ),
            "spec.containers[1].name: Duplicate value: \"a\"",
        ),
        (
            with_container(json!({"ports": [{"containerPort": 70000}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            with_container(json!({"ports": [{"containerPort": 80, "name": "UPPER"}]})),
            "ports[0].name: Invalid value: \"UPPER\": must contain only alpha-numeric",
        ),
        (
            with_container(json!({"ports": [{"containerPort": 80}, {"containerPort": 80}]})),
            "ports[1]: Duplicate value",
        ),
        (
            with_container(json!({"env": [{"name": "a=b"}]})),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\"",
        ),
        (
            with_container(json!({"env": [{"value": "b"}]})),
            "spec.containers[0].env[0].name: Required value",
        ),
        (
            with_container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            with_container(json!({"resources": {"limits": {"memory": "64Mib"}}})),
            "spec.containers[0].resources.limits[memory]: Invalid value: \"64Mib\": quantities must",
        ),
        (
            with_container(
                json!({"resources": {"limits": {"cpu": "100m"}, "requests": {"cpu": "1"}}}),
            ),
            "resources.requests[cpu]: Invalid value: \"1\": must be less than or equal to cpu limit of 100m",
        ),
        (
            with_container(json!({"resources": {"requests": {"cpu": "-1"}}})),
            "resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            with_container(json!({"imagePullPolicy": "Sometimes"})),
            "imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            with_container(json!({"readinessProbe": {"periodSeconds": 5}})),
            "readinessProbe: Required value: must specify a handler type",
        ),
        (
            with_container(
                json!({"livenessProbe": {"httpGet": {"port": 80}, "tcpSocket": {"port": 80}}}),
            ),
            "livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            with_container(json!({"livenessProbe": {"tcpSocket": {"port": 0}}})),
            "livenessProbe.tcpSocket.port: Invalid value: 0: must be between",
        ),
        (
            pod(json!({"spec": {"restartPolicy": "Sometimes"}})),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            pod(
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}}),
            ),
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (
            pod(
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "a"}}]}}),
            ),
            "may not specify more than 1 volume type",
        ),
        (
            pod(json!({"spec": {"volumes": [{"name": "v", "configMap": {}}]}})),
            "spec.volumes[0].configMap.name: Required value",
        ),
        (
            pod(
                json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "a", "items": [{"key": "k", "path": "../x"}]}}]}}),
            ),
            "items[0].path: Invalid value: \"../x\": must not contain '..'",
        ),
        (
            pod(json!({"spec": {"terminationGracePeriodSeconds": -1}})),
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            pod(json!({"spec": {"tolerations": [{"operator": "Equal"}]}})),
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty",
        ),
        (
            pod(json!({"spec": {"nodeSelector": {"a": "b c"}}})),
            "spec.nodeSelector: Invalid value: \"b c\"",
        ),
    ] {
        let all = problems("po", object);
        assert!(all.iter().any(|p| p.contains(want)), "{want}: {all:#?}");
    }
}

#[test]
fn workloads_are_checked_in_kubernetes_words() {
    for (word, object, want) in [
        (
            "deploy",
            deployment(json!({"spec": {"selector": null}})),
            "spec.selector: Required value",
        ),
        (
            "deploy",
            deployment(json!({"spec": {"selector": {"matchLabels": null}}})),
            "empty selector is invalid for deployment",
        ),
        (
            "deploy",
            deployment(json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}})),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ),
        (
            "rc",
            json!({"metadata": meta("a"), "spec": {"selector": {"a": "c"}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}}),
            "`selector` does not match template `labels`",
        ),
        (
            "rs",
            deployment(json!({"spec": {"replicas": -1}})),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "deploy",
            deployment(json!({"spec": {"template": null}})),
            "spec.template: Required value",
        ),
        (
            "deploy",
            deployment(json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}})),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            "deploy",
            deployment(json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}})),
            "spec.template.spec.containers[0].image: Required value",
        ),
        (
            "deploy",
            deployment(
                json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}),
            ),
            "maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            "deploy",
            deployment(
                json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}}}),
            ),
            "may not be 0 when `maxSurge` is 0",
        ),
        (
            "deploy",
            deployment(json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": "a lot"}}}})),
            "a valid percent string must be",
        ),
        (
            "deploy",
            deployment(
                json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}}),
            ),
            "spec.strategy.rollingUpdate: Forbidden",
        ),
        (
            "deploy",
            deployment(json!({"spec": {"strategy": {"type": "Fast"}}})),
            "spec.strategy.type: Unsupported value: \"Fast\": supported values: \"Recreate\", \"RollingUpdate\"",
        ),
        (
            "deploy",
            deployment(json!({"spec": {"minReadySeconds": 700}})),
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
        ),
        (
            "deploy",
            deployment(
                json!({"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}}),
            ),
            "matchExpressions[0].operator: Unsupported value: \"Near\"",
        ),
    ] {
        let all = problems(word, object);
        assert!(all.iter().any(|p| p.contains(want)), "{want}: {all:#?}");
    }
}

#[test]
fn networks_and_data_are_checked_in_kubernetes_words() {
    let service = |spec: Value| json!({"metadata": meta("web"), "spec": spec});
    let path = |item: Value| json!({"metadata": meta("web"), "spec": {"rules": [{"http": {"paths": [item]}}]}});
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    for (word, object, want) in [
        ("svc", service(json!({})), "spec.ports: Required value"),
        (
            "svc",
            service(json!({"ports": [{"port": 0}]})),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            "svc",
            service(json!({"ports": [{"port": 80}, {"port": 81}]})),
            "spec.ports[0].name: Required value",
        ),
        (
            "svc",
            service(json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]})),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (
            "svc",
            service(json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]})),
            "spec.ports[1]: Duplicate value",
        ),
        (
            "svc",
            service(json!({"type": "Cloud", "ports": [{"port": 80}]})),
            "spec.type: Unsupported value: \"Cloud\"",
        ),
        (
            "svc",
            service(json!({"ports": [{"port": 80, "nodePort": 30080}]})),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            "svc",
            service(json!({"clusterIP": "ten", "ports": [{"port": 80}]})),
            "must be empty, 'None', or a valid IP address",
        ),
        (
            "svc",
            service(json!({"type": "ExternalName"})),
            "spec.externalName: Required value",
        ),
        (
            "ing",
            json!({"metadata": meta("a"), "spec": {}}),
            "either `defaultBackend` or `rules` must be specified",
        ),
        (
            "ing",
            path(json!({"path": "/", "backend": backend})),
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ),
        (
            "ing",
            path(json!({"path": "web", "pathType": "Prefix", "backend": backend})),
            "spec.rules[0].http.paths[0].path: Invalid value: \"web\": must be an absolute path",
        ),
        (
            "ing",
            path(json!({"path": "/a//b", "pathType": "Exact", "backend": backend})),
            "must not contain '//'",
        ),
        (
            "ing",
            path(json!({"path": "/", "pathType": "Near", "backend": backend})),
            "pathType: Unsupported value: \"Near\"",
        ),
        (
            "ing",
            path(json!({"path": "/", "pathType": "Prefix"})),
            "spec.rules[0].http.paths[0].backend: Required value: resource or service backend is required",
        ),
        (
            "ing",
            path(
                json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web"}}}),
            ),
            "backend.service.port: Required value: port name or number is required",
        ),
        (
            "ing",
            json!({"metadata": meta("a"), "spec": {"rules": [{"host": "10.0.0.1"}]}}),
            "must be a DNS name, not an IP address",
        ),
        (
            "cm",
            json!({"metadata": meta("c"), "data": {"a/b": ""}}),
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of",
        ),
        (
            "cm",
            json!({"metadata": meta("c"), "data": {"a": "x".repeat(1 << 20), "b": "y"}}),
            "data: Too long: may not be more than 1048576 bytes",
        ),
        (
            "secret",
            json!({"metadata": meta("c"), "type": "kubernetes.io/tls"}),
            "data[tls.crt]: Required value",
        ),
        (
            "ev",
            json!({"metadata": meta("e"), "involvedObject": {"namespace": "other"}}),
            "does not match event.namespace",
        ),
        (
            "endpointslices",
            json!({"metadata": meta("e"), "endpoints": [{"addresses": []}]}),
            "addressType: Required value",
        ),
        (
            "lease",
            json!({"metadata": meta("e"), "spec": {"leaseDurationSeconds": 0}}),
            "must be greater than or equal to 1",
        ),
    ] {
        let all = problems(word, object);
        assert!(all.iter().any(|p| p.contains(want)), "{want}: {all:#?}");
    }
}

fn refused(word: &str, old: &Value, change: Value) -> Vec<String> {
    let mut new = old.clone();
    crate::patch::merge(&mut new, &change);
    update(kind(word), &new, old)
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

#[test]
fn what_may_not_change_does_not() {
    let mut bound = pod(
        json!({"metadata": {"uid": "1"}, "spec": {"nodeName": "n1", "tolerations": [{"key": "a", "operator": "Exists"}]}}),
    );
    defaults::apply(kind("po"), &mut bound);
    let mut d = deployment(json!({}));
    defaults::apply(kind("deploy"), &mut d);
    let service = json!({"metadata": meta("web"), "spec": {"type": "ClusterIP", "clusterIP": "10.43.0.1", "ports": [{"port": 80}]}});
    let frozen = json!({"metadata": meta("c"), "immutable": true, "data": {"a": "1"}});
    for (word, old, change, want) in [
        (
            "po",
            &bound,
            json!({"spec": {"containers": [{"name": "web", "image": "hello:2"}]}}),
            Some("pod updates may not change fields other than"),
        ),
        (
            "po",
            &bound,
            json!({"spec": {"hostname": "x"}}),
            Some("spec.hostname differs"),
        ),
        (
            "po",
            &bound,
            json!({"spec": {"nodeName": "n2"}}),
            Some("spec.nodeName: Invalid value: \"n2\": field is immutable"),
        ),
        (
            "po",
            &bound,
            json!({"spec": {"containers": []}}),
            Some("pod updates may not add or remove containers"),
        ),
        (
            "po",
            &bound,
            json!({"spec": {"tolerations": [{"key": "b", "operator": "Exists"}]}}),
            Some("existing toleration can not be modified"),
        ),
        (
            "po",
            &bound,
            json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]}}),
            None,
        ),
        (
            "po",
            &bound,
            json!({"spec": {"activeDeadlineSeconds": 5}}),
            None,
        ),
        (
            "po",
            &bound,
            json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}}),
            None,
        ),
        (
            "po",
            &bound,
            json!({"metadata": {"uid": "2"}}),
            Some("metadata.uid: Invalid value: \"2\": field is immutable"),
        ),
        (
            "deploy",
            &d,
            json!({"spec": {"selector": {"matchLabels": {"app": "web", "x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}}),
            Some("spec.selector: Invalid value: "),
        ),
        ("deploy", &d, json!({"spec": {"replicas": 5}}), None),
        (
            "svc",
            &service,
            json!({"spec": {"clusterIP": "10.43.0.2"}}),
            Some("spec.clusterIPs[0]: Invalid value: [\"10.43.0.2\"]: may not change once set"),
        ),
        (
            "svc",
            &service,
            json!({"spec": {"ports": [{"port": 81}]}}),
            None,
        ),
        (
            "cm",
            &frozen,
            json!({"data": {"a": "2"}}),
            Some("data: Forbidden: field is immutable when `immutable` is set"),
        ),
        (
            "cm",
            &frozen,
            json!({"immutable": false}),
            Some("immutable: Forbidden"),
        ),
        (
            "cm",
            &frozen,
            json!({"metadata": {"labels": {"a": "b"}}}),
            None,
        ),
    ] {
        let all = refused(word, old, change);
        match want {
            Some(want) => assert!(all.iter().any(|p| p.contains(want)), "{want}: {all:#?}"),
            None => assert_eq!(all, Vec::<String>::new()),
        }
    }
    let mut image = bound.clone();
    image["spec"]["containers"][0]["image"] = json!("hello:2");
    assert_eq!(update(kind("po"), &image, &bound), []);
}

#[test]
fn fields_of_linux_are_accepted_with_a_warning() {
    let object = deployment(
        json!({"spec": {"template": {"spec": {"hostNetwork": true, "hostPID": false, "securityContext": {"fsGroup": 1, "sysctls": []},
        "containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80, "hostPort": 80}], "securityContext": {"privileged": true, "runAsUser": 0, "capabilities": {"add": ["X"]}}}]}}}}),
    );
    let all = warnings(kind("deploy"), &object);
    let fields: Vec<&str> = all.iter().map(|w| w.split(": ").next().unwrap()).collect();
    let inner = "spec.template.spec";
    let wanted = [
        "hostNetwork",
        "securityContext.fsGroup",
        "containers[0].securityContext.runAsUser",
        "containers[0].securityContext.privileged",
        "containers[0].securityContext.capabilities",
        "containers[0].ports[0].hostPort",
    ];
    assert_eq!(fields, wanted.map(|f| format!("{inner}.{f}")));
    assert_eq!(problems("deploy", object), Vec::<String>::new());
    assert!(
        warnings(kind("po"), &pod(json!({}))).is_empty()
            && warnings(kind("cm"), &json!({})).is_empty()
    );
}
