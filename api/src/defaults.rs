//! What Kubernetes fills in where the user was silent, kind by kind. Applying defaults twice changes nothing more, so
//! they are applied on every write.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::{Kind, meta};

/// Fills in the defaults of a stored kind. Call it on an object that has passed [`crate::schema::check`]; fields of a
/// wrong type are left as they are.
pub fn apply(kind: &Kind, object: &mut Value) {
    if !object.is_object() {
        return;
    }
    match kind.table {
        "namespaces" => namespace(object),
        "pods" => pod(object),
        "services" => service(object),
        "secrets" => secret(object),
        "replicationcontrollers" => replication_controller(object),
        "replicasets.apps" => workload(object),
        "deployments.apps" => deployment(object),
        "nodes" => node(object),
        "endpoints" => endpoints(object),
        "endpointslices.discovery.k8s.io" => endpoint_slice(object),
        "events" => event(object),
        _ => {}
    }
}

/// Sets a field that is absent, null or "" (Kubernetes reads an empty string as unset).
fn set(map: &mut Map<String, Value>, field: &str, value: Value) {
    if map
        .get(field)
        .is_none_or(|v| v.is_null() || (*v == "" && value != ""))
    {
        map.insert(field.into(), value);
    }
}

/// A field as a map, made if it is absent; `None` if something else is there.
fn part<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    set(map, field, json!({}));
    map.get_mut(field)?.as_object_mut()
}

/// A field as a map if it is there.
fn existing<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field)?.as_object_mut()
}

fn each<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
    map.get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn top(object: &mut Value) -> &mut Map<String, Value> {
    object
        .as_object_mut()
        .expect("apply() looked: it is an object")
}

fn namespace(object: &mut Value) {
    let name = meta::name(object).to_string();
    if !name.is_empty()
        && let Some(labels) = part(meta::metadata(object), "labels")
    {
        labels.insert("kubernetes.io/metadata.name".into(), json!(name));
    }
    let deleting = !meta::text(object, "deletionTimestamp").is_empty();
    if let Some(spec) = part(top(object), "spec")
        && !deleting
    {
        set(spec, "finalizers", json!(["kubernetes"]));
    }
    if let Some(status) = part(top(object), "status") {
        set(status, "phase", json!("Active"));
    }
}

fn node(object: &mut Value) {
    let name = meta::name(object).to_string();
    part(top(object), "spec");
    if let Some(labels) = part(meta::metadata(object), "labels") {
        set(labels, "kubernetes.io/hostname", json!(name));
    }
}

fn pod(object: &mut Value) {
    if let Some(spec) = part(top(object), "spec") {
        pod_spec(spec);
        pod_only(spec);
        // A request is what a limit is where only the limit is given; in templates this is left to the pods made of them.
        for field in ["initContainers", "containers"] {
            each(spec, field).for_each(limits_as_requests);
        }
    }
    if let Some(status) = part(top(object), "status") {
        set(status, "phase", json!("Pending"));
    }
}

fn limits_as_requests(container: &mut Map<String, Value>) {
    let Some(resources) = existing(container, "resources") else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if let Some(requests) = part(resources, "requests") {
        for (name, limit) in limits {
            set(requests, &name, limit);
        }
    }
}

/// Defaults of a pod spec, in pods and in templates.
fn pod_spec(spec: &mut Map<String, Value>) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "schedulerName", json!("default-scheduler"));
    set(spec, "securityContext", json!({}));
    for field in ["initContainers", "containers"] {
        each(spec, field).for_each(container);
    }
    each(spec, "volumes").for_each(volume);
}

/// Defaults of pods that templates leave open.
fn pod_only(spec: &mut Map<String, Value>) {
    set(spec, "serviceAccountName", json!("default"));
    let account = spec["serviceAccountName"].clone();
    set(spec, "serviceAccount", account);
    set(spec, "enableServiceLinks", json!(true));
}

/// `Always` for `:latest` and for no tag without a digest, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    // A colon before the last slash belongs to the registry's port.
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn container(c: &mut Map<String, Value>) {
    if let Some(image) = c.get("image").and_then(Value::as_str) {
        let policy = pull_policy(image);
        set(c, "imagePullPolicy", json!(policy));
    }
    set(c, "terminationMessagePath", json!("/dev/termination-log"));
    set(c, "terminationMessagePolicy", json!("File"));
    set(c, "resources", json!({}));
    for port in each(c, "ports") {
        set(port, "protocol", json!("TCP"));
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(c, field) {
            set(probe, "timeoutSeconds", json!(1));
            set(probe, "periodSeconds", json!(10));
            set(probe, "successThreshold", json!(1));
            set(probe, "failureThreshold", json!(3));
            http_get(probe);
            if let Some(grpc) = existing(probe, "grpc") {
                set(grpc, "service", json!(""));
            }
        }
    }
    if let Some(lifecycle) = existing(c, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = existing(lifecycle, hook) {
                http_get(hook);
            }
        }
    }
    for env in each(c, "env") {
        if let Some(field) = existing(env, "valueFrom").and_then(|from| existing(from, "fieldRef"))
        {
            set(field, "apiVersion", json!("v1"));
        }
    }
}

