//! The gate over a registry in memory: what may be created in a namespace with a policy.

use axum::Router;
use axum::body::Body;
use coracle_api::{Timestamp, canonical, kinds};
use coracle_registry::authorise::AllowAll;
use coracle_registry::{Clock, Limits, Parts, blobs, router};
use coracle_state::{Batch, Command, Expect, State};
use coracle_trust::dsse::{SIGNED, Statement};
use coracle_trust::referrer::{self, Descriptor};
use coracle_trust::{Algorithm, PrivateKey, digest_of};
use http::{Request, StatusCode};
use serde_json::json;
use tower::ServiceExt;

use super::*;

#[derive(Clone)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000).unwrap()
    }
}

struct Rig {
    gate: Gate,
    router: Router,
    key: PrivateKey,
}

const COMPONENT: &str = r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#;

impl Rig {
    async fn new() -> Self {
        let parts = Parts {
            blobs: Arc::new(blobs::memory::Memory::new(Still)),
            meta: Arc::new(coracle_registry::meta::memory::Memory::new()),
            limits: Limits::default(),
            clock: Arc::new(Still),
            authorise: Arc::new(AllowAll),
        };
        let registry = Registry::open(parts).await.unwrap();
        Self {
            gate: Gate::new(registry.clone()),
            router: router(registry),
            key: PrivateKey::generate(Algorithm::P256, &mut |out| out.fill(7)).unwrap(),
        }
    }

    async fn send(&self, request: Request<Body>) {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
    }

    async fn blob(&self, bytes: &[u8]) {
        let digest = digest_of(bytes);
        let path = format!("/v2/team/web/blobs/uploads/?digest={digest}");
        let request = Request::post(path)
            .header("content-length", bytes.len())
            .body(Body::from(bytes.to_vec()));
        self.send(request.unwrap()).await;
    }

    async fn manifest(&self, reference: &str, bytes: &[u8]) {
        let path = format!("/v2/team/web/manifests/{reference}");
        let request = Request::put(path)
            .header("content-type", referrer::MANIFEST)
            .body(Body::from(bytes.to_vec()));
        self.send(request.unwrap()).await;
    }

    /// Pushes the component as `team/web:v1`.
    async fn push(&self) -> Descriptor {
        let wasm = wat::parse_str(COMPONENT).unwrap();
        let made = wasm::artifact(
            &wasm,
            "web.wasm",
            wasm::Kind::Component,
            Vec::new(), // The configuration says nothing of sockets; the file does.
            Vec::new(),
            Still.now(),
        );
        self.blob(&wasm).await;
        self.blob(&made.config).await;
        self.manifest("v1", &made.manifest).await;
        Descriptor {
            media_type: referrer::MANIFEST.into(),
            digest: made.manifest_digest.to_string(),
            size: made.manifest.len() as u64,
        }
    }

    async fn sign(&self, image: &Descriptor) {
        let bundle = bundle::sign(&self.key, &Statement::signed(&image.digest)).unwrap();
        self.blob(referrer::EMPTY_BYTES).await;
        self.blob(&bundle).await;
        let made = referrer::bundle_manifest(image, &bundle, SIGNED, "2026-01-01T00:00:00Z");
        self.manifest(&digest_of(&made), &made).await;
    }

    async fn sign_as_cosign_2(&self, image: &Descriptor) {
        let made = simple::sign(&self.key, "team/web", &image.digest);
        self.blob(referrer::EMPTY_BYTES).await;
        self.blob(&made.0).await;
        let tag = simple::tag(&image.digest);
        self.manifest(&tag, &referrer::simple_manifest(&[made]))
            .await;
    }

    fn signed_policy(&self) -> String {
        json!({"signatures": {"keys": [{"name": "release", "publicKey": self.key.public().pem()}]}})
            .to_string()
    }

    async fn deploy(&self, image: &str, policy: &str) -> Result<Vec<String>, ApiError> {
        let kind = kinds::by_table("deployments.apps").unwrap();
        let object = deployment(image);
        self.gate.admit(kind, &object, None, &view(policy)).await
    }
}

fn deployment(image: &str) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "team"},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}},
    })
}

/// A state with the namespace `team` under this policy; none if it is empty.
fn view(policy: &str) -> View {
    let mut namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    if !policy.is_empty() {
        namespace["metadata"]["annotations"] = json!({ ANNOTATION: policy });
    }
    let mut state = State::default();
    let command = Command::put(
        "namespaces",
        Key::new("", "team"),
        Expect::Any,
        canonical::encode(&namespace),
        Vec::new(),
    );
    let batch = Batch {
        at: Still.now(),
        request_id: 0,
        commands: vec![command],
    };
    assert!(state.apply(&batch).iter().all(Result::is_ok));
    state.view()
}

#[track_caller]
fn refused(answer: Result<Vec<String>, ApiError>, code: &str) -> String {
    let error = answer.unwrap_err();
    assert_eq!(error.code, 403);
    assert_eq!(
        error.causes[0].field,
        "spec.template.spec.containers[0].image"
    );
    assert!(error.message.contains(code), "{}", error.message);
    error.message
}

