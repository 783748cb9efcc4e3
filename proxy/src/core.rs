//! One data-plane thread: a listener, a runtime, and the connections it accepted.
//!
//! A request never changes threads: the connection, the routing and a local replica's call all run here. Only a new
//! connection may move: where the kernel gave this core more than another has, the socket is handed over before its first
//! byte is read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

use crate::connection::{self, ConnState, Verdict};
use crate::failure::Failure;
use crate::shared::PerCore;

/// Sockets another core may have handed over and this one not yet taken.
pub(crate) const HANDOVER_MAX: usize = 256;
/// Pause after an accept that failed for lack of file descriptors or memory; it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// When a core should stop; `None` while it should run.
pub(crate) type StopAt = Option<Instant>;

/// What the connections of a core share. Lives and stays on its thread.
pub(crate) struct Core {
    pub per: Arc<PerCore>,
    /// A coarse clock: milliseconds since the proxy started, moved on by the watch.
    pub now_ms: Cell<u64>,
    connections: RefCell<BTreeMap<u64, Rc<ConnState>>>,
    next_id: Cell<u64>,
    last_closed: Notify,
}

/// What a core is started with.
pub(crate) struct Start {
    pub per: Arc<PerCore>,
    pub listener: std::net::TcpListener,
    pub handed_over: mpsc::Receiver<std::net::TcpStream>,
    pub others: Vec<mpsc::Sender<std::net::TcpStream>>,
    pub stop: watch::Receiver<StopAt>,
}

/// Runs a core until it is told to stop and its connections are done (or the time for that is over).
pub(crate) fn run(start: Start) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    crate::proxy::enter(&start.per);
    runtime.block_on(serve(start))
}

async fn serve(start: Start) -> io::Result<()> {
    let Start {
        per,
        listener,
        mut handed_over,
        others,
        mut stop,
    } = start;
    let listener = TcpListener::from_std(listener)?;
    let core = Rc::new(Core {
        now_ms: Cell::new(per.shared.millis(Instant::now())),
        per,
        connections: RefCell::default(),
        next_id: Cell::new(0),
        last_closed: Notify::new(),
    });
    let watch = tokio::task::spawn_local(watch(core.clone()));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => admit(&core, &others, stream, client),
                Err(error) => accept_failed(&error).await,
            },
            Some(stream) = handed_over.recv() => take_over(&core, stream),
            changed = stop.changed() => {
                // A proxy that was dropped without a word stops at once.
                if changed.is_err() || stop.borrow().is_some() {
                    break;
                }
            }
        }
    }
    let deadline = stop.borrow().unwrap_or_else(Instant::now);
    // Clients whose handshake the kernel has finished already count as accepted: closing the listener would reset them.
    while let Some(Ok((stream, client))) = futures_util::FutureExt::now_or_never(listener.accept())
    {
        start_connection(&core, stream, Some(client), true);
    }
    drop(listener);
    handed_over.close();
    while let Some(stream) = handed_over.recv().await {
        take_over(&core, stream);
    }
    tell_all(&core, Verdict::Finish);
    let done = async {
        while !core.connections.borrow().is_empty() {
            core.last_closed.notified().await;
        }
    };
    if tokio::time::timeout_at(deadline.into(), done)
        .await
        .is_err()
    {
        tracing::warn!(
            connections = core.connections.borrow().len(),
            "connections were cut at shutdown"
        );
    }
    watch.abort();
    Ok(())
}