fn http_get(action: &mut Map<String, Value>) {
    if let Some(get) = existing(action, "httpGet") {
        set(get, "path", json!("/"));
        set(get, "scheme", json!("HTTP"));
    }
}

/// 0644, the mode of files in volumes made from objects.
const DEFAULT_MODE: u32 = 0o644;

fn volume(v: &mut Map<String, Value>) {
    // A volume without a source is an empty directory.
    if v.len() == 1 && v.contains_key("name") {
        v.insert("emptyDir".into(), json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = existing(v, source) {
            set(source, "defaultMode", json!(DEFAULT_MODE));
            api_version_of_items(source);
            for inner in each(source, "sources") {
                if let Some(token) = existing(inner, "serviceAccountToken") {
                    set(token, "expirationSeconds", json!(3600));
                }
                if let Some(downward) = existing(inner, "downwardAPI") {
                    api_version_of_items(downward);
                }
            }
        }
    }
    if let Some(host) = existing(v, "hostPath") {
        set(host, "type", json!(""));
    }
}

fn api_version_of_items(source: &mut Map<String, Value>) {
    for item in each(source, "items") {
        if let Some(field) = existing(item, "fieldRef") {
            set(field, "apiVersion", json!("v1"));
        }
    }
}

fn template(spec: &mut Map<String, Value>) {
    if let Some(inner) = existing(spec, "template").and_then(|t| part(t, "spec")) {
        pod_spec(inner);
    }
}

fn workload(object: &mut Value) {
    if let Some(spec) = part(top(object), "spec") {
        set(spec, "replicas", json!(1));
        template(spec);
    }
}

fn replication_controller(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"]
        .as_object()
        .filter(|l| !l.is_empty())
        .cloned();
    if let (Some(labels), Some(spec)) = (labels, part(top(object), "spec")) {
        if spec
            .get("selector")
            .and_then(Value::as_object)
            .is_none_or(Map::is_empty)
        {
            spec.insert("selector".into(), Value::Object(labels.clone()));
        }
        if object["metadata"]["labels"]
            .as_object()
            .is_none_or(Map::is_empty)
        {
            meta::metadata(object).insert("labels".into(), Value::Object(labels));
        }
    }
    workload(object);
}

fn deployment(object: &mut Value) {
    workload(object);
    let Some(spec) = part(top(object), "spec") else {
        return;
    };
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "progressDeadlineSeconds", json!(600));
    if let Some(strategy) = part(spec, "strategy") {
        set(strategy, "type", json!("RollingUpdate"));
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = part(strategy, "rollingUpdate")
        {
            set(rolling, "maxSurge", json!("25%"));
            set(rolling, "maxUnavailable", json!("25%"));
        }
    }
}

fn service(object: &mut Value) {
    let Some(spec) = part(top(object), "spec") else {
        return;
    };
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP"
        && let Some(client) = part(spec, "sessionAffinityConfig").and_then(|c| part(c, "clientIP"))
    {
        set(client, "timeoutSeconds", json!(10_800));
    }
    let external_name = spec["type"] == "ExternalName";
    if !external_name {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
        set(spec, "ipFamilies", json!(["IPv4"]));
        set(spec, "ipFamilyPolicy", json!("SingleStack"));
        if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
            set(spec, "externalTrafficPolicy", json!("Cluster"));
        }
        if spec["type"] == "LoadBalancer" {
            set(spec, "allocateLoadBalancerNodePorts", json!(true));
        }
    }
    let headless = spec.get("clusterIP").is_some_and(|ip| ip == "None");
    for port in each(spec, "ports") {
        set(port, "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or_default();
        let unset = port
            .get("targetPort")
            .is_none_or(|t| t.is_null() || *t == 0 || *t == "");
        if unset && number.is_number() {
            port.insert("targetPort".into(), number);
        }
    }
    if let Some(ip) = spec
        .get("clusterIP")
        .and_then(Value::as_str)
        .filter(|ip| !ip.is_empty())
        .map(str::to_string)
    {
        let list = json!([if headless { "None" } else { ip.as_str() }]);
        set(spec, "clusterIPs", list);
    }
    if let Some(status) = part(top(object), "status") {
        set(status, "loadBalancer", json!({}));
    }
}

fn secret(object: &mut Value) {
    let map = top(object);
    set(map, "type", json!("Opaque"));
    if let Some(Value::Object(plain)) = map.remove("stringData")
        && let Some(data) = part(map, "data")
    {
        for (key, text) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
            data.insert(key, json!(encoded));
        }
    }
}

fn endpoints(object: &mut Value) {
    for subset in each(top(object), "subsets") {
        for port in each(subset, "ports") {
            set(port, "protocol", json!("TCP"));
        }
    }
}

