//! Three members in one process over loopback TCP and mutual TLS: joining, forwarding, failover, snapshots, removal.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_state::{Propose, Views};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::put;
use crate::net::Trust;
use crate::{Begin, Config, Fatal, Limits, Member, Replica, TcpTransport, node_id_text};

const PATIENCE: Duration = Duration::from_secs(20);

/// A CA that issues member certificates.
pub struct Authority {
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
    root: rustls_pki_types::CertificateDer<'static>,
}

impl Authority {
    pub fn new(cluster: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            cluster: cluster.into(),
            issuer: Issuer::new(params, key),
            root,
        }
    }

    pub fn trust(&self, id: u64) -> Trust {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:members");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let uri = format!("coracle://{}/nodes/{}", self.cluster, node_id_text(id));
        params.subject_alt_names = vec![
            SanType::DnsName("kubernetes".try_into().unwrap()),
            SanType::URI(uri.as_str().try_into().unwrap()),
        ];
        let cert = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots.clone()),
            provider.clone(),
        )
        .build()
        .unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.clone()], key())
            .unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![cert], key())
            .unwrap();
        Trust {
            cluster: self.cluster.clone(),
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }
}

/// A member, its directory, and the line that would have ended its process.
pub struct Node {
    pub id: u64,
    pub dir: PathBuf,
    pub member: Member,
    pub replica: Replica,
    pub ended: Arc<Mutex<Option<String>>>,
}

pub async fn node(
    dir: PathBuf,
    id: u64,
    trust: Trust,
    begin: Begin,
    addr: Option<&str>,
    limits: Limits,
) -> Node {
    let listener = TcpListener::bind(addr.unwrap_or("127.0.0.1:0")).unwrap();
    let member = Member {
        name: format!("m{id}"),
        raft: listener.local_addr().unwrap().to_string(),
        api: String::new(),
    };
    let ended = Arc::new(Mutex::new(None));
    let noted = ended.clone();
    let transport = TcpTransport::new(id);
    transport.set_trust(trust);
    let config = Config {
        member: member.clone(),
        begin,
        listener: Some(Arc::new(listener)),
        transport,
        limits,
        fatal: Fatal::new(move |line| *noted.lock().unwrap() = Some(line.into())),
        ..Config::new(&dir, id)
    };
    let replica = tokio::time::timeout(PATIENCE, Replica::start(config))
        .await
        .expect("it starts in time")
        .unwrap();
    Node {
        id,
        dir,
        member,
        replica,
        ended,
    }
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn voters(node: &Node) -> usize {
    node.replica.members().iter().filter(|m| m.voter).count()
}

async fn three(home: &std::path::Path, ca: &Authority, limits: Limits) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=3u64 {
        let begin = if id == 1 { Begin::Alone } else { Begin::Join };
        let dir = home.join(format!("m{id}"));
        let new = node(dir, id, ca.trust(id), begin, None, limits.clone()).await;
        if id > 1 {
            nodes_first(&nodes)
                .replica
                .add_member(id, new.member.clone())
                .await
                .unwrap();
        }
        nodes.push(new);
    }
    for n in &nodes {
        until("three voters everywhere", || voters(n) == 3).await;
    }
    nodes
}

fn nodes_first(nodes: &[Node]) -> &Node {
    nodes.first().expect("the first member")
}

async fn write(node: &Node, name: &str, value: &str) -> u64 {
    let done = node.replica.propose(vec![put(name, value)]).await.unwrap();
    done[0].as_ref().unwrap().revision
}

