//! The real kubectl with the printed kubeconfig, word by word as a user types.

use crate::harness::cluster::LONG;
use crate::harness::program::{root, wait_for};
use crate::harness::{Cluster, client};

fn hello() -> std::path::PathBuf {
    root().join("samples/hello")
}

/// kubectl that must succeed.
#[track_caller]
fn k(c: &Cluster, line: &str) -> String {
    let args: Vec<&str> = line.split_whitespace().collect();
    c.kubectl(&args).unwrap().ok()
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for w in words {
        assert!(text.contains(w), "{w:?} is not in:\n{text}");
    }
}

#[test]
fn kubectl_reads_tables_describes_and_explains() {
    if client("kubectl").is_none() {
        return;
    }
    let c = Cluster::up(Some(&hello()));
    has(&k(&c, "version"), &["Server Version: v1.", "coracle"]);
    has(&k(&c, "get nodes"), &["NAME", "STATUS", "Ready"]);
    has(
        &k(&c, "get pods"),
        &[
            "NAME", "READY", "STATUS", "RESTARTS", "AGE", "1/1", "Running",
        ],
    );
    has(&k(&c, "get pods -o wide"), &["IP", "NODE", "10.42."]);
    has(&k(&c, "get deploy"), &["UP-TO-DATE", "AVAILABLE", "2/2"]);
    has(
        &k(&c, "get svc"),
        &["CLUSTER-IP", "10.43.", "kubernetes", "hello"],
    );
    has(&k(&c, "get ing"), &["HOSTS", "hello.localhost"]);
    has(&k(&c, "get rs"), &["DESIRED", "CURRENT", "READY"]);
    has(&k(&c, "get events"), &["REASON", "MESSAGE"]);
    has(
        &k(&c, "get all"),
        &[
            "pod/hello-",
            "service/hello",
            "deployment.apps/hello",
            "replicaset.apps/hello-",
        ],
    );
    has(
        &k(&c, "get namespaces"),
        &[
            "default",
            "kube-system",
            "kube-public",
            "kube-node-lease",
            "Active",
        ],
    );
    has(&k(&c, "get sa default"), &["default"]);
    has(&k(&c, "get cm kube-root-ca.crt"), &["kube-root-ca.crt"]);
    k(&c, "get rc");
    has(&k(&c, "get pods -A"), &["NAMESPACE", "default"]);
    has(
        &k(&c, "get pods -o json"),
        &["\"kind\": \"List\"", "\"resourceVersion\""],
    );
    has(&k(&c, "get pods -l app=hello -o name"), &["pod/hello-"]);
    has(
        &k(&c, "get pods --field-selector status.phase=Running -o name"),
        &["pod/hello-"],
    );
    has(
        &k(&c, "describe deploy hello"),
        &["RollingUpdate", "NewReplicaSet", "Available"],
    );
    let pod = k(&c, "get pods -l app=hello -o name");
    let pod = pod.lines().next().unwrap_or_default();
    has(
        &k(&c, &format!("describe {pod}")),
        &["Containers:", "Image ID:", "sha256:", "Ready", "Events"],
    );
    has(
        &k(&c, "describe nodes"),
        &["Capacity", "Allocatable", "cpu"],
    );
    has(&k(&c, "describe svc hello"), &["Endpoints:", "10.42."]);
    has(
        &k(&c, "describe ing hello"),
        &["hello.localhost", "hello:80"],
    );
    has(
        &k(&c, "explain deployment.spec.replicas"),
        &["replicas", "integer"],
    );
    has(&k(&c, "explain pods"), &["KIND:", "Pod"]);
    has(
        &k(&c, "api-resources"),
        &["deployments", "apps/v1", "po", "ingresses"],
    );
    has(&k(&c, "auth can-i create pods"), &["yes"]);
    has(&k(&c, "auth whoami"), &["coracle-admin"]);
    has(&k(&c, "cluster-info"), &["running at"]);
}

