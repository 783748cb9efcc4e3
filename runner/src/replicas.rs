//! Replicas on this node, as the proxy finds them: pod uid and port to a linked component.
//!
//! The map is read on every request and changed when a container starts or ends, so it is swapped whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use coracle_agent::{At, Input};
use coracle_engine::{CallError, Replica};
use coracle_proxy::{Body, CallContext, LocalReplica, LocalReplicas, ReplicaError};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use tokio::sync::mpsc;

use crate::logs::ContainerLog;

/// A container that serves.
#[derive(Clone)]
pub(crate) struct Served {
    pub at: At,
    pub replica: Replica,
    pub log: Arc<ContainerLog>,
}

/// The services of one pod, by port.
pub(crate) struct PodServices {
    accepting: AtomicBool,
    by_port: RwLock<BTreeMap<u16, Served>>,
    /// Traps are told to the agent; when it is behind, they are counted by the engine all the same.
    traps: mpsc::Sender<Input>,
}

/// All pods with services.
#[derive(Clone)]
pub(crate) struct Replicas {
    pods: Arc<ArcSwap<HashMap<Arc<str>, Arc<PodServices>>>>,
    traps: mpsc::Sender<Input>,
}

impl Replicas {
    pub fn new(traps: mpsc::Sender<Input>) -> Self {
        Self {
            pods: Arc::default(),
            traps,
        }
    }

    /// The services of a pod.
    pub fn pod(&self, uid: &str) -> Option<Arc<PodServices>> {
        self.pods.load().get(uid).cloned()
    }

    /// Lets a container serve on a port.
    pub fn serve(&self, port: u16, served: Served) {
        let uid = served.at.uid.clone();
        let pod = self.pod(&uid).unwrap_or_else(|| {
            let pod = Arc::new(PodServices {
                accepting: AtomicBool::new(true),
                by_port: RwLock::default(),
                traps: self.traps.clone(),
            });
            self.pods.rcu(|all| {
                let mut all = HashMap::clone(all);
                all.insert(uid.as_str().into(), pod.clone());
                all
            });
            pod
        });
        pod.by_port
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port, served);
    }

    /// Takes one container's run out.
    pub fn withdraw(&self, at: &At) {
        if let Some(pod) = self.pod(&at.uid) {
            pod.by_port
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|_, s| s.at != *at);
        }
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) {
        self.pods.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.remove(uid);
            all
        });
    }

    /// The pod takes no new requests; resolves when none is in flight.
    pub async fn drain(&self, uid: &str) {
        let Some(pod) = self.pod(uid) else { return };
        pod.accepting.store(false, SeqCst);
        let all: Vec<Replica> = {
            let by_port = pod.by_port.read().unwrap_or_else(PoisonError::into_inner);
            by_port.values().map(|s| s.replica.clone()).collect()
        };
        futures_util::future::join_all(all.iter().map(Replica::drain)).await;
    }
}

impl PodServices {
    /// Who serves on a port.
    pub fn on_port(&self, port: u16) -> Option<Served> {
        self.by_port
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&port)
            .cloned()
    }

    fn ports(&self) -> String {
        let by_port = self.by_port.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<String> = by_port.keys().map(u16::to_string).collect();
        if all.is_empty() {
            "none".into()
        } else {
            all.join(", ")
        }
    }
}

impl LocalReplicas for Replicas {
    fn get(&self, pod_uid: &str) -> Option<Arc<dyn LocalReplica>> {
        self.pods
            .load()
            .get(pod_uid)
            .cloned()
            .map(|p| p as Arc<dyn LocalReplica>)
    }
}

impl LocalReplica for PodServices {
    fn call(
        &self,
        ctx: CallContext,
        port: u16,
        req: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, ReplicaError>> {
        if !self.accepting.load(SeqCst) {
            let mut refused = ReplicaError::refused(
                "draining",
                "the pod is being deleted and takes no new requests",
            );
            refused.request = Some(Box::new(req));
            return Box::pin(async move { Err(refused) });
        }
        let Some(served) = self.on_port(port) else {
            let message = format!(
                "nothing in the pod serves on port {port} (it serves on: {})",
                self.ports()
            );
            let mut error = ReplicaError::new(StatusCode::BAD_GATEWAY, "no_listener", message);
            error.fix = Some(
                "make the Service's targetPort the first containerPort of the container".into(),
            );
            return Box::pin(async move { Err(error) });
        };
        let traps = self.traps.clone();
        let ctx = coracle_engine::CallContext {
            depth: ctx.depth,
            deadline: ctx.deadline,
            origin: None,
        };
        let call = served.replica.call(ctx, req);
        Box::pin(async move {
            match call.await {
                Ok(response) => Ok(response),
                Err(error) => {
                    if let CallError::Trap { .. }
                    | CallError::MemoryLimit { .. }
                    | CallError::DeadlineExceeded { .. } = &error
                    {
                        tell(&served, &error, &traps);
                    }
                    Err(translate(&error))
                }
            }
        })
    }
}

/// A failure of a guest goes into its log and, if the agent is not behind, into an Event.
fn tell(served: &Served, error: &CallError, traps: &mpsc::Sender<Input>) {
    served
        .log
        .say(&format!("[coracle] {}: {error}", error.code()));
    if let CallError::Trap { backtrace, .. } = error
        && !backtrace.is_empty()
    {
        served.log.say(backtrace.trim_end());
    }
    let message = format!("{}: {error}. {}", error.code(), error.fix());
    // Full: the agent rate-limits these anyway, and the engine has counted it.
    drop(traps.try_send(Input::Trapped {
        at: served.at.clone(),
        message,
    }));
}

fn translate(error: &CallError) -> ReplicaError {
    let (status, code) = match error {
        CallError::Trap { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "guest_trap"),
        CallError::MemoryLimit { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "memory_limit"),
        CallError::DeadlineExceeded { .. } => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
        CallError::NoResponse => (StatusCode::BAD_GATEWAY, "no_response"),
        CallError::Handler { .. } => (StatusCode::BAD_GATEWAY, "handler_error"),
        CallError::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        CallError::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        CallError::Killed => (StatusCode::SERVICE_UNAVAILABLE, "killed"),
        CallError::NotAService | CallError::NotACommand => {
            (StatusCode::NOT_IMPLEMENTED, "not_a_service")
        }
        CallError::BadRequest { .. } => (StatusCode::BAD_REQUEST, "bad_request"),
        CallError::TooDeep => (StatusCode::LOOP_DETECTED, "loop_detected"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "host_error"),
    };
    let mut translated = ReplicaError::new(status, code, error.to_string());
    translated.fix = Some(error.fix().into());
    translated.retriable = error.is_retriable();
    translated
}