async fn read(node: &Node, name: &str) -> Option<String> {
    let view = node.replica.fresh().await.unwrap();
    view.get("configmaps", &coracle_state::Key::new("default", name))
        .map(|o| String::from_utf8(o.bytes.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_grows_to_three_and_survives_the_leader() {
    let home = tempfile::tempdir().unwrap();
    let ca = Authority::new("00000000000000aa");
    let mut nodes = three(home.path(), &ca, Limits::default()).await;
    // Written on each, read on each.
    for (i, n) in nodes.iter().enumerate() {
        write(n, &format!("k{i}"), "{\"a\":1}").await;
        for other in &nodes {
            assert_eq!(
                read(other, &format!("k{i}")).await.as_deref(),
                Some("{\"a\":1}")
            );
        }
    }
    // Leadership moves on request, from a follower.
    nodes[2].replica.transfer(Some(2)).await.unwrap();
    until("member 2 leads", || nodes[1].replica.is_leader()).await;
    write(&nodes[0], "after-transfer", "{}").await;
    // A leader that goes politely hands over; writes go on through the others.
    let leaver = nodes.remove(1);
    let began = std::time::Instant::now();
    let (_, revision) = tokio::join!(leaver.replica.shutdown(), write(&nodes[1], "during", "{}"));
    assert!(revision > 0);
    println!("write across a hand-over: {:?}", began.elapsed());
    // It comes back with what it missed.
    let addr = leaver.member.raft.clone();
    let (dir, id) = (leaver.dir.clone(), leaver.id);
    drop(leaver);
    let back = node(
        dir,
        id,
        ca.trust(id),
        Begin::Join,
        Some(&addr),
        Limits::default(),
    )
    .await;
    assert_eq!(read(&back, "during").await.as_deref(), Some("{}"));
    nodes.push(back);
    // All have the same state.
    let hashes = || -> Vec<u64> { nodes.iter().map(|n| n.replica.status().hash).collect() };
    until("equal hashes", || hashes().windows(2).all(|w| w[0] == w[1])).await;
    for n in &nodes {
        assert_eq!(*n.ended.lock().unwrap(), None);
        n.replica.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_far_behind_gets_a_snapshot() {
    let home = tempfile::tempdir().unwrap();
    let ca = Authority::new("00000000000000ab");
    let limits = Limits {
        keep_entries: 10,
        chunk_bytes: 64 << 10,
        ..Limits::default()
    };
    let first = node(
        home.path().join("m1"),
        1,
        ca.trust(1),
        Begin::Alone,
        None,
        limits.clone(),
    )
    .await;
    for i in 0..300 {
        write(&first, &format!("k{i}"), &format!("{{\"i\":{i}}}")).await;
    }
    first.replica.snapshot().await.unwrap();
    first.replica.raft().trigger().purge_log(250).await.unwrap();
    let second = node(
        home.path().join("m2"),
        2,
        ca.trust(2),
        Begin::Join,
        None,
        limits,
    )
    .await;
    first
        .replica
        .add_member(2, second.member.clone())
        .await
        .unwrap();
    until("the learner has everything", || {
        second.replica.status().hash == first.replica.status().hash
    })
    .await;
    assert!(second.replica.snapshot_file().is_some());
    assert_eq!(voters(&first), 1, "two voters would be worse than one");
    assert_eq!(read(&second, "k299").await.as_deref(), Some("{\"i\":299}"));
    second.replica.shutdown().await;
    first.replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_go_is_told() {
    let home = tempfile::tempdir().unwrap();
    let ca = Authority::new("00000000000000ac");
    let nodes = three(home.path(), &ca, Limits::default()).await;
    let refused = nodes[1].replica.remove_member(3, false).await.unwrap_err();
    assert!(
        refused.to_string().starts_with("E_MEMBER_EVEN"),
        "{refused}"
    );
    let unknown = nodes[1].replica.remove_member(9, true).await.unwrap_err();
    assert!(unknown.to_string().starts_with("E_MEMBER_UNKNOWN"));
    nodes[1].replica.remove_member(3, true).await.unwrap();
    until("the third is told", || {
        let told = nodes[2].ended.lock().unwrap();
        told.as_ref()
            .is_some_and(|l| l.starts_with("E_MEMBER_REMOVED"))
    })
    .await;
    write(&nodes[1], "two-are-left", "{}").await;
    for n in &nodes {
        n.replica.shutdown().await;
    }
}

/// A member that never hears of the commit that let it go (the leader stops sending to it then) has its connections open
/// still: the next call on one of them must tell it, or it asks for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_of_a_removed_member_ends() {
    use crate::net::{Ask, NetError, Request, Target, Transport};
    let home = tempfile::tempdir().unwrap();
    let ca = Authority::new("00000000000000af");
    let begin = Begin::Alone;
    let dir = home.path().join("m1");
    let first = node(dir, 1, ca.trust(1), begin, None, Limits::default()).await;
    // A learner that only calls: nothing of the log ever reaches it.
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let learner = Member {
        name: "m9".into(),
        raft: unused.local_addr().unwrap().to_string(),
        api: String::new(),
    };
    drop(unused);
    first.replica.add_member(9, learner).await.unwrap();
    let transport = TcpTransport::new(9);
    transport.set_trust(ca.trust(9));
    let target = Target {
        id: 1,
        addr: first.member.raft.clone(),
    };
    let pulse = || {
        let request = Request::Ask(Ask::Pulse);
        transport
            .clone()
            .call(target.clone(), request, Duration::from_secs(5))
    };
    pulse().await.unwrap();
    first.replica.remove_member(9, false).await.unwrap();
    // The removal is noted when the metrics of raft say so; from then on the open connection ends, the next is refused.
    let end = tokio::time::Instant::now() + PATIENCE;
    let refused = loop {
        match pulse().await {
            Err(NetError::Wrong(why)) => break why,
            _ => assert!(tokio::time::Instant::now() < end, "it is answered for ever"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(refused.starts_with("E_MEMBER_REMOVED"), "{refused}");
    first.replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_named() {
    let home = tempfile::tempdir().unwrap();
    let ca = Authority::new("00000000000000ad");
    let first = node(
        home.path().join("m1"),
        1,
        ca.trust(1),
        Begin::Alone,
        None,
        Limits::default(),
    )
    .await;
    let target = |addr: &str| crate::net::Target {
        id: 1,
        addr: addr.into(),
    };
    let ask = |transport: Arc<TcpTransport>, addr: String| async move {
        use crate::net::{Ask, Request, Transport};
        let request = Request::Ask(Ask::Pulse);
        transport
            .call(target(&addr), request, Duration::from_secs(5))
            .await
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let addr = first.member.raft.clone();
    let dialler = |trust: Trust, id: u64| {
        let t = TcpTransport::new(id);
        t.set_trust(trust);
        t
    };
    assert_eq!(ask(dialler(ca.trust(2), 2), addr.clone()).await, Ok(()));
    // Another cluster with the same CA, another CA, a copy of this very member, and no member at all.
    let mut other = Authority::new("00000000000000ad");
    other.cluster = "00000000000000ae".into();
    let strange = Authority::new("00000000000000ad");
    let mut same_ca = ca.trust(2);
    same_ca.cluster = "00000000000000ae".into();
    for (who, id, expected) in [
        (same_ca, 2, "E_CLUSTER_MISMATCH"),
        (strange.trust(2), 2, "E_RAFT_TRUST"),
        (ca.trust(1), 1, "E_MEMBER_DUPLICATE"),
        (ca.trust(2), 3, "E_MEMBER_ID"),
    ] {
        let answer = ask(dialler(who, id), addr.clone()).await.unwrap_err();
        assert!(answer.starts_with(expected), "{expected}: {answer}");
    }
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign_addr = foreign.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in foreign.incoming().take(1) {
            let _ = stream
                .unwrap()
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let answer = ask(dialler(ca.trust(2), 2), foreign_addr)
        .await
        .unwrap_err();
    assert!(answer.starts_with("E_RAFT_FOREIGN"), "{answer}");
    // The member behind the address is another one than was meant.
    let t = dialler(ca.trust(2), 2);
    let wrong = crate::net::Transport::call(
        t,
        crate::net::Target { id: 7, addr },
        crate::net::Request::Ask(crate::net::Ask::Pulse),
        Duration::from_secs(5),
    )
    .await
    .unwrap_err();
    assert!(wrong.to_string().starts_with("E_MEMBER_ADDRESS"), "{wrong}");
    first.replica.shutdown().await;
}
