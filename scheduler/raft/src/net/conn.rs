//! A dialled connection: TCP, TLS, hello. On top of it either calls with ids, or one pipeline of appends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::hello::{Hello, Welcome};
use super::trust::{SERVER_NAME, Trust, check};
use super::wire::{self, kind};
use super::{Class, NetError, PIPE_DEPTH, Pipe, Request, Response, Target};
use crate::types::node_id_text;

/// Patience with the TCP handshake: members are in one network.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1_000);
/// Patience with TLS and hello.
const GREET_PATIENCE: Duration = Duration::from_millis(2_000);
/// The kernel gives a connection up when bytes stay unacknowledged for so long (a cut link says nothing).
const UNACKED_PATIENCE_MS: u32 = 3_000;
/// Calls waiting to be written; more wait in line.
const CALLS_QUEUED: usize = 1_024;
/// Bytes written at once when more frames are ready.
pub(super) const WRITE_BYTES: usize = 256 << 10;

/// The stream both ways.
pub(super) type Stream = TlsStream<TcpStream>;

/// Socket options both sides set.
pub(super) fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(stream, UNACKED_PATIENCE_MS)?;
    Ok(())
}

async fn resolve(addr: &str) -> Result<SocketAddr, NetError> {
    if let Ok(addr) = addr.parse() {
        return Ok(addr);
    }
    let none = |why: String| NetError::Unreachable(format!("{addr:?} does not resolve ({why})"));
    let mut all = tokio::net::lookup_host(addr)
        .await
        .map_err(|e| none(e.to_string()))?;
    all.next().ok_or_else(|| none("no address".into()))
}

/// What the TLS layer found wrong, in words for the operator.
fn tls_error(to: &Target, e: &std::io::Error) -> NetError {
    let text = e.to_string();
    let inner = e.get_ref().and_then(|r| r.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => NetError::Wrong(format!(
            "E_RAFT_TRUST: {} shows a certificate that this cluster did not issue or that has expired ({why:?}); check the address, the clocks, and that it is a member of this cluster",
            to.addr
        )),
        Some(rustls::Error::AlertReceived(alert)) => NetError::Wrong(format!(
            "E_RAFT_TRUST: {} refuses this member's certificate ({alert:?}); it belongs to another cluster, or the certificate has expired",
            to.addr
        )),
        Some(_) => NetError::Wrong(foreign(to, &text)),
        None if e.kind() == std::io::ErrorKind::UnexpectedEof => NetError::Broken(format!(
            "{} closed the connection in the handshake",
            to.addr
        )),
        None => NetError::Broken(format!("{}: {text}", to.addr)),
    }
}

fn foreign(to: &Target, what: &str) -> String {
    format!(
        "E_RAFT_FOREIGN: what listens at {} does not speak Coracle's member protocol ({what}); another program has the port, or --raft-addr of member {} is wrong",
        to.addr,
        node_id_text(to.id)
    )
}

/// Dials a member and says hello.
pub(super) async fn dial(
    to: &Target,
    trust: &Trust,
    me: u64,
    incarnation: u64,
    class: Class,
) -> Result<Stream, NetError> {
    if to.addr.is_empty() {
        return Err(NetError::Unreachable(format!(
            "member {} has announced no address",
            node_id_text(to.id)
        )));
    }
    let addr = resolve(&to.addr).await?;
    let tcp = match tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(addr)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) => return Err(NetError::Unreachable(format!("{}: {e}", to.addr))),
        Err(_) => {
            return Err(NetError::Unreachable(format!(
                "{}: no answer to a connection",
                to.addr
            )));
        }
    };
    tune(&tcp).map_err(|e| NetError::Broken(e.to_string()))?;
    let greeting = greet(to, trust, me, incarnation, class, tcp);
    tokio::time::timeout(GREET_PATIENCE, greeting)
        .await
        .unwrap_or_else(|_| {
            Err(NetError::Unreachable(format!(
                "{} accepts connections but does not answer",
                to.addr
            )))
        })
}

async fn greet(
    to: &Target,
    trust: &Trust,
    me: u64,
    incarnation: u64,
    class: Class,
    tcp: TcpStream,
) -> Result<Stream, NetError> {
    let name = ServerName::try_from(SERVER_NAME).expect("a DNS name");
    let mut stream = TlsConnector::from(trust.client.clone())
        .connect(name, tcp)
        .await
        .map_err(|e| tls_error(to, &e))?;
    check(
        stream.get_ref().1.peer_certificates(),
        &trust.cluster,
        Some(to.id),
    )
    .map_err(NetError::Wrong)?;
    let hello = Hello {
        protocol: wire::PROTOCOL,
        from: me,
        to: to.id,
        incarnation,
        class,
    };
    let mut out = BytesMut::new();
    wire::frame(&mut out, kind::HELLO, 0, |b| wire::cbor(b, &hello));
    let broken = |e: std::io::Error| tls_error(to, &e);
    stream.write_all(&out).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let frame = wire::read(&mut stream).await.map_err(broken)?;
    match frame {
        Some(f) if f.kind == kind::WELCOME => match wire::from_cbor(&f.body) {
            Ok(Welcome::Come { .. }) => Ok(stream),
            Ok(Welcome::Refused(why)) => Err(NetError::Wrong(why)),
            Err(e) => Err(NetError::Wrong(foreign(to, &e.0))),
        },
        Some(_) => Err(NetError::Wrong(foreign(to, "it does not say welcome"))),
        None => Err(NetError::Broken(format!("{} hung up", to.addr))),
    }
}

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Response, NetError>>>>>;

