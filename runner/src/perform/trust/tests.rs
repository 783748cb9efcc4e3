//! The node's judgement against an API server and a registry of the test.

use std::sync::Arc;

use coracle_trust::dsse::{SIGNED, Statement};
use coracle_trust::referrer::{self, Descriptor};
use coracle_trust::{Algorithm, PrivateKey, bundle};
use serde_json::json;

use super::*;
use crate::tests::fake::{self, Answer, Asked, Member, Root, text};

const DAY: Duration = Duration::from_secs(86_400);

/// What the cluster says.
#[derive(Default)]
struct Said {
    policy: Option<String>,
    /// Bodies by path.
    registry: BTreeMap<String, Vec<u8>>,
}

struct Rig {
    said: Arc<Mutex<Said>>,
    member: Option<Member>,
    api: Api,
    images: Images,
    trust: Trust,
    key: PrivateKey,
    image: Image,
    _dir: tempfile::TempDir,
}

fn answer(said: &Mutex<Said>, asked: &Asked) -> Answer {
    let said = locked(said);
    if asked.path == "/api/v1/namespaces/team" {
        let mut object = json!({"metadata": {"name": "team"}});
        if let Some(policy) = &said.policy {
            object["metadata"]["annotations"] = json!({ ANNOTATION: policy });
        }
        return text(200, object.to_string());
    }
    let path = asked.path.split('?').next().unwrap();
    match said.registry.get(path) {
        Some(body) => text(200, body.clone()),
        None if path.contains("/referrers/") => text(200, r#"{"manifests":[]}"#),
        None => text(404, "{}"),
    }
}

impl Rig {
    async fn new(policy: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let said = Arc::new(Mutex::new(Said {
            policy: policy.map(str::to_string),
            ..Said::default()
        }));
        let root = Root::new("a");
        let shared = said.clone();
        let handler = move |asked| {
            let said = shared.clone();
            async move { answer(&said, &asked) }
        };
        let member = Member::start(&root, &[&root], handler).await;
        let identity = root.node(DAY, &[&root]);
        let (api, _, _) = fake::api(dir.path(), &[&member], identity);
        let images = Images::open(dir.path(), 1 << 30, api.clone()).unwrap();
        Self {
            said,
            member: Some(member),
            api,
            images,
            trust: Trust::default(),
            key: PrivateKey::generate(Algorithm::Ed25519, &mut |out| out.fill(9)).unwrap(),
            image: Image {
                digest: digest_of(b"manifest"),
                wasm: digest_of(b"wasm"),
                id: String::new(),
            },
            _dir: dir,
        }
    }

    fn signed_policy(&self) -> String {
        json!({"signatures": {"keys": [{"name": "release", "publicKey": self.key.public().pem()}]}})
            .to_string()
    }

    /// Puts a signature into the registry.
    fn sign(&self) {
        let bundle = bundle::sign(&self.key, &Statement::signed(&self.image.digest)).unwrap();
        let subject = Descriptor {
            media_type: referrer::MANIFEST.into(),
            digest: self.image.digest.clone(),
            size: 8,
        };
        let made = referrer::bundle_manifest(&subject, &bundle, SIGNED, "2026-01-01T00:00:00Z");
        let list = json!({"manifests": [{
            "mediaType": referrer::MANIFEST, "digest": digest_of(&made), "size": made.len(),
            "artifactType": bundle::MEDIA_TYPE,
        }]});
        let mut said = locked(&self.said);
        let mut put = |path: String, body: Vec<u8>| said.registry.insert(path, body);
        put(
            format!("/v2/web/referrers/{}", self.image.digest),
            list.to_string().into_bytes(),
        );
        put(format!("/v2/web/manifests/{}", digest_of(&made)), made);
        put(format!("/v2/web/blobs/{}", digest_of(&bundle)), bundle);
    }

    async fn check(&self) -> Result<(), PullError> {
        let what = ("web:v1", &self.image);
        let nobody = Keyring::new(self.api.clone(), "team", Vec::new());
        let from = (&self.api, &self.images, &nobody);
        self.trust.check(from, "team", what).await
    }

    async fn refused(&self) -> Problem {
        let (failure, problem) = self.check().await.unwrap_err();
        assert_eq!(failure, PullFailure::Pull, "it is tried again");
        problem
    }

    fn asked(&self, path: &str) -> usize {
        self.member.as_ref().map_or(0, |m| m.count(path))
    }

    /// Makes what is known of the policy old.
    fn age(&self) {
        let old = Instant::now().checked_sub(FRESH).unwrap();
        locked(&self.trust.policies)
            .values_mut()
            .for_each(|(_, at)| *at = old);
    }
}

#[tokio::test]
async fn without_a_policy_everything_runs_and_the_api_is_asked_seldom() {
    let rig = Rig::new(None).await;
    for _ in 0..10 {
        rig.check().await.unwrap();
    }
    assert_eq!(rig.asked("/api/v1/namespaces/team"), 1);
    // A policy that comes later is in force when the old knowledge is.
    locked(&rig.said).policy = Some("sources: []".into());
    rig.age();
    assert_eq!(rig.refused().await.code, "E_TRUST_SOURCE");
}

#[tokio::test]
async fn a_signature_that_comes_later_mends_it_and_is_remembered() {
    let rig = Rig::new(None).await;
    locked(&rig.said).policy = Some(rig.signed_policy());
    let problem = rig.refused().await;
    assert_eq!(problem.code, "E_TRUST_UNSIGNED");
    assert!(problem.message.contains(&rig.image.digest), "{problem:?}");
    assert!(problem.fix.contains("coracle sign"), "{problem:?}");
    rig.sign();
    rig.check().await.unwrap();
    let asked = rig.asked("/v2/");
    rig.check().await.unwrap();
    assert_eq!(rig.asked("/v2/"), asked, "it was judged before");
    // Another policy is another question.
    locked(&rig.said).policy = Some(format!("{}\n", rig.signed_policy()));
    rig.age();
    rig.check().await.unwrap();
    assert!(rig.asked("/v2/") > asked);
}

#[tokio::test]
async fn imports_are_read_from_the_file_that_would_run() {
    let rig = Rig::new(Some("imports: ['wasi:cli/*']")).await;
    let path = rig.images.wasm(&rig.image.wasm);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // (component (import "wasi:sockets/tcp" (instance))), as the text format makes it.
    let wasm = [
        &b"\0asm\x0d\0\x01\0"[..],
        &[7, 3, 1, 0x42, 0],
        &[10, 21, 1, 0, 16],
        b"wasi:sockets/tcp",
        &[5, 0],
    ]
    .concat();
    std::fs::write(&path, wasm).unwrap();
    let problem = rig.refused().await;
    assert_eq!(problem.code, "E_TRUST_IMPORT");
    assert!(problem.message.contains("wasi:sockets/tcp"), "{problem:?}");
    locked(&rig.said).policy = Some("imports: ['wasi:*']".into());
    rig.age();
    rig.check().await.unwrap();
}

#[tokio::test]
async fn without_the_api_the_last_policy_holds_and_an_unknown_one_allows_nothing() {
    let mut rig = Rig::new(Some("sources: [cluster/*]")).await;
    rig.check().await.unwrap();
    rig.member = None;
    rig.age();
    rig.check().await.unwrap();
    let what = ("evil.io/x", &rig.image);
    let nobody = Keyring::new(rig.api.clone(), "team", Vec::new());
    let from = (&rig.api, &rig.images, &nobody);
    let denied = rig.trust.check(from, "team", what).await;
    assert_eq!(denied.unwrap_err().1.code, "E_TRUST_SOURCE");
    rig.trust = Trust::default();
    assert_eq!(rig.refused().await.code, "E_TRUST_POLICY_UNKNOWN");
}

#[tokio::test]
async fn a_policy_that_does_not_read_allows_nothing() {
    let rig = Rig::new(Some("surces: []")).await;
    assert_eq!(rig.refused().await.code, "E_TRUST_POLICY");
}
