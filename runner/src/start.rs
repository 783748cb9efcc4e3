//! Starting and stopping a runner: the parts, wired.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coracle_agent::{Agent, AgentConfig};
use coracle_api::Timestamp;
use coracle_engine::{CompilerCommand, Engine, EngineConfig, EngineError};
use coracle_proxy::{Config as ProxyConfig, PeerConfig, Proxy};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::config::RunnerConfig;
use crate::endpoints::Endpoints;
use crate::events::Events;
use crate::join::Identity;
use crate::listener;
use crate::live::Live;
use crate::logs::{LogStore, Logs};
use crate::node::{self, Facts};
use crate::outbound::{Net, may_reach};
use crate::perform::{Performer, Tools, WRITES_MAX};
use crate::pull::Images;
use crate::renew::Keeper;
use crate::replicas::Replicas;
use crate::tls::BadTls;
use crate::volumes::Volumes;
use crate::watch::{self, Target};
use crate::{drive, feed, prefetch};

/// Results waiting for the loop; work waits when it is full.
const RESULTS: usize = 1_024;
/// Changes of pods waiting for the loop; the watch waits when it is full.
const POD_CHANGES: usize = 1_024;
/// How long a runner waits for the API server and its first complete routing table.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between tries to reach the API server at start.
const RETRY: Duration = Duration::from_millis(200);

/// Why a runner did not start. Each has a stable code in front and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(
        "E_RUNNER_DATA: {path} cannot be used; give a directory that belongs to this user and has space"
    )]
    Data {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The certificates do not fit.
    #[error("E_RUNNER_TLS: {0}; join the cluster again")]
    Tls(#[from] BadTls),
    /// The certificate's time is over: no API server takes it.
    #[error(
        "E_RUNNER_CERT_EXPIRED: this node's certificate ended at {0}, while it was not running; join again with --join HOST:PORT and a new --token"
    )]
    Expired(Timestamp),
    /// The API server's address is not one.
    #[error("E_RUNNER_API: {0}; give the API server's URL as https://HOST:PORT")]
    Api(String),
    /// The Wasm engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The runner's own port cannot be listened on.
    #[error(
        "E_PORT_IN_USE: the runner cannot listen on {addr}; stop what holds the port or give another --runner-addr"
    )]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The ingress did not start.
    #[error("E_PORT_IN_USE: {0}; stop what holds the port or give another --ingress-addr")]
    Proxy(#[from] coracle_proxy::StartError),
    /// A thread could not be started.
    #[error("E_RUNNER_THREADS: a thread could not be started; raise the limit on threads")]
    Thread(#[source] std::io::Error),
    /// The API server did not answer, or refused this node.
    #[error(
        "E_RUNNER_NOT_REGISTERED: the node could not be registered: {0}; check that the API server runs and that this node has joined it"
    )]
    Register(String),
}

/// A running node.
pub struct Runner {
    ingress_addr: SocketAddr,
    runner_addr: SocketAddr,
    proxy: Proxy,
    settings: crate::config::Settings,
    stop: Stop,
    drive: JoinHandle<()>,
    listener: JoinHandle<()>,
    /// Runs commands; taken down without waiting, as guests end by being killed.
    guests: Option<tokio::runtime::Runtime>,
}

/// What ends which part; the parts end in an order.
#[derive(Default)]
struct Stop {
    background: CancellationToken,
    drive: CancellationToken,
    listener: CancellationToken,
}

impl Runner {
    /// URL of the ingress.
    pub fn ingress_url(&self) -> String {
        format!("http://{}", self.ingress_addr)
    }

    /// Where the ingress listens.
    pub fn ingress_addr(&self) -> SocketAddr {
        self.ingress_addr
    }

    /// Where logs are asked for and peers send requests.
    pub fn runner_addr(&self) -> SocketAddr {
        self.runner_addr
    }

