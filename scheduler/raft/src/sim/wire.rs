//! The network between simulated members: a [`Transport`] that hands values over in memory, late, twice, or not at all.
//!
//! Calls are datagrams with an answer (loss is silence until the caller's patience ends). Pipes and snapshots are
//! connections: ordered, a lost packet is a delay, a cut is silence and then a reset. A frozen process takes messages in
//! and answers when it goes on; a dead one refuses.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_state::BoxFuture;
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::dice::Dice;
use super::host::Host;
use super::oracle::Oracle;
use crate::net::{
    Append, Appended, NetError, PIPE_DEPTH, Pipe, Request, Response, Target, Transport,
};
use crate::service::Service;
use crate::snapshot::SnapshotFile;
use crate::types::{SnapshotMeta, Vote};

/// How long a caller at most waits for what the network lost; every production limit is shorter.
const LOST: Duration = Duration::from_secs(20);
/// How often a stalled connection looks at its link.
const STALL: Duration = Duration::from_millis(20);
/// The usual bytes of a snapshot per virtual millisecond.
pub const SNAPSHOT_RATE: u64 = 10_000;
/// What a lost packet costs a connection.
const RETRANSMIT_US: u64 = 200_000;

/// The conditions of one direction between two members.
#[derive(Clone, Debug)]
pub struct Link {
    /// Nothing passes.
    pub cut: bool,
    /// Least and most microseconds a message takes; messages of different calls overtake each other.
    pub delay_us: (u64, u64),
    /// Messages lost, in a thousand.
    pub loss: u64,
    /// Calls delivered twice, in a thousand.
    pub twice: u64,
    /// Connections reset per message, in a thousand.
    pub reset: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            cut: false,
            delay_us: (100, 1_000),
            loss: 0,
            twice: 0,
            reset: 0,
        }
    }
}

struct End {
    incarnation: u64,
    service: Arc<Service>,
    host: Arc<Host>,
}

struct Inner {
    dice: Dice,
    usual: Link,
    links: BTreeMap<(u64, u64), Link>,
    ends: BTreeMap<u64, End>,
    incarnations: u64,
    /// Bytes of a snapshot per virtual millisecond.
    snapshot_rate: u64,
    snapshots: u64,
}

/// The network all members share.
pub struct Wire {
    inner: Mutex<Inner>,
    oracle: Arc<Oracle>,
}

enum Fate {
    Lost,
    After(Duration),
}

