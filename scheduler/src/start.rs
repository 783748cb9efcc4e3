//! The order in which a member starts: directory, ports, log, trust, registry, control loop, listeners.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use coracle_api::Key;
use coracle_plan::Settings;
use coracle_plan::bootstrap::API_CLUSTER_IP;
use coracle_raft::{Config as RaftConfig, Member, Replica, node_id_text};
use coracle_server::service_alloc::Range;
use coracle_server::{Context, ContextConfig};
use coracle_state::{Propose, ProposeError, Views};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acks::Acks;
use crate::config::SchedulerConfig;
use crate::control::{Control, Phase};
use crate::data::DataDir;
use crate::error::StartError;
use crate::join::Joining;
use crate::pki::{Ca, Resolver, client_config, server_config};
use crate::renew::Renewal;
use crate::scheduler::{Scheduler, join};
use crate::tokens::TokenStore;
use crate::{listeners, registry, runners};

/// Names the API is reached by inside every cluster.
const API_NAMES: [&str; 8] = [
    "localhost",
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    API_CLUSTER_IP,
];

/// Starts a member and answers when its API serves the cluster.
pub async fn start(config: SchedulerConfig) -> Result<Scheduler, StartError> {
    if let Some(addr) = config.registry_addr
        && !addr.ip().is_loopback()
        && !config.insecure_registry
    {
        return Err(StartError::RegistryOpen { addr });
    }
    let (path, name) = (config.data_dir.clone(), config.name.clone());
    let data = tokio::task::spawn_blocking(move || DataDir::open(&path, name.as_deref()))
        .await
        .map_err(|e| StartError::Thread(std::io::Error::other(e)))??;
    // Ports first: the mistake that is made most often is found before anything is written.
    let api = data.listen("api", "--api-addr", config.api_addr).await?;
    let plain = match config.registry_addr {
        Some(addr) => Some(data.listen("registry", "--registry-addr", addr).await?),
        None => None,
    };
    let api_addr = api
        .local_addr()
        .map_err(|e| StartError::io(data.path(), e))?;
    let identity = data.identity().clone();
    let api_url = url("https", api_addr, config.advertise.as_deref());
    let mut raft = RaftConfig::new(data.path(), identity.node_id().unwrap_or_default());
    raft.member = Member {
        name: identity.name,
        raft: String::new(),
        api: api_url.clone(),
    };
    raft.clock = config.clock.clone();
    raft.limits = config.limits.clone();
    raft.fatal = config.fatal.clone();
    let replica = Arc::new(Replica::start(raft).await?);
    let started = Starting {
        config,
        data,
        replica: replica.clone(),
        api_addr,
        api_url,
    }
    .wire(api, plain)
    .await;
    if started.is_err() {
        replica.shutdown().await;
    }
    started
}

/// A member whose log is open and whose ports are taken.
struct Starting {
    config: SchedulerConfig,
    data: DataDir,
    replica: Arc<Replica>,
    api_addr: SocketAddr,
    api_url: String,
}

