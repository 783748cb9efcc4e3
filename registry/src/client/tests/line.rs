//! A line to a registry that breaks where it is told to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// It holds.
    Never,
    /// It breaks when so many bytes have gone to the registry; the client sees it when the registry has done with them.
    Up(u64),
    /// It breaks when so many bytes have come back.
    Down(u64),
}

/// The line.
pub struct Line {
    pub address: SocketAddr,
    pub registry: SocketAddr,
    plan: Arc<Mutex<VecDeque<Cut>>>,
}

impl Line {
    pub async fn to(registry: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan: Arc<Mutex<VecDeque<Cut>>> = Arc::default();
        let cuts = plan.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let cut = cuts.lock().unwrap().pop_front().unwrap_or(Cut::Never);
                let far = TcpStream::connect(registry).await.unwrap();
                tokio::spawn(connection(near, far, cut));
            }
        });
        Line {
            address,
            registry,
            plan,
        }
    }

    /// Plans the next connections; those after them hold.
    pub fn plan(&self, cuts: &[Cut]) {
        self.plan.lock().unwrap().extend(cuts);
    }
}

async fn connection(near: TcpStream, far: TcpStream, cut: Cut) {
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let (up, down) = match cut {
        Cut::Never => (u64::MAX, u64::MAX),
        Cut::Up(bytes) => (bytes, 0),
        Cut::Down(bytes) => (u64::MAX, bytes),
    };
    // The sockets close when this ends.
    let there = carry(near_read, far_write, up);
    let back = carry(far_read, near_write, down);
    match cut {
        Cut::Never => drop(tokio::join!(there, back)),
        Cut::Up(_) => {
            // The registry has seen the end and done what it does then; its answer goes nowhere.
            drop(tokio::join!(there, back));
        }
        Cut::Down(_) => tokio::select! {
            _ = back => {}
            // The client is not done before it has its answer.
            () = async { let _rest = there.await; std::future::pending().await } => {}
        },
    }
}

/// Carries `most` bytes, reads at least one more time if that is none, and ends the way it writes to. Gives back the half it
/// read from, so that the socket stays open for as long as the caller wants.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    most: u64,
) -> impl Sized {
    let (mut left, mut buffer) = (most, vec![0; 16 << 10]);
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        let passed = n.min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= passed as u64;
        if to.write_all(&buffer[..passed]).await.is_err() || left == 0 {
            break;
        }
    }
    // The other side may be gone already.
    drop(to.shutdown().await);
    from
}
