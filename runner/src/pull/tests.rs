//! Many runners and one image over real connections; and sources that die, lie and are gone.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coracle_plan::holders::{Holders, Parent, Trouble};
use coracle_proxy::{Body, boxed, full};
use futures_util::{StreamExt, future, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::listener::{self, Answers, layer_asked};
use crate::tests::fake::{self, Answer, Asked, Member, Root, streaming, text};
use crate::tls::Peer;

const DAY: Duration = Duration::from_secs(86_400);
/// Bytes the members send at once.
const PIECE: usize = 64 << 10;

fn noise(length: u32) -> Vec<u8> {
    (0..length)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The members: a registry with one image, and the leader's word.
struct Cluster {
    layer: Vec<u8>,
    /// By the certificate's hash: the node's name and address.
    nodes: Mutex<BTreeMap<String, (String, String)>>,
    word: Mutex<Word>,
    /// Layers begun, and bytes of them sent.
    transfers: AtomicUsize,
    sent: AtomicU64,
    /// How often the leader was asked for a parent. The layer's second piece waits until it was this often.
    asks: watch::Sender<usize>,
    second_piece_at: usize,
}

/// Who is named.
enum Word {
    /// By the production's decision.
    Tree(Holders),
    /// One after another, then the members.
    Script(Vec<&'static str>, Vec<serde_json::Value>),
}

impl Cluster {
    fn new(layer: Vec<u8>, word: Word, second_piece_at: usize) -> Arc<Self> {
        Arc::new(Self {
            layer,
            nodes: Mutex::default(),
            word: Mutex::new(word),
            transfers: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            asks: watch::channel(0).0,
            second_piece_at,
        })
    }

    async fn member(self: &Arc<Self>, root: &Root) -> Member {
        let cluster = self.clone();
        let handler = move |asked| {
            let cluster = cluster.clone();
            async move { cluster.answer(asked) }
        };
        Member::start(root, &[root], handler).await
    }

    fn answer(self: &Arc<Self>, asked: Asked) -> Answer {
        if asked.path == "/v2/demo/manifests/v1" {
            let layers = json!([{"mediaType": "application/wasm", "digest": digest(&self.layer), "size": self.layer.len()}]);
            return text(200, json!({ "layers": layers }).to_string());
        }
        if let Some(digest) = asked.path.strip_prefix("/coracle/v1/holders/") {
            return text(200, self.said(&asked, digest).to_string());
        }
        if asked.path == format!("/v2/demo/blobs/{}", digest(&self.layer)) {
            let start = asked.range.as_deref().map_or(0, |range| {
                range["bytes=".len()..]
                    .trim_end_matches('-')
                    .parse()
                    .unwrap()
            });
            self.transfers.fetch_add(1, Ordering::SeqCst);
            let status = if start == 0 { 200 } else { 206 };
            return streaming(status, self.clone().pieces(start).boxed());
        }
        text(404, "{}")
    }

    fn said(&self, asked: &Asked, digest: &str) -> serde_json::Value {
        let nodes = self.nodes.lock().unwrap();
        let me = &nodes[asked.client.as_deref().unwrap()].0;
        let body = &asked.body;
        let mut word = self.word.lock().unwrap();
        let named = match (&mut *word, body["state"].as_str().unwrap()) {
            (Word::Tree(holders), "have") => {
                holders.have(0, me, digest);
                None
            }
            (Word::Tree(holders), "fetch") => {
                let what = match body["trouble"]["what"].as_str() {
                    Some("gone") => Trouble::Gone,
                    Some("busy") => Trouble::Busy,
                    _ => Trouble::Failed,
                };
                let trouble = body["trouble"]["node"].as_str().map(|node| (node, what));
                match holders.ask(0, me, digest, trouble, &[]) {
                    Parent::Members => None,
                    Parent::Runner { name, .. } => Some(name),
                }
            }
            (Word::Script(names, said), "fetch") => {
                said.push(body.clone());
                (!names.is_empty()).then(|| names.remove(0).to_string())
            }
            _ => None,
        };
        if body["state"] == "fetch" {
            self.asks.send_modify(|n| *n += 1);
        }
        let address = |name: &str| {
            let node = nodes.values().find(|(n, _)| n == name);
            node.map(|(_, address)| address.clone())
        };
        match named {
            Some(name) => json!({"address": address(&name), "node": name, "depth": 1}),
            None => json!({}),
        }
    }

    fn pieces(self: Arc<Self>, start: usize) -> impl stream::Stream<Item = Result<Bytes, String>> {
        stream::unfold(start, move |at| {
            let cluster = self.clone();
            async move {
                if at > 0 {
                    let mut asks = cluster.asks.subscribe();
                    let enough = cluster.second_piece_at;
                    asks.wait_for(|n| *n >= enough).await.unwrap();
                }
                let piece = cluster.layer.get(at..)?.chunks(PIECE).next()?;
                cluster.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                Some((Ok(Bytes::copy_from_slice(piece)), at + piece.len()))
            }
        })
    }

    /// A node that answers others with `answers`, or as a runner if that is `None`.
    async fn node(
        &self,
        dir: &Path,
        root: &Root,
        members: &[&Member],
        name: &str,
        answers: Option<Odd>,
    ) -> Node {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let identity = root.node_named(name, DAY, &[root]);
        let certificate = crate::tls::certificates(&identity.cert_pem).unwrap();
        let (api, _, live) = fake::api(&dir, members, identity);
        let images = Images::open(&dir, 1 << 30, api.clone()).unwrap();
        let keyring = Keyring::new(api.clone(), "default", Vec::new());
        let images = images.with_peers(api, &live).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let hash = hex::encode(Sha256::digest(&certificate[0]));
        self.nodes
            .lock()
            .unwrap()
            .insert(hash, (name.into(), address));
        let stop = CancellationToken::new();
        let context = Arc::new(Port(images.serve(), answers));
        tokio::spawn(listener::serve(listener, live, context, stop.clone()));
        Node {
            images,
            keyring,
            _stop: stop.drop_guard(),
        }
    }
}

struct Node {
    images: Images,
    keyring: Keyring,
    _stop: tokio_util::sync::DropGuard,
}

impl Node {
    async fn pull(&self) -> Pulled {
        let policy = PullPolicy::IfNotPresent;
        self.images
            .pull("demo:v1", policy, None, &self.keyring, || ())
            .await
            .unwrap()
    }

    fn bytes(&self, pulled: &Pulled) -> Vec<u8> {
        std::fs::read(self.images.wasm(&pulled.image.wasm)).unwrap()
    }
}

/// How a strange runner answers, from the number of the first byte that is asked for.
type Odd = Arc<dyn Fn(u64) -> Response<Body> + Send + Sync>;

/// A runner's port.
struct Port(Serve, Option<Odd>);

impl Answers for Port {
    async fn answer(&self, peer: &Peer, req: Request<Incoming>) -> Response<Body> {
        let range = req
            .headers()
            .get(header::RANGE)
            .map(|v| v.to_str().unwrap());
        let start = range.map_or(0, |r| {
            r["bytes=".len()..].trim_end_matches('-').parse().unwrap()
        });
        match (&self.1, layer_asked(peer, &req)) {
            (Some(odd), _) => odd(start),
            (None, Some(digest)) => self.0.answer(req.method(), digest, req.headers()).await,
            (None, None) => status(StatusCode::FORBIDDEN),
        }
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_runners_cost_the_members_one_transfer() {
    const RUNNERS: usize = 100;
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    // The members hold the rest back until all have asked: nobody can wait for a whole copy.
    let cluster = Cluster::new(noise(1 << 20), Word::Tree(Holders::default()), RUNNERS);
    let member = cluster.member(&root).await;
    let mut nodes = Vec::new();
    for n in 0..RUNNERS {
        let name = format!("n{n}");
        nodes.push(
            cluster
                .node(dir.path(), &root, &[&member], &name, None)
                .await,
        );
    }
    let pulled = future::join_all(nodes.iter().map(Node::pull)).await;
    let mut from_members = 0;
    for (node, pulled) in nodes.iter().zip(&pulled) {
        assert!(node.bytes(pulled) == cluster.layer);
        let transfer = pulled.transfer.as_ref().unwrap();
        assert_eq!(transfer.bytes, 1 << 20);
        from_members += usize::from(transfer.from == "the cluster's registry");
    }
    assert_eq!(from_members, 1);
    assert_eq!(cluster.transfers.load(Ordering::SeqCst), 1);
    assert_eq!(cluster.sent.load(Ordering::SeqCst), 1 << 20);
    // Nobody sent more than its part.
    let sent = || nodes.iter().map(|node| node.images.meter.sent.get());
    fake::until("all is counted", || sent().sum::<u64>() == 99 << 20).await;
    assert!(sent().all(|n| n <= 4 << 20));
    let again = nodes[7].pull().await;
    assert_eq!(again.transfer, None, "it is here");
}

fn good(start: u64) -> Vec<u8> {
    noise(300_000)[usize::try_from(start).unwrap()..].to_vec()
}

fn respond(start: u64, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    if start > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// Sends 100,000 good bytes and breaks off when the reader has them: an error before that would take them with it.
fn dies(start: u64, reader: Arc<OnceLock<Store>>) -> Response<Body> {
    let first = Bytes::from(good(start)[..100_000].to_vec());
    let broken = async move {
        let coming = reader.get().unwrap().partials.get(&digest(&good(0)));
        // It ends when the reader has given up, which is as good.
        let _ = coming
            .unwrap()
            .written
            .wait_for(|n| *n >= start + 100_000)
            .await;
        Err(std::io::Error::other("the node is gone"))
    };
    let frames = stream::iter([Ok(Frame::data(first))]);
    let frames = frames.chain(stream::once(broken)).boxed();
    let mut response = Response::new(boxed(StreamBody::new(frames)));
    if start > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// Sends as many bytes as it should, and wrong ones.
fn lies(start: u64) -> Response<Body> {
    respond(start, good(start).iter().map(|b| b ^ 1).collect())
}

fn boasts(start: u64) -> Response<Body> {
    respond(start, [good(start), vec![0]].concat())
}

/// Has the rest only.
fn resumes(start: u64) -> Response<Body> {
    if start == 0 {
        return status(StatusCode::NOT_FOUND);
    }
    respond(start, good(start))
}

async fn scripted(names: &[&'static str]) -> (Pulled, Vec<u8>, Arc<Cluster>) {
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let cluster = Cluster::new(noise(300_000), Word::Script(names.to_vec(), Vec::new()), 0);
    let member = cluster.member(&root).await;
    let mut odd = Vec::new();
    let reader: Arc<OnceLock<Store>> = Arc::default();
    let read = reader.clone();
    let kinds: [(&str, Odd); 5] = [
        ("dies", Arc::new(move |start| dies(start, read.clone()))),
        ("lies", Arc::new(lies)),
        ("boasts", Arc::new(boasts)),
        ("resumes", Arc::new(resumes)),
        (
            "busy",
            Arc::new(|_| status(StatusCode::SERVICE_UNAVAILABLE)),
        ),
    ];
    for (name, answers) in kinds {
        odd.push(
            cluster
                .node(dir.path(), &root, &[&member], name, Some(answers))
                .await,
        );
    }
    let me = cluster
        .node(dir.path(), &root, &[&member], "me", None)
        .await;
    assert!(reader.set(me.images.store.clone()).is_ok());
    let pulled = me.pull().await;
    let bytes = me.bytes(&pulled);
    (pulled, bytes, cluster)
}

fn said(cluster: &Cluster) -> Vec<serde_json::Value> {
    match &*cluster.word.lock().unwrap() {
        Word::Script(_, said) => said.clone(),
        Word::Tree(_) => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_runner_goes_on_where_one_broke_off() {
    let (pulled, bytes, cluster) = scripted(&["dies", "busy", "resumes"]).await;
    assert!(bytes == noise(300_000));
    assert_eq!(pulled.transfer.unwrap().from, "node resumes");
    assert_eq!(cluster.transfers.load(Ordering::SeqCst), 0);
    let said = said(&cluster);
    assert_eq!(
        said[1]["trouble"],
        json!({"node": "dies", "what": "failed"})
    );
    assert_eq!(said[1]["avoid"], json!(["dies"]), "dropped for a while");
    assert_eq!(said[2]["trouble"], json!({"node": "busy", "what": "busy"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_send_the_rest_of_what_runners_began() {
    let (pulled, bytes, cluster) = scripted(&["dies", "dies"]).await;
    assert!(bytes == noise(300_000));
    assert_eq!(pulled.transfer.unwrap().from, "the cluster's registry");
    assert_eq!(cluster.sent.load(Ordering::SeqCst), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lies_is_found_out_and_costs_a_transfer() {
    for liar in ["lies", "boasts"] {
        let (pulled, bytes, cluster) = scripted(&[liar]).await;
        assert!(bytes == noise(300_000), "{liar}");
        assert_eq!(pulled.transfer.unwrap().from, "the cluster's registry");
        assert_eq!(cluster.sent.load(Ordering::SeqCst), 300_000);
        assert_eq!(said(&cluster)[1]["avoid"], json!([liar]));
    }
    // Good bytes, then a liar, then somebody who goes on: only the whole can be judged.
    let (_, bytes, cluster) = scripted(&["dies", "lies", "resumes"]).await;
    assert!(bytes == noise(300_000));
    assert_eq!(said(&cluster)[3]["trouble"]["what"], "gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_leaders_word_the_members_are_asked() {
    // An address that nobody has: the leader knows a node that is not there.
    let (pulled, bytes, _) = scripted(&["nobody"]).await;
    assert!(bytes == noise(300_000));
    assert_eq!(pulled.transfer.unwrap().from, "the cluster's registry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_are_for_nodes_only() {
    let (dir, root) = (tempfile::tempdir().unwrap(), Root::new("root"));
    let cluster = Cluster::new(noise(100), Word::Tree(Holders::default()), 0);
    let member = cluster.member(&root).await;
    let node = cluster
        .node(dir.path(), &root, &[&member], "n1", None)
        .await;
    let pulled = node.pull().await;
    assert_eq!(
        cluster.asks.borrow().to_owned(),
        0,
        "a small layer is not asked about"
    );
    for (groups, may) in [
        (vec!["system:nodes"], true),
        (vec!["system:members"], true),
        (vec!["system:masters"], false),
        (vec![], false),
    ] {
        let peer = Peer {
            name: "x".into(),
            groups: groups.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(peer.may_read_blobs(), may, "{groups:?}");
    }
    drop(pulled);
}
