//! Certificates are renewed before their end, roots are followed, and nothing restarts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::CertificateSigningRequestParams;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::fake::{Answer, Asked, Member, Root, api, text, until};
use crate::join;
use crate::live::Live;
use crate::renew::Keeper;

const DAY: Duration = Duration::from_secs(86_400);

/// What the cluster does at present: which root issues, which are trusted, how long certificates live.
struct Cluster {
    roots: Vec<Arc<Root>>,
    life: Duration,
    reports: Vec<serde_json::Value>,
}

impl Cluster {
    fn bundle(&self) -> String {
        self.roots.iter().map(|r| r.pem.as_str()).collect()
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        match asked.path.as_str() {
            "/coracle/v1/ca" => text(200, self.bundle()),
            "/coracle/v1/endpoints" => text(
                200,
                json!({"api": ["https://x:1"], "registry": ["r:5000"]}).to_string(),
            ),
            "/coracle/v1/renew" => {
                let Some(csr) = asked.body["csr"].as_str() else {
                    self.reports.push(asked.body.clone());
                    return text(200, "{}");
                };
                let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
                let certificate =
                    self.roots[0].issue("system:node:n1", &["n1"], &request.public_key, self.life);
                text(
                    200,
                    json!({"certificate": certificate, "ca": self.bundle()}).to_string(),
                )
            }
            _ => text(404, "{}"),
        }
    }
}

struct World {
    cluster: Arc<Mutex<Cluster>>,
    member: Member,
    _renewed: Member,
    live: Arc<Live>,
    api: crate::api::Api,
    dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl World {
    /// A runner with a certificate of `old` in a cluster that trusts `old` now and both later.
    ///
    /// One member shows a certificate of the old root, another one of the new root, as during a rotation.
    async fn start(old: &Arc<Root>, new: &Root, first: Duration, life: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Arc::new(Mutex::new(Cluster {
            roots: vec![old.clone()],
            life,
            reports: Vec::new(),
        }));
        let handler = |cluster: &Arc<Mutex<Cluster>>| {
            let cluster = cluster.clone();
            move |asked: Asked| {
                let answer = cluster.lock().unwrap().answer(&asked);
                async move { answer }
            }
        };
        let member = Member::start(old, &[old, new], handler(&cluster)).await;
        let renewed = Member::start(new, &[old, new], handler(&cluster)).await;
        let identity = old.node(first, &[old]);
        join::save(dir.path(), &identity).unwrap();
        let (api, _, live) = api(dir.path(), &[&member, &renewed], identity);
        let stop = CancellationToken::new();
        let keeper = Keeper {
            api: api.clone(),
            live: live.clone(),
            name: "n1".into(),
            dir: Some(dir.path().into()),
            every: Duration::from_millis(100),
        };
        tokio::spawn(keeper.run(stop.clone()));
        Self {
            cluster,
            member,
            _renewed: renewed,
            live,
            api,
            dir,
            stop,
        }
    }

    fn reports(&self) -> Vec<serde_json::Value> {
        self.cluster.lock().unwrap().reports.clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_used_at_once() {
    let (root, other) = (Arc::new(Root::new("root")), Root::new("other"));
    let w = World::start(&root, &other, Duration::from_secs(3), DAY).await;
    let first = w.live.identity();
    until("the first certificate is reported", || {
        w.reports().len() == 1
    })
    .await;
    until("the certificate is renewed", || {
        w.live.identity().cert_pem != first.cert_pem
    })
    .await;
    let renewed = w.live.identity();
    assert_ne!(renewed.key_pem, first.key_pem, "with a key of its own");
    until("the new one is on disk", || {
        join::load(w.dir.path()).unwrap() == Some(renewed.clone())
    })
    .await;
    until("the new one is reported", || w.reports().len() == 2).await;
    assert_eq!(
        (&w.reports()[1]["issuer"], &w.reports()[1]["trusts"]),
        (&json!(root.hash()), &json!([root.hash()]))
    );
    // Requests are made with it from now on, long after the first one has ended.
    w.api.get("/coracle/v1/endpoints").await.unwrap();
    let asked = w.member.asked.lock().unwrap().clone();
    let mut shown: Vec<_> = asked.iter().map(|a| a.client.clone().unwrap()).collect();
    shown.dedup();
    assert_eq!(shown.len(), 2, "two certificates, one after the other");
    // What else the cluster told.
    assert_eq!(*w.api.endpoints().registries(), ["r:5000"]);
    assert!(w.api.endpoints().order().contains(&"x:1".to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_is_followed_step_by_step() {
    let (old, new) = (Arc::new(Root::new("old")), Arc::new(Root::new("new")));
    let w = World::start(&old, &new, DAY, DAY).await;
    until("the certificate is reported", || w.reports().len() == 1).await;
    // Our own listener, as the API server and peers see it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let live = w.live.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            drop(TlsAcceptor::from(live.server()).accept(tcp).await);
        }
    });
    // A peer's connections are made from one configuration for good.
    let peer = TlsConnector::from(Arc::new(w.live.client().unwrap()));
    let reaches = || async {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("n1").unwrap();
        let tls = peer.connect(name, tcp).await.unwrap();
        crate::live::issuer(
            tls.get_ref().1.peer_certificates().unwrap(),
            &[&old, &new].map(|r| crate::tls::certificates(&r.pem).unwrap()[0].clone()),
        )
    };
    assert_eq!(reaches().await, Some(old.hash()));

    let before = w.live.identity();
    w.cluster.lock().unwrap().roots = vec![old.clone(), new.clone()];
    until("both roots are reported", || w.reports().len() == 2).await;
    assert_eq!(
        (&w.reports()[1]["issuer"], &w.reports()[1]["trusts"]),
        (&json!(old.hash()), &json!([old.hash(), new.hash()]))
    );
    assert_eq!(
        w.live.identity().cert_pem,
        before.cert_pem,
        "the certificate is still good"
    );

    w.cluster.lock().unwrap().roots = vec![new.clone(), old.clone()];
    until("the new issuer is reported", || {
        w.reports().iter().any(|r| r["issuer"] == new.hash())
    })
    .await;
    assert_eq!(reaches().await, Some(new.hash()));
    let kept = join::load(w.dir.path()).unwrap().unwrap();
    assert_eq!(kept, w.live.identity());

    w.cluster.lock().unwrap().roots = vec![new.clone()];
    until("the old root is forgotten", || {
        w.reports()
            .iter()
            .any(|r| r["trusts"] == json!([new.hash()]))
    })
    .await;
    assert_eq!(reaches().await, Some(new.hash()));
    let last = w.live.identity().ca_pem;
    assert_eq!(last, new.pem);
}