fn endpoint_slice(object: &mut Value) {
    for port in each(top(object), "ports") {
        set(port, "name", json!(""));
        set(port, "protocol", json!("TCP"));
    }
}

fn event(object: &mut Value) {
    let map = top(object);
    set(map, "type", json!("Normal"));
    set(map, "source", json!({}));
    let namespace = map
        .get("metadata")
        .map(|m| m["namespace"].clone())
        .unwrap_or_default();
    if namespace.is_string()
        && let Some(involved) = part(map, "involvedObject")
        && involved
            .get("kind")
            .is_some_and(|k| k != "Node" && k != "Namespace")
    {
        set(involved, "namespace", namespace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_defaults(word: &str, mut object: Value) -> Value {
        let kind = crate::kinds::by_word(word).unwrap();
        apply(kind, &mut object);
        let once = object.clone();
        apply(kind, &mut object);
        assert_eq!(object, once, "defaults twice are defaults once");
        assert_eq!(
            crate::schema::check(kind, &object),
            crate::schema::Problems::default()
        );
        object
    }

    #[test]
    fn a_pod_gets_what_kubernetes_gives_it() {
        let pod = with_defaults(
            "po",
            json!({"metadata": {"name": "a"}, "spec": {"volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
            "containers": [{"name": "a", "image": "hello", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "250m"}},
            "readinessProbe": {"httpGet": {"port": 80}}}]}}),
        );
        assert_eq!(pod["status"]["phase"], "Pending");
        let spec = &pod["spec"];
        for (field, want) in [
            ("restartPolicy", json!("Always")),
            ("terminationGracePeriodSeconds", json!(30)),
            ("dnsPolicy", json!("ClusterFirst")),
            ("schedulerName", json!("default-scheduler")),
            ("serviceAccountName", json!("default")),
            ("enableServiceLinks", json!(true)),
            ("securityContext", json!({})),
        ] {
            assert_eq!(spec[field], want, "{field}");
        }
        let c = &spec["containers"][0];
        assert_eq!(c["imagePullPolicy"], "Always");
        assert_eq!(c["ports"][0]["protocol"], "TCP");
        assert_eq!(
            c["resources"]["requests"],
            json!({"cpu": "250m", "memory": "1Gi"})
        );
        assert_eq!(
            c["readinessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(
            spec["volumes"],
            json!([{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "defaultMode": 420}}])
        );
    }

    #[test]
    fn images_say_when_to_pull() {
        for (image, want) in [
            ("hello", "Always"),
            ("hello:latest", "Always"),
            ("hello:v1", "IfNotPresent"),
            ("localhost:5000/hello", "Always"),
            ("localhost:5000/hello:v1", "IfNotPresent"),
            ("hello@sha256:00", "IfNotPresent"),
            ("hello:latest@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn workloads_get_replicas_strategy_and_selector() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}});
        let d = with_defaults("deploy", json!({"spec": {"template": template}}));
        assert_eq!(d["spec"]["replicas"], 1);
        assert_eq!(
            d["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(
            (
                &d["spec"]["revisionHistoryLimit"],
                &d["spec"]["progressDeadlineSeconds"]
            ),
            (&json!(10), &json!(600))
        );
        assert_eq!(d["spec"]["template"]["spec"]["restartPolicy"], "Always");
        let d = with_defaults(
            "deploy",
            json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
        );
        assert_eq!(
            (&d["spec"]["replicas"], &d["spec"]["strategy"]),
            (&json!(0), &json!({"type": "Recreate"}))
        );
        let rc = with_defaults("rc", json!({"spec": {"template": template}}));
        assert_eq!(
            (&rc["spec"]["selector"], &rc["metadata"]["labels"]),
            (&json!({"a": "b"}), &json!({"a": "b"}))
        );
    }

    #[test]
    fn services_secrets_and_namespaces() {
        let s = with_defaults(
            "svc",
            json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "http", "protocol": "UDP"}]}}),
        );
        assert_eq!(
            s["spec"]["ports"],
            json!([{"port": 80, "targetPort": 80, "protocol": "TCP"}, {"port": 81, "targetPort": "http", "protocol": "UDP"}])
        );
        assert_eq!(
            (
                &s["spec"]["type"],
                &s["spec"]["sessionAffinity"],
                &s["spec"]["internalTrafficPolicy"]
            ),
            (&json!("ClusterIP"), &json!("None"), &json!("Cluster"))
        );
        let s = with_defaults(
            "secret",
            json!({"data": {"a": "eA=="}, "stringData": {"b": "hello"}}),
        );
        assert_eq!(
            s,
            json!({"type": "Opaque", "data": {"a": "eA==", "b": "aGVsbG8="}})
        );
        let n = with_defaults("ns", json!({"metadata": {"name": "team"}}));
        assert_eq!(
            n,
            json!({"metadata": {"name": "team", "labels": {"kubernetes.io/metadata.name": "team"}}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
    }
}
