//! [`Transport`] over TCP and mutual TLS: per member one connection for votes and heartbeats, one for appends, one for
//! snapshots and one for asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use coracle_state::BoxFuture;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::conn::{self, Calls};
use super::faults::Faults;
use super::hello::Guests;
use super::trust::Trust;
use super::{Class, NetError, Pipe, Request, Response, Target, Transport, listen, snapshot};
use crate::service::Service;
use crate::snapshot::SnapshotFile;
use crate::types::{SnapshotMeta, Vote};

/// The same stranger is mentioned this often at most.
const STRANGER_EVERY: Duration = Duration::from_secs(30);
/// Refused as a copy for so long, this process ends: for a moment a restart looks the same.
const DUPLICATE_PATIENCE: Duration = Duration::from_secs(10);

/// What dialling and answering share.
pub struct Shared {
    trust: ArcSwapOption<Trust>,
    pub(super) guests: Guests,
    strangers: Mutex<BTreeMap<String, Instant>>,
}

impl Shared {
    pub(super) fn trust(&self) -> Option<Arc<Trust>> {
        self.trust.load_full()
    }

    /// Somebody was turned away; said once in a while, by address without port.
    pub(super) fn stranger(&self, from: &str, why: &str) {
        let host = from.rsplit_once(':').map_or(from, |(h, _)| h).to_string();
        let mut known = self
            .strangers
            .lock()
            .expect("no panic while holding this lock");
        known.retain(|_, at| at.elapsed() < STRANGER_EVERY);
        let key = format!("{host} {}", why.split(':').next().unwrap_or_default());
        if !known.contains_key(&key) && known.len() < 64 {
            known.insert(key, Instant::now());
            tracing::warn!(
                from,
                why,
                "a connection to the raft listener was turned away"
            );
        }
    }
}

type Slot = Arc<AsyncMutex<Option<Arc<Calls>>>>;

/// The transport of a real member.
pub struct TcpTransport {
    me: u64,
    incarnation: u64,
    shared: Arc<Shared>,
    faults: Arc<Faults>,
    calls: Mutex<BTreeMap<(u64, Class), Slot>>,
    service: Mutex<Option<Arc<Service>>>,
    duplicate_since: Mutex<Option<Instant>>,
}

impl TcpTransport {
    /// A transport for this node id. Nobody is reached, and everybody turned away, until [`Self::set_trust`].
    pub fn new(me: u64) -> Arc<Self> {
        Arc::new(Self {
            me,
            incarnation: rand::random(),
            shared: Arc::new(Shared {
                trust: ArcSwapOption::empty(),
                guests: Guests::default(),
                strangers: Mutex::default(),
            }),
            faults: Arc::default(),
            calls: Mutex::default(),
            service: Mutex::default(),
            duplicate_since: Mutex::default(),
        })
    }

    /// Keys and roots from the next handshake on; connections that are open stay.
    pub fn set_trust(&self, trust: Trust) {
        self.shared.trust.store(Some(Arc::new(trust)));
    }

    /// What is wrong with a member, if it is not reached.
    pub fn fault(&self, id: u64) -> Option<String> {
        self.faults.of(id)
    }

    async fn dial(&self, to: &Target, class: Class) -> Result<conn::Stream, NetError> {
        let Some(trust) = self.shared.trust() else {
            return Err(NetError::Unreachable(
                "this member has no certificate yet".into(),
            ));
        };
        let dialled = conn::dial(to, &trust, self.me, self.incarnation, class).await;
        match &dialled {
            Ok(_) => {
                *self
                    .duplicate_since
                    .lock()
                    .expect("no panic while holding this lock") = None;
                self.faults.reached(to);
            }
            Err(e) => {
                self.faults.failed(to, e);
                if let NetError::Wrong(why) = e {
                    self.refused(why);
                }
            }
        }
        dialled
    }

    /// Some refusals mean that this process must not go on.
    fn refused(&self, why: &str) {
        let service = self
            .service
            .lock()
            .expect("no panic while holding this lock")
            .clone();
        let Some(service) = service else { return };
        if why.starts_with("E_MEMBER_REMOVED") {
            service.end(why);
        }
        if why.starts_with("E_MEMBER_DUPLICATE") {
            let mut since = self
                .duplicate_since
                .lock()
                .expect("no panic while holding this lock");
            if since.get_or_insert_with(Instant::now).elapsed() > DUPLICATE_PATIENCE {
                service.end(why);
            }
        }
    }

    /// The open connection for calls, or a new one. One dial at a time per member and class.
    async fn connection(&self, to: &Target, class: Class) -> Result<Arc<Calls>, NetError> {
        let slot = self
            .calls
            .lock()
            .expect("no panic while holding this lock")
            .entry((to.id, class))
            .or_default()
            .clone();
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_ref().filter(|c| c.open()) {
            return Ok(open.clone());
        }
        *slot = None;
        let calls = Calls::new(self.dial(to, class).await?);
        *slot = Some(calls.clone());
        Ok(calls)
    }
}

impl Transport for TcpTransport {
    fn call(
        self: Arc<Self>,
        to: Target,
        request: Request,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Response, NetError>> {
        Box::pin(async move {
            let started = Instant::now();
            let calls = tokio::time::timeout(limit, self.connection(&to, request.class()))
                .await
                .unwrap_or_else(|_| {
                    Err(NetError::Unreachable(format!(
                        "{}: no connection within {} ms",
                        to.addr,
                        limit.as_millis()
                    )))
                })?;
            calls
                .call(request, limit.saturating_sub(started.elapsed()))
                .await
        })
    }

    fn pipe(self: Arc<Self>, to: Target) -> BoxFuture<'static, Result<Pipe, NetError>> {
        Box::pin(async move { Ok(conn::pipe(self.dial(&to, Class::Append).await?)) })
    }

    fn send_snapshot(
        self: Arc<Self>,
        to: Target,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> BoxFuture<'static, Result<Vote, NetError>> {
        Box::pin(async move {
            let stream = self.dial(&to, Class::Snapshot).await?;
            snapshot::send(stream, vote, meta, file).await
        })
    }

    fn serve(
        self: Arc<Self>,
        listener: Option<std::net::TcpListener>,
        service: Arc<Service>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            *self
                .service
                .lock()
                .expect("no panic while holding this lock") = Some(service.clone());
            let listening = match listener {
                Some(listener) => listener
                    .set_nonblocking(true)
                    .and_then(|()| tokio::net::TcpListener::from_std(listener)),
                None => return std::future::pending().await,
            };
            match listening {
                Ok(listener) => listen::run(listener, self.shared.clone(), service).await,
                Err(e) => service.end(&format!("E_RAFT_LISTEN: the raft listener failed: {e}")),
            }
        })
    }
}
