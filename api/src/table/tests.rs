//! Rows as users of kubectl know them.

use super::*;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn row(word: &str, object: Value) -> Vec<String> {
    let kind = crate::kinds::by_word(word).unwrap();
    let cells = cells(kind, &object, now());
    assert_eq!(cells.len(), columns(kind).len(), "{word}");
    for (cell, column) in cells.iter().zip(columns(kind)) {
        assert_eq!(
            cell.is_number(),
            column.kind == "integer",
            "{word} {}",
            column.name
        );
    }
    cells
        .iter()
        .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_string))
        .collect()
}

#[test]
fn every_kind_has_a_row_for_its_columns() {
    for kind in crate::kinds::KINDS.iter().filter(|k| k.stored) {
        assert_eq!(
            columns(kind).len(),
            cells(kind, &json!({"metadata": {"name": "x"}}), now()).len(),
            "{}",
            kind.kind
        );
        assert!(
            columns(kind).iter().any(|c| c.format == "name"),
            "{}",
            kind.kind
        );
    }
}

#[test]
fn ages_are_short() {
    for (seconds, want) in [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (312, "5m12s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (12_000, "3h20m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (86_400 * 8, "8d"),
        (86_400 * 700, "700d"),
        (86_400 * 750, "2y20d"),
        (86_400 * 365 * 9, "9y"),
    ] {
        let then = Timestamp::from_second(now().as_second() - seconds).unwrap();
        assert_eq!(age(now(), then), want, "{seconds}");
    }
}

#[test]
fn a_pods_state_is_one_word() {
    let container = |state: Value, ready: bool| json!({"name": "a", "ready": ready, "restartCount": 0, "state": state});
    let pod = |phase: &str, node: &str, containers: Value| json!({"metadata": {"name": "a"}, "spec": {"nodeName": node, "containers": [{"name": "a"}]}, "status": {"phase": phase, "containerStatuses": containers}});
    let deleting = |mut p: Value| {
        p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        p
    };
    for (object, want) in [
        (pod("Pending", "", json!([])), "Pending"),
        (pod("Pending", "n1", json!([])), "ContainerCreating"),
        (
            pod(
                "Pending",
                "n1",
                json!([container(
                    json!({"waiting": {"reason": "ContainerCreating"}}),
                    false
                )]),
            ),
            "ContainerCreating",
        ),
        (
            pod(
                "Pending",
                "n1",
                json!([container(
                    json!({"waiting": {"reason": "ErrImagePull"}}),
                    false
                )]),
            ),
            "ErrImagePull",
        ),
        (
            pod(
                "Running",
                "n1",
                json!([container(json!({"running": {}}), true)]),
            ),
            "Running",
        ),
        (
            pod(
                "Running",
                "n1",
                json!([container(
                    json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                    false
                )]),
            ),
            "CrashLoopBackOff",
        ),
        (
            pod(
                "Running",
                "n1",
                json!([
                    container(
                        json!({"terminated": {"reason": "Completed", "exitCode": 0}}),
                        false
                    ),
                    container(json!({"running": {}}), true)
                ]),
            ),
            "NotReady",
        ),
        (
            pod(
                "Succeeded",
                "n1",
                json!([container(
                    json!({"terminated": {"reason": "Completed", "exitCode": 0}}),
                    false
                )]),
            ),
            "Completed",
        ),
        (
            pod(
                "Failed",
                "n1",
                json!([container(
                    json!({"terminated": {"reason": "Error", "exitCode": 1}}),
                    false
                )]),
            ),
            "Error",
        ),
        (
            pod(
                "Failed",
                "n1",
                json!([container(json!({"terminated": {"exitCode": 3}}), false)]),
            ),
            "ExitCode:3",
        ),
        (
            deleting(pod(
                "Running",
                "n1",
                json!([container(json!({"running": {}}), true)]),
            )),
            "Terminating",
        ),
        (
            deleting(pod(
                "Succeeded",
                "n1",
                json!([container(
                    json!({"terminated": {"reason": "Completed"}}),
                    false
                )]),
            )),
            "Completed",
        ),
        (
            json!({"spec": {"nodeName": "n", "initContainers": [{"name": "i"}]}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}}),
            "Init:0/1",
        ),
        (
            json!({"spec": {"nodeName": "n", "initContainers": [{"name": "i"}]}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}}),
            "Init:Error",
        ),
        (
            json!({"status": {"phase": "Failed", "reason": "Evicted"}}),
            "Evicted",
        ),
    ] {
        assert_eq!(pod_status(&object), want, "{object}");
    }
}

