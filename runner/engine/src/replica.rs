//! A replica: a component with its grants. Idle it is a few allocations; instances exist only during calls.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::sockets::WasiSocketsCtx;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::artifact::{Artifact, ArtifactInner, Program};
use crate::cpu::Bucket;
use crate::engine::{Engine, EngineInner};
use crate::error::CallError;
use crate::grants::{Grants, LogSink, MAX_CALL_DEPTH, Outbound};
use crate::host::{filesystem, sockets};
use crate::inspect::Kind;
use crate::memory::Budget;
use crate::metrics::{Metrics, MetricsSnapshot, bump};
use crate::problem::LinkError;
use crate::reuse::WarmList;

/// What all instances of a replica share.
pub(crate) struct Shared {
    pub engine: Arc<EngineInner>,
    pub name: Arc<str>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub filesystem: WasiFilesystemCtx,
    pub sockets: WasiSocketsCtx,
    pub log: Arc<dyn LogSink>,
    pub outbound: Arc<dyn Outbound>,
    pub memory: Budget,
    pub cpu: Option<Bucket>,
    pub request_timeout_ms: u64,
    pub max_concurrency: u32,
    pub metrics: Metrics,
    pub killed: AtomicBool,
    kill: Notify,
    draining: AtomicBool,
    in_flight: AtomicU32,
    empty: Notify,
}

/// A linked component, ready to be called. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    pub(crate) shared: Arc<Shared>,
    pub(crate) artifact: Arc<ArtifactInner>,
    pub(crate) warm: Option<Arc<WarmList>>,
}

impl Engine {
    /// Joins an artifact to what it is granted. Takes microseconds; opens the mounts and creates no instance.
    ///
    /// # Errors
    /// `E_LINK` if an import is missing (named), `E_NOT_RUNNABLE` if nothing in it can be run, `E_MOUNT` if a directory
    /// cannot be opened.
    pub fn link(&self, artifact: &Artifact, grants: Grants) -> Result<Replica, LinkError> {
        if let Err(error) = artifact
            .0
            .program
            .get_or_init(|| program(&self.inner, &artifact.0))
        {
            return Err(error.clone());
        }
        let shared = Arc::new(Shared {
            engine: self.inner.clone(),
            filesystem: filesystem::open(&grants.mounts)?,
            sockets: sockets::policy(grants.allow_sockets),
            name: grants.name.into(),
            args: grants.args,
            env: grants.env,
            log: grants.log,
            outbound: grants.outbound,
            memory: Budget::new(grants.memory_limit_bytes),
            cpu: grants
                .cpu_limit_millicores
                .map(|millicores| Bucket::new(millicores, Instant::now())),
            request_timeout_ms: grants.request_timeout_ms.max(1),
            max_concurrency: grants.max_concurrency.max(1),
            metrics: Metrics::default(),
            killed: AtomicBool::new(false),
            kill: Notify::new(),
            draining: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            empty: Notify::new(),
        });
        let warm = grants
            .reuse
            .filter(|requests| *requests > 1)
            .map(|requests| Arc::new(WarmList::new(requests)));
        if let Some(warm) = &warm {
            self.inner
                .warm
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::downgrade(warm));
        }
        Ok(Replica {
            shared,
            artifact: artifact.0.clone(),
            warm,
        })
    }
}

fn program(engine: &EngineInner, artifact: &ArtifactInner) -> Result<Program, LinkError> {
    let broken = |error: wasmtime::Error| {
        LinkError::new(
            "E_LINK",
            format!("the component does not fit this host: {error:#}"),
            "Build it with interfaces this node provides, or add a container that exports the missing one",
        )
    };
    let pre = engine
        .linker
        .instantiate_pre(&artifact.component)
        .map_err(broken)?;
    match artifact.kind {
        Kind::Service(_) => ProxyPre::new(pre).map(Program::Service).map_err(broken),
        Kind::Command(_) | Kind::CoreCommand => {
            CommandPre::new(pre).map(Program::Command).map_err(broken)
        }
        Kind::Library | Kind::CoreReactor => Err(LinkError::new(
            "E_NOT_RUNNABLE",
            format!(
                "the component exports nothing that can be run: {}",
                artifact.exports.join(", ")
            ),
            "Export wasi:http/incoming-handler@0.2 (a service) or wasi:cli/run@0.2 (a command), or put it in a pod \
             with a container that imports what it exports",
        )),
    }
}

