//! The order in which a member starts: directory, ports, trust, log, its place in the cluster, registry, control loop,
//! listeners.
//!
//! A directory that belongs to no cluster either begins one (its log starts with one voter, then the CA is made) or
//! enters one (`enter`: a certificate first, then the log, empty, to which the leader sends everything). Any other
//! directory goes on where it was: its certificate lets its transport speak before the log is read.

mod parts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_api::Key;
use coracle_plan::Settings;
use coracle_plan::bootstrap::API_CLUSTER_IP;
use coracle_raft::net::TcpTransport;
use coracle_raft::{Begin, Config as RaftConfig, Member, Replica};
use coracle_state::{Propose, ProposeError, Views};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Door, Guard, Served};
use crate::acks::{self, Acks};
use crate::backup;
use crate::config::SchedulerConfig;
use crate::control::{Control, Phase};
use crate::data::DataDir;
use crate::desk::Topics;
use crate::enter::{self, Newcomer};
use crate::error::StartError;
use crate::gate::Gate;
use crate::pki::{Ca, Clients, Resolver, client_config, load_identity, raft_trust, server_config};
use crate::ports::{self, Ports, authority};
use crate::renew::{Renewal, Shown};
use crate::rotate::Certifier;
use crate::scheduler::{Scheduler, join};
use crate::tokens::TokenStore;
use crate::upstream::Upstream;
use crate::vigil::{self, Vigil};
use crate::{admission, blobs, holders, listeners, registry, report, runners, upstream};

use parts::Outside;

/// Names the API is reached by inside every cluster; the members' transport asks for `kubernetes`.
pub(crate) const API_NAMES: [&str; 8] = [
    "localhost",
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    API_CLUSTER_IP,
];
/// Between two looks at whether this member can serve.
const LOOK: Duration = Duration::from_millis(20);

/// Starts a member and answers when it serves the cluster. Without a quorum that is when there is one; until then its log
/// says who is missing.
pub async fn start(config: SchedulerConfig) -> Result<Scheduler, StartError> {
    ports::check(&config)?;
    let (path, name) = (config.data_dir.clone(), config.name.clone());
    let mut data = tokio::task::spawn_blocking(move || DataDir::open(&path, name.as_deref()))
        .await
        .map_err(|e| StartError::Thread(std::io::Error::other(e)))??;
    backup::complete(data.path())?;
    let ports = Ports::take(&data, &config).await?;
    let entering = enter(&config, &mut data, &ports.me).await?;
    let pki = data.pki()?;
    let identity = data.identity().clone();
    let id = identity.node_id().unwrap_or_default();
    let transport = TcpTransport::new(id);
    let own = match identity.cluster.as_str() {
        "" => None,
        _ => load_identity(&pki)?,
    };
    if let Some(own) = &own {
        transport.set_trust(raft_trust(&identity.cluster, own)?);
    }
    let moved = data
        .places()
        .filter(|p| p.me != ports.me && !p.others.is_empty());
    let topics = Arc::new(Topics::default());
    let mut raft = RaftConfig::new(data.path(), id);
    raft.member = ports.me.clone();
    raft.clock = config.clock.clone();
    raft.limits = config.limits.clone();
    raft.fatal = config.fatal.clone();
    // A directory of a cluster never begins one of its own, whatever became of its log.
    raft.begin = match identity.cluster.as_str() {
        "" => Begin::Alone,
        _ => Begin::Join,
    };
    let listener = ports.raft.into_std();
    raft.listener = Some(Arc::new(
        listener.map_err(|e| StartError::io(data.path(), e))?,
    ));
    raft.transport = transport.clone();
    raft.desk = Some(topics.clone());
    let replica = match (moved, own) {
        (Some(places), Some(own)) => tokio::select! {
            started = Replica::start(raft) => started?,
            copy = admission::announce(&identity.id, &ports.me, &own, &places.others) => return Err(copy),
        },
        _ => Replica::start(raft).await?,
    };
    let replica = Arc::new(replica);
    let started = Starting {
        config,
        data,
        pki,
        replica: replica.clone(),
        transport,
        topics,
        entering,
        api_addr: ports.api_addr,
        me: ports.me,
    }
    .wire(ports.api, ports.registry)
    .await;
    if started.is_err() {
        replica.shutdown().await;
    }
    started
}

