//! The raft listener: TLS with a member's certificate, hello, then frames by class.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::conn::{WRITE_BYTES, flush, tune};
use super::hello::{Hello, Visit, Welcome};
use super::tcp::Shared;
use super::wire::{self, kind};
use super::{Class, PIPE_DEPTH, Response, trust};
use crate::service::Service;
use crate::types::node_id_text;

/// Connections at once: a few per member, and room for those that never say hello.
const CONNECTIONS_MAX: usize = 256;
/// Patience with TLS and hello.
const GREET_PATIENCE: Duration = Duration::from_secs(5);
/// Calls of one peer under way; the next waits in its socket.
const CALLS_MAX: usize = 8_192;
/// Wait after accept failed (out of file descriptors, usually).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

type Stream = TlsStream<TcpStream>;

/// Accepts for ever.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "accept failed on the raft listener");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (shared, service) = (shared.clone(), service.clone());
        tokio::spawn(async move {
            if let Err(why) = connection(tcp, &shared, service).await {
                tracing::debug!(why, "a member's connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(tcp: TcpStream, shared: &Shared, service: Arc<Service>) -> Result<(), String> {
    tune(&tcp).map_err(|e| e.to_string())?;
    let greeting = greet(tcp, shared, &service);
    let (stream, hello, visit) = tokio::time::timeout(GREET_PATIENCE, greeting)
        .await
        .map_err(|_| "no hello in time".to_string())??;
    match hello.class {
        Class::Append => appends(stream, &service, &visit).await,
        Class::Snapshot => super::snapshot::receive(stream, &service, &visit).await,
        Class::Vote | Class::Ask => calls(stream, hello.from, service, &visit).await,
    }
}

async fn greet(
    tcp: TcpStream,
    shared: &Shared,
    service: &Service,
) -> Result<(Stream, Hello, Visit), String> {
    let Some(trust) = shared.trust() else {
        return Err("this member has no certificate yet".into());
    };
    let from = tcp.peer_addr().map_err(|e| e.to_string())?;
    let mut stream = TlsAcceptor::from(trust.server.clone())
        .accept(tcp)
        .await
        .map_err(|e| {
            shared.stranger(&from.to_string(), &e.to_string());
            e.to_string()
        })?;
    let shown = trust::check(stream.get_ref().1.peer_certificates(), &trust.cluster, None);
    let frame = wire::read(&mut stream)
        .await
        .map_err(|e| e.to_string())?
        .filter(|f| f.kind == kind::HELLO)
        .ok_or("no hello")?;
    let hello: Hello = wire::from_cbor(&frame.body).map_err(|e| e.to_string())?;
    let visit = shown.and_then(|id| admit(&hello, id, shared, service));
    let welcome = match &visit {
        Ok(_) => Welcome::Come {
            protocol: wire::PROTOCOL.min(hello.protocol),
        },
        Err(why) => {
            shared.stranger(&from.to_string(), why);
            Welcome::Refused(why.clone())
        }
    };
    let mut out = BytesMut::new();
    wire::frame(&mut out, kind::WELCOME, 0, |b| wire::cbor(b, &welcome));
    stream.write_all(&out).await.map_err(|e| e.to_string())?;
    stream.flush().await.map_err(|e| e.to_string())?;
    if visit.is_err() {
        // The refusal must arrive before the connection is gone.
        stream.shutdown().await.map_err(|e| e.to_string())?;
    }
    Ok((stream, hello, visit?))
}

fn admit(hello: &Hello, shown: u64, shared: &Shared, service: &Service) -> Result<Visit, String> {
    if hello.protocol == 0 {
        return Err(format!(
            "E_RAFT_PROTOCOL: protocol {} is not known here (this member speaks up to {})",
            hello.protocol,
            wire::PROTOCOL
        ));
    }
    if hello.from != shown {
        return Err(format!(
            "E_MEMBER_ID: the certificate is of {}, the hello of {}",
            node_id_text(shown),
            node_id_text(hello.from)
        ));
    }
    if hello.to != service.id() {
        return Err(format!(
            "E_MEMBER_ADDRESS: this is member {}, not {}",
            node_id_text(service.id()),
            node_id_text(hello.to)
        ));
    }
    if hello.from == service.id() {
        return Err(format!(
            "E_MEMBER_DUPLICATE: another live process is member {}; a data directory was copied: stop one of the two, and let it join again with an empty directory",
            node_id_text(hello.from)
        ));
    }
    service.admit(hello.from)?;
    shared.guests.enter(hello.from, hello.incarnation)
}

/// A pipeline of appends: frames in, answers out in order. After a refusal the connection ends; the leader begins anew.
async fn appends(stream: Stream, service: &Service, visit: &Visit) -> Result<(), String> {
    let (mut read, mut write) = tokio::io::split(stream);
    let (requests, queue) = mpsc::channel(PIPE_DEPTH);
    let reading = async {
        while let Some(f) = wire::read(&mut read).await.map_err(|e| e.to_string())? {
            visit.heard();
            if f.kind != kind::APPEND {
                return Err(format!("a frame of kind {} in a pipeline", f.kind));
            }
            let append = wire::get_append(f.body).map_err(|e| e.to_string())?;
            if requests.send(append).await.is_err() {
                // The answers tell why the pipeline ended.
                return std::future::pending().await;
            }
        }
        Ok(())
    };
    let answers = service.appends(queue);
    let writing = async {
        let mut answers = std::pin::pin!(answers);
        let mut out = BytesMut::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => {
                    let last = answer.is_err();
                    wire::frame(&mut out, kind::APPENDED, 0, |b| {
                        wire::put_appended(b, &answer)
                    });
                    flush(&mut write, &mut out)
                        .await
                        .map_err(|e| e.to_string())?;
                    if last {
                        break;
                    }
                }
                Err(why) => {
                    wire::frame(&mut out, kind::ERROR, 0, |b| {
                        b.extend_from_slice(why.as_bytes())
                    });
                    flush(&mut write, &mut out)
                        .await
                        .map_err(|e| e.to_string())?;
                    return Err(why);
                }
            }
        }
        // What was said must arrive before the connection is gone.
        write.shutdown().await.map_err(|e| e.to_string())
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

/// Calls: each is answered when it is done, in any order.
async fn calls(
    stream: Stream,
    from: u64,
    service: Arc<Service>,
    visit: &Visit,
) -> Result<(), String> {
    let (read, write) = tokio::io::split(stream);
    let (done, answers) = mpsc::channel(CALLS_MAX);
    tokio::select! {
        ended = read_calls(read, from, service, visit, done) => ended,
        ended = write_answers(write, answers) => ended,
    }
}

async fn read_calls(
    mut read: ReadHalf<Stream>,
    from: u64,
    service: Arc<Service>,
    visit: &Visit,
    done: mpsc::Sender<(u64, Response)>,
) -> Result<(), String> {
    let places = Arc::new(Semaphore::new(CALLS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(f) = wire::read(&mut read).await.map_err(|e| e.to_string())? {
        visit.heard();
        if f.kind != kind::REQUEST {
            return Err(format!("a frame of kind {} among calls", f.kind));
        }
        // A member may be let go while its connection is open and never hear of the commit: without this it would be
        // answered for ever. The connection ends, and the hello of the next one is told why.
        service.admit(from)?;
        let request = wire::get_request(f.body).map_err(|e| e.to_string())?;
        let Ok(place) = places.clone().acquire_owned().await else {
            return Ok(());
        };
        let (service, done) = (service.clone(), done.clone());
        tasks.spawn(async move {
            if let Some(response) = service.answer(from, request).await {
                // The peer may be gone; then nobody waits for it.
                let _ = done.send((f.id, response)).await;
            }
            drop(place);
        });
        // Ended tasks are taken out, so that the set stays small.
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}

async fn write_answers(
    mut write: WriteHalf<Stream>,
    mut answers: mpsc::Receiver<(u64, Response)>,
) -> Result<(), String> {
    let mut out = BytesMut::new();
    while let Some((id, response)) = answers.recv().await {
        wire::frame(&mut out, kind::RESPONSE, id, |b| {
            wire::put_response(b, &response)
        });
        while out.len() < WRITE_BYTES
            && let Ok((id, response)) = answers.try_recv()
        {
            wire::frame(&mut out, kind::RESPONSE, id, |b| {
                wire::put_response(b, &response)
            });
        }
        flush(&mut write, &mut out)
            .await
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}