impl Replica {
    /// Its name in diagnostics.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.artifact.kind
    }

    /// Its counters.
    pub fn metrics(&self) -> MetricsSnapshot {
        let shared = &self.shared;
        let m = &shared.metrics;
        MetricsSnapshot {
            requests: m.requests.load(Relaxed),
            failures: m.failures.load(Relaxed),
            traps: m.traps.load(Relaxed),
            deadlines: m.deadlines.load(Relaxed),
            refused: m.refused.load(Relaxed),
            instances: m.instances.load(Relaxed),
            reused: m.reused.load(Relaxed),
            cpu_ns: m.cpu_ns.load(Relaxed),
            memory_bytes: shared.memory.used(),
            memory_peak_bytes: shared.memory.peak(),
            in_flight: shared.in_flight.load(Relaxed),
        }
    }

    /// Takes no more calls and waits until those in progress, their bodies included, are done. The caller bounds the
    /// wait and calls [`Replica::kill`] when it is over.
    pub async fn drain(&self) {
        self.shared.draining.store(true, SeqCst);
        loop {
            let empty = self.shared.empty.notified();
            tokio::pin!(empty);
            empty.as_mut().enable();
            if self.shared.in_flight.load(SeqCst) == 0 {
                break;
            }
            empty.await;
        }
        if let Some(warm) = &self.warm {
            warm.clear();
        }
    }

    /// Ends everything in it within a tick and takes no more calls.
    pub fn kill(&self) {
        self.shared.killed.store(true, SeqCst);
        self.shared.draining.store(true, SeqCst);
        self.shared.kill.notify_waiters();
        if let Some(warm) = &self.warm {
            warm.clear();
        }
    }

    pub(crate) fn service(
        artifact: &ArtifactInner,
    ) -> Result<&ProxyPre<crate::state::GuestState>, CallError> {
        match artifact.program.get() {
            Some(Ok(Program::Service(pre))) => Ok(pre),
            _ => Err(CallError::NotAService),
        }
    }

    pub(crate) fn command(
        artifact: &ArtifactInner,
    ) -> Result<&CommandPre<crate::state::GuestState>, CallError> {
        match artifact.program.get() {
            Some(Ok(Program::Command(pre))) => Ok(pre),
            _ => Err(CallError::NotACommand),
        }
    }
}

impl Shared {
    /// Lets a call or run in, or says why not. Nothing has run if it says no.
    pub(crate) fn admit(self: Arc<Self>, depth: u32) -> Result<InFlight, CallError> {
        if depth > MAX_CALL_DEPTH {
            return Err(CallError::TooDeep);
        }
        // Counted first, checked after: `drain` sets its flag and then looks at the count, so one of the two sees the
        // other.
        let here = self.in_flight.fetch_add(1, SeqCst);
        let admitted = InFlight(self);
        let shared = &admitted.0;
        let live = shared.engine.live.fetch_add(1, Relaxed);
        let refusal = if shared.killed.load(Relaxed) {
            Some(CallError::Killed)
        } else if shared.draining.load(SeqCst) {
            Some(CallError::Draining)
        } else if here >= shared.max_concurrency {
            Some(CallError::Busy {
                reason: format!("{} calls are in progress", shared.max_concurrency),
            })
        } else if live >= shared.engine.slots(depth) {
            Some(CallError::Busy {
                reason: format!("the node has {live} calls in progress"),
            })
        } else {
            None
        };
        match refusal {
            None => {
                bump(&shared.metrics.requests);
                Ok(admitted)
            }
            Some(error) => {
                bump(&shared.metrics.refused);
                Err(error)
            }
        }
    }

    /// Resolves when the replica is killed.
    pub(crate) async fn killed(&self) {
        let kill = self.kill.notified();
        tokio::pin!(kill);
        kill.as_mut().enable();
        if !self.killed.load(SeqCst) {
            kill.await;
        }
    }

    /// Counts how a call ended.
    pub(crate) fn count(&self, error: &CallError) {
        bump(&self.metrics.failures);
        match error {
            CallError::Trap { .. } | CallError::MemoryLimit { .. } => bump(&self.metrics.traps),
            CallError::DeadlineExceeded { .. } => bump(&self.metrics.deadlines),
            _ => {}
        }
    }
}

/// A call or run in progress.
pub(crate) struct InFlight(Arc<Shared>);

impl InFlight {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.engine.live.fetch_sub(1, Relaxed);
        if self.0.in_flight.fetch_sub(1, SeqCst) == 1 && self.0.draining.load(SeqCst) {
            self.0.empty.notify_waiters();
        }
    }
}