/// Enters a cluster if the directory is in none and `--join` says which. Answers through which APIs this member still
/// has to ask to be let in.
async fn enter(
    config: &SchedulerConfig,
    data: &mut DataDir,
    me: &Member,
) -> Result<Option<Vec<String>>, StartError> {
    if !data.identity().cluster.is_empty() {
        if config.join.is_some() {
            enter::check_given_again(data, config.token.as_deref())?;
        }
        let entering = data.joining();
        if entering.is_none() && !data.has_log() {
            return Err(StartError::Join(format!(
                "E_DATA_LOG_GONE: {} belongs to cluster {} but its log is gone; restore it from a backup, or (with other members alive) delete the directory and start with --join and a new token",
                data.path().display(),
                data.identity().cluster
            )));
        }
        return Ok(entering);
    }
    let Some(target) = &config.join else {
        // Whoever has a token wants to join: a cluster of its own would be a surprise, found late.
        if config.token.is_some() && !data.has_log() {
            return Err(StartError::Join(
                "E_JOIN: --token without --join says no address; give the API of any member as --join HOST:PORT, or leave --token out to begin a new cluster".into(),
            ));
        }
        return Ok(None);
    };
    if data.has_log() {
        return Err(StartError::Join(format!(
            "E_JOIN_NOT_EMPTY: {} has the log of a cluster of its own; name an empty directory with --data-dir",
            data.path().display()
        )));
    }
    let Some(token) = &config.token else {
        return Err(StartError::Join(
            "E_JOIN_TOKEN: a first join needs --token; make one with `coracle token create --role scheduler`".into(),
        ));
    };
    let newcomer = Newcomer {
        raft: &me.raft,
        api: &me.api,
        clock: &config.clock,
    };
    enter::enter(data, target, token, &newcomer).await?;
    Ok(data.joining())
}

/// A member whose log is open and whose ports are taken.
struct Starting {
    config: SchedulerConfig,
    data: DataDir,
    pki: PathBuf,
    replica: Arc<Replica>,
    transport: Arc<TcpTransport>,
    topics: Arc<Topics>,
    entering: Option<Vec<String>>,
    api_addr: SocketAddr,
    me: Member,
}

impl Starting {
    /// The CA: made at the first start, else waited for, since it comes with the log.
    async fn ca(&mut self) -> Result<Ca, StartError> {
        let now = (self.config.clock)();
        let lives = self.config.lives;
        let replica = self.replica.as_ref();
        if self.data.identity().cluster.is_empty() {
            return Ca::load_or_create(replica, replica, &self.pki, lives, now).await;
        }
        if let Some(through) = self.entering.take() {
            let own = load_identity(&self.pki)?.ok_or_else(|| {
                StartError::Pki(
                    "this member's certificate is gone; delete the directory and join again".into(),
                )
            })?;
            admission::ask_in(replica, &self.me, &own, &through).await?;
            admission::arrive(replica).await;
            self.data.set_joining(None)?;
        } else {
            admission::arrive(replica).await;
        }
        Ca::load(&replica.view(), &self.pki, lives)
    }

    async fn wire(
        self,
        api: TcpListener,
        plain: Option<TcpListener>,
    ) -> Result<Scheduler, StartError> {
        let running = Running::default();
        vigil::open(&self.topics, self.replica.clone());
        let vigil = Vigil {
            replica: self.replica.clone(),
            transport: self.transport.clone(),
            me: self.me.clone(),
            data: self.data.path().into(),
            fatal: self.config.fatal.clone(),
            stop: running.stop.clone(),
        };
        running.tasks.spawn(vigil.run());
        // Whatever was begun ends if this does, be it by an error or because nobody waits any more.
        let guards = (
            running.stop.clone().drop_guard(),
            running.stop_control.clone().drop_guard(),
        );
        let scheduler = self.wire_all(running, api, plain).await?;
        guards.0.disarm();
        guards.1.disarm();
        Ok(scheduler)
    }