    /// Takes no new connections, lets requests in flight finish within the grace of the settings, ends everything. Pods
    /// stay as they are in the API and start again with the runner.
    pub async fn shutdown(mut self) {
        let grace = Duration::from_millis(self.settings.shutdown_grace_ms);
        self.stop.listener.cancel();
        let listener = &mut self.listener;
        tokio::join!(self.proxy.shutdown(grace), async {
            if tokio::time::timeout(grace, &mut *listener).await.is_err() {
                listener.abort();
            }
        });
        self.stop.drive.cancel();
        if let Err(error) = (&mut self.drive).await {
            tracing::warn!(%error, "the runner's loop ended badly");
        }
        self.stop.background.cancel();
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop.background.cancel();
        self.stop.drive.cancel();
        self.stop.listener.cancel();
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}

/// Starts a runner: answers when the node is registered and routes are in force. This must be called on a
/// multi-threaded tokio runtime.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub async fn start(config: RunnerConfig) -> Result<Runner, StartError> {
    let stop = Stop::default();
    // Ends what was started if a later part fails.
    let guards = [
        stop.background.clone(),
        stop.drive.clone(),
        stop.listener.clone(),
    ]
    .map(CancellationToken::drop_guard);
    let settings = config.settings.clone();
    let live = identity(&config)?;
    let dir = |name: &str| made(&config.data_dir.join(name));
    let (volumes_dir, logs_dir, images_dir) = (dir("volumes")?, dir("logs")?, dir("images")?);
    let endpoints = Endpoints::open(
        &config.api_urls,
        &config.registry_hosts,
        &config.data_dir.join("endpoints.json"),
    )
    .map_err(StartError::Api)?;
    let api = Api::new(endpoints, &live)?;
    let logs = Logs::start(LogStore::new(logs_dir), settings.log_file_bytes)
        .map_err(StartError::Thread)?;
    let images =
        Images::open(&images_dir, settings.image_bytes_max, api.clone()).map_err(|source| {
            StartError::Data {
                path: images_dir,
                source,
            }
        })?;
    let images = images.with_peers(api.clone(), &live)?;

    let (cpu_millis, memory_bytes) = node::capacity(&settings);
    let engine = engine(&config, memory_bytes)?;
    let guests = tokio::runtime::Builder::new_multi_thread()
        .thread_name("coracle-guest")
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;

    let listen = |source| StartError::Listen {
        addr: config.runner_addr,
        source,
    };
    let listener = TcpListener::bind(config.runner_addr)
        .await
        .map_err(listen)?;
    let runner_addr = listener.local_addr().map_err(listen)?;

    let (results_to, results) = mpsc::channel(RESULTS);
    let net = Arc::new(Net {
        proxy: OnceLock::new(),
        replicas: Replicas::new(results_to.clone()),
    });
    let mut proxy_config = ProxyConfig::new(config.ingress_addr, Arc::new(net.replicas.clone()));
    proxy_config.peers = Some(PeerConfig::new(Arc::new(live.client()?)));
    let private = settings.allow_private_egress;
    proxy_config.outside = Arc::new(move |ip| may_reach(ip, private));
    if let Some(cores) = settings.proxy_cores {
        proxy_config.cores = cores;
    }
    let proxy = Proxy::start(proxy_config)?;
    // Set once, here.
    drop(net.proxy.set(proxy.clone()));

    let facts = Facts {
        name: config.name.clone(),
        ip: config.advertised(runner_addr),
        runner_port: runner_addr.port(),
        ingress: proxy.ingress_addr(),
        cpu_millis,
        memory_bytes,
        pods: settings.pods_max,
        labels: settings.labels.clone(),
    };
    register(&api, &facts).await?;
    let keeper = Keeper {
        api: api.clone(),
        live: live.clone(),
        name: config.name.clone(),
        dir: config.identity_dir.clone(),
        every: Duration::from_millis(settings.refresh_ms),
    };
    tokio::spawn(keeper.run(stop.background.clone()));
    tokio::spawn(node::keep_alive(
        api.clone(),
        facts.clone(),
        settings.clone(),
        stop.background.clone(),
    ));

    let (pods_to_feed, pods_for_feed) = feed::pod_channel();
    let (ready_to, ready) = oneshot::channel();
    tokio::spawn(feed::run(
        api.clone(),
        config.name.clone(),
        proxy.clone(),
        pods_for_feed,
        ready_to,
        stop.background.clone(),
    ));

