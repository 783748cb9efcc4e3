//! A TCP proxy between members that makes links slow: delay with jitter (so that connections overtake each other) and a
//! rate. The kernel has no netem; [`super::net::Net::detour`] sends the members' connections through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::net::assert_inside;

/// Bytes taken from a socket at once.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces on their way; a full link pushes back as a full socket does.
const PIECES_MAX: usize = 256;

/// How slow.
#[derive(Clone, Copy, Debug)]
pub struct Slowness {
    /// Every piece takes at least this long.
    pub delay: Duration,
    /// And up to this much more, drawn per piece.
    pub jitter: Duration,
    /// Bytes a second, per direction and connection.
    pub rate: u64,
}

/// A running proxy for one direction of one pair of members.
pub struct Proxy {
    port: u16,
    stop: CancellationToken,
    carried: Arc<AtomicU64>,
}

impl Proxy {
    /// Listens on a free port of `runtime`'s network and passes on to `target`.
    pub fn start(runtime: &tokio::runtime::Runtime, target: String, slow: Slowness) -> Self {
        let listener = runtime
            .block_on(async { runtime.spawn(TcpListener::bind("0.0.0.0:0")).await })
            .unwrap()
            .unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            stop: CancellationToken::new(),
            carried: Arc::default(),
        };
        let (stop, carried) = (proxy.stop.clone(), proxy.carried.clone());
        runtime.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    a = listener.accept() => a,
                };
                let Ok((near, _)) = accepted else { return };
                let (target, carried) = (target.clone(), carried.clone());
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = join(near, &target, slow, carried) => {}
                    }
                });
            }
        });
        proxy
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that went through it.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    /// Closes every connection.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn join(near: TcpStream, target: &str, slow: Slowness, carried: Arc<AtomicU64>) {
    assert_inside();
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(
        pump(near_in, far_out, slow, carried.clone()),
        pump(far_in, near_out, slow, carried),
    );
}

/// One direction: every piece is written when its time has come, in order.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    slow: Slowness,
    carried: Arc<AtomicU64>,
) {
    let (pieces, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let reader = async move {
        let mut free_at = Instant::now();
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(n) = from.read(&mut buffer).await
            && n > 0
        {
            let jitter = slow.jitter.mul_f64(rand::random::<f64>());
            let sending = Duration::from_secs_f64(n as f64 / slow.rate.max(1) as f64);
            free_at = free_at.max(Instant::now()) + sending;
            let at = free_at + slow.delay + jitter;
            if pieces.send((at, buffer[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writer = async move {
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            carried.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
    };
    tokio::join!(reader, writer);
}