#[tokio::test]
async fn without_a_policy_everything_may_run() {
    let rig = Rig::new().await;
    assert_eq!(rig.deploy("nowhere.io/x:1", "").await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn an_unsigned_image_is_refused_and_a_signed_one_is_not() {
    let rig = Rig::new().await;
    let image = rig.push().await;
    let policy = rig.signed_policy();
    let message = refused(rig.deploy("team/web:v1", &policy).await, "E_TRUST_UNSIGNED");
    assert!(message.contains(&image.digest), "{message}");
    rig.sign(&image).await;
    assert_eq!(rig.deploy("team/web:v1", &policy).await.unwrap(), [""; 0]);
    let by_digest = format!("localhost:5000/team/web@{}", image.digest);
    assert!(rig.deploy(&by_digest, &policy).await.is_ok());
    // Another key's policy is not content with it.
    let other = PrivateKey::generate(Algorithm::Ed25519, &mut |out| out.fill(1)).unwrap();
    let policy =
        json!({"signatures": {"keys": [{"name": "other", "publicKey": other.public().pem()}]}});
    refused(
        rig.deploy("team/web:v1", &policy.to_string()).await,
        "E_TRUST_UNSIGNED",
    );
}

#[tokio::test]
async fn signatures_of_older_cosign_count() {
    let rig = Rig::new().await;
    let image = rig.push().await;
    rig.sign_as_cosign_2(&image).await;
    assert!(
        rig.deploy("team/web:v1", &rig.signed_policy())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_tag_that_moves_to_an_unsigned_image_is_refused() {
    let rig = Rig::new().await;
    let image = rig.push().await;
    rig.sign(&image).await;
    let other = json!({
        "schemaVersion": 2, "mediaType": referrer::MANIFEST,
        "config": {"mediaType": referrer::EMPTY, "digest": digest_of(b"{}"), "size": 2},
        "layers": [], "annotations": {"x": "y"},
    });
    rig.manifest("v1", other.to_string().as_bytes()).await;
    refused(
        rig.deploy("team/web:v1", &rig.signed_policy()).await,
        "E_TRUST_UNSIGNED",
    );
}

#[tokio::test]
async fn imports_are_those_of_the_file_whatever_its_configuration_says() {
    let rig = Rig::new().await;
    rig.push().await;
    let message = refused(
        rig.deploy("team/web:v1", "imports: [wasi:http/*]").await,
        "E_TRUST_IMPORT",
    );
    assert!(message.contains("wasi:sockets/tcp@0.2.0"), "{message}");
    let allowed = rig.deploy("team/web:v1", "imports: [wasi:sockets/*]").await;
    assert_eq!(allowed.unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_is_not_here_is_judged_by_its_source_and_left_to_the_node() {
    let rig = Rig::new().await;
    let policy = "sources: [ghcr.io/acme/*]\nimports: []\n";
    let warned = rig.deploy("ghcr.io/acme/web:1", policy).await.unwrap();
    assert!(
        warned[0].contains("by the node that pulls it"),
        "{warned:?}"
    );
    refused(
        rig.deploy("evil.io/acme/web:1", policy).await,
        "E_TRUST_SOURCE",
    );
    refused(
        rig.deploy("coracle.upstream/evil.io/web:1", policy).await,
        "E_TRUST_SOURCE",
    );
}

#[tokio::test]
async fn what_was_there_before_stays_changeable() {
    let rig = Rig::new().await;
    let kind = kinds::by_table("deployments.apps").unwrap();
    let view = view("sources: []");
    let live = deployment("evil.io/x");
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(3);
    let answer = rig.gate.admit(kind, &scaled, Some(&live), &view).await;
    assert_eq!(answer.unwrap(), [""; 0]);
    let answer = rig
        .gate
        .admit(kind, &deployment("evil.io/y"), Some(&live), &view)
        .await;
    refused(answer, "E_TRUST_SOURCE");
}

#[tokio::test]
async fn a_policy_that_does_not_read_is_refused_where_it_is_written() {
    let rig = Rig::new().await;
    let kind = kinds::by_table("namespaces").unwrap();
    assert!(rig.gate.concerns(kind));
    assert!(!rig.gate.concerns(kinds::by_table("services").unwrap()));
    let with =
        |policy: &str| json!({"metadata": {"name": "team", "annotations": {ANNOTATION: policy}}});
    let bad = with("surces: []");
    let error = rig
        .gate
        .admit(kind, &bad, None, &view(""))
        .await
        .unwrap_err();
    assert_eq!(error.code, 422);
    assert_eq!(
        error.causes[0].field,
        format!("metadata.annotations[{ANNOTATION}]")
    );
    assert!(
        error.message.contains("E_TRUST_POLICY"),
        "{}",
        error.message
    );
    // One that is there already does not keep the namespace from being changed.
    assert!(
        rig.gate
            .admit(kind, &bad, Some(&bad), &view(""))
            .await
            .is_ok()
    );
    assert!(
        rig.gate
            .admit(kind, &with("sources: [cluster/*]"), None, &view(""))
            .await
            .is_ok()
    );
    refused(
        rig.deploy("team/web:v1", "surces: []")
            .await
            .map_err(|mut e| {
                e.causes[0].field = "spec.template.spec.containers[0].image".into();
                e
            }),
        "E_TRUST_POLICY",
    );
}
