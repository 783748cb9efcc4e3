//! Snapshots on the wire: a head, then the file in chunks, then the answer when it is installed.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::NetError;
use super::conn::{self, flush};
use super::hello::Visit;
use super::wire::{self, kind};
use crate::service::Service;
use crate::snapshot::SnapshotFile;
use crate::types::{SnapshotMeta, Vote};

/// Bytes read and written at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Patience with one chunk, and with the install at the end.
const CHUNK_PATIENCE: Duration = Duration::from_secs(10);
/// Patience with the install: loading a state of many gigabytes.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

/// What comes first.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    vote: Vote,
    meta: SnapshotMeta,
    len: u64,
    crc: u32,
}

fn broken(e: impl std::fmt::Display) -> NetError {
    NetError::Broken(format!("while sending a snapshot: {e}"))
}

/// Sends a snapshot over a greeted connection.
pub(super) async fn send(
    mut stream: conn::Stream,
    vote: Vote,
    meta: SnapshotMeta,
    file: SnapshotFile,
) -> Result<Vote, NetError> {
    let head = Head {
        vote,
        meta,
        len: file.len,
        crc: file.crc,
    };
    let mut out = BytesMut::new();
    wire::frame(&mut out, kind::SNAPSHOT, 0, |b| wire::cbor(b, &head));
    let mut at = 0u64;
    while at < file.len {
        let n = usize::try_from(file.len - at)
            .unwrap_or(usize::MAX)
            .min(CHUNK_BYTES);
        let open = file.file.clone();
        let chunk = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0u8; n];
            open.read_exact_at(&mut chunk, at).map(|()| chunk)
        })
        .await
        .map_err(broken)?
        .map_err(broken)?;
        wire::frame(&mut out, kind::CHUNK, 0, |b| b.put_slice(&chunk));
        at += n as u64;
        tokio::time::timeout(CHUNK_PATIENCE, flush(&mut stream, &mut out))
            .await
            .map_err(broken)?
            .map_err(broken)?;
    }
    flush(&mut stream, &mut out).await.map_err(broken)?;
    let answer = tokio::time::timeout(INSTALL_PATIENCE, wire::read(&mut stream))
        .await
        .map_err(broken)?
        .map_err(broken)?;
    match answer {
        Some(f) if f.kind == kind::INSTALLED => wire::from_cbor(&f.body).map_err(broken),
        Some(f) => Err(broken(String::from_utf8_lossy(&f.body))),
        None => Err(broken("the member hung up")),
    }
}

/// Receives a snapshot into the snapshot directory and installs it.
pub(super) async fn receive(
    mut stream: TlsStream<TcpStream>,
    service: &Service,
    visit: &Visit,
) -> Result<(), String> {
    while let Some(f) = wire::read(&mut stream).await.map_err(|e| e.to_string())? {
        visit.heard();
        if f.kind != kind::SNAPSHOT {
            return Err(format!("a frame of kind {} in place of a snapshot", f.kind));
        }
        let head: Head = wire::from_cbor(&f.body).map_err(|e| e.to_string())?;
        let installed = one(&mut stream, service, visit, head).await;
        let mut out = BytesMut::new();
        match &installed {
            Ok(vote) => wire::frame(&mut out, kind::INSTALLED, 0, |b| wire::cbor(b, vote)),
            Err(why) => wire::frame(&mut out, kind::ERROR, 0, |b| b.put_slice(why.as_bytes())),
        }
        flush(&mut stream, &mut out)
            .await
            .map_err(|e| e.to_string())?;
        installed?;
    }
    Ok(())
}

async fn one(
    stream: &mut TlsStream<TcpStream>,
    service: &Service,
    visit: &Visit,
    head: Head,
) -> Result<Vote, String> {
    service.room_for(head.len)?;
    let path = service.incoming_path();
    let taken = take(stream, visit, &path, head.len).await;
    let file = match taken {
        Ok(file) => file,
        Err(e) => {
            // Half a file is of no use; what cannot be removed now is removed at the next start.
            let _ = tokio::fs::remove_file(&path).await;
            return Err(e);
        }
    };
    let file = SnapshotFile {
        path,
        len: head.len,
        crc: head.crc,
        file: std::sync::Arc::new(file),
    };
    service.install(head.vote, head.meta, file).await
}

async fn take(
    stream: &mut TlsStream<TcpStream>,
    visit: &Visit,
    path: &std::path::Path,
    len: u64,
) -> Result<std::fs::File, String> {
    let mut out = tokio::fs::OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .open(path)
        .await
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let mut had = 0u64;
    while had < len {
        let frame = tokio::time::timeout(CHUNK_PATIENCE, wire::read(stream))
            .await
            .map_err(|_| "a snapshot stopped arriving".to_string())?
            .map_err(|e| e.to_string())?
            .filter(|f| f.kind == kind::CHUNK)
            .ok_or("a snapshot ended early")?;
        visit.heard();
        had += frame.body.len() as u64;
        if had > len {
            return Err("a snapshot is longer than announced".into());
        }
        out.write_all(&frame.body)
            .await
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    out.sync_all()
        .await
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(out.into_std().await)
}