impl Wire {
    /// A network whose links are like `usual`.
    pub fn new(dice: Dice, usual: Link, oracle: Arc<Oracle>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                dice,
                usual,
                links: BTreeMap::new(),
                ends: BTreeMap::new(),
                incarnations: 0,
                snapshot_rate: SNAPSHOT_RATE,
                snapshots: 0,
            }),
            oracle,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one direction.
    pub fn link(&self, from: u64, to: u64, change: impl FnOnce(&mut Link)) {
        let mut inner = self.inner();
        let usual = inner.usual.clone();
        change(inner.links.entry((from, to)).or_insert(usual));
    }

    /// Cuts every link between the two sides, in both directions.
    pub fn part(&self, side: &[u64], other: &[u64]) {
        for &a in side {
            for &b in other {
                self.link(a, b, |l| l.cut = true);
                self.link(b, a, |l| l.cut = true);
            }
        }
    }

    /// All links are as usual again.
    pub fn heal(&self) {
        self.inner().links.clear();
    }

    /// What is usual from now on.
    pub fn set_usual(&self, usual: Link) {
        self.inner().usual = usual;
    }

    /// How fast snapshots travel, in bytes per millisecond.
    pub fn set_snapshot_rate(&self, rate: u64) {
        self.inner().snapshot_rate = rate.max(1);
    }

    /// Snapshots that were sent so far.
    pub fn snapshots(&self) -> u64 {
        self.inner().snapshots
    }

    fn fate(&self, from: u64, to: u64) -> Fate {
        let mut inner = self.inner();
        let link = inner.links.get(&(from, to)).unwrap_or(&inner.usual).clone();
        if link.cut || inner.dice.permille(link.loss) {
            return Fate::Lost;
        }
        let us = inner.dice.range(link.delay_us.0..link.delay_us.1 + 1);
        Fate::After(Duration::from_micros(us))
    }

    fn cut(&self, from: u64, to: u64) -> bool {
        let inner = self.inner();
        inner.links.get(&(from, to)).is_some_and(|l| l.cut)
    }

    fn twice(&self, from: u64, to: u64) -> bool {
        let mut inner = self.inner();
        let chance = inner.links.get(&(from, to)).unwrap_or(&inner.usual).twice;
        inner.dice.permille(chance)
    }

    fn reset(&self, from: u64, to: u64) -> bool {
        let mut inner = self.inner();
        let chance = inner.links.get(&(from, to)).unwrap_or(&inner.usual).reset;
        inner.dice.permille(chance)
    }

    fn end(&self, from: u64, to: u64) -> Result<(Arc<Service>, Arc<Host>), NetError> {
        let inner = self.inner();
        let end = inner
            .ends
            .get(&to)
            .filter(|e| !e.host.is_dead())
            .ok_or_else(|| NetError::Unreachable(format!("nothing listens at member {to:x}")))?;
        let (service, host) = (end.service.clone(), end.host.clone());
        drop(inner);
        service.admit(from).map_err(NetError::Wrong)?;
        Ok((service, host))
    }

    /// The delay of a packet of a connection: a loss is a retransmission, a cut lasts until it ends or the connection does.
    async fn packet(&self, from: u64, to: u64, patience: Duration) -> Option<Duration> {
        let began = Instant::now();
        while self.cut(from, to) {
            if began.elapsed() > patience {
                return None;
            }
            tokio::time::sleep(STALL).await;
        }
        if self.reset(from, to) {
            return None;
        }
        Some(match self.fate(from, to) {
            Fate::After(delay) => delay,
            Fate::Lost => Duration::from_micros(RETRANSMIT_US),
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.inner().dice.range(300..4_000))
    }

    /// One call through the network, whoever still waits for it.
    async fn carry(
        self: Arc<Self>,
        from: u64,
        to: u64,
        request: Request,
        answer: oneshot::Sender<Result<Response, NetError>>,
    ) {
        let Fate::After(delay) = self.fate(from, to) else {
            return tokio::time::sleep(LOST).await;
        };
        if self.twice(from, to) {
            let (wire, request) = (self.clone(), request.clone());
            tokio::spawn(async move {
                if let Fate::After(delay) = wire.fate(from, to) {
                    tokio::time::sleep(delay * 3).await;
                    // What the second copy is answered, nobody hears.
                    let _ = wire.deliver(from, to, request).await;
                }
            });
        }
        tokio::time::sleep(delay).await;
        let response = self.deliver(from, to, request).await;
        let Fate::After(delay) = self.fate(to, from) else {
            return tokio::time::sleep(LOST).await;
        };
        tokio::time::sleep(delay).await;
        if let Some(response) = response {
            // The caller may have given up.
            let _ = answer.send(response);
        } else {
            tokio::time::sleep(LOST).await;
        }
    }

    /// `None`: the member does not answer.
    async fn deliver(
        &self,
        from: u64,
        to: u64,
        request: Request,
    ) -> Option<Result<Response, NetError>> {
        let (service, host) = match self.end(from, to) {
            Ok(end) => end,
            Err(e) => return Some(Err(e)),
        };
        let kind = match &request {
            Request::Vote(_) => 20,
            Request::PreVote(_) => 21,
            Request::Heartbeat(_) => 22,
            Request::Transfer(_) => 23,
            Request::Ask(_) => 24,
        };
        self.oracle.trace([kind, from, to, 0]);
        match host
            .spawn(async move { service.answer(from, request).await })
            .await
        {
            Ok(response) => response.map(Ok),
            Err(_) => Some(Err(NetError::Broken("the member died".into()))),
        }
    }

    /// Moves items of one direction of a connection, each after its delay, in order. `false`: the connection broke.
    async fn pump<T>(
        self: &Arc<Self>,
        from: u64,
        to: u64,
        mut source: mpsc::Receiver<T>,
        sink: mpsc::Sender<T>,
    ) -> bool
    where
        T: Send + 'static,
    {
        let (timed, mut due) = mpsc::unbounded_channel::<(Instant, T)>();
        let wire = self.clone();
        let send = async move {
            let patience = wire.patience();
            let mut last = Instant::now();
            while let Some(item) = source.recv().await {
                let Some(delay) = wire.packet(from, to, patience).await else {
                    return false;
                };
                last = last.max(Instant::now() + delay);
                if timed.send((last, item)).is_err() {
                    return true;
                }
            }
            true
        };
        let deliver = async move {
            while let Some((at, item)) = due.recv().await {
                tokio::time::sleep_until(at).await;
                if sink.send(item).await.is_err() {
                    break;
                }
            }
        };
        let (whole, ()) = tokio::join!(send, deliver);
        whole
    }

    async fn open_pipe(self: Arc<Self>, from: u64, to: u64) -> Result<Pipe, NetError> {
        for (a, b) in [(from, to), (to, from)] {
            match self.fate(a, b) {
                Fate::After(delay) => tokio::time::sleep(delay).await,
                Fate::Lost => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return Err(NetError::Unreachable(format!("no way to member {to:x}")));
                }
            }
        }
        let (service, host) = self.end(from, to)?;
        let (requests, sent) = mpsc::channel::<Append>(PIPE_DEPTH);
        let (arrive, queue) = mpsc::channel::<Append>(PIPE_DEPTH);
        let (say, said) = mpsc::channel::<Result<Appended, NetError>>(PIPE_DEPTH);
        let (back, answers) = mpsc::channel(PIPE_DEPTH);
        let (wire, oracle) = (self.clone(), self.oracle.clone());
        let served = host.spawn(async move {
            let answers = service.appends(queue);
            let mut answers = std::pin::pin!(answers);
            while let Some(answer) = answers.next().await {
                oracle.trace([25, from, to, u64::from(answer.is_ok())]);
                let last = !matches!(answer, Ok(Ok(_)));
                if say.send(answer.map_err(NetError::Broken)).await.is_err() || last {
                    break;
                }
            }
        });
        tokio::spawn(async move {
            let there = wire.pump(from, to, sent, arrive);
            let here = wire.pump(to, from, said, back.clone());
            let (mut there, mut here) = (std::pin::pin!(there), std::pin::pin!(here));
            // The request side may end first and leave answers under way; the answer side ends the connection.
            let whole = tokio::select! {
                biased;
                whole = &mut here => whole,
                sent_all = &mut there => sent_all && (&mut here).await,
            };
            if !whole {
                // The sender of appends may be gone, too.
                let _ = back
                    .send(Err(NetError::Broken("the connection was reset".into())))
                    .await;
            }
            served.abort();
        });
        Ok(Pipe { requests, answers })
    }

    async fn carry_snapshot(
        self: Arc<Self>,
        from: u64,
        to: u64,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<Vote, NetError> {
        let broken = |why: &str| NetError::Broken(format!("while sending a snapshot: {why}"));
        let patience = self.patience();
        let rate = self.inner().snapshot_rate;
        let mut left = Duration::from_millis(file.len / rate + 1);
        while !left.is_zero() {
            let step = left.min(Duration::from_millis(50));
            let Some(delay) = self.packet(from, to, patience).await else {
                return Err(broken("the connection was reset"));
            };
            tokio::time::sleep(step.max(delay)).await;
            left -= step;
        }
        let mut bytes = vec![0; file.len as usize];
        file.file
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| broken(&e.to_string()))?;
        let (service, host) = self.end(from, to)?;
        self.inner().snapshots += 1;
        self.oracle.trace([26, from, to, file.len]);
        let installed = host.spawn(async move {
            service.room_for(file.len)?;
            let path = service.incoming_path();
            let taken = std::fs::write(&path, &bytes)
                .and_then(|()| std::fs::File::open(&path))
                .map_err(|e| e.to_string())?;
            let file = SnapshotFile {
                path,
                file: Arc::new(taken),
                ..file
            };
            service.install(vote, meta, file).await
        });
        let answer = match installed.await {
            Ok(Ok(vote)) => Ok(vote),
            Ok(Err(why)) => Err(broken(&why)),
            Err(_) => Err(broken("the member died")),
        };
        match self.packet(to, from, patience).await {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return Err(broken("the answer was lost")),
        }
        answer
    }
}