    let mut metrics = Registry::default();
    metrics.register_collector(proxy.collector());
    images.register(&mut metrics);
    let context = Arc::new(listener::Context {
        logs: logs.clone(),
        proxy: proxy.clone(),
        blobs: images.serve(),
        metrics,
    });
    let listener = tokio::spawn(listener::serve(
        listener,
        live.clone(),
        context,
        stop.listener.clone(),
    ));

    let tools = Arc::new(Tools {
        events: Events::start(api.clone(), config.name.clone()),
        api: api.clone(),
        engine,
        images,
        volumes: Volumes::new(volumes_dir, settings.host_paths.clone()),
        logs,
        net,
        settings: settings.clone(),
        guests: guests.handle().clone(),
        results: results_to,
        known: Default::default(),
        trust: Default::default(),
        writes: tokio::sync::Semaphore::new(WRITES_MAX),
    });
    let agent = Agent::new(AgentConfig {
        backoff_base_ms: settings.backoff_base_ms,
        backoff_max_ms: settings.backoff_max_ms,
        ..AgentConfig::new(config.name.clone(), facts.ip.to_string())
    });
    let (local_to, local) = prefetch::channel();
    tokio::spawn(prefetch::run(tools.clone(), local, stop.background.clone()));
    let (changes_to, changes) = mpsc::channel(POD_CHANGES);
    let target = Target {
        path: "/api/v1/pods".into(),
        fields: format!("spec.nodeName={}", config.name),
    };
    tokio::spawn(watch::run(api, target, changes_to, stop.background.clone()));
    let drive = tokio::spawn(drive::drive(
        agent,
        Performer::new(tools),
        changes,
        results,
        (pods_to_feed, local_to),
        stop.drive.clone(),
    ));

    let mut runner = Runner {
        ingress_addr: proxy.ingress_addr(),
        runner_addr,
        proxy,
        settings,
        stop,
        drive,
        listener,
        guests: Some(guests),
    };
    let waited = tokio::time::timeout(READY_TIMEOUT, ready).await;
    for guard in guards {
        guard.disarm();
    }
    if !matches!(waited, Ok(Ok(()))) {
        runner.settings.shutdown_grace_ms = 0;
        runner.shutdown().await;
        let why = format!("no routes could be read in {} s", READY_TIMEOUT.as_secs());
        return Err(StartError::Register(why));
    }
    Ok(runner)
}

fn identity(config: &RunnerConfig) -> Result<Arc<Live>, StartError> {
    let live = Live::new(Identity {
        ca_pem: config.ca_pem.clone(),
        cert_pem: config.cert_pem.clone(),
        key_pem: config.key_pem.clone(),
    })?;
    let (_, end) = live.facts().valid;
    if end <= Timestamp::now() {
        return Err(StartError::Expired(end));
    }
    Ok(live)
}

fn made(path: &Path) -> Result<PathBuf, StartError> {
    match std::fs::create_dir_all(path) {
        Ok(()) => Ok(path.into()),
        Err(source) => Err(StartError::Data {
            path: path.into(),
            source,
        }),
    }
}

fn engine(config: &RunnerConfig, memory_bytes: u64) -> Result<Engine, EngineError> {
    let (program, args) = config.compiler.clone();
    let compiler = CompilerCommand {
        program,
        args: args.into_iter().map(Into::into).collect(),
    };
    let mut settings = EngineConfig::new(compiler, config.data_dir.join("aot"));
    settings.max_memories = config.settings.max_memories;
    settings.max_unused_warm_slots = settings
        .max_unused_warm_slots
        .min(config.settings.max_memories);
    settings.node_memory_bytes = memory_bytes;
    Engine::new(settings)
}

/// Registers the node, for as long as the API server may take to come up.
async fn register(api: &Api, facts: &Facts) -> Result<(), StartError> {
    let until = tokio::time::Instant::now() + READY_TIMEOUT;
    let mut told = false;
    loop {
        match node::register(api, facts).await {
            Ok(()) => return Ok(()),
            // What the API server says no to will not change by asking again.
            Err(e) if matches!(e.code(), 400..=403 | 422) => {
                return Err(StartError::Register(e.to_string()));
            }
            Err(e) if tokio::time::Instant::now() >= until => {
                return Err(StartError::Register(e.to_string()));
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%error, seconds = READY_TIMEOUT.as_secs(), "waiting for the API server");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}