impl Starting {
    async fn wire(
        mut self,
        api: TcpListener,
        plain: Option<TcpListener>,
    ) -> Result<Scheduler, StartError> {
        let clock = self.config.clock.clone();
        let issued = clock();
        let pki = self.data.pki()?;
        let ca = Arc::new(
            Ca::load_or_create(self.replica.as_ref(), self.replica.as_ref(), &pki, issued).await?,
        );
        self.data.join_cluster(ca.cluster())?;
        let (name, id) = (
            self.data.identity().name.clone(),
            self.data.identity().id.clone(),
        );
        let kubeconfig = self.data.path().join("kubeconfig");
        let renewal = Renewal {
            ca: ca.clone(),
            name: name.clone(),
            id: id.clone(),
            hosts: self.hosts(),
            pki,
            kubeconfig: kubeconfig.clone(),
            api_url: self.api_url.clone(),
        };
        let member = renewal.member(issued)?;
        renewal.admin(issued)?;
        let resolver = Resolver::new(&member)?;
        let runners = runners::client(client_config(ca.root_store()?, &member)?);

        let (propose, views): (Arc<dyn Propose>, Arc<dyn Views>) =
            (self.replica.clone(), self.replica.clone());
        let registry = registry::open(
            &self.data.path().join("registry"),
            propose.clone(),
            views.clone(),
            clock.clone(),
        )
        .await?;
        let tokens = Arc::new(TokenStore::new(propose, views, clock.clone(), ca.hash()));
        let acks = Arc::new(Acks::default());
        let (phase, phases) = watch::channel(Phase::Starting);
        let context = self.context(&ca, &tokens, &acks, runners.clone(), phases.clone());
        let tls = server_config(ca.root_store()?, resolver.clone())?;

        let (stop, stop_control, tasks) = (
            CancellationToken::new(),
            CancellationToken::new(),
            TaskTracker::new(),
        );
        let settings = Settings {
            node_lease_ms: self.config.node_lease_ms,
            ingress_addresses: self.config.ingress_addresses.clone(),
            ca_pem: ca.bundle(),
            ..Settings::default()
        };
        let control = Control {
            replica: self.replica.clone(),
            acks,
            clock: clock.clone(),
            settings,
            api_port: self.api_addr.port(),
            phase,
            stop: stop_control.clone(),
        };
        let control = control.spawn()?;
        if let Err(e) = furnished(&self.replica, phases).await {
            stop_control.cancel();
            join(control).await;
            return Err(e);
        }

        let router =
            coracle_server::router(context).merge(coracle_registry::router(registry.clone()));
        let serving = coracle_server::serve(api, tls, router, stop.clone());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the API listener has ended");
            }
        });
        let mut registry_url = None;
        if let Some(listener) = plain {
            let addr = listener
                .local_addr()
                .map_err(|e| StartError::io(self.data.path(), e))?;
            registry_url = Some(url(
                "http",
                addr,
                self.config
                    .advertise
                    .as_deref()
                    .filter(|_| !addr.ip().is_loopback()),
            ));
            tasks.spawn(listeners::plain(
                listener,
                coracle_registry::router(registry.clone()),
                stop.clone(),
            ));
        }
        tasks.spawn(registry::collect(registry, clock.clone(), stop.clone()));
        tasks.spawn(renewal.run(issued, clock.clone(), resolver, runners, stop.clone()));
        tasks.close();
        tracing::info!(name, id, api = self.api_url, "the scheduler serves");
        Ok(Scheduler {
            name,
            id,
            api_addr: self.api_addr,
            api_url: self.api_url,
            registry_url,
            kubeconfig,
            ca,
            clock,
            tokens,
            replica: self.replica,
            stop_control,
            stop,
            tasks,
            control: Mutex::new(Some(control)),
            data: Mutex::new(Some(self.data)),
        })
    }

    /// Everything the API may be reached by.
    fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = API_NAMES.iter().map(ToString::to_string).collect();
        if !self.api_addr.ip().is_unspecified() {
            hosts.push(self.api_addr.ip().to_string());
        }
        hosts.extend(self.config.advertise.clone());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let dns = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !host.is_empty() && host.chars().all(dns) {
            hosts.push(host);
        }
        hosts
    }

    fn context(
        &self,
        ca: &Arc<Ca>,
        tokens: &Arc<TokenStore>,
        acks: &Arc<Acks>,
        runners: Arc<runners::RunnerClient>,
        phases: watch::Receiver<Phase>,
    ) -> Arc<Context> {
        let (clock, acks) = (self.config.clock.clone(), acks.clone());
        let joining = Joining {
            tokens: tokens.clone(),
            ca: ca.clone(),
            views: self.replica.clone(),
            clock: clock.clone(),
        };
        let bundle = ca.bundle();
        let reported = (
            self.replica.clone(),
            self.data.identity().name.clone(),
            ca.cluster().to_string(),
        );
        let replica = self.replica.clone();
        Context::new(ContextConfig {
            propose: self.replica.clone(),
            views: self.replica.clone(),
            clock,
            seed: rand::random(),
            runners,
            acks: Arc::new(move |node, applied| acks.put(node, applied)),
            join: Arc::new(joining),
            tokens: tokens.clone(),
            bearer: None,
            ca_bundle_pem: Arc::new(move || bundle.clone()),
            status: Arc::new(move || status(&reported.0, &reported.1, &reported.2)),
            ready: Arc::new(move || ready(&replica, &phases)),
            server_address: self.api_addr.to_string(),
            service_range: Range::SERVICES,
            pod_range: Range::PODS,
            product_version: self.config.version.clone(),
        })
    }
}

/// Waits for the first objects. If they cannot be written (a full disk), a cluster that has them serves reads all the
/// same; one that has not cannot begin.
async fn furnished(
    replica: &Replica,
    mut phases: watch::Receiver<Phase>,
) -> Result<(), StartError> {
    let phase = match phases.wait_for(|p| *p != Phase::Starting).await {
        Ok(phase) => phase.clone(),
        Err(_) => Phase::Blocked("the control loop has ended".into()),
    };
    match phase {
        Phase::Blocked(why)
            if replica
                .view()
                .get("namespaces", &Key::new("", "default"))
                .is_none() =>
        {
            Err(StartError::Propose(ProposeError::Unavailable(why)))
        }
        _ => Ok(()),
    }
}

/// `SCHEME://HOST:PORT`; a wildcard address is reached on loopback.
fn url(scheme: &str, addr: SocketAddr, advertise: Option<&str>) -> String {
    let host = match advertise {
        Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        Some(host) => host.to_string(),
        None => match addr {
            SocketAddr::V4(a) if a.ip().is_unspecified() => "127.0.0.1".into(),
            SocketAddr::V6(a) if a.ip().is_unspecified() => "[::1]".into(),
            SocketAddr::V4(a) => a.ip().to_string(),
            SocketAddr::V6(a) => format!("[{}]", a.ip()),
        },
    };
    format!("{scheme}://{host}:{}", addr.port())
}

fn ready(replica: &Replica, phases: &watch::Receiver<Phase>) -> Result<(), String> {
    if replica.leader_changes().borrow().leader.is_none() {
        return Err("no leader at present".into());
    }
    match &*phases.borrow() {
        Phase::Running => Ok(()),
        Phase::Starting if !replica.is_leader() => Ok(()),
        Phase::Starting => Err("the control loop is starting".into()),
        Phase::Blocked(why) => Err(why.clone()),
    }
}

fn status(replica: &Replica, name: &str, cluster: &str) -> Value {
    let s = replica.status();
    let members: Vec<Value> = s
        .members
        .iter()
        .map(|(id, m)| json!({"id": node_id_text(*id), "name": m.name, "api": m.api, "raft": m.raft, "leader": s.leadership.leader == Some(*id)}))
        .collect();
    json!({
        "name": name,
        "cluster": cluster,
        "id": node_id_text(s.id),
        "leader": s.leadership.leader.map(node_id_text),
        "term": s.leadership.term,
        "applied": s.applied,
        "lastLog": s.last_log,
        "snapshot": s.snapshot,
        "hash": format!("{:016x}", s.hash),
        "members": members,
    })
}