    async fn wire_all(
        mut self,
        running: Running,
        api: TcpListener,
        plain: Option<TcpListener>,
    ) -> Result<Scheduler, StartError> {
        let Running {
            stop,
            stop_control,
            tasks,
        } = running;
        let clock = self.config.clock.clone();
        let served = self.config.registry.certificate.clone();
        let served = served.map(|(chain, key)| Served::read(chain, key));
        let served = served.transpose()?;
        let ca = Arc::new(self.ca().await?);
        self.data.join_cluster(ca.cluster())?;
        let issued = clock();
        let (name, id) = (
            self.data.identity().name.clone(),
            self.data.identity().id.clone(),
        );
        let kubeconfig = self.data.path().join("kubeconfig");
        let mut renewal = Renewal {
            ca: ca.clone(),
            name: name.clone(),
            id: id.clone(),
            hosts: self.hosts(),
            pki: self.pki.clone(),
            kubeconfig: kubeconfig.clone(),
            api_url: self.me.api.clone(),
            registry: Vec::new(),
        };
        let member = renewal.member(issued)?;
        renewal.admin(issued)?;
        self.transport.set_trust(raft_trust(ca.cluster(), &member)?);
        let resolver = Resolver::new(&member)?;
        let clients = Clients::new(&ca.bundle())?;
        let runners = runners::client(client_config(&ca.bundle(), &member)?);
        let certifier = Certifier::new(ca.clone(), self.replica.clone(), clock.clone());

        let (propose, views): (Arc<dyn Propose>, Arc<dyn Views>) =
            (self.replica.clone(), self.replica.clone());
        let tokens = Arc::new(TokenStore::new(
            propose.clone(),
            views.clone(),
            clock.clone(),
            ca.clone(),
        ));
        let guard = Guard::new(
            tokens.logins.clone(),
            ca.clone(),
            propose.clone(),
            views.clone(),
            clock.clone(),
        );
        let peers = blobs::Peers::new(self.replica.clone(), runners.clone());
        let dir = self.data.path().join("registry");
        let store = registry::open(registry::Opening {
            dir: &dir,
            storage: self.config.registry_storage.as_deref(),
            garbage_age_ms: self.config.registry_garbage.age_ms,
            peers,
            stop: stop.clone(),
            propose,
            views,
            clock: clock.clone(),
            authorise: guard.clone(),
        })
        .await?;
        let acks = Arc::new(Acks::default());
        acks.open(&self.topics);
        let leases = self.leases();
        leases.open(&self.topics);
        holders::open(&self.topics, self.replica.clone());
        let (phase, phases) = watch::channel(Phase::Starting);
        let keeper = self.keeper(&ca);
        let outside = Outside {
            certifier: certifier.clone(),
            tokens: tokens.clone(),
            acks: acks.clone(),
            leases: leases.clone(),
            keeper: keeper.clone(),
            runners: runners.clone(),
            gate: Arc::new(Gate::new(store.registry.clone())),
        };
        let context = self.context(&ca, outside, phases.clone());
        let tls = server_config(clients.clone(), resolver.clone())?;

        let settings = Settings {
            node_lease_ms: self.config.node_lease_ms,
            ingress_addresses: self.config.ingress_addresses.clone(),
            ca_pem: ca.bundle(),
            ..Settings::default()
        };
        let control = Control {
            replica: self.replica.clone(),
            acks: acks.clone(),
            clock: clock.clone(),
            settings,
            ca: ca.clone(),
            api_port: self.api_addr.port(),
            phase,
            stop: stop_control.clone(),
        };
        let control = control.spawn()?;
        if let Err(e) = furnished(&self.replica, phases.clone()).await {
            stop_control.cancel();
            join(control).await;
            return Err(e);
        }

        let registry = store.registry;
        let administered = blobs::Admin {
            registry: registry.clone(),
            spread: store.blobs.clone(),
            clock: clock.clone(),
            stop: stop.clone(),
        };
        let copies = blobs::Local::new(store.blobs.disk().clone(), registry.clone());
        let upstreams = self.config.registry_upstreams.clone();
        let replica = self.replica.clone();
        let secrets: upstream::Secrets =
            Arc::new(move |key| Some(replica.view().get("secrets", key)?.value()));
        let images =
            Upstream::new(upstreams, secrets).wrap(coracle_registry::router(registry.clone()));
        let under_api = Door {
            open: false,
            tls: true,
            authority: self.me.api.trim_start_matches("https://").to_string(),
        };
        let router = coracle_server::router(context)
            .merge(guard.router(images.clone(), under_api))
            .merge(holders::router(self.replica.clone()))
            .merge(blobs::router(copies))
            .merge(blobs::admin_router(administered));
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
            let advertise = self.config.advertise.as_deref();
            let outside = advertise.filter(|_| !addr.ip().is_loopback());
            let host = authority(addr, outside);
            // On its own machine it goes by two names.
            if addr.ip().is_loopback() {
                renewal.registry.push(format!("localhost:{}", addr.port()));
            }
            let guarded = self.config.registry.at(addr)?;
            let door = Door {
                open: !guarded.auth,
                tls: guarded.tls,
                authority: host.clone(),
            };
            registry_url = Some(door.url());
            renewal.registry.push(host);
            let images = guard.router(images, door);
            if guarded.tls {
                let shown = match served {
                    Some(served) => {
                        let shown = served.resolver.clone();
                        tasks.spawn(served.run(stop.clone()));
                        shown
                    }
                    None => resolver.clone(),
                };
                let tls = server_config(clients.clone(), shown)?;
                let serving = coracle_server::serve(listener, tls, images, stop.clone());
                tasks.spawn(async move {
                    if let Err(error) = serving.await {
                        tracing::error!(%error, "the registry listener has ended");
                    }
                });
            } else {
                tasks.spawn(listeners::plain(listener, images, stop.clone()));
            }
        }
        tasks.spawn(keeper.run(stop.clone()));
        tasks.spawn(blobs::heal(store.blobs, store.meta, stop.clone()));
        tasks.spawn(blobs::scrub(registry.clone(), stop.clone()));
        let every = self.config.registry_garbage.every;
        let collecting = registry::collect(registry, every, clock.clone(), stop.clone());
        tasks.spawn(collecting);
        if let Some(objects) = store.objects {
            tasks.spawn(registry::sweep(objects, clock.clone(), stop.clone()));
        }
        let shown = Shown {
            resolver,
            clients,
            runners,
            transport: Some(self.transport.clone()),
        };
        let renewing = renewal.run(member, issued, shown, certifier.clone(), stop.clone());
        tasks.spawn(renewing);
        tasks.spawn(certifier.run(stop.clone()));
        let forwarding = acks::forward(acks.clone(), self.replica.clone(), stop.clone());
        tasks.spawn(forwarding);
        tasks.spawn(leases.run(stop.clone()));
        tasks.close();
        settled(&self.replica, &phases).await;
        if let Some(places) = vigil::places(&self.replica)
            && let Err(error) = places.save(self.data.path())
        {
            // A full disk; it is tried again.
            tracing::debug!(%error, "the members' addresses were not kept");
        }
        tracing::info!(name, id, api = self.me.api, "the scheduler serves");
        Ok(Scheduler {
            name,
            id,
            api_addr: self.api_addr,
            api_url: self.me.api,
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
            #[cfg(test)]
            acks,
        })
    }
}