/// The network as one process sees it.
pub struct SimTransport {
    /// The network.
    pub wire: Arc<Wire>,
    /// This member.
    pub me: u64,
    /// Its process.
    pub host: Arc<Host>,
}

/// Removes the end of a connection when the process stops serving.
struct Serving {
    wire: Arc<Wire>,
    me: u64,
    incarnation: u64,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut inner = self.wire.inner();
        if inner
            .ends
            .get(&self.me)
            .is_some_and(|e| e.incarnation == self.incarnation)
        {
            inner.ends.remove(&self.me);
        }
    }
}

impl Transport for SimTransport {
    fn call(
        self: Arc<Self>,
        to: Target,
        request: Request,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Response, NetError>> {
        let (wire, from) = (self.wire.clone(), self.me);
        Box::pin(async move {
            let (tx, rx) = oneshot::channel();
            tokio::spawn(wire.carry(from, to.id, request, tx));
            match tokio::time::timeout(limit, rx).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(NetError::Broken("the connection broke".into())),
                Err(_) => Err(NetError::Broken(format!("no answer in {limit:?}"))),
            }
        })
    }

    fn pipe(self: Arc<Self>, to: Target) -> BoxFuture<'static, Result<Pipe, NetError>> {
        Box::pin(self.wire.clone().open_pipe(self.me, to.id))
    }

    fn send_snapshot(
        self: Arc<Self>,
        to: Target,
        vote: Vote,
        meta: SnapshotMeta,
        file: SnapshotFile,
    ) -> BoxFuture<'static, Result<Vote, NetError>> {
        Box::pin(
            self.wire
                .clone()
                .carry_snapshot(self.me, to.id, vote, meta, file),
        )
    }

    fn serve(
        self: Arc<Self>,
        _listener: Option<std::net::TcpListener>,
        service: Arc<Service>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let serving = {
                let mut inner = self.wire.inner();
                inner.incarnations += 1;
                let incarnation = inner.incarnations;
                let end = End {
                    incarnation,
                    service,
                    host: self.host.clone(),
                };
                inner.ends.insert(self.me, end);
                Serving {
                    wire: self.wire.clone(),
                    me: self.me,
                    incarnation,
                }
            };
            std::future::pending::<()>().await;
            drop(serving);
        })
    }
}