#[test]
fn kubectl_writes_what_users_write() {
    if client("kubectl").is_none() {
        return;
    }
    let c = Cluster::up(Some(&hello()));
    has(
        &k(&c, "create configmap settings --from-literal=color=blue"),
        &["created"],
    );
    has(
        &k(&c, "get cm settings -o jsonpath={.data.color}"),
        &["blue"],
    );
    has(&k(&c, "create namespace team"), &["created"]);
    wait_for("the namespace's service account", LONG, || {
        let o = c.kubectl(&["get", "sa", "default", "-n", "team"]).unwrap();
        if o.code == 0 { Ok(()) } else { Err(o.err) }
    });
    let image = k(
        &c,
        "get deploy hello -o jsonpath={.spec.template.spec.containers[0].image}",
    );
    has(
        &k(
            &c,
            &format!("create deployment web --image={image} --replicas=2 -n team"),
        ),
        &["created"],
    );
    has(
        &k(&c, "rollout status deployment/web -n team --timeout=60s"),
        &["successfully rolled out"],
    );
    has(
        &k(&c, "scale deployment/web --replicas=3 -n team"),
        &["scaled"],
    );
    has(
        &k(
            &c,
            "wait --for=condition=Available deployment/web -n team --timeout=60s",
        ),
        &["condition met"],
    );
    has(
        &k(&c, "rollout status deployment/web -n team --timeout=60s"),
        &["successfully rolled out"],
    );
    has(
        &k(&c, "rollout restart deployment/web -n team"),
        &["restarted"],
    );
    has(
        &k(&c, "rollout status deployment/web -n team --timeout=60s"),
        &["successfully rolled out"],
    );
    has(
        &k(&c, "rollout history deployment/web -n team"),
        &["REVISION", "2"],
    );
    has(
        &k(&c, "rollout undo deployment/web -n team"),
        &["rolled back"],
    );
    has(
        &k(&c, "rollout status deployment/web -n team --timeout=60s"),
        &["successfully rolled out"],
    );
    has(
        &k(&c, "label deployment/web tier=front -n team"),
        &["labeled"],
    );
    has(
        &k(&c, "annotate deployment/web note=hi -n team"),
        &["annotated"],
    );
    has(
        &k(&c, "get deploy -l tier=front -n team -o name"),
        &["deployment.apps/web"],
    );
    let patch = c
        .kubectl(&[
            "patch",
            "deployment",
            "web",
            "-n",
            "team",
            "-p",
            r#"{"spec":{"replicas":1}}"#,
        ])
        .unwrap()
        .ok();
    has(&patch, &["patched"]);
    let patch = c
        .kubectl(&[
            "patch",
            "deployment",
            "web",
            "-n",
            "team",
            "--type=json",
            "-p",
            r#"[{"op":"replace","path":"/spec/replicas","value":2}]"#,
        ])
        .unwrap();
    has(&patch.ok(), &["patched"]);
    let patch = c
        .kubectl(&[
            "patch",
            "deployment",
            "web",
            "-n",
            "team",
            "--type=merge",
            "-p",
            r#"{"metadata":{"labels":{"x":"y"}}}"#,
        ])
        .unwrap();
    has(&patch.ok(), &["patched"]);
    has(
        &k(&c, "set env deployment/web COLOR=red -n team"),
        &["env updated"],
    );
    has(
        &k(
            &c,
            &format!("set image deployment/web hello={image} -n team")
                .replace("hello=", &format!("{}=", container(&c))),
        ),
        &[],
    );
    has(
        &k(&c, "rollout status deployment/web -n team --timeout=60s"),
        &["successfully rolled out"],
    );
    has(&k(&c, "delete namespace team --timeout=60s"), &["deleted"]);
    assert_ne!(c.kubectl(&["get", "namespace", "team"]).unwrap().code, 0);
}

/// The container's name that `kubectl create deployment` chose.
fn container(c: &Cluster) -> String {
    k(
        c,
        "get deploy web -n team -o jsonpath={.spec.template.spec.containers[0].name}",
    )
}

