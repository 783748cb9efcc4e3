//! Writes per second through one or three members in this process, over loopback TLS and real disks: what consensus costs
//! without the API. `cargo run --release -p coracle-raft --example cluster -- DIR [MEMBERS] [CLIENTS] [BYTES] [SECONDS]`

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_raft::{Begin, Config, Member, Replica, TcpTransport, Trust, node_id_text};
use coracle_state::{Command, Expect, Key, Propose};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

const CLUSTER: &str = "00000000000000aa";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root").der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    fn trust(&self, id: u64) -> Trust {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:members");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let uri = format!("coracle://{CLUSTER}/nodes/{}", node_id_text(id));
        params.subject_alt_names = vec![
            SanType::DnsName("kubernetes".try_into().expect("a name")),
            SanType::URI(uri.as_str().try_into().expect("a URI")),
        ];
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let cert = signed.der().clone();
        let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots.clone()),
            provider.clone(),
        );
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(vec![cert.clone()], key())
            .expect("a server");
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![cert], key())
            .expect("a client");
        Trust {
            cluster: CLUSTER.into(),
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }
}

async fn member(home: &Path, ca: &Authority, id: u64) -> (Replica, Member) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let member = Member {
        name: format!("m{id}"),
        raft: listener.local_addr().expect("an address").to_string(),
        api: String::new(),
    };
    let transport = TcpTransport::new(id);
    transport.set_trust(ca.trust(id));
    let config = Config {
        member: member.clone(),
        begin: if id == 1 { Begin::Alone } else { Begin::Join },
        listener: Some(Arc::new(listener)),
        transport,
        ..Config::new(home.join(format!("m{id}")), id)
    };
    (Replica::start(config).await.expect("a member"), member)
}

fn cpu_seconds() -> f64 {
    let usage = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = usage
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0.0))
        .collect();
    // utime and stime in ticks of 10 ms.
    (fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / 100.0
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, usual: u64| args.get(i).map_or(usual, |a| a.parse().expect("a number"));
    let home = Path::new(args.get(1).expect("a directory")).join(format!("{}", std::process::id()));
    let (members, clients, bytes, seconds) =
        (number(2, 3), number(3, 64), number(4, 1024), number(5, 5));
    let ca = Authority::new();
    let mut all = Vec::new();
    for id in 1..=members {
        let (replica, who) = member(&home, &ca, id).await;
        if let Some((first, _)) = all.first() {
            let first: &Arc<Replica> = first;
            first.add_member(id, who.clone()).await.expect("added");
        }
        all.push((Arc::new(replica), who));
    }
    let first = all.first().expect("a member").0.clone();
    while first.members().iter().filter(|m| m.voter).count() < members as usize {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let value = Bytes::from(format!("{{\"data\":\"{}\"}}", "x".repeat(bytes as usize)));
    let done = Arc::new(AtomicU64::new(0));
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let end = began + Duration::from_secs(seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (replica, value, done) = (first.clone(), value.clone(), done.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut n = 0u64;
            while Instant::now() < end {
                n += 1;
                let key = Key::new("default", format!("{client}-{n}"));
                let put =
                    Command::put("configmaps", key, Expect::Absent, value.clone(), Vec::new());
                let at = Instant::now();
                let results = replica.propose(vec![put]).await.expect("a write");
                assert!(results.iter().all(Result::is_ok));
                latencies.push(at.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
            }
            latencies
        });
    }
    let mut latencies = Vec::new();
    while let Some(more) = tasks.join_next().await {
        latencies.extend(more.expect("a client"));
    }
    latencies.sort_unstable();
    let n = done.load(Ordering::Relaxed);
    let at = |p: usize| {
        latencies
            .get(latencies.len() * p / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "members {members} clients {clients} bytes {bytes}: {:.0} writes/s, p50 {:?}, p99 {:?}, {:.1} us CPU per write",
        n as f64 / began.elapsed().as_secs_f64(),
        at(50),
        at(99),
        (cpu_seconds() - cpu) * 1e6 / n as f64,
    );
    for (replica, _) in &all {
        replica.shutdown().await;
    }
    std::fs::remove_dir_all(&home).expect("removed");
}