/// A connection for calls. When it breaks, every call under way fails and the next one dials anew.
pub(super) struct Calls {
    requests: mpsc::Sender<(u64, Request)>,
    waiting: Waiting,
    next: std::sync::atomic::AtomicU64,
}

impl Calls {
    /// Takes a greeted connection over.
    pub fn new(stream: Stream) -> Arc<Self> {
        let (requests, queue) = mpsc::channel(CALLS_QUEUED);
        let waiting = Waiting::default();
        let calls = Arc::new(Self {
            requests,
            waiting: waiting.clone(),
            next: std::sync::atomic::AtomicU64::new(1),
        });
        tokio::spawn(async move {
            let (read, write) = tokio::io::split(stream);
            let why = tokio::select! {
                why = read_responses(read, &waiting) => why,
                why = write_requests(write, queue) => why,
            };
            let all = std::mem::take(&mut *lock(&waiting));
            for (_, waiter) in all {
                // Whoever gave up waiting does not want to know.
                let _ = waiter.send(Err(NetError::Broken(why.clone())));
            }
        });
        calls
    }

    /// Whether it can still be used.
    pub fn open(&self) -> bool {
        !self.requests.is_closed()
    }

    /// One call.
    pub async fn call(&self, request: Request, limit: Duration) -> Result<Response, NetError> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        lock(&self.waiting).insert(id, tx);
        let _gone = Forget(&self.waiting, id);
        let ended = || NetError::Broken("the connection ended".into());
        let answer = async {
            self.requests
                .send((id, request))
                .await
                .map_err(|_| ended())?;
            rx.await.unwrap_or_else(|_| Err(ended()))
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or_else(|_| {
                Err(NetError::Broken(format!(
                    "no answer within {} ms",
                    limit.as_millis()
                )))
            })
    }
}

/// Removes a call that nobody waits for any more.
struct Forget<'a>(&'a Waiting, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.0).remove(&self.1);
    }
}

fn lock(
    waiting: &Waiting,
) -> std::sync::MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Result<Response, NetError>>>> {
    waiting.lock().expect("no panic while holding this lock")
}

async fn read_responses(mut read: ReadHalf<Stream>, waiting: &Waiting) -> String {
    loop {
        match wire::read(&mut read).await {
            Ok(Some(f)) if f.kind == kind::RESPONSE => match wire::get_response(f.body) {
                Ok(response) => {
                    if let Some(waiter) = lock(waiting).remove(&f.id) {
                        let _ = waiter.send(Ok(response));
                    }
                }
                Err(e) => return e.to_string(),
            },
            Ok(Some(f)) => return format!("E_RAFT_FOREIGN: a frame of kind {}", f.kind),
            Ok(None) => return "the member closed the connection".into(),
            Err(e) => return e.to_string(),
        }
    }
}

async fn write_requests(
    mut write: WriteHalf<Stream>,
    mut queue: mpsc::Receiver<(u64, Request)>,
) -> String {
    let mut out = BytesMut::new();
    while let Some((id, request)) = queue.recv().await {
        let mut put = |id, request: &Request| {
            wire::frame(&mut out, kind::REQUEST, id, |b| {
                wire::put_request(b, request)
            });
            out.len()
        };
        let mut len = put(id, &request);
        while len < WRITE_BYTES
            && let Ok((id, request)) = queue.try_recv()
        {
            len = put(id, &request);
        }
        if let Err(e) = flush(&mut write, &mut out).await {
            return e.to_string();
        }
    }
    "the connection is not needed any more".into()
}

/// Writes and clears the buffer.
pub(super) async fn flush(
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
    out: &mut BytesMut,
) -> std::io::Result<()> {
    write.write_all(out).await?;
    write.flush().await?;
    out.clear();
    if out.capacity() > 4 * WRITE_BYTES {
        *out = BytesMut::new();
    }
    Ok(())
}

/// Turns a greeted connection into a pipeline of appends.
pub(super) fn pipe(stream: Stream) -> Pipe {
    let (requests, mut queue) = mpsc::channel::<super::Append>(PIPE_DEPTH);
    let (results, answers) = mpsc::channel(PIPE_DEPTH);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(stream);
        let writing = async {
            let mut out = BytesMut::new();
            while let Some(append) = queue.recv().await {
                wire::frame(&mut out, kind::APPEND, 0, |b| wire::put_append(b, &append));
                while out.len() < WRITE_BYTES
                    && let Ok(append) = queue.try_recv()
                {
                    wire::frame(&mut out, kind::APPEND, 0, |b| wire::put_append(b, &append));
                }
                flush(&mut write, &mut out).await?;
            }
            Ok::<(), std::io::Error>(())
        };
        let reading = async {
            loop {
                let answer = match wire::read(&mut read).await {
                    Ok(Some(f)) if f.kind == kind::APPENDED => {
                        wire::get_appended(f.body).map_err(|e| NetError::Wrong(e.to_string()))
                    }
                    Ok(Some(f)) => Err(NetError::Broken(
                        String::from_utf8_lossy(&f.body).into_owned(),
                    )),
                    Ok(None) => Err(NetError::Broken("the member closed the connection".into())),
                    Err(e) => Err(NetError::Broken(e.to_string())),
                };
                let last = answer.is_err();
                if results.send(answer).await.is_err() || last {
                    return;
                }
            }
        };
        tokio::select! {
            done = writing => if let Err(e) = done {
                // The session may be gone already.
                let _ = results.try_send(Err(NetError::Broken(e.to_string())));
            },
            () = reading => {}
        }
    });
    Pipe { requests, answers }
}