#[test]
fn rows_read_as_kubectl_prints_them() {
    let made = "2026-01-01T11:55:00Z";
    let template = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}]}});
    for (word, object, want) in [
        (
            "po",
            json!({"metadata": {"name": "web-1", "creationTimestamp": made}, "spec": {"nodeName": "n1", "containers": [{"name": "a"}]},
            "status": {"phase": "Running", "podIP": "10.42.0.7", "containerStatuses": [{"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T11:59:00Z"}}}]}}),
            vec![
                "web-1",
                "1/1",
                "Running",
                "2 (60s ago)",
                "5m",
                "10.42.0.7",
                "n1",
                "<none>",
                "<none>",
            ],
        ),
        (
            "deploy",
            json!({"metadata": {"name": "web", "creationTimestamp": made}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}}),
            vec!["web", "2/3", "3", "1", "5m", "a,b", "x:1,y:2", "app=web"],
        ),
        (
            "rs",
            json!({"metadata": {"name": "web-5", "creationTimestamp": made}, "spec": {"replicas": 3, "template": template}, "status": {"replicas": 2}}),
            vec!["web-5", "3", "2", "0", "5m", "a,b", "x:1,y:2", "<none>"],
        ),
        (
            "rc",
            json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"a": "b"}}}),
            vec!["web", "1", "0", "0", "<unknown>", "", "", "a=b"],
        ),
        (
            "svc",
            json!({"metadata": {"name": "web", "creationTimestamp": made}, "spec": {"type": "NodePort", "clusterIP": "10.43.0.1", "selector": {"app": "web"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            vec![
                "web",
                "NodePort",
                "10.43.0.1",
                "<none>",
                "80:30080/TCP,53/UDP",
                "5m",
                "app=web",
            ],
        ),
        (
            "ing",
            json!({"metadata": {"name": "web", "creationTimestamp": made}, "spec": {"rules": [{"host": "a.localhost"}, {"host": "b.localhost"}], "tls": [{}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}}),
            vec![
                "web",
                "<none>",
                "a.localhost,b.localhost",
                "127.0.0.1",
                "80, 443",
                "5m",
            ],
        ),
        (
            "no",
            json!({"metadata": {"name": "n1", "creationTimestamp": made, "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1", "osImage": "Linux", "kernelVersion": "6", "containerRuntimeVersion": "wasmtime://48"},
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}}),
            vec![
                "n1",
                "Ready,SchedulingDisabled",
                "control-plane",
                "5m",
                "v1",
                "127.0.0.1",
                "<none>",
                "Linux",
                "6",
                "wasmtime://48",
            ],
        ),
        (
            "ns",
            json!({"metadata": {"name": "default", "creationTimestamp": made}, "status": {"phase": "Terminating"}}),
            vec!["default", "Terminating", "5m"],
        ),
        (
            "ev",
            json!({"metadata": {"name": "e"}, "type": "Warning", "reason": "Failed", "message": "no\n", "count": 3, "firstTimestamp": made, "lastTimestamp": "2026-01-01T11:59:30Z",
            "involvedObject": {"kind": "Pod", "name": "web"}, "source": {"component": "runner"}}),
            vec![
                "30s (x3 over 5m)",
                "Warning",
                "Failed",
                "pod/web",
                "",
                "runner",
                "no",
                "5m",
                "3",
                "e",
            ],
        ),
        (
            "cm",
            json!({"metadata": {"name": "c", "creationTimestamp": made}, "data": {"a": "", "b": ""}, "binaryData": {"c": ""}}),
            vec!["c", "3", "5m"],
        ),
        (
            "secret",
            json!({"metadata": {"name": "s", "creationTimestamp": made}, "type": "Opaque"}),
            vec!["s", "Opaque", "0", "5m"],
        ),
        (
            "ep",
            json!({"metadata": {"name": "e", "creationTimestamp": made}, "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}], "ports": [{"port": 1}, {"port": 2}]}]}),
            vec!["e", "1.1.1.1:1,1.1.1.1:2,1.1.1.2:1 + 1 more...", "5m"],
        ),
        (
            "endpointslices",
            json!({"metadata": {"name": "e", "creationTimestamp": made}, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["1.1.1.1"]}]}),
            vec!["e", "IPv4", "80", "1.1.1.1", "5m"],
        ),
        (
            "lease",
            json!({"metadata": {"name": "l", "creationTimestamp": made}, "spec": {"holderIdentity": "n1"}}),
            vec!["l", "n1", "5m"],
        ),
    ] {
        assert_eq!(row(word, object), want, "{word}");
    }
}
