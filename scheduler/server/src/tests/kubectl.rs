//! The real kubectl against the real listener. The commands a controller would have to answer are tested end to end
//! elsewhere; here it is the wire.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pem::Pem;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command as Process;

use super::tls::{Listener, listen};
use super::*;

struct Kubectl {
    home: TempDir,
    listener: Listener,
}

impl Kubectl {
    /// `None` if there is no kubectl; a run that requires it fails then.
    async fn new(server: &Server) -> Option<Self> {
        if Process::new("kubectl")
            .args(["version", "--client"])
            .output()
            .await
            .is_err()
        {
            let required = std::env::var("CORACLE_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|r| r == "kubectl"),
                "kubectl is required and absent"
            );
            println!("SKIPPED: kubectl is not installed");
            return None;
        }
        let listener = listen(server).await;
        let (chain, key) = listener
            .authority
            .issue("coracle-admin", "system:masters", &[]);
        let text =
            |tag: &str, der: &[u8]| STANDARD.encode(pem::encode(&Pem::new(tag, der.to_vec())));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", listener.address.port()),
                "certificate-authority-data": text("CERTIFICATE", &listener.authority.der),
            }}],
            "users": [{"name": "u", "user": {
                "client-certificate-data": text("CERTIFICATE", &chain[0]),
                "client-key-data": text("PRIVATE KEY", key.secret_der()),
            }}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config"), config.to_string()).unwrap();
        Some(Self { home, listener })
    }

    async fn raw(&self, line: &str) -> (bool, String) {
        let mut process = Process::new("kubectl");
        process
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .current_dir(self.home.path());
        let run = process.args(line.split(' ')).kill_on_drop(true).output();
        let out = tokio::time::timeout(Duration::from_secs(60), run)
            .await
            .unwrap_or_else(|_| panic!("kubectl {line} hangs"))
            .unwrap();
        (
            out.status.success(),
            format!(
                "{}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            ),
        )
    }

    #[track_caller]
    fn check(line: &str, (ok, text): (bool, String), want: &str) {
        assert!(
            ok && text.contains(want),
            "kubectl {line}: want {want:?}, got {text}"
        );
    }

    fn file(&self, name: &str, object: &Value) {
        std::fs::write(self.home.path().join(name), object.to_string()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_drives_it() {
    let s = Server::new().await;
    s.post("/api/v1/nodes")
        .body(&node("n1"))
        .send()
        .await
        .expect(201);
    let Some(k) = Kubectl::new(&s).await else {
        return;
    };
    k.file("web.yaml", &deployment("web"));
    let mut typo = deployment("typo");
    typo["spec"]["replica"] = json!(1);
    k.file("typo.yaml", &typo);
    for (line, want) in [
        ("version", "Server Version: v1.34.0+coracle"),
        ("get namespaces", "default"),
        ("create namespace team", "namespace/team created"),
        (
            "create configmap settings --from-literal=a=b",
            "configmap/settings created",
        ),
        ("get configmap settings -o jsonpath={.data.a}", "b"),
        (
            "create deployment made --image=hello:1 --replicas=2",
            "deployment.apps/made created",
        ),
        (
            "create secret generic pass --from-literal=k=v",
            "secret/pass created",
        ),
        (
            "create serviceaccount robot",
            "serviceaccount/robot created",
        ),
        (
            "create service clusterip back --tcp=80:8080",
            "service/back created",
        ),
        (
            "create ingress in --rule=a.localhost/*=back:80",
            "ingress.networking.k8s.io/in created",
        ),
        ("apply -f web.yaml", "deployment.apps/web created"),
        ("apply -f web.yaml", "deployment.apps/web unchanged"),
        (
            "apply --server-side --force-conflicts -f web.yaml",
            "deployment.apps/web serverside-applied",
        ),
        ("diff -f web.yaml", ""),
        ("get deploy web", "READY"),
        ("get all", "deployment.apps/web"),
        ("get deploy,svc,ing,cm -A -o wide", "NAMESPACE"),
        ("get deploy web -o yaml", "kind: Deployment"),
        ("describe deploy web", "Replicas:"),
        (
            "scale deploy web --replicas=4",
            "deployment.apps/web scaled",
        ),
        (
            "scale deploy web --current-replicas=4 --replicas=3",
            "deployment.apps/web scaled",
        ),
        (
            "set image deploy/web main=hello:2",
            "deployment.apps/web image updated",
        ),
        (
            "rollout restart deploy/web",
            "deployment.apps/web restarted",
        ),
        ("label deploy web tier=front", "deployment.apps/web labeled"),
        (
            "annotate deploy web note=x",
            "deployment.apps/web annotated",
        ),
        (
            "patch deploy web -p {\"spec\":{\"replicas\":1}}",
            "deployment.apps/web patched",
        ),
        (
            "patch deploy web --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":2}]",
            "deployment.apps/web patched",
        ),
        ("expose deploy web --port=80", "service/web exposed"),
        ("run solo --image=hello:1", "pod/solo created"),
        ("api-resources", "deployments"),
        ("explain deployment.spec.replicas", "replicas"),
        ("auth can-i create pods", "yes"),
        ("auth whoami", "coracle-admin"),
        ("cordon n1", "node/n1 cordoned"),
        ("drain n1", "node/n1"),
        ("uncordon n1", "node/n1 uncordoned"),
        ("get events", "No resources found"),
        ("delete deploy web", "deployment.apps \"web\" deleted"),
        ("delete pod solo", "pod \"solo\" deleted"),
        ("delete cm --all", "configmap \"settings\" deleted"),
    ] {
        Kubectl::check(line, k.raw(line).await, want);
    }
    for (line, want) in [
        ("create -f typo.yaml", "spec.replica"),
        ("get gadgets", "the server doesn't have a resource type"),
        ("get pod none", "pods \"none\" not found"),
    ] {
        let (ok, text) = k.raw(line).await;
        assert!(!ok && text.contains(want), "kubectl {line}: {text}");
    }
    k.listener.shutdown.cancel();
}