async fn accept_failed(error: &io::Error) {
    // The client left before it was accepted: nothing is wrong here.
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        return;
    }
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Keeps a new connection or hands it to a core that has fewer.
fn admit(
    core: &Rc<Core>,
    others: &[mpsc::Sender<std::net::TcpStream>],
    stream: TcpStream,
    client: SocketAddr,
) {
    let open = &core.per.shared.open_connections;
    let mine = open[core.per.index].load(Relaxed);
    let least = (0..open.len())
        .min_by_key(|i| open[*i].load(Relaxed))
        .unwrap_or(core.per.index);
    if least == core.per.index || open[least].load(Relaxed) >= mine {
        return start_connection(core, stream, Some(client), true);
    }
    let Ok(permit) = others[least].try_reserve() else {
        return start_connection(core, stream, Some(client), true);
    };
    match stream.into_std() {
        Ok(stream) => {
            // Counted there from now on, so that the next one goes elsewhere.
            open[least].fetch_add(1, Relaxed);
            permit.send(stream);
        }
        Err(error) => tracing::debug!(%error, "a connection was lost between cores"),
    }
}

fn take_over(core: &Rc<Core>, stream: std::net::TcpStream) {
    let client = stream.peer_addr().ok();
    match TcpStream::from_std(stream) {
        Ok(stream) => start_connection(core, stream, client, false),
        Err(error) => {
            core.per.shared.open_connections[core.per.index].fetch_sub(1, Relaxed);
            tracing::debug!(%error, "a connection was lost between cores");
        }
    }
}

fn start_connection(core: &Rc<Core>, stream: TcpStream, client: Option<SocketAddr>, count: bool) {
    let shared = &core.per.shared;
    let open = &shared.open_connections[core.per.index];
    if count {
        open.fetch_add(1, Relaxed);
    }
    if core.connections.borrow().len() >= shared.config.connections_per_core_max {
        open.fetch_sub(1, Relaxed);
        shared.refused_connections.fetch_add(1, Relaxed);
        let failure = Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_connections",
            "the node has as many connections as it takes",
        )
        .retry_after(1);
        // Best effort and at once: lingering would hold the very resource that is short.
        drop(stream.try_write(&failure.raw_response()));
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was not set");
    }
    let id = core.next_id.replace(core.next_id.get() + 1);
    let state = Rc::new(ConnState::new(
        client.map(|c| c.ip().to_canonical()),
        core.now_ms.get(),
    ));
    core.connections.borrow_mut().insert(id, state.clone());
    let core = core.clone();
    tokio::task::spawn_local(async move {
        // Also when the task ends by a panic of a replica.
        let _leaving = Leaving {
            core: core.clone(),
            id,
        };
        connection::serve(core, stream, state).await;
    });
}

struct Leaving {
    core: Rc<Core>,
    id: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut connections = self.core.connections.borrow_mut();
        connections.remove(&self.id);
        self.core.per.shared.open_connections[self.core.per.index].fetch_sub(1, Relaxed);
        if connections.is_empty() {
            self.core.last_closed.notify_one();
        }
    }
}

fn tell_all(core: &Core, verdict: Verdict) {
    for state in core.connections.borrow().values() {
        state.tell(verdict);
    }
}

/// Moves the coarse clock on and ends connections that overstay.
async fn watch(core: Rc<Core>) {
    let config = &core.per.shared.config;
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let (head_ms, idle_ms) = (millis(config.head_timeout), millis(config.idle_timeout));
    // A quarter of the shortest limit: they are exceeded by at most that much.
    let pause = Duration::from_millis((head_ms.min(idle_ms) / 4).clamp(5, 500));
    // Varied by core, so that connections opened together do not all come back together.
    let age_ms = millis(config.connection_age_max);
    let age_ms = age_ms / 10 * 9 + core.per.numbers.next() % (age_ms / 5).max(1);
    let mut second = Instant::now();
    loop {
        tokio::time::sleep(pause).await;
        let now = core.per.shared.millis(Instant::now());
        core.now_ms.set(now);
        if second.elapsed() >= Duration::from_secs(1) {
            second = Instant::now();
            core.per.second_passed();
        }
        for state in core.connections.borrow().values() {
            if let Some(verdict) = state.judge(now, head_ms, idle_ms, age_ms) {
                state.tell(verdict);
            }
        }
    }
}