/// What runs beside the control thread, and what stops it.
#[derive(Default)]
struct Running {
    stop: CancellationToken,
    stop_control: CancellationToken,
    tasks: TaskTracker,
}

/// Waits for the first objects, whoever writes them. If they cannot be written (a full disk), a cluster that has them
/// serves reads all the same; one that has not cannot begin.
async fn furnished(
    replica: &Replica,
    mut phases: watch::Receiver<Phase>,
) -> Result<(), StartError> {
    loop {
        let view = replica.view();
        if view.get("namespaces", &Key::new("", "default")).is_some() {
            return Ok(());
        }
        if let Phase::Blocked(why) = &*phases.borrow_and_update() {
            return Err(StartError::Propose(ProposeError::Unavailable(why.clone())));
        }
        tokio::select! {
            _ = replica.newer_than(view.revision) => {}
            changed = phases.changed() => if changed.is_err() {
                let why = "the control loop has ended".into();
                return Err(StartError::Propose(ProposeError::Unavailable(why)));
            }
        }
    }
}

/// Waits until this member is ready, or its writes are refused for a reason that only an operator can remove: then it
/// serves reads.
async fn settled(replica: &Replica, phases: &watch::Receiver<Phase>) {
    loop {
        let blocked = matches!(&*phases.borrow(), Phase::Blocked(_));
        let led = replica.leader_changes().borrow().leader.is_some();
        if report::ready(replica, phases).is_ok() || (blocked && led) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