#[test]
fn kubectl_apply_logs_watch_and_node_work() {
    if client("kubectl").is_none() {
        return;
    }
    let c = Cluster::up(Some(&hello()));
    let image = k(
        &c,
        "get deploy hello -o jsonpath={.spec.template.spec.containers[0].image}",
    );
    let rc = format!(
        "apiVersion: v1\nkind: ReplicationController\nmetadata:\n  name: old\nspec:\n  replicas: 2\n  selector: {{app: old}}\n  template:\n    metadata: {{labels: {{app: old}}}}\n    spec:\n      containers:\n      - name: c\n        image: {image}\n        ports: [{{containerPort: 80}}]\n"
    );
    c.write("rc.yaml", &rc);
    has(&k(&c, "apply -f rc.yaml"), &["created"]);
    has(&k(&c, "apply -f rc.yaml"), &["unchanged"]);
    c.write("rc.yaml", rc.replace("replicas: 2", "replicas: 1"));
    // diff answers 1 when there is a difference.
    let diff = c.kubectl(&["diff", "-f", "rc.yaml"]).unwrap();
    assert!(
        diff.code == 1 && diff.out.contains("replicas: 1"),
        "{diff:?}"
    );
    has(&k(&c, "apply -f rc.yaml"), &["configured"]);
    wait_for("one pod of the controller", LONG, || {
        let text = k(&c, "get pods -l app=old -o name");
        if text.lines().count() == 1 {
            Ok(())
        } else {
            Err(text)
        }
    });
    has(&k(&c, "get rc"), &["old", "DESIRED"]);
    has(
        &k(&c, "apply --server-side -f rc.yaml --force-conflicts"),
        &["serverside-applied"],
    );
    let job = c
        .coracle(&[
            "push",
            root().join("samples/job/prebuilt.wasm").to_str().unwrap(),
            "job:v1",
        ])
        .ok();
    has(&job, &["job:v1@sha256:"]);
    let manifest = root().join("samples/job/manifest.yaml");
    has(
        &k(&c, &format!("create -f {}", manifest.display())),
        &["pod/job created"],
    );
    has(
        &k(
            &c,
            "wait --for=jsonpath={.status.phase}=Succeeded pod/job --timeout=60s",
        ),
        &["condition met"],
    );
    has(&k(&c, "logs job"), &["669 primes below 5000"]);
    has(&k(&c, "logs -f job"), &["669 primes below 5000"]);
    has(&k(&c, "get pod job"), &["Completed", "0/1"]);
    has(&k(&c, "delete pod job"), &["deleted"]);
    let watched = c
        .kubectl(&[
            "get",
            "cm",
            "-w",
            "--output-watch-events",
            "--request-timeout=2s",
        ])
        .unwrap();
    has(&watched.out, &["ADDED", "kube-root-ca.crt"]);
}

#[test]
fn kubectl_cordon_drain_and_delete_work() {
    if client("kubectl").is_none() {
        return;
    }
    let c = Cluster::up(Some(&hello()));
    let node = k(&c, "get nodes -o jsonpath={.items[0].metadata.name}");
    has(&k(&c, &format!("cordon {node}")), &["cordoned"]);
    has(&k(&c, "get nodes"), &["SchedulingDisabled"]);
    has(
        &k(
            &c,
            &format!("drain {node} --ignore-daemonsets --timeout=60s"),
        ),
        &["drained"],
    );
    // Nothing fits now, and it says so.
    wait_for("an event that says why", LONG, || {
        let text = k(&c, "get events");
        if text.contains("FailedScheduling") {
            Ok(())
        } else {
            Err(text)
        }
    });
    has(&k(&c, &format!("uncordon {node}")), &["uncordoned"]);
    has(
        &k(&c, "rollout status deployment/hello --timeout=60s"),
        &["successfully rolled out"],
    );
    has(
        &k(&c, "delete deployment hello --timeout=60s"),
        &["deleted"],
    );
    wait_for("its pods to go", LONG, || {
        let text = k(&c, "get pods -o name");
        if text.trim().is_empty() {
            Ok(())
        } else {
            Err(text)
        }
    });
}
